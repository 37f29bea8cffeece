"""A pairs artifact as a set of samples: pictures with captions, grouped by article, read by row groups."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from biomedray.artifacts import manifest_fingerprint, read_manifest
from biomedray.errors import UserError
from biomedray.evaluate.samples import Sample
from biomedray.records import SPLITS

_COLUMNS = ["pair_id", "pmcid", "image", "caption"]
_LEAST_ROWS = 256


@dataclass(frozen=True)
class _RowGroup:
    path: str
    number: int
    rows: int


@dataclass(frozen=True)
class PairsSet:
    """A ``SampleSet`` of the splits of a pairs artifact, in the order of its files and rows."""

    name: str
    fingerprint: str
    row_groups: dict[str, tuple[_RowGroup, ...]]
    """By split."""

    @property
    def classes(self) -> tuple[str, ...]:
        """None: pairs have captions."""
        return ()

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits that hold a pair."""
        return tuple(split for split in SPLITS if self.size(split))

    def size(self, split: str) -> int:
        """How many pairs a split has."""
        return sum(group.rows for group in self.row_groups.get(split, ()))

    def read(self, split: str, start: int, stop: int) -> list[Sample]:
        """Pairs ``start`` to ``stop`` of a split; each article is a group."""
        groups = self.row_groups.get(split, ())
        ends = list(accumulate(group.rows for group in groups))
        samples: list[Sample] = []
        for number in range(bisect_right(ends, start), len(groups)):
            first = ends[number] - groups[number].rows
            if first >= stop:
                break
            rows = _table(groups[number]).slice(max(0, start - first), stop - max(start, first))
            samples += (
                Sample(row["pair_id"], row["image"], caption=row["caption"], group=row["pmcid"]) for row in rows.to_pylist()
            )
        return samples

    def stretches(self, split: str) -> Iterator[tuple[int, int]]:
        """Starts and stops of whole row groups, some hundred pairs each: nothing is read twice."""
        start = stop = 0
        for group in self.row_groups.get(split, ()):
            stop += group.rows
            if stop - start >= _LEAST_ROWS:
                yield start, stop
                start = stop
        if stop > start:
            yield start, stop


def open_pairs(folder: Path) -> PairsSet:
    """The pairs of a finished artifact.

    Raises:
        UserError: it is none.
    """
    read_manifest(folder, "pairs")
    groups: dict[str, tuple[_RowGroup, ...]] = {split: tuple(_row_groups(folder, split)) for split in SPLITS}
    return PairsSet(folder.resolve().name, manifest_fingerprint(folder), groups)


def _row_groups(folder: Path, split: str) -> Iterator[_RowGroup]:
    for path in sorted((folder / "data" / f"split={split}").glob("*.parquet")):
        metadata = pq.read_metadata(path)
        for number in range(metadata.num_row_groups):
            yield _RowGroup(str(path.resolve()), number, metadata.row_group(number).num_rows)


def _table(group: _RowGroup) -> pa.Table:
    try:
        return pq.ParquetFile(group.path).read_row_group(group.number, columns=_COLUMNS)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{group.path}: cannot be read ({str(error).splitlines()[0]})") from None
