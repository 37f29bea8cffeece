"""The configuration of an ingest run."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from biomedray.config import Config
from biomedray.errors import UserError
from biomedray.ingest.neardup import MAX_DISTANCE
from biomedray.ingest.selection import Selection
from biomedray.pixels import MAX_PIXELS
from biomedray.where import Where, parse

_MIB = 2**20
# Columns that are known only when all articles were read.
_LATER = {"split", "dup_cluster", "article_cluster"}


@lru_cache(maxsize=8)
def parse_filters(texts: tuple[str, ...]) -> tuple[Where, ...]:
    """The conditions of a run.

    Raises:
        UserError: one is not understood, or asks for a column that is known only at the end.
    """
    filters = tuple(parse(text, "filter") for text in texts)
    for each in filters:
        if later := sorted(_LATER & set(each.columns)):
            raise UserError(f"filter: {each.text}: {later[0]} is known only when all is read; use 'biomedray export --where'")
    return filters


class FetchConfig(Config):
    """How files come from a store; no part of a run's identity."""

    store: str = "s3://pmc-oa-opendata"
    """Where PMCIDs are looked up."""
    endpoint: str | None = None
    """Of an S3-compatible server other than Amazon's, such as http://127.0.0.1:9000."""
    region: str = "us-east-1"
    """Of the bucket."""
    signed: bool = False
    """Sign requests with the credentials of AWS_* in the environment or of the instance; without, buckets must be public."""
    snapshot: str | None = None
    """Date of the inventory (2026-11-20); the newest whole one when not given."""
    inventory: str | None = None
    """The folder of snapshots in the store, where it isn't inventory-reports/BUCKET/metadata."""

    @field_validator("endpoint")
    @classmethod
    def _is_address(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"https?://[^/\s]+(/\S*)?", value):
            raise ValueError(f"{value!r} is no address such as http://127.0.0.1:9000")
        return value

    concurrency: int = Field(64, ge=1, le=1024)
    """Requests at once, for each worker."""
    connect_timeout_s: float = Field(10, gt=0)
    """Longest wait for a connection."""
    read_timeout_s: float = Field(60, gt=0)
    """Longest wait for the next bytes."""
    retries: int = Field(8, ge=0)
    """Further attempts after one that brought nothing new."""
    backoff_s: float = Field(0.5, ge=0)
    """Wait before the first retry; it doubles each time, at random between a half and the whole of it."""
    max_backoff_s: float = Field(60, ge=0)
    """Longest wait; a server's Retry-After is honoured up to five times that."""
    give_up_after: int = Field(16, ge=1)
    """Files that fail one after the other, with no success between, before the run stops instead of rejecting everything."""
    window_bytes: int = Field(32 * _MIB, ge=1)
    """XML read ahead of the extraction, for each worker; its trees take some ten times that."""


class PlanConfig(Config):
    """What a plan counts with; machine and prices are those of one common cloud machine, in dollars: put in yours."""

    sample: int = Field(400, ge=1)
    """Records looked at."""
    sample_sizes: int = Field(100, ge=1)
    """Articles of the sample whose files' sizes are asked for."""
    seed: int = 0
    """Of the sample."""
    cores_per_node: int = Field(16, ge=1)
    """Of one machine."""
    cpu_s_per_article: float = Field(0.05, gt=0)
    """Core-seconds to parse an article, to check its pictures and to write its rows."""
    requests_per_s: float = Field(600, gt=0)
    """Of one machine: about 64 at once at 0.1 s each."""
    mb_per_s: float = Field(200, gt=0)
    """Of one machine."""
    price_per_node_hour: float = Field(0.81, ge=0)
    """Of one machine with 16 cores and 64 GB."""
    price_per_million_requests: float = Field(0, ge=0)
    """PMC's bucket is public and charges nothing; a bucket of one's own costs 0.4."""
    price_per_gb: float = Field(0, ge=0)
    """Nothing out of PMC's bucket; other ways out of a cloud cost about 0.09."""


class IngestConfig(Config):
    """How articles become pairs; the resolved values land in the manifest."""

    engine: Literal["biomedray", "pubmed_parser"] = "biomedray"
    """What reads captions from the XML; pubmed_parser is a cross-check that loses text."""
    seed: int = 0
    """Of the split: the same seed and articles give the same split."""
    val_fraction: float = Field(0.00093, ge=0, lt=1)
    """Share of the article clusters (not of the pairs) held out for validation; PMC-15M's is 13.6k of 14.6M."""
    test_fraction: float = Field(0.0496, ge=0, lt=1)
    """Share of the article clusters held out for testing; PMC-15M's is 726k of 14.6M."""
    near_duplicate_bits: int = Field(MAX_DISTANCE, ge=-1, le=MAX_DISTANCE)
    """Images whose perceptual hashes differ in at most so many bits are one dup_cluster; -1: only byte-identical ones."""
    filters: tuple[str, ...] = ()
    """Conditions like 'n_tokens >= 5', as in ``biomedray.where``; a pair that fails one becomes a reject."""
    detect_language: bool = True
    """Tell a caption's language by its words; without, lang is the nearest xml:lang."""
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

    @field_validator("filters")
    @classmethod
    def _readable(cls, filters: tuple[str, ...]) -> tuple[str, ...]:
        parse_filters(filters)
        return filters

    media: str | None = None
    """A folder of media, by article (PMC123/, PMC123.1/) or flat, for archives and XML that have none of their own."""
    select: Selection = Selection()
    """Which articles are wanted, before any image is read."""
    fetch: FetchConfig = FetchConfig()
    """How files come from a store."""

    plan: PlanConfig = PlanConfig()
    """Rates and prices of ``--plan``."""

    def identity(self) -> dict[str, Any]:
        """What decides the rows: everything but how bytes are fetched and what a plan counts with."""
        return {name: value for name, value in self.resolved().items() if name not in ("fetch", "plan")}

    @model_validator(mode="after")
    def _some_for_training(self) -> Self:
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError("val_fraction + test_fraction must leave something for training (below 1)")
        return self
