"""The configuration of an ingest run."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from biomedray.config import Config
from biomedray.pixels import MAX_PIXELS

_MIB = 2**20


class IngestConfig(Config):
    """How articles become pairs; the resolved values land in the manifest."""

    engine: Literal["biomedray", "pubmed_parser"] = "biomedray"
    """What reads captions from the XML; pubmed_parser is a cross-check that loses text."""
    seed: int = 0
    """Of the split: the same seed and articles give the same split."""
    val_fraction: float = Field(0.05, ge=0, lt=1)
    """Share of the articles (not of the pairs) held out for validation."""
    test_fraction: float = Field(0.1, ge=0, lt=1)
    """Share of the articles held out for testing."""
    articles_per_part: int = Field(0, ge=0)
    """Articles a part on average, the unit of work and of resuming; 0: by the number of articles, 32 to 1024."""
    rows_per_group: int = Field(128, ge=1)
    """Rows in a Parquet row group: small groups keep shuffled reading cheap."""
    verify_decode: bool = True
    """Decode every image once: finds cut-off and blank files and gives the perceptual hash."""
    max_pixels: int = Field(MAX_PIXELS, ge=1)
    """Larger images are rejected by their header, before any decoding."""
    max_image_bytes: int = Field(256 * _MIB, ge=1)
    """Larger image files are rejected unread."""
    max_xml_bytes: int = Field(64 * _MIB, ge=1)
    """Larger XML files are rejected unread."""
    max_archive_bytes: int = Field(4096 * _MIB, ge=1)
    """An archive that unpacks to more is given up: a decompression bomb."""
    max_buffer_bytes: int = Field(512 * _MIB, ge=1)
    """The most one archive may keep in memory, and the most image bytes in one Parquet file."""

    @model_validator(mode="after")
    def _some_for_training(self) -> Self:
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError("val_fraction + test_fraction must leave something for training (below 1)")
        return self
