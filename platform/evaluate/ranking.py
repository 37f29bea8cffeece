r"""Exact cross-modal retrieval: one pass over the similarity matrix ranks both directions, in bounded memory.

    images [n, d], texts [n, d], groups [n]
      golds, float64 --> limits --> tiles of images x texts, each computed once --> rows: image to text
                                                                               \-> columns: text to image

A tile is float32. How far its scores can be off is bounded (``tiles.rounding``), so a score clear of the gold one by
that much is counted as it stands; the few that are nearer are computed again in float64. Ranks are therefore those of
float64 scores, whatever the tile's shape, the device or the order of its sums, and two candidates tie when their
float64 scores differ by less than float64 rounding explains. Of the best candidates only those above a query's k-th
best so far are looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from threading import Event

import numpy as np
from numpy.typing import NDArray

from biomedray.evaluate.positives import DEPTH, Float64, Golds, IntVector, Nearest, Vectors, dots, find_golds, shares
from biomedray.evaluate.tiles import COLUMNS, ROWS, Float32, Positions, Tile, Tiles, full_precision, open_tiles, rounding

KS = (1, 5, 10)
KEPT = DEPTH + 6
"""Candidates kept for each query; the spare ones decide near ties at the end of the list."""

_ROWS = 1 << 14
_DENSE = 1 / 32
"""With so large a share of near scores (a collapsed model) the tile as a whole is computed in float64."""

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Ranking:
    """One direction, by query.

    ``greater`` [n]: candidates that are not gold and score higher than the best gold one; ``ties`` [n]: those that score
    the same. ``top`` [n, k] and ``top_scores`` [n, k]: the best candidates, gold ones included, ties by row number.
    ``golds`` [n]: number of gold candidates; ``recalled`` [n, len(KS)]: share of them among the first k;
    ``r_precision`` [n].
    """

    greater: IntVector
    ties: IntVector
    top: IntVector
    top_scores: Float64
    golds: IntVector
    recalled: Float64
    r_precision: Float64

    @property
    def ranks(self) -> IntVector:
        """Rank of the best gold candidate, 0 is first; every tie counts against it."""
        return self.greater + self.ties

    @property
    def mean_ranks(self) -> Float64:
        """Rank expected when ties are broken at random."""
        return self.greater + self.ties / 2


def rank_both(
    images: Vectors,
    texts: Vectors,
    groups: IntVector,
    device: str = "cpu",
    tile: int | None = None,
    workers: int | None = None,
    advance: Advance = lambda _: None,
) -> tuple[Ranking, Ranking]:
    """Rank texts for each image and images for each text by inner product.

    Args:
        images: [n, d] of any float type, in memory or mapped; row i's gold texts are the rows j with ``groups[j] == groups[i]``.
        texts: [n, d].
        groups: [n] group number of each row, 0 or more.
        device: in torch's words; on the CPU the stripes of the matrix go to worker threads.
        tile: rows and columns of a tile; memory is a few tiles for each worker.
        workers: threads, by default one for each core.
        advance: called with the number of images done.

    Raises:
        ValueError: shapes differ, there is nothing, or a value is not finite.
    """
    _check(images, texts, groups)
    groups = np.unique(groups, return_inverse=True)[1]
    kit = open_tiles(device, tile)
    largest = _norms(images), _norms(texts)
    sides = tuple(
        _Side(a, find_golds(a, b, groups), own, float(other.max()))
        for a, b, own, other in ((images, texts, *largest), (texts, images, *largest[::-1]))
    )
    stripes = _stripes(len(images), kit.size, workers or kit.workers)
    columns = [sides[1].copy() for _ in stripes]

    stop = Event()

    def work(stripe: range, column: _Side) -> None:
        _Pass(images, texts, groups, open_tiles(device, kit.size)).run(stripe, sides[0], column, advance, stop)

    with full_precision(), ThreadPoolExecutor(len(stripes)) as pool:
        try:
            for done in [pool.submit(work, *job) for job in zip(stripes, columns, strict=True)]:
                done.result()
        finally:
            stop.set()  # after Ctrl-C, or when one of them failed, the others end with their block
    sides[1].add(columns)
    return sides[0].ranking(images, texts, groups), sides[1].ranking(texts, images, groups)


class _Side:
    """One direction while it is being ranked: limits known beforehand, counts and best candidates so far."""

    def __init__(self, queries: Vectors, golds: Golds, norms: Float64, largest: float) -> None:
        n, dim = queries.shape
        self.golds, self.gold = golds, golds.scores[:, 0]
        self.tie = 4 * rounding(dim, norms, largest, single=False)
        slack = 1.01 * rounding(dim, norms, largest) + self.tie + 2.0**-22 * np.abs(self.gold)
        self.slack = slack
        self.low, self.high = (self.gold - slack).astype(np.float32), (self.gold + slack).astype(np.float32)
        self.greater, self.ties = np.zeros(n, np.int64), np.zeros(n, np.int64)
        self.ids = np.full((n, KEPT), -1, np.int32)
        self.scores = np.full((n, KEPT), -np.inf, np.float32)

    def copy(self) -> _Side:
        """The same limits, nothing seen."""
        other = object.__new__(_Side)
        other.__dict__ |= self.__dict__
        other.greater, other.ties = self.greater.copy(), self.ties.copy()
        other.ids, other.scores = self.ids.copy(), self.scores.copy()
        return other

    def add(self, parts: list[_Side]) -> None:
        """What others saw, each of them later candidates than the one before."""
        for part in parts:
            self.greater += part.greater
            self.ties += part.ties
            for block in _blocks(range(len(self.ids)), _ROWS):
                self._keep(np.arange(block.start, block.stop), part.scores[block], part.ids[block])

    def offer(self, tile: Tile, queries: slice, first: int, axis: int) -> None:
        """Look for better candidates; ``first`` is the number of the tile's first candidate."""
        limits = self.scores[queries, -1]
        if np.isneginf(limits).any():
            reach = np.nextafter(tile.largest(KEPT, axis), np.float32(-np.inf))
            limits = np.maximum(limits, reach)
        where = tile.above(limits, axis)
        if not len(where[0]):
            return
        values = tile.values(where)
        query, candidate = where[axis], where[1 - axis]
        order = np.argsort(query, kind="stable")
        found, starts, counts = np.unique(query[order], return_index=True, return_counts=True)
        place = np.arange(len(query)) - np.repeat(starts, counts), np.repeat(np.arange(len(found)), counts)
        scores = np.full((len(found), counts.max()), -np.inf, np.float32)
        ids = np.full(scores.shape, -1, np.int32)
        scores[place[1], place[0]], ids[place[1], place[0]] = values[order], candidate[order] + first
        self._keep(queries.start + found, scores, ids)

    def count(self, tile: Tile, queries: slice, axis: int) -> Positions:
        """Count the scores that are clear of the gold one; where those near it are."""
        counts, near = tile.count(self.low[queries], self.high[queries], axis)
        self.greater[queries] += counts
        return near

    def settle(self, queries: slice, query: IntVector, scores: Float64) -> None:
        """Count scores known in float64; ``query`` counts from the first of ``queries``."""
        ahead, tie = scores - self.gold[queries][query], self.tie[queries][query]
        size = queries.stop - queries.start
        self.greater[queries] += np.bincount(query[ahead > tie], minlength=size)
        self.ties[queries] += np.bincount(query[np.abs(ahead) <= tie], minlength=size)

    def ranking(self, queries: Vectors, candidates: Vectors, groups: IntVector) -> Ranking:
        """What was found, the best candidates in the order of their float64 scores."""
        width = min(DEPTH, len(queries))
        beyond = np.where(self.ids[:, -1] >= 0, self.scores[:, -1] + self.slack, -np.inf)
        nearest = Nearest(np.empty(self.ids.shape, np.int32), np.empty(self.ids.shape), beyond)
        top, top_scores = np.empty((len(queries), width), np.int64), np.empty((len(queries), width))
        for rows in _blocks(range(len(queries)), _ROWS):
            ids, scores = self._nearest(queries, candidates, rows)
            nearest.ids[rows], nearest.scores[rows] = ids, scores
            both = _sorted(np.hstack([ids, self.golds.ids[rows]]), np.hstack([scores, self.golds.scores[rows]]))
            top[rows], top_scores[rows] = both[0][:, :width], both[1][:, :width]
        recalled, r_precision = shares(queries, candidates, groups, self.golds, nearest, self.tie, KS)
        return Ranking(self.greater, self.ties, top, top_scores, self.golds.count, recalled, r_precision)

    def _nearest(self, queries: Vectors, candidates: Vectors, rows: slice) -> tuple[NDArray[np.int32], Float64]:
        """The kept candidates of some queries, scored and ordered in float64."""
        ids = self.ids[rows]
        query, place = np.nonzero(ids >= 0)
        scores = np.full(ids.shape, -np.inf)
        scores[query, place] = dots(queries, candidates, rows.start + query, ids[query, place])
        return _sorted(ids, scores)

    def _keep(self, rows: IntVector, scores: Float32, ids: NDArray[np.int32]) -> None:
        """Merge more candidates of some queries; of equal scores the earlier candidate stays first."""
        scores = np.concatenate([self.scores[rows], scores], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :KEPT]
        self.scores[rows] = np.take_along_axis(scores, order, axis=1)
        self.ids[rows] = np.take_along_axis(np.concatenate([self.ids[rows], ids], axis=1), order, axis=1)


class _Pass:
    """A worker's way over its stripe of the matrix."""

    def __init__(self, images: Vectors, texts: Vectors, groups: IntVector, kit: Tiles) -> None:
        self._images, self._texts, self._kit = images, texts, kit
        self._columns = list(_blocks(range(len(texts)), kit.size))
        self._groups = groups
        self._orders = [np.argsort(groups[block], kind="stable") for block in self._columns]

    def run(self, stripe: range, by_row: _Side, by_column: _Side, advance: Advance, stop: Event) -> None:
        for rows in _blocks(stripe, self._kit.size):
            if stop.is_set():
                return
            for columns, order in zip(self._columns, self._orders, strict=True):
                self._tile(rows, columns, order, by_row, by_column)
            advance(rows.stop - rows.start)

    def _tile(self, rows: slice, columns: slice, order: IntVector, by_row: _Side, by_column: _Side) -> None:
        tile = self._kit.product(self._images[rows], self._texts[columns])
        gold = _same_group(self._groups[rows], self._groups[columns], order)
        if len(gold[0]):
            tile.hide(gold)
        sides = ((by_row, rows, columns, ROWS), (by_column, columns, rows, COLUMNS))
        near = []
        for side, own, other, axis in sides:
            side.offer(tile, own, other.start, axis)
            near.append(side.count(tile, own, axis))
        if max(len(where[0]) for where in near) > _DENSE * (rows.stop - rows.start) * (columns.stop - columns.start):
            exact = self._whole(rows, columns)
            scores = [exact[where] for where in near]
        else:
            scores = [dots(self._images, self._texts, rows.start + where[0], columns.start + where[1]) for where in near]
        for (side, own, _, axis), where, found in zip(sides, near, scores, strict=True):
            side.settle(own, where[axis], found)

    def _whole(self, rows: slice, columns: slice) -> Float64:
        scores: Float64 = self._images[rows].astype(np.float64) @ self._texts[columns].astype(np.float64).T
        return scores


def _same_group(rows: IntVector, columns: IntVector, order: IntVector) -> Positions:
    """Where row and column are of one group; ``order`` sorts the columns by group."""
    ordered = columns[order]
    left, right = np.searchsorted(ordered, rows, "left"), np.searchsorted(ordered, rows, "right")
    counts = right - left
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(np.arange(len(rows)), counts), order[np.repeat(left, counts) + within]


def _sorted(ids: NDArray[np.int32], scores: Float64) -> tuple[NDArray[np.int32], Float64]:
    """By score, the best first, then by row number; what is missing (-1, -inf) comes last."""
    order = np.lexsort((ids, -scores), axis=1)
    return np.take_along_axis(ids, order, axis=1), np.take_along_axis(scores, order, axis=1)


def _stripes(n: int, tile: int, workers: int) -> list[range]:
    """Rows for each worker, in order; whole tiles, at least one."""
    tiles = -(-n // tile)
    workers = max(1, min(workers, tiles))
    edges = [min(n, tile * (tiles * i // workers)) for i in range(workers + 1)]
    return [range(a, b) for a, b in pairwise(edges)]


def _blocks(rows: range, size: int) -> Iterator[slice]:
    for start in range(rows.start, rows.stop, size):
        yield slice(start, min(start + size, rows.stop))


def _norms(vectors: Vectors) -> Float64:
    parts = [vectors[block].astype(np.float64) for block in _blocks(range(len(vectors)), 1 << 13)]
    return np.concatenate([np.sqrt((part * part).sum(axis=1)) for part in parts])


def _check(images: Vectors, texts: Vectors, groups: IntVector) -> None:
    if images.shape != texts.shape or groups.shape != images.shape[:1]:
        raise ValueError(f"shapes differ: images {images.shape}, texts {texts.shape}, groups {groups.shape}")
    if not len(images):
        raise ValueError("nothing to rank")
    for vectors in (images, texts):
        if not all(np.isfinite(vectors[block]).all() for block in _blocks(range(len(vectors)), 1 << 16)):
            raise ValueError("an embedding holds a value that is not finite")
