"""Search one generation of an index: filters before top-k, duplicates of one figure shown once.

query -> each segment: rows that pass the filters -> nearest by inner product -> one of each duplicate cluster
            few: exact product with those rows; many: inverted lists with a bitmap, more lists the fewer pass
      -> merged by score -> k hits with their records
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from biomedray.artifacts import read_manifest
from biomedray.errors import UserError, WorkError
from biomedray.serve.calibration import percentiles
from biomedray.serve.filters import ALL_ROWS, Filters
from biomedray.serve.generation import DEAD, Generation, Kind, SegmentCard, Target, read_current
from biomedray.serve.merge import Part, first_of_each, merge
from biomedray.serve.rows import METADATA, RECORDS, hash_text
from biomedray.serve.segment import Segment
from biomedray.serve.verify import Background, check

__all__ = ["ALL_ROWS", "Ask", "Filters", "Found", "Hit", "Index", "Kind", "Query", "SearchIndex", "Target", "Top"]

Vector = NDArray[np.float32]

_SPARE = 16
"""Rows beyond those wanted, for the duplicates among them."""
_PLAIN = ("/image.npy", "/text.npy", f"/{RECORDS}", f"/{METADATA}")
"""Large files in which damage crashes nothing, and the one that is not opened before it is checked."""
_CHECKED_AT_ONCE = 256 * 1024 * 1024
"""Such files that are together no larger are checked before the index opens."""


@dataclass(frozen=True)
class Query:
    """A search: ``vector`` [d] L2-normalised; ``exclude`` is a row whose figure must not come back."""

    vector: Vector
    k: int
    target: Target = "figure"
    filters: Filters = ALL_ROWS
    collapse: bool = True
    exclude: int | None = None
    kind: Kind = "text"
    """What was asked with; text where text is part of it, since texts lie further from figures and need more lists."""
    group_by: Literal["article"] | None = None
    """Show only the best of each article."""


@dataclass(frozen=True)
class Hit:
    """One row found: its metadata and the cosine similarity to the query; ``Index.record`` says where its image lies."""

    row: int
    score: float
    record: dict[str, Any]
    percentile: float | None = None
    """Share in % of random (query, row) pairs of this kind whose cosine is lower; None where that was not measured."""


@dataclass(frozen=True)
class Found:
    """The answer to a query."""

    hits: list[Hit]
    total: int
    """Rows that passed the filters, where a shard answered."""
    shards: int = 1
    answered: int = 1

    @property
    def partial(self) -> bool:
        """Whether a shard is missing from the answer."""
        return self.answered < self.shards


@dataclass(frozen=True)
class Ask:
    """A query as shards get it: what is excluded stands there by its hash."""

    query: Query
    cluster: int | None = None
    """Hash of the excluded row's duplicate cluster."""


@dataclass(frozen=True)
class Top:
    """What one index or shard found for an ask: at most as many as wanted, and how many rows passed."""

    part: Part
    total: int
    answered: int = 1


class Index(ABC):
    """What the service needs of an index; of one in this process, and of one whose shards lie elsewhere."""

    generation: Generation
    shards = 1

    def __len__(self) -> int:
        return self.generation.rows

    @abstractmethod
    def tops(self, asks: Sequence[Ask], count: int) -> list[Top]:
        """The best ``count`` of each ask."""

    @abstractmethod
    def records(self, rows: Sequence[int], places: bool = False) -> list[dict[str, Any]]:
        """The metadata of rows; where their images lie too if ``places``."""

    @abstractmethod
    def row_of(self, pair_id: str) -> int | None:
        """The row of a pair, if the index has it."""

    @abstractmethod
    def vector(self, row: int, target: Target) -> Vector:
        """The stored embedding [d] of a row's figure or caption."""

    @abstractmethod
    def cluster(self, row: int) -> int:
        """Hash of a row's duplicate cluster."""

    @abstractmethod
    def close(self) -> None:
        """Let files and memory go, once searches that run have ended."""

    def record(self, row: int) -> dict[str, Any]:
        """The metadata of a row, and where its image lies."""
        return self.records([row], places=True)[0]

    def search(self, query: Query) -> tuple[list[Hit], int]:
        """At most k hits, best first, equal scores by row; and how many rows passed the filters."""
        found = self.search_many([query])[0]
        return found.hits, found.total

    def search_many(self, queries: Sequence[Query]) -> list[Found]:
        """As ``search`` for several queries, and whether all shards answered."""
        asks = [Ask(query, None if query.exclude is None else self.cluster(query.exclude)) for query in queries]
        found: dict[int, Found] = {}
        waiting = list(range(len(queries)))
        count = max((query.k for query in queries), default=0)
        while waiting:
            for place, top in zip(waiting, self.tops([asks[place] for place in waiting], count), strict=True):
                kept = _grouped(top.part, queries[place])
                if len(kept) >= queries[place].k or len(top.part) < count:
                    found[place] = self._found(queries[place], replace(top, part=kept))
            waiting = [place for place in waiting if place not in found]
            count *= 4
        return [found[place] for place in range(len(queries))]

    @property
    def facets(self) -> dict[str, Any]:
        """What may be filtered by: the values of each filter with their counts, and the range of years."""
        return self.generation.facets

    def card(self) -> dict[str, Any]:
        """What /v1/info says of the index."""
        generation = self.generation
        return {
            "generation": generation.name,
            "rows": generation.rows,
            "dead": generation.dead,
            "dim": generation.dim,
            "index_key": generation.index_key,
            "segments": len(generation.segments),
            "shards": self.shards,
            "encoder_fingerprint": generation.encoder_fingerprint,
            "pairs_fingerprint": generation.pairs_fingerprint,
            "recall": generation.recall,
            "facets": generation.facets,
        }

    def _found(self, query: Query, top: Top) -> Found:
        part = top.part
        records = self.records(part.rows.tolist())
        table = self.generation.quantiles.get(f"{query.kind}/{query.target}")
        lines = zip(part.rows.tolist(), part.scores.tolist(), records, percentiles(part.scores, table), strict=True)
        hits = [Hit(*line) for line in lines]
        return Found(hits, top.total, self.shards, top.answered)


class SearchIndex(Index):
    """The current generation of an index artifact, memory-mapped; safe to search from several threads."""

    def __init__(self, folder: Path, generation: Generation, segments: Sequence[SegmentCard] | None = None) -> None:
        """Open some segments, by default all, of the generation in ``folder``.

        Raises:
            UserError: a file is missing or damaged.
        """
        self.generation = generation
        cards = generation.segments if segments is None else list(segments)
        names = [name for name in generation.files if name == DEAD or any(name.startswith(f"{card.name}/") for card in cards)]
        vectors, parsed = _by_use(folder, names)
        check(folder, generation.files, parsed)
        self._verifying = Background(folder, generation.files, vectors)
        dead = np.load(folder / DEAD) if DEAD in generation.files else np.empty(0, np.int64)
        try:
            self._segments = [_open(folder, generation, card, dead) for card in cards]
        except (ValueError, OSError) as error:
            raise UserError(f"{folder}: damaged: {str(error).splitlines()[0]}; build the index again") from None
        self._readers = 0
        self._idle = threading.Condition()
        self._closed = False

    @classmethod
    def open(cls, folder: Path, encoder_fingerprint: str) -> SearchIndex:
        """Open an index artifact for queries of one encoder.

        Raises:
            UserError: not a whole, undamaged index, or another encoder made its vectors.
        """
        where, generation = open_generation(folder, encoder_fingerprint)
        return cls(where, generation)

    @property
    def verified(self) -> str:
        """Whether the bytes of the large vectors are "verified", "damaged" or still "checking"."""
        return self._verifying.state

    def wait_verified(self) -> str:
        """``verified`` once that is known."""
        return self._verifying.wait()

    def card(self) -> dict[str, Any]:
        """What /v1/info says of the index."""
        return {**super().card(), "verified": self.verified}

    def tops(self, asks: Sequence[Ask], count: int) -> list[Top]:
        """The best ``count`` of each ask."""
        with self._reading() as segments:
            return [_top(segments, ask, count) for ask in asks]

    def records(self, rows: Sequence[int], places: bool = False) -> list[dict[str, Any]]:
        """The metadata of rows; where their images lie too if ``places``."""
        with self._reading() as segments:
            return [_record(segment_of(segments, row), row, places) for row in rows]

    def row_of(self, pair_id: str) -> int | None:
        """The row of a pair, if the index has it and it is not withdrawn."""
        key = hash_text(pair_id)
        with self._reading() as segments:
            for segment in reversed(segments):
                row = segment.row_of(pair_id, key)
                if row is not None:
                    return segment.card.start + row
        return None

    def vector(self, row: int, target: Target) -> Vector:
        """The stored embedding [d] of a row's figure or caption."""
        with self._reading() as segments:
            segment = segment_of(segments, row)
            found: Vector = segment.searchers[target].vectors.take(np.array([row - segment.card.start]))[0]
            return found

    def cluster(self, row: int) -> int:
        """Hash of a row's duplicate cluster."""
        with self._reading() as segments:
            segment = segment_of(segments, row)
            return int(segment.dup[row - segment.card.start])

    def segments(self) -> list[Segment]:
        """The open segments, for what is made of them: updates and measurements."""
        return list(self._segments)

    def close(self) -> None:
        """Let files and memory go, once searches that run have ended; what comes later is refused."""
        self._verifying.close()
        with self._idle:
            self._closed = True
            self._idle.wait_for(lambda: self._readers == 0)
            self._segments = []

    @contextmanager
    def _reading(self) -> Iterator[list[Segment]]:
        with self._idle:
            if self._closed:
                raise WorkError("this index is closed; ask the one that is current")
            self._readers += 1
        try:
            yield self._segments
        finally:
            with self._idle:
                self._readers -= 1
                self._idle.notify_all()


def open_generation(folder: Path, encoder_fingerprint: str) -> tuple[Path, Generation]:
    """Folder and description of the current generation of an index artifact, if its vectors are this encoder's.

    Raises:
        UserError: not a whole index, or another encoder made its vectors.
    """
    read_manifest(folder, "index")
    where, generation = read_current(folder)
    if generation.encoder_fingerprint != encoder_fingerprint:
        raise UserError(
            f"{folder}: was made with another encoder ({generation.encoder}, {generation.encoder_fingerprint}, "
            f"but the model is {encoder_fingerprint}); serve that model or build the index again with this one"
        )
    return where, generation


def join_tops(tops: Sequence[Top], ask: Ask, count: int) -> Top:
    """The answers of several shards to one ask as one."""
    part = merge([top.part for top in tops], count, ask.query.collapse)
    return Top(part, sum(top.total for top in tops), sum(top.answered for top in tops))


def segment_of(segments: Sequence[Segment], row: int) -> Segment:
    """The segment that holds a row."""
    return next(segment for segment in segments if segment.card.start <= row < segment.stop)


def _top(segments: Sequence[Segment], ask: Ask, count: int) -> Top:
    query = ask.query
    selections = [segment.selection(query.target, query.filters) for segment in segments]
    parts = [_segment_top(segment, ask, count, selection) for segment, selection in zip(segments, selections, strict=True)]
    return Top(merge(parts, count, query.collapse), sum(selection.count for selection in selections))


def _segment_top(segment: Segment, ask: Ask, count: int, selection: Any) -> Part:
    """The best of a segment: deeper and deeper until ``count`` of them are of different clusters, or all were looked at."""
    query = ask.query
    wanted = count + _SPARE
    while True:
        scores, rows = segment.searchers[query.target].nearest(query.vector, query.kind, wanted, count, selection)
        part = Part(scores, rows + segment.card.start, segment.dup[rows], segment.article[rows])
        kept = merge([_without_excluded(part, ask)], count, query.collapse)
        if len(kept) >= count or len(rows) >= selection.count:
            return kept
        wanted = 4 * max(wanted, len(rows))


def _without_excluded(part: Part, ask: Ask) -> Part:
    if ask.query.exclude is None or ask.cluster is None:
        return part
    same = part.clusters == np.uint64(ask.cluster) if ask.query.collapse else part.rows == ask.query.exclude
    return part.take(np.flatnonzero(~same))


def _grouped(part: Part, query: Query) -> Part:
    if query.group_by == "article":
        part = part.take(first_of_each(part.articles))
    return part.take(np.arange(min(query.k, len(part))))


def _record(segment: Segment, row: int, places: bool) -> dict[str, Any]:
    local = row - segment.card.start
    return segment.records.record(local) | (segment.places.record(local) if places else {})


def _open(folder: Path, generation: Generation, card: SegmentCard, dead: NDArray[np.int64]) -> Segment:
    prefix = f"{card.name}/"
    files = {name.removeprefix(prefix): checksum for name, checksum in generation.files.items() if name.startswith(prefix)}
    own = dead[(dead >= card.start) & (dead < card.start + card.rows)] - card.start
    return Segment(folder / card.name, card, files, own)


def _by_use(folder: Path, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Files that may be checked while the index serves, and what must be before; faiss' files are where they are read."""
    vectors = [name for name in names if name.endswith(_PLAIN)]
    missing = [name for name in vectors if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder / missing[0]}: missing; build the index again")
    if sum((folder / name).stat().st_size for name in vectors) <= _CHECKED_AT_ONCE:
        vectors = []
    return vectors, [name for name in names if name not in vectors and not name.endswith(".faiss")]
