"""Exact retrieval ranks by blocks against the plain way (the whole score matrix, sorted), in the same run.

Method: N x 512 random unit vectors, both ways timed in turn five times, medians; the ranks must be equal.
Usage: python benchmarks/ranking.py [N].
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

from biomedray.evaluate.ranking import FloatMatrix, IntVector, rank

ROUNDS = 5


def plain(queries: FloatMatrix, candidates: FloatMatrix) -> IntVector:
    """The rank of candidate i for query i, from the sorted full matrix."""
    order = np.argsort(-(queries @ candidates.T), axis=1)
    return (order == np.arange(len(queries))[:, None]).argmax(axis=1)


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def unit(rng: np.random.Generator, n: int) -> FloatMatrix:
    """N random unit vectors of dimension 512."""
    vectors = rng.standard_normal((n, 512), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def main() -> None:
    """Print both medians and their ratio."""
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 6000
    rng = np.random.default_rng(0)
    queries, candidates, groups = unit(rng, n), unit(rng, n), np.arange(n)
    if not np.array_equal(rank(queries, candidates, groups).ranks, plain(queries, candidates)):
        raise SystemExit("the two ways disagree")
    ours, theirs = [], []
    for _ in range(ROUNDS):
        ours.append(seconds(lambda: rank(queries, candidates, groups)))
        theirs.append(seconds(lambda: plain(queries, candidates)))
    a, b = statistics.median(ours), statistics.median(theirs)
    print(f"{n} x {n} x 512: by blocks {a:.2f} s, whole matrix sorted {b:.2f} s, ratio {b / a:.2f}")


if __name__ == "__main__":
    main()
