"""The two ways a command may end badly, told apart by exit code, and what a traceback comes down to."""

from __future__ import annotations

import re

_ERROR_LINE = re.compile(r"[A-Za-z_][\w.]*(?:Error|Exception)\b(?::|$)")
_LONGEST = 200


class UserError(Exception):
    """The user's arguments or input are off: one clear line that says what to do, exit code 2."""


class WorkError(Exception):
    """The work itself failed although the input was fine: says why, exit code 1."""


def error_lines(text: str) -> list[str]:
    """The lines of a traceback that name an error; all that say anything where none does.

    What stands below them, as Ray writes it, is advice.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [line for line in lines if _ERROR_LINE.match(line)] or lines


def last_error(text: str) -> str:
    """The last of these, in at most 200 characters, or nothing."""
    line = (error_lines(text) or [""])[-1]
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 4]} ..."
