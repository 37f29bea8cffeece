"""The two ways a command may end badly, told apart by exit code, and what a traceback comes down to."""

from __future__ import annotations

import re

_ERROR_LINE = re.compile(r"[A-Za-z_][\w.]*(?:Error|Exception|Killed)\b(?::|$)")
_LONGEST = 200


class UserError(Exception):
    """The user's arguments or input are off: one clear line that says what to do, exit code 2."""


class WorkError(Exception):
    """The work itself failed although the input was fine: says why, exit code 1."""


def last_error(text: str) -> str:
    """The last line of a traceback that names an error, in at most 200 characters; else its last line, or nothing.

    What stands below it, as Ray writes it, is advice.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line for line in lines if _ERROR_LINE.match(line)]
    line = (named or lines or [""])[-1]
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 4]} ..."
