"""A user's own search: settings with what they may be, such as ``train.lr=loguniform(1e-4, 1e-2)``.

choice(a, b, ...)   uniform(low, high)   loguniform(low, high)   randint(low, high), high left out   grid(a, b, ...)
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml

from biomedray.errors import UserError

KINDS = ("choice", "uniform", "loguniform", "randint", "grid")
_PATTERN = re.compile(r"\s*(?P<kind>[a-z]+)\s*\((?P<values>.*)\)\s*", re.DOTALL)


@dataclass(frozen=True)
class Dimension:
    """One setting of a search."""

    key: str
    kind: str
    values: tuple[Any, ...]

    def ends(self) -> tuple[Any, ...]:
        """The values that were named, or the ends of a range: where these fit a setting, all between does."""
        return (self.values[0], self.values[1] - 1) if self.kind == "randint" else self.values

    def size(self) -> float:
        """How many different values there are."""
        match self.kind:
            case "choice" | "grid":
                return len({repr(value) for value in self.values})
            case "randint":
                return int(self.values[1] - self.values[0])
            case _:
                return math.inf

    def draw(self, random: np.random.Generator) -> Any:
        """One value."""
        match self.kind:
            case "randint":
                return int(random.integers(*self.values))
            case "uniform":
                return float(random.uniform(*self.values))
            case "loguniform":
                return float(np.exp(random.uniform(*np.log(self.values))))
            case _:
                return self.values[random.integers(len(self.values))]


def parse(texts: Sequence[str]) -> list[Dimension]:
    """From ``KEY=KIND(VALUES)``.

    Raises:
        UserError: one is malformed, or two name the same setting.
    """
    found = [_dimension(text) for text in texts]
    keys = [dimension.key for dimension in found]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise UserError(f"--space {twice[0]}: named twice")
    return found


def _dimension(text: str) -> Dimension:
    key, equals, rest = text.partition("=")
    match = _PATTERN.fullmatch(rest)
    if not equals or match is None or match["kind"] not in KINDS:
        example = "--space 'train.lr=loguniform(1e-4, 1e-2)'"
        raise UserError(f"--space {text}: write KEY=KIND(VALUES), as {example}; kinds: {', '.join(KINDS)}")
    try:
        # YAML reads 1e-4 as a word: its numbers have a point.
        found = [_number(value) for value in yaml.safe_load(f"[{match['values']}]")]
    except yaml.YAMLError:
        raise UserError(f"--space {text}: the values can't be read") from None
    once = {repr(value): value for value in found} if match["kind"] in ("choice", "grid") else None
    values = tuple(found if once is None else once.values())
    _check(text, match["kind"], values)
    return Dimension(key.strip(), match["kind"], values)


def _number(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _check(text: str, kind: str, values: tuple[Any, ...]) -> None:
    if kind in ("choice", "grid"):
        if not values:
            raise UserError(f"--space {text}: name at least one value")
        return
    if len(values) != 2 or not all(_finite(value) for value in values) or not values[0] < values[1]:
        raise UserError(f"--space {text}: {kind} wants two numbers, the lower first")
    if kind == "loguniform" and values[0] <= 0:
        raise UserError(f"--space {text}: loguniform wants numbers above 0")
    if kind == "randint" and not all(isinstance(value, int) for value in values):
        raise UserError(f"--space {text}: randint wants whole numbers")
