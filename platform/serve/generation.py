"""A generation of an index: the folder of files that belong together, and the pointer to the current one.

    INDEX/CURRENT                      "000002"
    INDEX/generations/000002/          generation.json    encoder, pairs, segments, recall, checksums of the files
                                       dead.npy           rows that are withdrawn (tombstones)
        base-000/ base-001/ ...        segments: rows that were indexed together (segment.py); --shards makes several
        delta-002/                     rows that --add brought

A new generation is written whole beside the old one, then CURRENT is replaced. Files that stay the same are hard links.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from biomedray.artifacts import write_atomic
from biomedray.config import Config
from biomedray.errors import UserError

CURRENT = "CURRENT"
FOLDER = "generations"
GENERATION = "generation.json"
DEAD = "dead.npy"

Target = Literal["figure", "caption"]
Kind = Literal["text", "image"]
Layout = Literal["flat", "rabitq", "sq8"]

TARGETS: dict[Target, str] = {"figure": "image", "caption": "text"}
"""What may be searched, and the stem of its files."""
QUERY_STEMS: dict[Kind, str] = {"text": "text", "image": "image"}
"""Kinds of queries, and the stem of the vectors that stand for them when recall is measured."""


class Probe(Config):
    """How much of a segment is read so that enough of the exact answer is found; measured when it was built."""

    selectivity: float
    """Share of the segment's rows that pass the filters."""
    share: float
    """Share of the passing rows that lie in the inverted lists that are read."""
    depth: int
    """Candidates per wanted hit that are ranked again with the exact vectors."""
    recall: float
    """Recall@10 on queries that did not choose the setting."""


class SegmentCard(Config):
    """One folder of rows that were indexed together."""

    name: str
    start: int
    """Number of its first row in the generation."""
    rows: int
    """With the withdrawn ones."""
    layout: Layout
    lists: int = 0
    """Inverted lists; 0 of a flat segment."""
    probes: dict[str, list[Probe]] = Field(default_factory=dict)
    """By "kind of query/target", the largest selectivity first; none of a flat segment, which is exact."""


class Source(Config):
    """A pairs artifact from which figures are served."""

    uri: str
    """Where it lay when the index was made."""
    fingerprint: str


class Generation(Config):
    """What the files of one generation are and what made them."""

    name: str
    """Six digits, counted from 000001."""
    rows: int
    """Rows that can be found."""
    dead: int = 0
    """Rows that were withdrawn or replaced and still take room."""
    dim: int
    encoder: str
    encoder_fingerprint: str
    sources: list[Source]
    """The newest last."""
    segments: list[SegmentCard]
    withdrawn: list[str] = Field(default_factory=list)
    """Articles that are never shown again, whatever pairs artifact has them."""
    recall: dict[str, float] = Field(default_factory=dict)
    """Recall@10 without filters by "kind of query/target", the mean over the rows; 1 where search is exact."""
    quantiles: dict[str, list[float]] = Field(default_factory=dict)
    """By "kind of query/target": cosine of random pairs at the shares of calibration.SHARES."""
    facets: dict[str, Any] = Field(default_factory=dict)
    files: dict[str, str]
    """Path in the generation's folder -> SHA-256."""

    @property
    def slots(self) -> int:
        """Rows with the withdrawn ones: what row numbers count."""
        return sum(segment.rows for segment in self.segments)

    @property
    def index_key(self) -> str:
        """The layout of the largest segment, as faiss would call it."""
        largest = max(self.segments, key=lambda segment: segment.rows)
        return "Flat" if largest.layout == "flat" else f"IVF{largest.lists},{'RaBitQ' if largest.layout == 'rabitq' else 'SQ8'}"

    @property
    def pairs_fingerprint(self) -> str:
        """Of the newest pairs artifact."""
        return self.sources[-1].fingerprint


def generation_folder(index: Path, name: str) -> Path:
    """Where a generation lies."""
    return index / FOLDER / name


def set_current(index: Path, generation: Generation) -> None:
    """Make a generation the one that is served."""
    write_atomic(index / CURRENT, generation.name + "\n")


def current_name(index: Path) -> str | None:
    """Name of the current generation: cheap enough to be asked every second by a service that waits for a new one."""
    try:
        return (index / CURRENT).read_text().strip()
    except OSError:
        return None


def read_current(index: Path) -> tuple[Path, Generation]:
    """Folder and description of the current generation.

    Raises:
        UserError: there is none, or its description is damaged.
    """
    try:
        name = (index / CURRENT).read_text().strip()
        folder = generation_folder(index, name)
        generation = Generation.model_validate_json((folder / GENERATION).read_bytes())
    except OSError as error:
        raise UserError(f"{index}: no usable index generation ({error.strerror}); build the index again") from None
    except ValidationError as error:
        raise UserError(
            f"{folder / GENERATION}: damaged, or of another release: {error.errors()[0]['msg']}; build the index again"
        ) from None
    return folder, generation


def file_sha256(path: Path) -> str:
    """SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
