"""What retrieval knows of its samples beside their vectors: captions, figures, and by what their scores can be broken down.

Pairs are read from the columns of their artifact; of any other set with captions these are in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.dataset as ds

from biomedray.errors import UserError
from biomedray.evaluate.breakdown import PAIR_COLUMNS, dimensions_of_captions, dimensions_of_pairs
from biomedray.evaluate.captioned import CaptionedSet
from biomedray.evaluate.samples import Sample, SampleSet
from biomedray.records import PAIR_SCHEMA

By = Literal["caption", "figure"]


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


def left_out(data: SampleSet, split: str) -> list[dict[str, str]]:
    """What a set of captions names but has no picture or no caption of: id, reason, detail."""
    return data.left_out(split) if isinstance(data, CaptionedSet) else []


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
    """The captions of a set."""
    whole = data.whole if isinstance(data, Limited) else data
    assert isinstance(whole, CaptionedSet)
    part = whole.parts[split]
    captions = dict(zip(part.ids, part.captions, strict=True))
    found = [captions[name] for name in ids]
    return Known(found, None, dimensions_of_captions(found))
