"""Gold candidates of each query: their scores in float64, and what counts when there are several of them.

Rows of one group (the same caption; the same figure) are gold for each other. A query's rank is that of its best gold
candidate (CLIP's any-hit recall); fractional recall is the share of its golds among the first k, R-precision the share
among the first m, m being how many golds it has (Manning et al., Introduction to Information Retrieval, section 8.4).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

IntVector = NDArray[np.int64]
Float64 = NDArray[np.float64]
Vectors = NDArray[Any]

DEPTH = 10
"""So many golds of a query are kept, the best ones; recall is asked at no greater k."""

_PAIRS_AT_ONCE = 256  # they stay in the cache, which makes them twice as fast
_CELLS = 1 << 22
_WHOLE_CELLS = 1 << 24


@dataclass(frozen=True)
class Golds:
    """Of each query its number of golds [n], and of the best ones (at most DEPTH) the rows and scores, best first.

    ``ids`` [n, p] is padded with -1, ``scores`` [n, p] with -inf.
    """

    count: IntVector
    ids: NDArray[np.int32]
    scores: Float64


@dataclass(frozen=True)
class Nearest:
    """The best candidates of each query that are not gold, best first: rows [n, k] (-1: none) and float64 scores [n, k].

    No candidate that is not listed scores more than ``beyond`` [n].
    """

    ids: NDArray[np.int32]
    scores: Float64
    beyond: Float64


def dots(queries: Vectors, candidates: Vectors, left: NDArray[np.integer[Any]], right: NDArray[np.integer[Any]]) -> Float64:
    """Inner products of the pairs of rows (left[i], right[i]), summed in float64."""
    found = np.empty(len(left))
    for start in range(0, len(left), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        found[part] = np.einsum("ij,ij->i", queries[left[part]], candidates[right[part]], dtype=np.float64)
    return found


def find_golds(queries: Vectors, candidates: Vectors, groups: IntVector) -> Golds:
    """Score every query [n, d] against the candidates [n, d] of its group, in float64."""
    order = np.argsort(groups, kind="stable")
    sizes = np.bincount(groups)
    starts = np.cumsum(sizes) - sizes
    count = sizes[groups]
    width = min(DEPTH, int(count.max()))
    ids = np.full((len(groups), width), -1, np.int32)
    scores = np.full((len(groups), width), -np.inf)
    single = np.flatnonzero(count == 1)
    ids[single, 0] = single
    scores[single, 0] = dots(queries, candidates, single, single)
    for group in np.flatnonzero(sizes > 1):
        members = order[starts[group] : starts[group] + sizes[group]]
        for rows, found in _group_scores(queries, candidates, members):
            best = np.argsort(-found, axis=1, kind="stable")[:, :width]
            ids[rows, : best.shape[1]] = members[best]
            scores[rows, : best.shape[1]] = np.take_along_axis(found, best, axis=1)
    return Golds(count, ids, scores)


def positions(golds: Golds, nearest: Nearest, tie: Float64) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Places (0 is first) of the kept golds of each query, [n, p], a tie with a candidate that is not gold counting against.

    The second is True where the list of candidates is too short to know all of them as far as DEPTH.
    """
    listed = nearest.ids >= 0
    above = np.zeros(golds.scores.shape, np.int64)
    for place in range(golds.scores.shape[1]):
        limit = golds.scores[:, place] - tie
        above[:, place] = ((nearest.scores >= limit[:, None]) & listed).sum(axis=1)
    kept = golds.ids >= 0
    short = kept & (above < DEPTH) & (nearest.beyond[:, None] >= golds.scores - tie[:, None])
    places = np.where(kept, above + np.arange(golds.scores.shape[1]), np.iinfo(np.int64).max)
    return places, short.any(axis=1) | (golds.count > DEPTH)


def shares(
    queries: Vectors, candidates: Vectors, groups: IntVector, golds: Golds, nearest: Nearest, tie: Float64, ks: Sequence[int]
) -> tuple[Float64, Float64]:
    """Fractional recall [n, len(ks)] and R-precision [n] of each query."""
    places, unsure = positions(golds, nearest, tie)
    found = np.stack([(places < k).sum(axis=1) for k in ks], axis=1).astype(np.float64)
    first = (places < golds.count[:, None]).sum(axis=1).astype(np.float64)
    again = np.flatnonzero(unsure & (golds.count > 1))
    for row, place in _whole_rows(queries, candidates, groups, again, tie):
        found[row] = [(place < k).sum() for k in ks]
        first[row] = (place < len(place)).sum()
    return found / golds.count[:, None], first / golds.count


def _group_scores(queries: Vectors, candidates: Vectors, members: IntVector) -> Iterator[tuple[IntVector, Float64]]:
    step = max(1, _CELLS // len(members))
    right = candidates[members].astype(np.float64).T
    for start in range(0, len(members), step):
        rows = members[start : start + step]
        yield rows, queries[rows].astype(np.float64) @ right


def _whole_rows(
    queries: Vectors, candidates: Vectors, groups: IntVector, rows: IntVector, tie: Float64
) -> Iterator[tuple[int, IntVector]]:
    """Places of all golds of some queries, each from all its scores in float64."""
    batch, step = max(1, _WHOLE_CELLS // len(candidates)), max(1, _CELLS // candidates.shape[1])
    for start in range(0, len(rows), batch):
        some = rows[start : start + batch]
        left = queries[some].astype(np.float64)
        blocks = (candidates[i : i + step].astype(np.float64) for i in range(0, len(candidates), step))
        for row, scores in zip(some, np.concatenate([left @ block.T for block in blocks], axis=1), strict=True):
            yield int(row), _places(scores, groups == groups[row], tie[row])


def _places(scores: Float64, gold: NDArray[np.bool_], tie: float) -> IntVector:
    own, others = -np.sort(-scores[gold]), scores[~gold]
    needed = max(DEPTH, len(own))
    if needed < len(others):
        others = np.partition(others, len(others) - needed)[-needed:]
    others.sort()
    return np.asarray(len(others) - np.searchsorted(others, own - tie) + np.arange(len(own)))
