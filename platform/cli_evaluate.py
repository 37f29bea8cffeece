"""'biomedray evaluate ...': one command for each table of the paper."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from biomedray.arguments import Model, Quiet, SplitName, console

evaluate_app = typer.Typer(no_args_is_help=True, help="Score a model on held-out pairs.")


class GoldBy(StrEnum):
    """What makes pairs gold for each other."""

    CAPTION = "caption"
    FIGURE = "figure"


@evaluate_app.command()
def retrieval(
    pairs: Annotated[Path, typer.Argument(help="A pairs artifact, or a set of images with captions.")],
    model: Model,
    out: Annotated[Path, typer.Option("--out", help="Folder for the scores.")],
    split: Annotated[SplitName, typer.Option(help="Which pairs.")] = SplitName.TEST,
    by: Annotated[GoldBy, typer.Option(help="Pairs that are right answers for each other.")] = GoldBy.CAPTION,
    ann: Annotated[bool, typer.Option("--ann", help="Score approximate search by FAISS too, as the paper did.")] = False,
    ann_index: Annotated[
        str | None, typer.Option(metavar="KEY", help="Its faiss.index_factory key, such as HNSW32; implies --ann.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=2, help="The first so many pairs of the split only.")] = None,
    embeddings: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where embeddings are kept and found again; by default in the scores.")
    ] = None,
    resamples: Annotated[int, typer.Option(min=100, help="Draws of each interval.")] = 1000,
    quiet: Quiet = False,
) -> None:
    """Recall at 1, 5 and 10, figure to caption and caption to figure, exact, against chance, with 95 % intervals."""
    from biomedray.evaluate import retrieval as run
    from biomedray.report import scores_table

    manifest = run(
        pairs,
        model,
        out,
        split.value,
        by=by.value,
        ann=ann_index or ("auto" if ann else None),
        limit=limit,
        embeddings=embeddings,
        resamples=resamples,
        progress=not quiet,
    )
    console.print(scores_table(manifest))
