"""Which columns hold what: by the names that sets give them, or by those that the user names."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from biomedray.errors import UserError

Options = Mapping[str, str]

FILE = ("file", "file_name", "filename", "image_path", "filepath", "path", "image", "img", "image_name", "name", "image_id", "id")
CAPTION = ("caption", "text", "captions", "report", "sentence", "description", "impression", "findings", "title", "prompt")
GROUP = ("group", "pmcid", "article", "patient_id", "patient", "subject_id", "subject", "study_id")
SPLIT = ("split", "partition", "fold")
ID = ("pair_id", "id", "image_id", "key", "__key__")
OPTIONS = ("file", "caption", "group", "split", "root")


def check(options: Options) -> None:
    """Refuse an option that nobody reads.

    Raises:
        UserError: there is one.
    """
    if strangers := sorted(set(options) - set(OPTIONS)):
        raise UserError(f"option '{strangers[0]}': a set of captions has {', '.join(OPTIONS)}")


def choose(header: Sequence[str], kind: str, names: Sequence[str], options: Options, where: object) -> str | None:
    """The column of this kind: the user's, or the first of the usual names in any case; None if there is none.

    Raises:
        UserError: the user names one that is not there.
    """
    if (asked := options.get(kind)) is not None:
        if asked not in header:
            raise UserError(f"{where}: no column '{asked}'; it has {', '.join(header)}")
        return asked
    lower = {name.lower(): name for name in reversed(header)}
    return next((lower[name] for name in names if name in lower), None)


def candidates(header: Sequence[str], names: Sequence[str]) -> list[str]:
    """All columns of usual names, in the order of those."""
    lower = {name.lower(): name for name in reversed(header)}
    return [lower[name] for name in names if name in lower]


def need(column: str | None, kind: str, header: Sequence[str], where: object) -> str:
    """The column, which has to be there.

    Raises:
        UserError: it is not.
    """
    if column is None:
        raise UserError(f"{where}: no column is known to hold the {kind}; say which of {', '.join(header)}: {kind}=COLUMN")
    return column


def captions(value: Any) -> list[str]:
    """A cell's captions: a text, or a list of several (in a CSV perhaps written as JSON); [""] if there is none."""
    if isinstance(value, str) and value.startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            return [value]
    if isinstance(value, list | tuple):
        return [str(one) for one in value] or [""]
    return ["" if value is None else str(value)]
