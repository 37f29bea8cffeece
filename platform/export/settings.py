"""Settings of an export: which rows, how many to a shard, whether pictures are written beside JSON lines."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field

from biomedray.config import Config
from biomedray.records import SPLITS, Split

Format = Literal["webdataset", "jsonl", "huggingface", "card"]
FORMATS: tuple[Format, ...] = get_args(Format)


class ExportConfig(Config):
    """What of a pairs artifact is exported, and in what pieces."""

    splits: tuple[Split, ...] = Field(SPLITS, min_length=1)
    """Which splits; in every export 'val' is a split of its own."""
    where: str = ""
    """Only rows for which this expression is true (docs/guides/export.md); empty: all rows."""
    rows_per_shard: int = Field(4096, ge=1)
    """Pairs to a tar or Parquet file: some 500 MB of PMC's figures. The last one of a split is smaller."""
    images: bool = True
    """With JSON lines: write the pictures as files beside them, so that ``graphic_ref`` can be opened."""
