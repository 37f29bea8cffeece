"""What is in a pairs artifact, in numbers: one scan of narrow columns, its memory independent of the number of rows.

data/*.parquet --one batch at a time, no picture--> counters, histograms --+
rejects/, ledger/ --------------------------------> counters --------------+--> Survey: for cards and for report pages
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from biomedray.export.source import Source, read_group
from biomedray.records import SPLITS, Split
from biomedray.where import Where

COUNTED = (
    "split",
    "license_code",
    "license_group",
    "journal",
    "year",
    "article_type",
    "lang",
    "container",
    "image_format",
    "fig_third_party",
)
QUALITY = ("entropy", "blankness", "colourfulness", "compound_hint", "chart_hint")
MEASURED = ("short_side", "long_side", "n_tokens")
_ARTICLES = ("articles", "articles_with_pairs")
_SUMS = ("figures", "graphics", "figures_without_graphic", "pairs", "rejects", "article_rejects")
# The largest value that is told apart: pixels of a side, words and marks of a caption.
LONGEST = 16_384
BINS = 40
# Distinct values are found in passes over one column, each of which keeps about this many in memory.
_PER_PASS = 4_000_000

Counts = npt.NDArray[np.int64]


@dataclass
class Survey:
    """Counts of the wanted rows, and of the whole artifact's rejects and ledger.

    ``lengths`` has by name (MEASURED) the number of rows for each value from 0 to LONGEST; ``quality``
    has by column the counts of BINS equal bins between ``quality_range``; null values are in ``missing``.
    """

    rows: int = 0
    counts: dict[str, Counter[str]] = field(default_factory=lambda: {name: Counter() for name in (*COUNTED, "flags")})
    lengths: dict[str, Counts] = field(default_factory=lambda: {name: np.zeros(LONGEST + 1, np.int64) for name in MEASURED})
    quality: dict[str, Counts] = field(default_factory=lambda: {name: np.zeros(BINS, np.int64) for name in QUALITY})
    missing: Counter[str] = field(default_factory=Counter)
    ledger: dict[str, int] = field(default_factory=lambda: dict.fromkeys((*_ARTICLES, *_SUMS), 0))
    unbalanced: int = 0
    rejects: Counter[tuple[str, str]] = field(default_factory=Counter)

    def share_over(self, name: str, value: int) -> float:
        """Share of the rows whose length is greater than ``value``, 0 to 1."""
        return float(self.lengths[name][value + 1 :].sum()) / max(1, self.rows)

    def mean(self, name: str) -> float:
        """Mean length; values above LONGEST count as LONGEST."""
        return float(self.lengths[name] @ np.arange(LONGEST + 1)) / max(1, self.rows)


@dataclass(frozen=True)
class Clusters:
    """Groups of rows with the same value in a column."""

    number: int
    shared: int
    """Rows whose group has more than one."""
    largest: int


def quality_range(name: str) -> tuple[float, float]:
    """Limits of a quality column's histogram: bits, Hasler and Suesstrunk's M3, shares."""
    return {"entropy": (0.0, 8.0), "colourfulness": (0.0, 120.0)}.get(name, (0.0, 1.0))


def survey(pairs: Path, splits: Sequence[Split] = SPLITS, where: Where | None = None) -> Survey:
    """Count what the wanted rows hold; images are not read."""
    found = Survey()
    source = Source(pairs, where or Where("", (), None))
    columns = (*COUNTED, "flags", "width", "height", "n_tokens", *QUALITY)
    for split in splits:
        for table in source.rows(source.files(split), columns):
            _count(found, table)
    _count_ledger(found, pairs)
    _count_rejects(found, pairs)
    return found


def clusters(pairs: Path, column: str, rows: int) -> Clusters:
    """How many distinct values a text column has, exactly, in memory for a few million of them.

    The column is read once for every 4 million rows; each pass looks at those values whose hash falls to it.
    """
    passes = max(1, -(-rows // _PER_PASS))
    number = shared = largest = 0
    for turn in range(passes):
        hashes = [_hashed(values, turn, passes) for values in _values(pairs, column)]
        _, counts = np.unique(np.concatenate(hashes) if hashes else np.zeros(0, np.uint64), return_counts=True)
        number += len(counts)
        shared += int(counts[counts > 1].sum())
        largest = max(largest, int(counts.max(initial=0)))
    return Clusters(number, shared, largest)


def _count(found: Survey, table: pa.Table) -> None:
    found.rows += table.num_rows
    for name in COUNTED:
        _tally(found.counts[name], table[name])
    _tally(found.counts["flags"], pa.chunked_array([pc.list_flatten(chunk) for chunk in table["flags"].chunks], pa.string()))
    width, height = table["width"], table["height"]
    sides = {"short_side": pc.min_element_wise(width, height), "long_side": pc.max_element_wise(width, height)}
    for name, column in {**sides, "n_tokens": table["n_tokens"]}.items():
        values = np.clip(column.to_numpy(), 0, LONGEST)
        found.lengths[name] += np.bincount(values, minlength=LONGEST + 1)
    for name in QUALITY:
        column = table[name].drop_null()
        found.missing[name] += table.num_rows - len(column)
        low, high = quality_range(name)
        values = np.nan_to_num(np.clip(column.to_numpy(), low, high), nan=low)
        found.quality[name] += np.histogram(values, BINS, (low, high))[0]


def _tally(counter: Counter[str], column: pa.ChunkedArray) -> None:
    for entry in pc.value_counts(column).to_pylist():
        counter["" if entry["values"] is None else str(entry["values"])] += entry["counts"]


def _count_ledger(found: Survey, pairs: Path) -> None:
    for table in _tables(pairs / "ledger", list(_SUMS)):
        found.ledger["articles"] += table.num_rows
        found.ledger["articles_with_pairs"] += pc.sum(pc.greater(table["pairs"], 0)).as_py() or 0
        for name in table.column_names:
            found.ledger[name] += pc.sum(table[name]).as_py() or 0
        seen = pc.add(table["graphics"], table["figures_without_graphic"])
        found.unbalanced += pc.sum(pc.not_equal(seen, pc.add(table["pairs"], table["rejects"]))).as_py() or 0


def _count_rejects(found: Survey, pairs: Path) -> None:
    for table in _tables(pairs / "rejects", ["stage", "reason"]):
        counted = table.group_by(["stage", "reason"]).aggregate([([], "count_all")])
        for row in counted.to_pylist():
            found.rejects[row["stage"], row["reason"]] += row["count_all"]


def _tables(folder: Path, columns: list[str]) -> Iterator[pa.Table]:
    for path in sorted(folder.glob("*.parquet")):
        with pq.ParquetFile(path) as file:
            for index in range(file.num_row_groups):
                yield file.read_row_group(index, columns=columns)


def _values(pairs: Path, column: str) -> Iterator[pa.ChunkedArray]:
    for path in sorted((pairs / "data").glob("split=*/*.parquet")):
        with pq.ParquetFile(path) as file:
            for index in range(file.num_row_groups):
                yield read_group(file, index, [column])[column]


def _hashed(values: pa.ChunkedArray, turn: int, passes: int) -> npt.NDArray[np.uint64]:
    digests = (hashlib.blake2b(value.encode(), digest_size=8).digest() for value in values.drop_null().to_pylist())
    hashes: npt.NDArray[np.uint64] = np.frombuffer(b"".join(digests), np.uint64)
    mine: npt.NDArray[np.uint64] = hashes[hashes % np.uint64(passes) == turn]
    return mine
