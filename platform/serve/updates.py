"""The next generation of an index: which pairs are new, changed, moved or gone, and when everything is written afresh.

pairs artifact -> each row: as the index has it         its figure is read from the newer artifact from now on
                            only what is shown changed  a new row with the old vectors
                            new, or another picture or caption -> embedded -> a new row
living rows of articles that the artifact accounts for, but not as pairs, and of withdrawn articles -> tombstones
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from biomedray.artifacts import fingerprint
from biomedray.evaluate.pairs import open_pairs
from biomedray.records import SPLITS
from biomedray.serve.generation import TARGETS, Generation, SegmentCard, Source
from biomedray.serve.reading import EmbeddedRows, NewPairs, known_articles, pair_ids, read_rows, without
from biomedray.serve.rows import EMBEDDED, METADATA, PLACE, STORED, content_hashes, hash_text, hashes, metadata_batches
from biomedray.serve.segment import Segment
from biomedray.serve.verify import check
from biomedray.serve.writing import Block, Draft, Kept, sizes

Rows = NDArray[np.int64]
Hashes = NDArray[np.uint64]

WASTE = 0.2
"""Share of rows in deltas or dead from which everything is written afresh."""
MOST_DELTAS = 8
NEW, SHOWN_CHANGED, KEPT, LEFT_OUT = 0, 1, 2, 3


@dataclass
class Change:
    """What a pairs artifact and a list of withdrawn articles do to a generation."""

    states: list[NDArray[np.int8]]
    """For each row group of the artifact: NEW, SHOWN_CHANGED, KEPT or LEFT_OUT of each row."""
    old: list[Rows]
    """And the row of the index that it was, -1 where it is new."""
    dead: Rows
    """All rows that are not shown any more, ascending."""
    places: dict[int, tuple[list[Rows], list[pa.Table]]] = field(default_factory=dict)
    """By segment: rows whose figure lies elsewhere now, and where."""

    def count(self, *states: int) -> int:
        """Rows of the artifact in some states."""
        return sum(int(np.isin(part, states).sum()) for part in self.states)


class Living:
    """The living rows of a generation, by the hashes of their pair ids."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        keys, rows = [], []
        for segment in segments:
            own = segment.keys[1].astype(np.int64)
            alive = slice(None) if segment.alive is None else segment.alive[own]
            keys.append(segment.keys[0][alive])
            rows.append(own[alive] + segment.card.start)
        joined = np.concatenate(keys)
        order = np.argsort(joined, kind="stable")
        self.keys: Hashes = joined[order]
        self.rows: Rows = np.concatenate(rows)[order]
        self.embedded: Hashes = np.concatenate([segment.embedded for segment in segments])
        self.content: Hashes = np.concatenate([segment.content for segment in segments])
        self.articles: Hashes = np.concatenate([segment.article for segment in segments])

    def find(self, keys: Hashes) -> Rows:
        """The row of each key, -1 where there is none."""
        place = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[place] == keys, self.rows[place], -1)


@dataclass(frozen=True)
class Newer:
    """A pairs artifact that an index is brought up to."""

    folder: Path
    splits: Sequence[str]
    source: int
    """Its number among the sources."""


def compare(newer: Newer, segments: Sequence[Segment], withdrawn: set[str]) -> Change:
    """What is to be done."""
    living = Living(segments)
    refused = np.array([hash_text(pmcid) for pmcid in sorted(withdrawn)], np.uint64)
    change = Change([], [], np.empty(0, np.int64))
    replaced = [np.empty(0, np.int64)]
    for table in read_rows(newer.folder, newer.splits, newer.source):
        old = living.find(hashes(table["pair_id"]))
        states = _states(table, old, living, refused)
        change.states.append(states)
        change.old.append(old)
        replaced.append(old[(old >= 0) & ((states == NEW) | (states == SHOWN_CHANGED))])
        _note_places(change, segments, table, old, states)
    gone = _gone(newer.folder, living, refused)
    dead = [segment.card.start + np.flatnonzero(~segment.alive) for segment in segments if segment.alive is not None]
    change.dead = np.unique(np.concatenate([*dead, *replaced, gone])).astype(np.int64)
    return change


def to_embed(newer: Newer, change: Change) -> NewPairs:
    """The rows that no generation has, as a set of samples."""
    data = open_pairs(newer.folder)
    wanted: dict[str, Rows] = {}
    states = iter(change.states)
    for split in newer.splits:
        rows = [next(states) for _ in data.row_groups.get(split, ())]
        wanted[split] = np.flatnonzero(np.concatenate(rows) == NEW) if rows else np.empty(0, np.int64)
    identity = {split: places.tolist() for split, places in wanted.items()}
    return NewPairs(data, wanted, fingerprint([data.fingerprint, identity]))


def new_blocks(
    newer: Newer, change: Change, segments: Sequence[Segment], embedded: EmbeddedRows, rejected: set[str]
) -> Iterator[Block]:
    """Rows for the delta: embedded ones, and changed ones with the vectors that the index has."""
    for number, table in enumerate(read_rows(newer.folder, newer.splits, newer.source)):
        states = change.states[number]
        if (states == NEW).any():
            new = without(table.filter(pa.array(states == NEW)), rejected)
            if new.num_rows:
                yield Block(new, embedded.take(new["pair_id"].to_pylist()))
        if (states == SHOWN_CHANGED).any():
            again = table.filter(pa.array(states == SHOWN_CHANGED))
            yield Block(again, take_vectors(segments, change.old[number][states == SHOWN_CHANGED]))


def take_vectors(segments: Sequence[Segment], rows: Rows) -> dict[str, NDArray[np.float32]]:
    """Vectors [n, d] by stem of rows of the index."""
    found = {}
    for target, stem in TARGETS.items():
        dim = segments[0].searchers[target].vectors.shape[1]
        matrix = np.empty((len(rows), dim), np.float32)
        for segment in segments:
            own = np.flatnonzero((rows >= segment.card.start) & (rows < segment.stop))
            matrix[own] = segment.searchers[target].vectors.take(rows[own] - segment.card.start)
        found[stem] = matrix
    return found


def kept_segments(folder: Path, generation: Generation, segments: Sequence[Segment], change: Change) -> list[Kept]:
    """Segments to link, with new places where figures moved to a newer artifact."""
    kept = []
    for number, segment in enumerate(segments):
        table = segment.places.table()
        moved = _placed(table, change.places.get(number))
        same = moved["source"].equals(table["source"])
        prefix = f"{segment.card.name}/"
        files = {name.removeprefix(prefix): value for name, value in generation.files.items() if name.startswith(prefix)}
        kept.append(Kept(segment.card, folder / segment.card.name, files, None if same else moved))
    return kept


def worth_compacting(generation: Generation, change: Change, added: int) -> bool:
    """Whether deltas and tombstones are so many that everything is better written afresh."""
    deltas = [card for card in generation.segments if is_delta(card)]
    rows = sum(card.rows for card in deltas) + added
    return len(deltas) + bool(added) > MOST_DELTAS or rows + len(change.dead) > WASTE * (generation.slots + added)


def living_blocks(segments: Sequence[Segment], kept: Sequence[Kept], dead: Rows) -> Iterator[Block]:
    """All living rows of the segments, as blocks for new ones.

    Raises:
        UserError: a file is damaged.
    """
    for segment, linked in zip(segments, kept, strict=True):
        check(linked.folder, linked.files, [METADATA])
        places = segment.places.table() if linked.places is None else linked.places
        gone = np.zeros(segment.card.rows, dtype=bool)
        gone[dead[(dead >= segment.card.start) & (dead < segment.stop)] - segment.card.start] = True
        for start, metadata in metadata_batches(segment.metadata):
            kept_here = np.flatnonzero(~gone[start : start + metadata.num_rows])
            if len(kept_here):
                yield _copied(segment, metadata.take(pa.array(kept_here)), places, start + kept_here)


def next_draft(generation: Generation, name: str, sources: Sequence[Source], change: Change, withdrawn: set[str]) -> Draft:
    """A generation of the same encoder."""
    return Draft(
        name=name,
        encoder=generation.encoder,
        encoder_fingerprint=generation.encoder_fingerprint,
        dim=generation.dim,
        sources=sources,
        dead=change.dead,
        withdrawn=sorted(withdrawn),
    )


def is_delta(card: SegmentCard) -> bool:
    """Whether a segment came by --add."""
    return card.name.startswith("delta")


def fresh(rows: int, shards: int) -> list[tuple[str, int]]:
    """Names and sizes of the segments of a generation that is written whole."""
    return [(f"base-{number:03d}", size) for number, size in enumerate(sizes(rows, shards))]


def _states(table: pa.Table, old: Rows, living: Living, refused: Hashes) -> NDArray[np.int8]:
    known = old >= 0
    same_vectors = known & (living.embedded[old] == content_hashes(table, EMBEDDED))
    same = same_vectors & (living.content[old] == content_hashes(table, STORED))
    states = np.full(table.num_rows, NEW, np.int8)
    states[same_vectors] = SHOWN_CHANGED
    states[same] = KEPT
    states[np.isin(hashes(table["pmcid"]), refused)] = LEFT_OUT
    return states


def _note_places(change: Change, segments: Sequence[Segment], table: pa.Table, old: Rows, states: NDArray[np.int8]) -> None:
    for number, segment in enumerate(segments):
        here = np.flatnonzero((states == KEPT) & (old >= segment.card.start) & (old < segment.stop))
        if len(here):
            rows, places = change.places.setdefault(number, ([], []))
            rows.append(old[here] - segment.card.start)
            places.append(table.select(PLACE).take(pa.array(here)))


def _gone(pairs: Path, living: Living, refused: Hashes) -> Rows:
    """Living rows of refused articles, and of those that the artifact accounts for without having the pair in any split."""
    known = np.array([hash_text(pmcid) for pmcid in known_articles(pairs)], np.uint64)
    there = np.fromiter((hash_text(pair_id) for pair_id in pair_ids(pairs, SPLITS)), np.uint64)
    articles = living.articles[living.rows]
    vanished = np.isin(articles, known) & ~np.isin(living.keys, there)
    return living.rows[vanished | np.isin(articles, refused)]


def _placed(table: pa.Table, moved: tuple[list[Rows], list[pa.Table]] | None) -> pa.Table:
    """PLACE of a segment's rows, with those that lie elsewhere now."""
    table = table.set_column(table.schema.get_field_index("file"), "file", table["file"].cast(pa.string())).select(PLACE)
    if moved is None:
        return table
    rows, places = np.concatenate(moved[0]), pa.concat_tables(moved[1])
    order = np.arange(table.num_rows)
    order[rows] = table.num_rows + np.arange(len(rows))
    return pa.concat_tables([table, places.cast(table.schema)]).take(pa.array(order))


def _copied(segment: Segment, metadata: pa.Table, places: pa.Table, rows: Rows) -> Block:
    where = places.take(pa.array(rows))
    where = where.set_column(where.schema.get_field_index("file"), "file", where["file"].cast(pa.string()))
    table = pa.table({**{name: metadata[name] for name in STORED}, **{name: where[name] for name in PLACE}})
    vectors = {stem: segment.searchers[target].vectors.take(rows) for target, stem in TARGETS.items()}
    return Block(table, vectors)
