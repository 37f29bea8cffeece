"""Arguments that several commands share, and the consoles that they print on."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

console = Console()
errors = Console(stderr=True)

Out = Annotated[Path, typer.Argument(help="Folder for the artifact; must be new, or hold an unfinished run of the same command.")]
Pairs = Annotated[Path, typer.Argument(help="A pairs artifact, as made by 'biomedray ingest'.")]
Model = Annotated[str, typer.Argument(help="A model artifact, 'local-dir:PATH' in open_clip's layout, or 'hf-hub:ORG/NAME'.")]
Settings = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one setting; may be repeated.")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="A YAML file that replaces the preset.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]


class SplitName(StrEnum):
    """A split of a pairs artifact."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"
