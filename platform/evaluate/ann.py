"""Approximate nearest neighbours by FAISS beside the exact ranks: what the paper measured with, and what it costs.

The paper precomputes embeddings and does "an approximate nearest neighbor search" (Methods, Cross-modal retrieval) without
naming the index. Its recall against the exact neighbours says how far such numbers can be off.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biomedray.errors import UserError
from biomedray.evaluate.positives import IntVector, Vectors, dots
from biomedray.evaluate.ranking import KS, Ranking

_GRAPH_BELOW = 10_000
_SAME = 1e-6
_AT_ONCE = 4096


@dataclass(frozen=True)
class Approximate:
    """One direction: the k candidates that an index gives for each query, best first, -1 where it gives none."""

    key: str
    ids: NDArray[np.int64]
    build_s: float
    search_s: float


def default_key(n: int) -> str:
    """The faiss.index_factory key for n candidates: a graph for few, else lists of a size of about sqrt(n) / 4."""
    return "HNSW32" if n < _GRAPH_BELOW else f"IVF{4 * round(math.sqrt(n))},Flat"


def search(queries: Vectors, candidates: Vectors, key: str | None = None, k: int = max(KS)) -> Approximate:
    """Build an inner-product index of the [n, d] candidates and ask it for the k best of each query.

    Of an inverted file as many lists are read as the square root of their number.

    Raises:
        UserError: faiss knows no such index, or can't train it on so few vectors.
    """
    import faiss

    key = key or default_key(len(candidates))
    k = min(k, len(candidates))
    data = np.ascontiguousarray(candidates, np.float32)
    started = time.perf_counter()
    try:
        index: Any = faiss.index_factory(data.shape[1], key, faiss.METRIC_INNER_PRODUCT)
        index.train(data)
        index.add(data)
    except RuntimeError as error:
        raise UserError(
            f"ann index '{key}': {_reason(error)}; write for example HNSW32, IVF1024,Flat or OPQ64,IVF1024,PQ64"
        ) from None
    inverted = faiss.try_extract_index_ivf(index)
    if inverted is not None:
        inverted.nprobe = max(1, round(math.sqrt(inverted.nlist)))
    built = time.perf_counter()
    blocks = range(0, len(queries), _AT_ONCE)
    found = [index.search(np.ascontiguousarray(queries[i : i + _AT_ONCE], np.float32), k)[1] for i in blocks]
    return Approximate(key, np.concatenate(found), built - started, time.perf_counter() - built)


def recall_at(found: Approximate, groups: IntVector, ks: Sequence[int] = KS) -> dict[int, float]:
    """R@k as an index gives it: whether a gold candidate is among its first k."""
    gold = (groups[np.maximum(found.ids, 0)] == groups[:, None]) & (found.ids >= 0)
    return {k: float(gold[:, :k].any(axis=1).mean()) for k in ks}


def recall_of_exact(found: Approximate, exact: Ranking, queries: Vectors, candidates: Vectors) -> dict[int, float]:
    """Share of the exact k nearest candidates that the index found, for k = 1 and 10; equal scores are equally near."""
    query, place = np.nonzero(found.ids >= 0)
    scores = np.full(found.ids.shape, -np.inf)
    scores[query, place] = dots(queries, candidates, query, found.ids[query, place])
    depth = exact.top_scores.shape[1]
    shares = {}
    for k in (1, depth) if depth > 1 else (1,):
        limits = exact.top_scores[:, k - 1] - _SAME
        shares[k] = float(np.minimum((scores >= limits[:, None]).sum(axis=1), k).mean() / k)
    return shares


def _reason(error: RuntimeError) -> str:
    """The last words of faiss, without its source's path."""
    return str(error).strip().rsplit("failed: ", 1)[-1].rsplit("Error: ", 1)[-1].splitlines()[0]
