"""'biomedray index': a search index of pairs, and bringing one up to newer pairs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from biomedray.arguments import Model, Pairs, Quiet, SplitName, console
from biomedray.errors import UserError
from biomedray.records import SPLITS, Split


class LayoutName(StrEnum):
    """How an index is laid out."""

    AUTO = "auto"
    FLAT = "flat"
    RABITQ = "rabitq"
    SQ8 = "sq8"


def index(
    pairs: Pairs,
    model: Model,
    out: Annotated[Path, typer.Argument(help="Folder for the index: new, or with --add the index that is to change.")],
    split: Annotated[list[SplitName] | None, typer.Option(help="Which splits; all when not given.")] = None,
    layout: Annotated[LayoutName, typer.Option(help="How vectors are searched; auto goes by their number.")] = LayoutName.AUTO,
    shards: Annotated[int, typer.Option(min=1, help="Parts that several actors may hold, one each.")] = 1,
    add: Annotated[bool, typer.Option("--add", help="Bring the index up to these pairs, newer ones or further ones.")] = False,
    withdraw: Annotated[
        list[str] | None, typer.Option(help="With --add: a PMCID, or a file of them, never to be shown again. Repeatable.")
    ] = None,
    compact: Annotated[bool, typer.Option("--compact", help="With --add: write everything afresh.")] = False,
    quiet: Quiet = False,
) -> None:
    """Embed the pairs and build the search index that 'biomedray serve' reads, or bring one up to newer pairs."""
    from biomedray.serve import add_to_index, build_index

    wanted = {name.value for name in split} if split else set(SPLITS)
    splits: list[Split] = [name for name in SPLITS if name in wanted]
    if not add and (withdraw or compact):
        raise UserError("--withdraw and --compact change an index that exists: say --add too")
    if add:
        manifest = add_to_index(pairs, model, out, splits, not quiet, withdraw or (), compact, layout.value)
    else:
        manifest = build_index(pairs, model, out, splits, not quiet, layout.value, shards)
    counts = {name.replace("_", " "): count for name, count in manifest.counts.items() if isinstance(count, int) and count}
    facts = ", ".join(f"{count} {name}" for name, count in counts.items())
    console.print(f"[bold]{out}[/bold]: {facts}, {manifest.details['index_key']}, generation {manifest.details['generation']}")
