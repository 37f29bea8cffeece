"""Search one generation of an index: filters before top-k, duplicates of one figure shown once.

query vector -> rows that pass the filters -> nearest by inner product -> one of each duplicate cluster -> k hits
                      all: the faiss index; few: exact product with those rows; many: faiss with a bitmap of them
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from biomedray.artifacts import read_manifest
from biomedray.config import Config
from biomedray.errors import UserError
from biomedray.serve.generation import KEYS, METADATA, TARGETS, Generation, read_current, verify

Target = Literal["figure", "caption"]
Rows = NDArray[np.int64]
Vector = NDArray[np.float32]

EXACT_ROWS = 20_000
"""Below so many rows that pass a filter, an exact product with them is cheaper than walking the index."""

_KEY = np.dtype([("key", "<u8"), ("row", "<i8")])
_CODED = ("license_group", "journal", "article_type", "split", "dup_cluster")


class Filters(Config):
    """Which rows may be hits; every filter that is set must pass."""

    license_group: list[Literal["comm", "noncomm", "other"]] | None = Field(default=None, max_length=3)
    """Licence groups: comm (commercial use allowed), noncomm, other."""
    journal: list[str] | None = Field(default=None, max_length=100)
    """Journals, exactly as hits name them."""
    article_type: list[str] | None = Field(default=None, max_length=100)
    """Article types, exactly as hits name them."""
    split: list[Literal["train", "val", "test"]] | None = Field(default=None, max_length=3)
    """Splits of the pairs artifact."""
    year_min: int | None = None
    """First year of publication."""
    year_max: int | None = None
    """Last year of publication; rows without a year pass no year filter."""

    def empty(self) -> bool:
        """Whether every row passes."""
        return all(value is None for value in self.model_dump().values())


ALL_ROWS = Filters()


@dataclass(frozen=True)
class Query:
    """A search: ``vector`` [d] L2-normalised; ``exclude`` is a row whose figure must not come back."""

    vector: Vector
    k: int
    target: Target = "figure"
    filters: Filters = ALL_ROWS
    collapse: bool = True
    exclude: int | None = None


@dataclass(frozen=True)
class Hit:
    """One row found: its metadata record and the cosine similarity to the query."""

    row: int
    score: float
    record: dict[str, Any]


def pair_keys(pair_ids: Sequence[str]) -> NDArray[Any]:
    """Sorted (hash of the pair id, row): finds a row among many without holding the ids in memory."""
    keys = np.empty(len(pair_ids), _KEY)
    keys["key"] = [_hash(pair_id) for pair_id in pair_ids]
    keys["row"] = np.arange(len(pair_ids))
    return np.sort(keys)


class SearchIndex:
    """The current generation of an index artifact, memory-mapped; safe to search from several threads."""

    def __init__(self, folder: Path, generation: Generation) -> None:
        import faiss

        self.generation = generation
        self._faiss = {target: faiss.read_index(str(folder / f"{stem}.faiss")) for target, stem in TARGETS.items()}
        self._vectors = {target: np.load(folder / f"{stem}.npy", mmap_mode="r") for target, stem in TARGETS.items()}
        self._keys = np.load(folder / KEYS, mmap_mode="r")
        self._table = pa.ipc.open_file(pa.memory_map(str(folder / METADATA))).read_all()
        self._codes = {name: _encode(self._table[name]) for name in _CODED}
        self._years = pc.fill_null(self._table["year"], -1).to_numpy()

    @classmethod
    def open(cls, folder: Path, encoder_fingerprint: str) -> SearchIndex:
        """Open an index artifact for queries of one encoder.

        Raises:
            UserError: not a whole, undamaged index, or another encoder made its vectors.
        """
        read_manifest(folder, "index")
        where, generation = read_current(folder)
        if generation.encoder_fingerprint != encoder_fingerprint:
            raise UserError(
                f"{folder}: was made with another encoder ({generation.encoder}, {generation.encoder_fingerprint}, "
                f"but the model is {encoder_fingerprint}); serve that model or build the index again with this one"
            )
        verify(where, generation)
        return cls(where, generation)

    def __len__(self) -> int:
        return self.generation.rows

    def search(self, query: Query) -> tuple[list[Hit], int]:
        """At most k hits, best first, equal scores by row; and how many rows passed the filters."""
        allowed = None if query.filters.empty() else np.flatnonzero(self._passing(query.filters))
        total = len(self) if allowed is None else len(allowed)
        wanted = min(total, 2 * query.k + 16)
        while True:
            scores, rows = self._nearest(query, wanted, allowed)
            kept = self._kept(query, rows)
            if len(kept) >= query.k or wanted >= total:
                break
            wanted = min(total, 4 * wanted)
        kept = kept[: query.k]
        records = self._table.take(pa.array(rows[kept])).to_pylist()
        return [Hit(int(rows[i]), float(scores[i]), record) for i, record in zip(kept, records, strict=True)], total

    def close(self) -> None:
        """Let the memory maps go; the index can't be searched after that."""
        self._faiss, self._vectors = {}, {}

    def row_of(self, pair_id: str) -> int | None:
        """The row of a pair, if the index has it."""
        key = np.uint64(_hash(pair_id))
        first = int(np.searchsorted(self._keys["key"], key))
        while first < len(self._keys) and self._keys["key"][first] == key:
            row = int(self._keys["row"][first])
            if self._table["pair_id"][row].as_py() == pair_id:
                return row
            first += 1
        return None

    def vector(self, row: int, target: Target) -> Vector:
        """The stored embedding [d] of a row's figure or caption."""
        return np.array(self._vectors[target][row], dtype=np.float32)

    def record(self, row: int) -> dict[str, Any]:
        """The metadata of a row, and where its image lies."""
        record: dict[str, Any] = self._table.slice(row, 1).to_pylist()[0]
        return record

    @cached_property
    def facets(self) -> dict[str, Any]:
        """What may be filtered by: licence groups and splits with their counts, and the range of years."""
        known = self._years[self._years >= 0]
        years = [int(known.min()), int(known.max())] if len(known) else None
        counted = {name: _counts(self._table[name]) for name in ("license_group", "article_type", "split")}
        return {**counted, "years": years}

    def _passing(self, filters: Filters) -> NDArray[np.bool_]:
        mask = np.ones(len(self), dtype=bool)
        for name, values in filters.model_dump(exclude_none=True).items():
            if name == "year_min":
                mask &= self._years >= values
            elif name == "year_max":
                mask &= (self._years <= values) & (self._years >= 0)
            else:
                codes, dictionary = self._codes[name]
                mask &= np.isin(codes, [dictionary[value] for value in values if value in dictionary])
        return mask

    def _nearest(self, query: Query, wanted: int, allowed: Rows | None) -> tuple[Vector, Rows]:
        """The ``wanted`` best rows of the allowed ones, best first."""
        if wanted == 0:
            return np.empty(0, np.float32), np.empty(0, np.int64)
        if allowed is not None and len(allowed) <= EXACT_ROWS:
            scores = np.asarray(self._vectors[query.target][allowed]) @ query.vector
            best = np.argpartition(-scores, wanted - 1)[:wanted]
            return _ordered(scores[best], allowed[best])
        scores, rows = self._walk(query, wanted, allowed)
        found = rows >= 0
        return _ordered(scores[found], rows[found])

    def _walk(self, query: Query, wanted: int, allowed: Rows | None) -> tuple[Vector, Rows]:
        import faiss

        parameters = None
        if allowed is not None:
            mask = np.zeros(len(self), dtype=bool)
            mask[allowed] = True
            selector = faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))  # type: ignore[call-arg, arg-type]  # faiss' stubs describe the C++ call
            parameters = faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]  # same
        scores, rows = self._faiss[query.target].search(query.vector[None], wanted, params=parameters)
        return scores[0], rows[0]

    def _kept(self, query: Query, rows: Rows) -> Rows:
        """Positions in ``rows`` that stay: not the excluded figure, and the best of each duplicate cluster."""
        clusters = self._codes["dup_cluster"][0]
        stays = np.ones(len(rows), dtype=bool)
        if query.exclude is not None:
            stays = clusters[rows] != clusters[query.exclude] if query.collapse else rows != query.exclude
        if query.collapse:
            first = np.zeros(len(rows), dtype=bool)
            first[np.unique(clusters[rows], return_index=True)[1]] = True
            stays &= first
        return np.flatnonzero(stays)


def _ordered(scores: Vector, rows: Rows) -> tuple[Vector, Rows]:
    order = np.lexsort((rows, -scores))
    return scores[order], rows[order]


def _hash(pair_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(pair_id.encode(), digest_size=8).digest(), "little")


def _encode(column: pa.ChunkedArray) -> tuple[NDArray[np.int32], dict[str, int]]:
    """A text column as codes and its dictionary; a missing value has code -1."""
    encoded = column.combine_chunks().dictionary_encode()
    codes = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int32)
    return codes, {value: code for code, value in enumerate(encoded.dictionary.to_pylist())}


def _counts(column: pa.ChunkedArray) -> dict[str, int]:
    counts = [(entry["values"], entry["counts"]) for entry in column.value_counts().to_pylist()]
    return {value: count for value, count in sorted(counts, key=lambda pair: -pair[1])[:100] if value is not None}
