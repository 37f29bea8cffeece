"""Filters: conditions on a pair's columns that a run may ask for; a pair that fails one becomes a reject that says which.

n_tokens >= 5        lang in en,de        flags lacks label_caption        license_group != other
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa

from biomedray.records import PAIR_SCHEMA

_FILTER = re.compile(r"\s*(\w+)\s*(==|!=|<=|>=|<|>|=|\bnot\s+in\b|\bin\b|\bhas\b|\blacks\b)\s*(.+?)\s*")
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
# Known only when all articles have been read.
_LATER = ("split", "dup_cluster", "article_cluster")


@dataclass(frozen=True)
class Filter:
    """One condition; ``values`` has one value, or several after ``in``."""

    text: str
    column: str
    sign: str
    values: tuple[Any, ...]

    def holds(self, row: Mapping[str, Any]) -> bool:
        """Whether a pair passes; a column that is null passes only 'not in', 'lacks' and '!='."""
        value = row.get(self.column)
        if self.sign in ("has", "lacks"):
            return (self.values[0] in (value or ())) == (self.sign == "has")
        if self.sign in ("in", "not in"):
            return (value in self.values) == (self.sign == "in")
        if value is None:
            return self.sign == "!="
        return _COMPARE[self.sign](value, self.values[0])


def parse_filter(text: str) -> Filter:
    """A filter from its words.

    Raises:
        ValueError: not of the form 'COLUMN SIGN VALUE', or the column or value doesn't fit.
    """
    match = _FILTER.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no filter; write it like 'n_tokens >= 5', 'lang in en,de' or 'flags lacks truncated'")
    column, sign, value = match[1], " ".join(match[2].split()), match[3]
    kind = _kind(column)
    listed = pa.types.is_list(kind)
    if listed != (sign in ("has", "lacks")):
        rule = "is a list: use has or lacks" if listed else "is one value: has and lacks are for lists"
        raise ValueError(f"{text!r}: {column} {rule}")
    words = value.split(",") if sign in ("in", "not in") else [value]
    return Filter(text.strip(), column, sign, tuple(_value(word.strip().strip("'\""), kind, text) for word in words))


@lru_cache(maxsize=8)
def parse_filters(texts: tuple[str, ...]) -> tuple[Filter, ...]:
    """The filters of a run, parsed once."""
    return tuple(map(parse_filter, texts))


def first_failed(filters: Sequence[Filter], row: Mapping[str, Any]) -> Filter | None:
    """The first filter that a pair fails; None when it passes all."""
    return next((each for each in filters if not each.holds(row)), None)


def _kind(column: str) -> pa.DataType:
    if column not in PAIR_SCHEMA.names or column in _LATER or pa.types.is_large_binary(PAIR_SCHEMA.field(column).type):
        raise ValueError(f"{column!r} is no column that pairs can be filtered by; docs/reference/pairs.md lists the columns")
    kind = PAIR_SCHEMA.field(column).type
    if pa.types.is_list(kind) and not pa.types.is_string(kind.value_type):
        raise ValueError(f"{column!r} is a list of records; pairs can't be filtered by it")
    return kind


def _value(word: str, kind: pa.DataType, text: str) -> Any:
    try:
        if pa.types.is_integer(kind):
            return int(word)
        if pa.types.is_floating(kind):
            return float(word)
    except ValueError:
        raise ValueError(f"{text!r}: a number is wanted, not {word!r}") from None
    if pa.types.is_boolean(kind):
        if word.lower() not in ("true", "false"):
            raise ValueError(f"{text!r}: true or false is wanted, not {word!r}")
        return word.lower() == "true"
    return word
