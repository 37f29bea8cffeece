"""Merging answers of segments and shards: pure functions of scores, rows and hashes.

The best ``count`` of a whole, one of each duplicate cluster, are among the best ``count`` of its parts, one of each cluster:
what a part leaves out has ``count`` better clusters in that part alone. So merging parts gives what one index would have given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Part:
    """Candidates, best first, equal scores by row."""

    scores: NDArray[np.float32]
    rows: NDArray[np.int64]
    """Numbers in the generation."""
    clusters: NDArray[np.uint64]
    """Hash of each one's duplicate cluster."""
    articles: NDArray[np.uint64]
    """Hash of each one's article."""

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, places: NDArray[np.int64]) -> Part:
        """Some of them."""
        return Part(self.scores[places], self.rows[places], self.clusters[places], self.articles[places])


def empty() -> Part:
    """No candidates."""
    hashes = np.empty(0, np.uint64)
    return Part(np.empty(0, np.float32), np.empty(0, np.int64), hashes, hashes)


def first_of_each(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Places [m] of the first of equal keys [n], ascending."""
    return np.sort(np.unique(keys, return_index=True)[1])


def merge(parts: Sequence[Part], count: int, collapse: bool) -> Part:
    """The best ``count`` of several parts, one of each duplicate cluster if ``collapse``."""
    parts = [part for part in parts if len(part)]
    if not parts:
        return empty()
    if len(parts) == 1:
        whole = parts[0]
    else:
        fields = ("scores", "rows", "clusters", "articles")
        whole = Part(*(np.concatenate([getattr(part, name) for part in parts]) for name in fields))
        whole = whole.take(np.lexsort((whole.rows, -whole.scores)))
    if collapse:
        whole = whole.take(first_of_each(whole.clusters))
    return whole.take(np.arange(min(count, len(whole))))
