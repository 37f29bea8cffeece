"""A segment: rows that were indexed together, opened for search by one or both of their vectors.

    base-000/  image.npy text.npy        exact vectors, memory-mapped: float32 where the segment is flat, else float16
               image.faiss text.faiss    codes in inverted lists; none where it is flat
               image.lists.npy ...       the list of each row, by which a filter's rows are counted
               records.jsonl records.npy metadata.arrow columns.arrow places.arrow keys.npy    platform/serve/rows.py

Flat segments keep float32: they are small, their answers are what an evaluation of the same embeddings would give to the last
bit, and a product needs no conversion. Of large ones the ranking errors of float16 (some 1e-4 of a cosine) are far below those
of the candidates, and half the bytes is half the disk and page cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from biomedray.serve.filters import Columns, Filters, Selection
from biomedray.serve.generation import TARGETS, Probe, SegmentCard, Target
from biomedray.serve.ivf import Ivf
from biomedray.serve.rows import COLUMNS, KEYS, METADATA, PLACES, Records, Table
from biomedray.serve.vectors import StoredRows
from biomedray.serve.verify import read_checked

Rows = NDArray[np.int64]
Scores = NDArray[np.float32]

EXACT_ROWS = 2_500
"""Up to so many rows that pass a filter, a product with all of them is cheaper than reading inverted lists for them."""
MOST_CANDIDATES = 8_192
"""More candidates than this are not asked of an inverted file: all rows are compared then."""
_NEARLY = 0.9
"""A filter that passes nine tenths of what a setting was measured for needs no more."""
_UNTUNED = Probe(selectivity=0.0, share=1.0, depth=40, recall=0.0)


class Searcher:
    """One kind of vectors of a segment: nearest rows by inner product."""

    def __init__(self, vectors: StoredRows, ivf: Ivf | None = None, probes: Mapping[str, list[Probe]] | None = None) -> None:
        """``probes`` by kind of query."""
        self.vectors = vectors
        self.ivf = ivf
        self._probes = dict(probes or {})

    def nearest(self, vector: Scores, kind: str, wanted: int, k: int, selection: Selection) -> tuple[Scores, Rows]:
        """The nearest of the rows that pass, best first, equal ones by row: at least ``wanted``, or all there are.

        Without inverted lists exactly these; with them so many that the first ``k`` are right as often as was measured.
        """
        wanted = min(wanted, selection.count)
        if wanted == 0:
            return np.empty(0, np.float32), np.empty(0, np.int64)
        if self.ivf is None or wanted > MOST_CANDIDATES or (selection.rows is not None and selection.count <= EXACT_ROWS):
            return self.exact(vector, wanted, selection)
        return self._by_lists(self.ivf, vector, kind, wanted, k, selection)

    def exact(self, vector: Scores, wanted: int, selection: Selection) -> tuple[Scores, Rows]:
        """As ``nearest``, by comparing every row that passes."""
        if selection.rows is not None:
            return best(self.vectors.take(selection.rows) @ vector, selection.rows, wanted)
        scores = self.vectors.dots(vector)
        if selection.bits is None:
            return best(scores, np.arange(len(scores)), wanted)
        rows = np.flatnonzero(np.unpackbits(selection.bits, count=len(scores), bitorder="little"))
        return best(scores[rows], rows, wanted)

    def probe(self, kind: str, selectivity: float) -> Probe:
        """The setting measured for a share of rows that pass, or for the next smaller share; below all, more lists still."""
        table = self._probes.get(kind)
        if not table:
            return _UNTUNED
        fitting = next((probe for probe in table if probe.selectivity <= selectivity / _NEARLY), None)
        if fitting is not None:
            return fitting
        more = min(1.0, table[-1].share * table[-1].selectivity / selectivity)
        return table[-1].model_copy(update={"share": more})

    def _by_lists(self, ivf: Ivf, vector: Scores, kind: str, wanted: int, k: int, selection: Selection) -> tuple[Scores, Rows]:
        probe = self.probe(kind, selection.count / len(self.vectors))
        apart = selection.lists is not None and 2 * np.count_nonzero(selection.lists) < ivf.lists
        depth = 2 * probe.depth if apart else probe.depth  # rows of few lists are alike, and codes tell them apart less well
        count = min(max(wanted, depth * k), selection.count, MOST_CANDIDATES)
        for probes in (ivf.probes(vector, probe.share, selection.lists), ivf.lists):
            rows = ivf.candidates(vector[None], count, probes, selection.bits)[0]
            rows = np.sort(rows[rows >= 0])
            if len(rows) >= wanted:
                return best(self.vectors.take(rows) @ vector, rows, len(rows))
        return self.exact(vector, wanted, selection)


class Segment:
    """A segment's rows and both its searchers."""

    def __init__(self, folder: Path, card: SegmentCard, files: Mapping[str, str], dead: Rows) -> None:
        """``files`` are checksums by name; ``dead`` rows are numbered from the segment's first.

        The caller has compared the checksums of the Arrow files, keys and lists.
        """
        self.card = card
        self.stop = card.start + card.rows
        self.searchers: dict[Target, Searcher] = {}
        lists: dict[Target, NDArray[np.int32] | None] = {}
        for target, stem in TARGETS.items():
            ivf = None if card.layout == "flat" else Ivf.load(read_checked(folder / f"{stem}.faiss", files[f"{stem}.faiss"]))
            probes = {key.split("/")[0]: table for key, table in card.probes.items() if key.endswith(f"/{target}")}
            self.searchers[target] = Searcher(StoredRows(folder / f"{stem}.npy"), ivf, probes)
            lists[target] = np.load(folder / f"{stem}.lists.npy", mmap_mode="r") if ivf else None
        self.alive = None if not len(dead) else _alive(card.rows, dead)
        hashed = Table(folder / COLUMNS).table()
        self.columns = {target: Columns(hashed, lists[target], card.lists, self.alive) for target in TARGETS}
        self.dup: NDArray[np.uint64] = _column(hashed, "dup")
        self.article: NDArray[np.uint64] = _column(hashed, "article")
        self.embedded: NDArray[np.uint64] = _column(hashed, "embedded")
        self.content: NDArray[np.uint64] = _column(hashed, "content")
        self.metadata = folder / METADATA
        self.records = Records(folder)
        self.places = Table(folder / PLACES)
        self.keys: NDArray[np.uint64] = np.load(folder / KEYS, mmap_mode="r")

    def selection(self, target: Target, filters: Filters) -> Selection:
        """The rows that may be hits."""
        return self.columns[target].selection(filters)

    def row_of(self, pair_id: str, key: int) -> int | None:
        """The living row of a pair."""
        first = int(np.searchsorted(self.keys[0], np.uint64(key)))
        while first < self.keys.shape[1] and int(self.keys[0, first]) == key:
            row = int(self.keys[1, first])
            if (self.alive is None or self.alive[row]) and self.records.record(row)["pair_id"] == pair_id:
                return row
            first += 1
        return None


def best(scores: Scores, rows: Rows, count: int) -> tuple[Scores, Rows]:
    """The ``count`` highest scores and their rows, highest first, equal ones by row (``rows`` ascend)."""
    if count < len(scores):
        limit = np.partition(scores, len(scores) - count)[len(scores) - count]
        kept = np.flatnonzero(scores >= limit)
        scores, rows = scores[kept], rows[kept]
    order = np.lexsort((rows, -scores))[:count]
    return scores[order], rows[order]


def _alive(rows: int, dead: Rows) -> NDArray[np.bool_]:
    alive = np.ones(rows, dtype=bool)
    alive[dead] = False
    return alive


def _column(table: pa.Table, name: str) -> NDArray[np.uint64]:
    values: NDArray[np.uint64] = table[name].chunk(0).to_numpy(zero_copy_only=True)
    return values
