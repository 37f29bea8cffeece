"""'biomedray evaluate ...': one command for each table of the paper."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from biomedray.arguments import Model, Pairs, Quiet, SplitName, console

evaluate_app = typer.Typer(no_args_is_help=True, help="Score a model on held-out pairs.")


@evaluate_app.command()
def retrieval(
    pairs: Pairs,
    model: Model,
    out: Annotated[Path, typer.Option("--out", help="Folder for the scores.")],
    split: Annotated[SplitName, typer.Option(help="Which pairs.")] = SplitName.TEST,
    quiet: Quiet = False,
) -> None:
    """Recall at 1, 5 and 10, figure to caption and caption to figure, against chance, with 95 % intervals."""
    from biomedray.evaluate import retrieval as run
    from biomedray.report import scores_table

    console.print(scores_table(run(pairs, model, out, split.value, progress=not quiet)))
