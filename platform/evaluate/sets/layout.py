"""What a layout is: how it is recognised on disk, how it is opened, what it looks like in one line."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biomedray.errors import UserError
from biomedray.evaluate.sets.sources import DICOM, IMAGES

Options = Mapping[str, str]

SPLIT_FOLDERS = {"train": ("train", "training"), "val": ("val", "valid", "validation", "dev"), "test": ("test", "testing")}


@dataclass(frozen=True)
class Layout:
    """One way in which labelled images lie on disk."""

    name: str
    drawing: str
    """The layout in one line, for messages."""
    fits: Callable[[Path], bool]
    """Whether a path looks like it, from names only."""
    open: Callable[[Path, Options], Any]
    """The set.

    Raises:
        UserError: something is missing or wrong: one line that says what, and what the layout looks like.
    """
    options: tuple[str, ...] = ()


def wrong(path: Path, what: str, layout: str, drawing: str) -> UserError:
    """The one line of a folder that is not as it should be."""
    return UserError(f"{path}: not a {layout} set: {what}; it looks like {drawing}")


def pictures(folder: Path) -> tuple[list[str], list[str]]:
    """Paths below the folder, sorted: those that are images by their ending, and what else lies there."""
    found: list[str] = []
    others: list[str] = []
    for path in folder.rglob("*"):
        if path.is_dir() or any(piece.startswith(".") for piece in path.relative_to(folder).parts):
            continue
        (found if path.suffix.lower() in (*IMAGES, *DICOM) else others).append(path.relative_to(folder).as_posix())
    return sorted(found), sorted(others)


def left_out(others: Sequence[str]) -> tuple[str, ...]:
    """A note on files that are no images by their ending; none if there are none."""
    return (f"{len(others)} files are no images by their ending, such as {others[0]}",) if others else ()


def grouper(pattern: str | None) -> Callable[[str], str] | None:
    """What finds a group in a file's name: the first bracket of a regular expression, or all that it matches.

    Raises:
        UserError: the expression is none.
    """
    if not pattern:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"group '{pattern}': not a regular expression ({error})") from None

    def find(name: str) -> str:
        match = compiled.search(name)
        if match is None:
            raise UserError(f"group '{pattern}': does not match {name}")
        return match.group(1) if compiled.groups else match.group()

    return find


def read_rows(path: Path, columns: Sequence[str], layout: str, drawing: str) -> list[dict[str, str]]:
    """Rows of a CSV (or, by its ending, TSV) with a header that must have these columns.

    Raises:
        UserError: no such file, not text, a column is missing, or no rows.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
            rows, header = [{k: v or "" for k, v in row.items() if k} for row in reader], list(reader.fieldnames or ())
    except FileNotFoundError:
        raise wrong(path.parent, f"no {path.name}", layout, drawing) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: can't be read as CSV ({error})") from None
    if missing := [name for name in columns if name not in header]:
        raise wrong(path, f"no column {missing[0]} (it has {', '.join(header)})", layout, drawing)
    if not rows:
        raise wrong(path, "no rows", layout, drawing)
    return rows
