"""How often 95 % intervals hold the truth, and how often a paired test cries wolf, by number of clusters.

Method: samples are drawn from a known truth many times; each time the interval (percentile bootstrap, 1,000 resamples) either
covers the truth or not. Clustered: each cluster has its own rate from Beta(1, 1), 5 hits or misses each; ``unclustered`` is
what the same rows give when clusters are ignored. Paired: two models of equal skill on the same hard and easy clusters; ``false
alarms`` is the share of p < 0.05. AUROC: normal scores one standard deviation apart, half of the samples positive.
Usage: python benchmarks/evaluate_coverage.py [--trials 1000]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.stats import norm

from _measure import record
from biomedray.evaluate.classification import Answers, metric
from biomedray.evaluate.stats import Interval, bootstrap, bootstrap_mean, paired_means

PER_CLUSTER = 5


def share(trials: int, one: Callable[[np.random.Generator, int], bool]) -> float:
    """How often something holds."""
    return float(np.mean([one(np.random.default_rng(seed), seed) for seed in range(trials)]))


def holds(interval: Interval, truth: float) -> bool:
    """Whether the truth lies inside."""
    return interval.low <= truth <= interval.high


def hits(rng: np.random.Generator, clusters: int) -> tuple[np.ndarray, np.ndarray]:
    """Hits of clusters of unlike rates, true mean one half, and the cluster of each."""
    cluster = np.repeat(np.arange(clusters), PER_CLUSTER)
    return (rng.random(len(cluster)) < rng.random(clusters)[cluster]).astype(float), cluster


def clustered(rng: np.random.Generator, seed: int, clusters: int, known: bool = True) -> bool:
    """An interval over clusters, or over rows as if there were none."""
    values, cluster = hits(rng, clusters)
    return holds(bootstrap_mean(values, cluster if known else None, seed=seed), 0.5)


def independent(rng: np.random.Generator, seed: int, n: int, rate: float) -> bool:
    """An interval of a rate over independent samples."""
    return holds(bootstrap_mean((rng.random(n) < rate).astype(float), seed=seed), rate)


def alarm(rng: np.random.Generator, seed: int, clusters: int) -> bool:
    """A difference is claimed between two models that are equally good."""
    cluster = np.repeat(np.arange(clusters), PER_CLUSTER)
    rate = rng.random(clusters)[cluster]
    a, b = (rng.random(len(cluster)) < rate for _ in "ab")
    return paired_means(a, b, cluster, seed=seed).p < 0.05


def area(rng: np.random.Generator, seed: int, n: int) -> bool:
    """An interval of AUROC."""
    labels = np.arange(n) % 2
    logits = np.column_stack([np.zeros(n), rng.normal(labels)])
    return holds(bootstrap(metric(Answers.of(labels, logits), "auroc"), np.arange(n), 1000, seed), float(norm.cdf(np.sqrt(0.5))))


def main() -> None:
    """All cases."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000)
    trials = parser.parse_args().trials
    rows: list[dict[str, Any]] = []
    for n in (10, 20, 30, 60, 200):
        row = {"clusters": n, "covered": share(trials, lambda rng, seed, n=n: clustered(rng, seed, n))}
        row["unclustered"] = share(trials, lambda rng, seed, n=n: clustered(rng, seed, n, known=False))
        row["false alarms"] = share(trials, lambda rng, seed, n=n: alarm(rng, seed, n))
        rows.append({"case": "clusters of 5", **row})
    for n, rate in ((30, 0.5), (100, 0.5), (100, 0.1), (1000, 0.1), (1000, 0.01)):
        covered = share(trials, lambda rng, seed, n=n, rate=rate: independent(rng, seed, n, rate))
        rows.append({"case": f"rate {rate}, independent", "clusters": n, "covered": covered})
    for n in (60, 200):
        covered = share(max(1, trials // 4), lambda rng, seed, n=n: area(rng, seed, n))
        rows.append({"case": "AUROC .76, independent", "clusters": n, "covered": covered})
    record("evaluate-coverage", "share of 95 % intervals that hold the truth", rows, trials=trials)


if __name__ == "__main__":
    main()
