"""Filters before top-k: what a request may ask for, the coded columns of a segment, and which of its rows pass."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from biomedray.config import Config

Rows = NDArray[np.int64]
Bits = NDArray[np.uint8]
Counts = NDArray[np.int64]

ImageKind = Literal["single", "panels", "chart"]

CODED = ("license_group", "journal", "article_type", "split", "image_kind")
NO_YEAR = -1
FEW = 20_000
"""Up to so many rows are kept as numbers."""
_CACHED = 64
_MOST_FACETS = 100


def _no_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticCustomError("number_wanted", "a number is wanted")
    return value


NoBoolean = BeforeValidator(_no_boolean)
"""Of a number in JSON: true is not 1."""
Whole = Annotated[int, NoBoolean]


class Filters(Config):
    """Which rows may be hits; every filter that is set must pass."""

    license_group: list[Literal["comm", "noncomm", "other"]] | None = Field(default=None, max_length=3)
    """Licence groups: comm (commercial use allowed), noncomm, other."""
    journal: list[str] | None = Field(default=None, max_length=100)
    """Journals, exactly as hits name them."""
    article_type: list[str] | None = Field(default=None, max_length=100)
    """Article types, exactly as hits name them."""
    image_kind: list[ImageKind] | None = Field(default=None, max_length=3)
    """What the picture looks like: single, panels (several in one) or chart; a guess of ingest, that not every pair has."""
    split: list[Literal["train", "val", "test"]] | None = Field(default=None, max_length=3)
    """Splits of the pairs artifact."""
    year_min: Whole | None = None
    """First year of publication."""
    year_max: Whole | None = None
    """Last year of publication; rows without a year pass no year filter."""

    def empty(self) -> bool:
        """Whether every row passes."""
        return all(value is None for value in self.model_dump().values())

    def key(self) -> str:
        """The same for filters that mean the same."""
        return str([sorted(value) if isinstance(value, list) else value for value in self.model_dump().values()])


ALL_ROWS = Filters()


@dataclass(frozen=True)
class Selection:
    """Rows of a segment that may be hits."""

    count: int
    bits: Bits | None = None
    """One bit a row, the lowest first, as faiss' bitmap selector reads it; None where every row passes."""
    rows: Rows | None = None
    """[count] ascending, where they are few."""
    lists: Counts | None = None
    """[lists] How many of them lie in each inverted list."""


class Columns:
    """What filters read of a segment's rows: codes with their dictionaries, years, and which rows are alive."""

    def __init__(
        self, table: pa.Table, lists: NDArray[Any] | None = None, list_count: int = 0, alive: NDArray[np.bool_] | None = None
    ) -> None:
        """``table`` as ``rows.column_table`` makes it; ``lists`` [n] the inverted list of each; ``alive`` [n] or None: all."""
        batch = table.combine_chunks()
        self.rows = table.num_rows
        self.alive = alive
        self.years: NDArray[np.int32] = _numbers(batch["year"])
        self._codes = {name: _coded(batch[name]) for name in CODED}
        self._lists = lists
        self._list_count = list_count
        self._known: OrderedDict[str, Selection] = OrderedDict()
        self._lock = threading.Lock()

    def selection(self, filters: Filters) -> Selection:
        """The rows that pass; what was asked lately is remembered."""
        key = filters.key()
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                return self._known[key]
        found = self._select(filters)
        with self._lock:
            self._known[key] = found
            while len(self._known) > _CACHED:
                self._known.popitem(last=False)
        return found

    def counts(self) -> dict[str, dict[str, int]]:
        """How many living rows have each value of the coded columns."""
        found = {}
        for name, (codes, dictionary) in self._codes.items():
            living = codes if self.alive is None else codes[self.alive]
            tally = np.bincount(living[living >= 0], minlength=len(dictionary))
            found[name] = {value: int(tally[code]) for value, code in dictionary.items() if tally[code]}
        return found

    def passing(self, filters: Filters) -> NDArray[np.bool_]:
        """[n] whether a row is alive and passes."""
        mask = np.ones(self.rows, dtype=bool) if self.alive is None else self.alive.copy()
        for name, values in filters.model_dump(exclude_none=True).items():
            if name == "year_min":
                mask &= (self.years >= values) & (self.years != NO_YEAR)
            elif name == "year_max":
                mask &= (self.years <= values) & (self.years != NO_YEAR)
            else:
                mask &= self._one_of(name, values)
        return mask

    def _one_of(self, name: str, values: Sequence[str]) -> NDArray[np.bool_]:
        codes, dictionary = self._codes[name]
        wanted = np.zeros(len(dictionary) + 1, dtype=bool)  # the last is that of code -1, a missing value
        wanted[[dictionary[value] for value in values if value in dictionary]] = True
        return wanted[codes]

    def _select(self, filters: Filters) -> Selection:
        if filters.empty() and self.alive is None:
            return Selection(self.rows)
        return select(self.passing(filters), self._lists, self._list_count)


def select(mask: NDArray[np.bool_], lists: NDArray[Any] | None = None, list_count: int = 0) -> Selection:
    """The rows of a mask [n]; ``lists`` [n] is the inverted list of each."""
    count = int(np.count_nonzero(mask))
    rows = np.flatnonzero(mask) if count <= FEW else None
    tally = None if lists is None else np.bincount(lists[mask], minlength=list_count)
    return Selection(count, np.packbits(mask, bitorder="little"), rows, tally)


def merge_facets(counts: Sequence[Mapping[str, Mapping[str, int]]], years: Sequence[NDArray[np.int32]]) -> dict[str, Any]:
    """What may be filtered by: the most frequent values of each column with their counts, and the range of years."""
    facets: dict[str, Any] = {}
    for name in CODED:
        total: dict[str, int] = {}
        for part in counts:
            for value, count in part[name].items():
                total[value] = total.get(value, 0) + count
        facets[name] = dict(sorted(total.items(), key=lambda entry: (-entry[1], entry[0]))[:_MOST_FACETS])
    known = [part[part != NO_YEAR] for part in years]
    ranges = [(int(part.min()), int(part.max())) for part in known if len(part)]
    return {**facets, "years": [min(low for low, _ in ranges), max(high for _, high in ranges)] if ranges else None}


def _numbers(column: pa.ChunkedArray) -> NDArray[Any]:
    return column.chunk(0).to_numpy(zero_copy_only=True) if column.num_chunks else np.empty(0, column.type.to_pandas_dtype())


def _coded(column: pa.ChunkedArray) -> tuple[NDArray[np.int32], dict[str, int]]:
    """A dictionary column as codes, -1 where it has no value, and its dictionary."""
    if not column.num_chunks:
        return np.empty(0, np.int32), {}
    array = column.chunk(0)
    codes = array.indices if array.null_count == 0 else pc.fill_null(array.indices, -1)
    return codes.to_numpy(zero_copy_only=False), {value: code for code, value in enumerate(array.dictionary.to_pylist())}
