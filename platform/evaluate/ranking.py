"""Cross-modal retrieval as arithmetic on embedding matrices: exact ranks by blocks, recall, chance, intervals.

Two rows belong together when their captions are the same text: a figure in several graphics shares one
caption, and finding a twin of the gold caption is no error. Any other candidate that scores as high as
the gold one counts against it, so a model that maps everything to one point scores nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatMatrix = NDArray[np.float32]
IntVector = NDArray[np.int64]
IntMatrix = NDArray[np.int64]

KS = (1, 5, 10)


@dataclass(frozen=True)
class Ranking:
    """For each query: the rank of its best gold candidate (0 is first), how many others tie with it, the top ids."""

    ranks: IntVector
    ties: IntVector
    top: IntMatrix


@dataclass(frozen=True)
class Recall:
    """One direction's scores: recall by k with its 95 % interval, median rank (1 is best), mean reciprocal rank."""

    at: dict[int, float]
    interval: dict[int, tuple[float, float]]
    median_rank: float
    mrr: float
    tied_queries: int


def rank(queries: FloatMatrix, candidates: FloatMatrix, groups: IntVector, top: int = 10, block: int = 1024) -> Ranking:
    """Rank candidates for each query by inner product.

    Args:
        queries: [n, d], row i's gold candidates are the rows j with ``groups[j] == groups[i]``.
        candidates: [n, d].
        groups: [n] group number of each row, in 0..n-1.
        top: how many best candidates to keep for each query.
        block: queries scored at once; memory is block x n floats.

    Raises:
        ValueError: shapes differ.
    """
    if queries.shape != candidates.shape or groups.shape != queries.shape[:1]:
        raise ValueError(f"shapes differ: queries {queries.shape}, candidates {candidates.shape}, groups {groups.shape}")
    n = len(queries)
    top = min(top, n)
    ranks, ties = np.empty(n, np.int64), np.empty(n, np.int64)
    best = np.empty((n, top), np.int64)
    for start in range(0, n, block):
        rows = slice(start, min(start + block, n))
        scores = queries[rows] @ candidates.T
        gold = groups[rows, None] == groups[None, :]
        best_gold = np.where(gold, scores, -np.inf).max(axis=1, keepdims=True)
        ties[rows] = ((scores == best_gold) & ~gold).sum(axis=1)
        ranks[rows] = ((scores > best_gold) & ~gold).sum(axis=1) + ties[rows]
        best[rows] = _top(scores, top)
    return Ranking(ranks, ties, best)


def recall(ranking: Ranking, clusters: IntVector, ks: Sequence[int] = KS, resamples: int = 1000, seed: int = 0) -> Recall:
    """Recall at each k with a percentile bootstrap interval over clusters.

    Figures of one article are not independent, so whole ``clusters`` (articles) are resampled.
    """
    at, interval = {}, {}
    for k in ks:
        hits = (ranking.ranks < k).astype(np.float64)
        at[k] = float(hits.mean())
        interval[k] = cluster_bootstrap(hits, clusters, resamples, seed)
    return Recall(
        at=at,
        interval=interval,
        median_rank=float(np.median(ranking.ranks)) + 1,
        mrr=float((1 / (ranking.ranks + 1)).mean()),
        tied_queries=int((ranking.ties > 0).sum()),
    )


def chance(groups: IntVector, ks: Sequence[int] = KS) -> dict[int, float]:
    """Expected recall of a random order: a query with g gold rows of n misses with C(n-g, k) / C(n, k)."""
    n = len(groups)
    sizes = np.bincount(groups, minlength=n)[groups]
    expected = {}
    for k in ks:
        drawn = np.arange(min(k, n))
        misses = np.clip((n - sizes[:, None] - drawn) / (n - drawn), 0, 1).prod(axis=1)
        expected[k] = float((1 - misses).mean())
    return expected


def cluster_bootstrap(values: NDArray[np.float64], clusters: IntVector, resamples: int, seed: int) -> tuple[float, float]:
    """Percentile 95 % interval of the mean of ``values`` when whole clusters are drawn with replacement."""
    numbers, index = np.unique(clusters, return_inverse=True)
    sums = np.bincount(index, weights=values)
    sizes = np.bincount(index).astype(np.float64)
    draws = np.random.default_rng(seed).integers(0, len(numbers), (resamples, len(numbers)))
    means = sums[draws].sum(axis=1) / sizes[draws].sum(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def number_groups(keys: Sequence[str]) -> IntVector:
    """Equal keys get equal numbers, in order of first appearance."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def _top(scores: FloatMatrix, top: int) -> IntMatrix:
    part = np.argpartition(-scores, top - 1, axis=1)[:, :top]
    order = np.argsort(-np.take_along_axis(scores, part, axis=1), axis=1, kind="stable")
    return np.take_along_axis(part, order, axis=1)
