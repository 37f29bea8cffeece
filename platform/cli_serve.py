"""'biomedray serve', and 'biomedray embed': files and texts to vectors, through a service or with a model in this process."""

from __future__ import annotations

import json
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from biomedray.arguments import Quiet, Settings, console, errors
from biomedray.errors import UserError

if TYPE_CHECKING:
    from biomedray.model.encoder import Encoder
    from biomedray.serve.client import AsyncClient
    from biomedray.serve.embedding import Embedded


class ProxyName(StrEnum):
    """What stands in front of the replicas."""

    AUTO = "auto"
    HAPROXY = "haproxy"
    PYTHON = "python"


def _beside(words: list[str]) -> dict[str, dict[str, str]]:
    """Of NAME=MODEL[,INDEX], what each name holds."""
    found = {}
    for word in words:
        name, equals, paths = word.partition("=")
        model, comma, index = paths.partition(",")
        if not (name and equals and model) or name in found:
            raise UserError(f"--beside {word}: write NAME=MODEL or NAME=MODEL,INDEX, each name once")
        found[name] = {"model": model, **({"index": index} if comma else {})}
    return found


def serve(
    model: Annotated[
        str,
        typer.Argument(
            help="A model artifact, local-dir:PATH, hf-hub:ORG/NAME, or a YAML file that says model, index and pairs."
        ),
    ],
    index: Annotated[
        Path | None, typer.Option(help="An index artifact; without it there are embeddings and zero-shot, but no search.")
    ] = None,
    pairs: Annotated[Path | None, typer.Option(help="Where the index's pairs artifact lies now, if it has moved.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; loopback unless told otherwise.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    proxy: Annotated[
        ProxyName, typer.Option(help="What stands in front: HAProxy where Ray has it, or Ray's own in Python.")
    ] = ProxyName.AUTO,
    beside: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=MODEL[,INDEX]", help="One more model, with its index, under /NAME; may be repeated."),
    ] = None,
    keys: Annotated[
        Path | None, typer.Option(help="API keys ('biomedray keys'); then every route but the probes wants one.")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Items a second of each key, or of all callers together.")] = None,
    access_log: Annotated[
        bool, typer.Option("--access-log", help="A JSON line for each request, in logs/worker-*.err of Ray's session folder.")
    ] = False,
    insecure: Annotated[bool, typer.Option("--insecure", help="Let other machines ask without a key.")] = False,
    write_config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a config file for 'serve deploy' on a cluster instead of serving.")
    ] = None,
    settings: Settings = None,
) -> None:
    """The encoders, the figure search and its page over HTTP, until Ctrl-C.

    The paths are watched: another model in the folder, or another generation of the index, is served
    within seconds and no request is lost.
    """
    from biomedray.serve import serve as run
    from biomedray.serve import write_deploy_config

    given = {"keys": keys and str(keys), "rate": rate, "access_log": access_log or None, "insecure": insecure or None}
    settings = [f"access.{name}={json.dumps(value)}" for name, value in given.items() if value is not None] + (settings or [])
    settings += [f"beside={json.dumps(_beside(beside))}"] if beside else []
    if write_config is not None:
        write_deploy_config(write_config, model, index, pairs, host, port, settings)
        console.print(f"{write_config}: set the environment that it names on every node, then: serve deploy {write_config}")
        return

    def ready(url: str) -> None:
        console.print(f"search page: [bold]{url}/[/bold]   API: {url}/docs   stop: Ctrl-C")

    run(model, index, host, port, pairs=pairs, on_ready=ready, proxy=proxy.value, settings=settings)


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
