"""'biomedray embed': files and texts to vectors, through a service or with a model in this process."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from biomedray.arguments import Quiet, console, errors
from biomedray.errors import UserError

if TYPE_CHECKING:
    from biomedray.model.encoder import Encoder
    from biomedray.serve.client import AsyncClient
    from biomedray.serve.embedding import Embedded


def embed(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILES...",
            help="Images (JPEG, PNG, WebP, GIF, TIFF, BMP, DICOM), folders of them, .txt or .jsonl with a text a line, "
            "- for standard input.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="A .parquet, .npy (names beside it) or .jsonl file; rejects stand beside it."),
    ] = Path("embeddings.parquet"),
    url: Annotated[str | None, typer.Option(metavar="URL", help="Through a service, as 'biomedray serve' starts one.")] = None,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Or with this model, in this process: an artifact, 'hf-hub:ORG/NAME'.")
    ] = None,
    key_env: Annotated[
        str | None, typer.Option("--key-env", metavar="VAR", help="The environment variable that holds the service's API key.")
    ] = None,
    shrink: Annotated[
        int | None,
        typer.Option(
            min=32, metavar="PX", help="Send images with so many pixels on the short side: less upload, slightly other vectors."
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Images and texts to unit vectors in a file; what can't be read is left out, listed and counted."""
    from biomedray.serve.embedding import embed_here, embed_remotely
    from biomedray.serve.entries import find_entries
    from biomedray.serve.writers import check_out

    if (url is None) == (model is None):
        raise UserError("say either --url URL, of a service that runs, or --model MODEL, to embed in this process")
    if model is not None and (key_env or shrink):
        raise UserError("--key-env and --shrink go with --url")
    check_out(out)
    client = None if url is None else _client(url, key_env, shrink)
    entries = find_entries(files, sys.stdin.buffer)
    columns = (TextColumn("embed"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, disable=quiet) as bar:
        task = bar.add_task("embed", total=len(entries))

        def done(count: int) -> None:
            bar.advance(task, count)

        if client is not None:
            found = embed_remotely(entries, client, out, done)
        else:
            found = embed_here(entries, _encoder(str(model)), out, done)
    _say(out, found)


def _client(url: str, key_env: str | None, shrink: int | None) -> AsyncClient:
    from biomedray.serve.client import AsyncClient

    if not url.startswith(("http://", "https://")):
        raise UserError(f"--url {url}: the address of a service is wanted, such as http://127.0.0.1:8000")
    key = os.environ.get(key_env) if key_env else None
    if key_env and not key:
        raise UserError(f"--key-env {key_env}: this environment variable is not set")
    return AsyncClient(url, key, shrink=shrink)


def _encoder(spec: str) -> Encoder:
    import torch

    from biomedray.model import load

    return load(spec, "cuda" if torch.cuda.is_available() else "cpu")


def _say(out: Path, found: Embedded) -> None:
    counts = (("image", found.images), ("text", found.texts))
    parts = [f"{count:,} {name}{'s' * (count != 1)}" for name, count in counts if count]
    console.print(f"[bold]{out}[/bold]: {', '.join(parts)}", highlight=False)
    if found.left:
        errors.print(f"{len(found.left):,} left out, with reasons in {found.rejects}:", style="yellow", highlight=False)
        for entry in found.left[:5]:
            errors.print(f"  {entry.name}: {entry.detail}", highlight=False, soft_wrap=True, markup=False)
