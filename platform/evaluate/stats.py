"""Intervals and paired tests by bootstrap over samples or whole clusters, in bounded memory.

    rows -> clusters -> draws with repeats (chunks of resamples) -> metric of each -> percentiles 2.5 and 97.5

What is not independent (figures of an article, images of a patient) is drawn as one cluster; without clusters every
row is its own. Means, and whatever follows from sums over rows, take a fast path: a resample is then a vector of how
often each cluster was drawn, and its sums are one product. ``scipy.stats.bootstrap`` draws single rows only, and its
BCa needs the metric without each row in turn, n values of it, which at 725,739 rows is out of reach for a metric
and for memory. The percentile interval is also the field's practice (CheXzero); how well it covers, by number of clusters,
is measured in benchmarks/evaluate_coverage.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

IntVector = NDArray[np.int64]
FloatVector = NDArray[np.float64]
FloatMatrix = NDArray[np.float64]
Metric = Callable[[IntVector], float]

RESAMPLES = 1000
LEVEL = (2.5, 97.5)

_CHUNK = 1 << 20
_FEW_KINDS = 16


@dataclass(frozen=True)
class Interval:
    """A value on all rows, and the 95 % interval of its resamples."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Paired:
    """Two models on the same rows: their values, the difference a - b with its interval, and the two-sided p of no difference."""

    a: float
    b: float
    difference: Interval
    p: float


def bootstrap(metric: Metric, clusters: ArrayLike, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Interval of any metric of rows.

    Args:
        metric: takes row numbers (with repeats), gives the metric on them; resamples for which it is NaN (AUROC where only
            one class was drawn) are left out.
        clusters: [n] number or name of each row's cluster; ``range(n)`` where rows are independent.
        resamples: how many draws.
        seed: of the draws; equal seeds, clusters and resamples give equal draws.

    Raises:
        ValueError: there are no rows.
    """
    cluster = _numbered(clusters)
    values = np.array([metric(rows) for rows in _row_draws(cluster, resamples, seed)])
    return _interval(float(metric(np.arange(len(cluster)))), values)


def bootstrap_mean(values: ArrayLike, clusters: ArrayLike | None = None, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Interval of the mean of [n] values; the fast path."""
    return bootstrap_means(np.asarray(values, np.float64)[:, None], clusters, resamples, seed)[0]


def bootstrap_means(
    values: ArrayLike, clusters: ArrayLike | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> list[Interval]:
    """Intervals of the means of the c columns of [n, c] values, all from the same draws."""
    table = np.asarray(values, np.float64)
    ones = np.ones((len(table), 1))
    sums = resampled_sums(np.hstack([table, ones]), clusters, resamples, seed)
    drawn = sums[:, :-1] / sums[:, -1:]
    return [_interval(float(mean), column) for mean, column in zip(table.mean(axis=0), drawn.T, strict=True)]


def at_the_edge(share: Interval, clusters: int) -> Interval:
    """The interval of a share; of 0 or 1, where resamples are all alike, the exact binomial bound over the clusters instead.

    Clopper and Pearson, The use of confidence or fiducial limits illustrated in the case of the binomial (1934).
    """
    bound = (LEVEL[0] / 100) ** (1 / clusters)
    if share.value == share.high == 0:
        return Interval(0.0, 0.0, 1 - bound)
    if share.value == share.low == 1:
        return Interval(1.0, bound, 1.0)
    return share


def resampled_sums(table: ArrayLike, clusters: ArrayLike | None = None, resamples: int = RESAMPLES, seed: int = 0) -> FloatMatrix:
    """[resamples, c] sums over the drawn rows of [n, c] columns: what means, recalls and confusion matrices are made of.

    Raises:
        ValueError: there are no rows.
    """
    rows = np.asarray(table, np.float64)
    if not len(rows):
        raise ValueError("no rows to draw from")
    if clusters is not None:
        rows = _cluster_sums(rows, _numbered(clusters))
    kinds, counts = np.unique(rows, axis=0, return_counts=True) if rows.shape[1] * len(rows) else (rows, None)
    if counts is not None and len(kinds) * _FEW_KINDS <= len(rows):
        rng = np.random.default_rng(seed)  # clusters that look alike are drawn together: the same distribution, few numbers
        return np.asarray(rng.multinomial(len(rows), counts / len(rows), resamples) @ kinds, np.float64)
    return np.concatenate([drawn @ rows for drawn in _count_draws(len(rows), resamples, seed)])


def paired(metric_a: Metric, metric_b: Metric, clusters: ArrayLike, resamples: int = RESAMPLES, seed: int = 0) -> Paired:
    """Two metrics of the same rows, each draw used for both; see ``bootstrap`` for the arguments."""
    cluster = _numbered(clusters)
    drawn = np.array([metric_a(rows) - metric_b(rows) for rows in _row_draws(cluster, resamples, seed)])
    everything = np.arange(len(cluster))
    return _paired(float(metric_a(everything)), float(metric_b(everything)), drawn)


def paired_means(
    a: ArrayLike, b: ArrayLike, clusters: ArrayLike | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> Paired:
    """Two models' [n] values (hits, reciprocal ranks) on the same rows, compared by their means; the fast path."""
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    sums = resampled_sums(np.column_stack([first - second, np.ones(len(first))]), clusters, resamples, seed)
    return _paired(float(first.mean()), float(second.mean()), sums[:, 0] / sums[:, 1])


def two_sided_p(drawn: ArrayLike) -> float:
    """How often resampled differences reach past zero, twice the smaller side; one is added so that p is never 0.

    Davison and Hinkley, Bootstrap Methods and their Application (1997), section 4.4.
    """
    values = np.asarray(drawn, np.float64)
    values = values[~np.isnan(values)]
    least = min(int((values <= 0).sum()), int((values >= 0).sum()))
    return min(1.0, 2 * (least + 1) / (len(values) + 1))


def number_groups(keys: Sequence[str]) -> IntVector:
    """Equal keys get equal numbers, in order of first appearance."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def _numbered(clusters: ArrayLike) -> IntVector:
    names = np.asarray(clusters)
    if not names.size:
        raise ValueError("no rows to draw from")
    return np.asarray(np.unique(names, return_inverse=True)[1], np.int64)


def _cluster_sums(rows: FloatMatrix, cluster: IntVector) -> FloatMatrix:
    if len(cluster) != len(rows):
        raise ValueError(f"{len(rows)} rows, but clusters of {len(cluster)}")
    return np.column_stack([np.bincount(cluster, weights=column) for column in rows.T])


def _count_draws(units: int, resamples: int, seed: int) -> Iterator[FloatMatrix]:
    """How often each unit is drawn, [a few resamples, units] at a time."""
    rng = np.random.default_rng(seed)
    chunk = max(1, min(resamples, _CHUNK // units))
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        drawn = rng.integers(0, units, (size, units))
        drawn += np.arange(size)[:, None] * units
        yield np.bincount(drawn.ravel(), minlength=size * units).reshape(size, units).astype(np.float64)


def _row_draws(cluster: IntVector, resamples: int, seed: int) -> Iterator[IntVector]:
    """Row numbers of each resample: all rows of as many clusters as there are, drawn with repeats."""
    rng = np.random.default_rng(seed)
    order = np.argsort(cluster, kind="stable")
    sizes = np.bincount(cluster)
    starts = np.cumsum(sizes) - sizes
    for _ in range(resamples):
        drawn = rng.integers(0, len(sizes), len(sizes))
        lengths = sizes[drawn]
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        yield order[np.repeat(starts[drawn], lengths) + within]


def _interval(value: float, drawn: FloatVector) -> Interval:
    known = drawn[~np.isnan(drawn)]
    low, high = np.percentile(known, LEVEL) if len(known) else (np.nan, np.nan)
    return Interval(value, float(low), float(high))


def _paired(a: float, b: float, drawn: FloatVector) -> Paired:
    return Paired(a, b, _interval(a - b, drawn), two_sided_p(drawn))
