"""What retrieval knows of its samples beside their vectors: captions, figures, and by what their scores can be broken down.

Pairs are read from the columns of their artifact, without a picture; any other set with captions is read once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.dataset as ds

from biomedray.artifacts import is_finished, read_manifest
from biomedray.errors import UserError
from biomedray.evaluate.breakdown import PAIR_COLUMNS, dimensions_of_captions, dimensions_of_pairs
from biomedray.evaluate.samples import Sample, SampleSet
from biomedray.records import PAIR_SCHEMA

By = Literal["caption", "figure"]

_AT_ONCE = 256


@dataclass(frozen=True)
class Known:
    """Of n samples, in the order of their vectors."""

    captions: list[str]
    figures: list[str] | None
    """Key of the figure that a sample is a picture of; None of a set without figures."""
    dimensions: dict[str, list[str]]
    """Slice of each sample, by dimension."""

    def keys(self, by: By) -> list[str]:
        """What makes samples gold for each other.

        Raises:
            UserError: by figure, but the set has none.
        """
        if by == "caption":
            return self.captions
        if self.figures is None:
            raise UserError("--by figure: only a pairs artifact knows which pictures are of one figure; use --by caption")
        return self.figures


@dataclass(frozen=True)
class Limited:
    """The first ``limit`` samples of a set; pairs lie in hashed order, so these are a sample of their articles."""

    whole: SampleSet
    limit: int

    @property
    def name(self) -> str:
        """The set's."""
        return self.whole.name

    @property
    def fingerprint(self) -> str:
        """Another one than the whole set's."""
        return f"{self.whole.fingerprint}-first-{self.limit}"

    @property
    def classes(self) -> tuple[str, ...]:
        """The set's."""
        return self.whole.classes

    @property
    def splits(self) -> tuple[str, ...]:
        """The set's."""
        return self.whole.splits

    def size(self, split: str) -> int:
        """How many samples a split has, of those within the limit."""
        return min(self.limit, self.whole.size(split))

    def read(self, split: str, start: int, stop: int) -> list[Sample]:
        """As the set reads them."""
        return self.whole.read(split, start, min(stop, self.size(split)))


def is_pairs(folder: Path) -> bool:
    """Whether it is a pairs artifact."""
    return is_finished(folder) and read_manifest(folder).kind == "pairs"


def known_of_pairs(pairs: Path, split: str, ids: Sequence[str]) -> Known:
    """What the pairs table says of these pairs."""
    columns = ["pair_id", "pmcid", "version", "fig_id", "caption", *PAIR_COLUMNS]
    files = sorted((pairs / "data" / f"split={split}").glob("*.parquet"))
    schema = pa.schema([PAIR_SCHEMA.field(name) for name in columns])  # what an older artifact lacks is null
    table: pa.Table = ds.dataset(files, schema=schema, format="parquet", partitioning=None).to_table()
    place = {pair_id: number for number, pair_id in enumerate(table["pair_id"].to_pylist())}
    rows: dict[str, list[Any]] = table.take([place[pair_id] for pair_id in ids]).to_pydict()
    keys = zip(rows["pmcid"], rows["version"], rows["fig_id"], strict=True)
    figures = [f"{pmcid}.{version}/{figure}" for pmcid, version, figure in keys]
    return Known(rows["caption"], figures, dimensions_of_pairs(rows))


def known_of_set(data: SampleSet, split: str, ids: Sequence[str]) -> Known:
    """The captions of a set, and whatever ``columns`` it may say of its samples."""
    own = getattr(data, "captions", None)
    captions = own(split) if own is not None else _read_captions(data, split)
    found = [captions[name] for name in ids]
    return Known(found, None, dimensions_of_captions(found))


def _read_captions(data: SampleSet, split: str) -> Mapping[str, str]:
    size = data.size(split)
    blocks = (data.read(split, start, min(start + _AT_ONCE, size)) for start in range(0, size, _AT_ONCE))
    return {sample.id: sample.caption for block in blocks for sample in block}
