"""Retrieval scores of one direction: recalls, median rank and MRR with their intervals, and what chance would give.

Recall at k is CLIP's: whether any gold candidate is among the first k. A tie with a candidate that is not gold counts as a
miss, so a model that maps everything to one point scores nothing; the optimistic value stands beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from biomedray.evaluate.ranking import KS, Ranking
from biomedray.evaluate.stats import RESAMPLES, Interval, IntVector, at_the_edge, bootstrap_means


@dataclass(frozen=True)
class Recall:
    """One direction's scores; ranks count from 1, intervals are drawn over clusters."""

    at: dict[int, Interval]
    optimistic: dict[int, float]
    """Recall if every tie went to the gold candidate."""
    expected: dict[int, float]
    """Recall if ties were broken at random."""
    fractional: dict[int, Interval]
    """Share of a query's gold candidates among the first k."""
    r_precision: Interval
    mrr: Interval
    """Mean reciprocal rank."""
    median_rank: float
    mean_rank: float
    tied_queries: int
    several_golds: int
    """Queries with more than one gold candidate."""


def recall(
    ranking: Ranking, clusters: IntVector | None = None, ks: Sequence[int] = KS, resamples: int = RESAMPLES, seed: int = 0
) -> Recall:
    """Scores of a ranking; figures of one article are not independent, so whole ``clusters`` (articles) are resampled."""
    ranks = ranking.ranks
    hits = [ranks < k for k in ks]
    columns = np.column_stack([*hits, ranking.recalled, ranking.r_precision, 1 / (ranks + 1)])
    count = len(columns) if clusters is None else len(np.unique(clusters))
    found = [at_the_edge(share, count) for share in bootstrap_means(columns, clusters, resamples, seed)]
    return Recall(
        at=dict(zip(ks, found, strict=False)),
        optimistic={k: float((ranking.greater < k).mean()) for k in ks},
        expected={k: float(np.clip((k - ranking.greater) / (ranking.ties + 1), 0, 1).mean()) for k in ks},
        fractional=dict(zip(KS, found[len(ks) :], strict=False)),
        r_precision=found[-2],
        mrr=found[-1],
        median_rank=float(np.median(ranks)) + 1,
        mean_rank=float(ranks.mean()) + 1,
        tied_queries=int((ranking.ties > 0).sum()),
        several_golds=int((ranking.golds > 1).sum()),
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
