"""How many lists to read and how many candidates to rank again: measured on a segment's own captions and figures.

rows of the segment, held-out splits first -> half choose the setting, half say what it finds
queries: captions (text) and figures (image), each without its own row; truth: all rows compared, in float32
candidates that are ranked again by exact vectors find what is among them, so recall is the share of the truth among them
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from biomedray.serve.filters import Selection, select
from biomedray.serve.generation import QUERY_STEMS, TARGETS, Probe
from biomedray.serve.ivf import Ivf
from biomedray.serve.segment import EXACT_ROWS
from biomedray.serve.vectors import StoredRows

Matrix = NDArray[np.float32]
Rows = NDArray[np.int64]

K = 10
AIM = 0.96
"""Recall@10 that a setting must reach on the queries that choose it: above the .95 that is promised, for others do worse."""
QUERIES = 256
"""Queries of each kind, half to choose and half to measure."""
SELECTIVITIES = (1.0, 0.5, 0.1, 0.05, 0.01, 0.003)
DEPTHS = (5, 7, 10, 20, 40)
# What ranking a candidate, beginning a list and looking whether a row passes cost, in codes that are compared (some 27 ns each).
_RANKING = 120
_LIST = 180
_SELECTING = 0.25


@dataclass(frozen=True)
class Asked:
    """Queries of one kind against one target: vectors [q, d], each one's own row, and the nearest others."""

    vectors: Matrix
    own: Rows
    truth: Rows
    """[q, K]"""

    def part(self, which: slice) -> Asked:
        """Some of the queries."""
        return Asked(self.vectors[which], self.own[which], self.truth[which])


def sample_rows(columns: pa.Table, count: int = QUERIES) -> Rows:
    """Rows whose captions and figures ask, at random and the same each time: held-out ones where there are enough."""
    held_out = np.flatnonzero(pc.not_equal(columns["split"].cast(pa.string()), "train").to_numpy())
    pool = held_out if len(held_out) >= count else np.arange(columns.num_rows)
    return np.sort(np.random.default_rng(len(pool)).permutation(pool)[:count])


def measure(vectors: dict[str, StoredRows], indexes: dict[str, Ivf], rows: Rows) -> dict[str, list[Probe]]:
    """Settings by "kind/target" for each selectivity, the largest first.

    ``vectors`` and ``indexes`` go by file stem; ``rows`` are those of ``sample_rows``.
    """
    found: dict[str, list[Probe]] = {}
    for target, stem in TARGETS.items():
        masks = _masks(len(vectors[stem]))
        queries = np.concatenate([vectors[of].take(rows) for of in QUERY_STEMS.values()])
        own = np.tile(rows, len(QUERY_STEMS))
        truths = nearest_others(vectors[stem], queries, own, [mask for _, mask in masks])
        for number, kind in enumerate(QUERY_STEMS):
            place = slice(number * len(rows), (number + 1) * len(rows))
            found[f"{kind}/{target}"] = [
                _tuned(indexes[stem], Asked(queries[place], own[place], truth[place]), share, mask)
                for (share, mask), truth in zip(masks, truths, strict=True)
            ]
    return found


def nearest_others(vectors: StoredRows, queries: Matrix, own: Rows, masks: Sequence[NDArray[np.bool_] | None]) -> list[Rows]:
    """For each mask [n] (None: all rows) the K rows [q, K] of it nearest to each query, its own row left out; -1 where fewer."""
    seen: list[list[tuple[Rows, Rows, Matrix]]] = [[] for _ in masks]
    limits: list[Matrix] = [np.full(len(queries), -np.inf, np.float32) for _ in masks]
    for start, block in vectors.blocks():
        scores = queries @ block.T
        inside = np.flatnonzero((own >= start) & (own < start + len(block)))
        scores[inside, own[inside] - start] = -np.inf
        for number, mask in enumerate(masks):
            columns = np.arange(len(block)) if mask is None else np.flatnonzero(mask[start : start + len(block)])
            part = scores if mask is None else scores[:, columns]
            if start == 0 and part.shape[1] > K:  # what counts must be among the first block's K, or beat them
                lowest = part.shape[1] - K
                limits[number] = (np.partition(part, lowest, axis=1)[:, lowest] - 1e-6).astype(np.float32)
            query, column = np.nonzero(part > limits[number][:, None])
            seen[number].append((query, columns[column] + start, part[query, column]))
    return [_first_k(parts, len(queries)) for parts in seen]


def recall(ivf: Ivf, asked: Asked, probes: int, depth: int, selection: Selection | None) -> float:
    """Share of the truth among ``depth * K`` candidates."""
    return _recalls(ivf, asked, probes, selection, (depth,))[0]


def _tuned(ivf: Ivf, asked: Asked, selectivity: float, mask: NDArray[np.bool_] | None) -> Probe:
    half = len(asked.own) // 2
    choose, judge = asked.part(slice(0, None, 2)), asked.part(slice(1, None, 2))
    if not half:
        judge = choose
    selection = None if mask is None else select(mask)
    probes, depth = _cheapest(ivf, choose, selection, selectivity)
    found = recall(ivf, judge, probes, depth, selection)
    return Probe(selectivity=selectivity, share=probes / ivf.lists, depth=depth, recall=round(found, 4))


def _cheapest(ivf: Ivf, asked: Asked, selection: Selection | None, selectivity: float) -> tuple[int, int]:
    """Lists to read and depth of the least work that reaches the aim, or of the best that can be had."""
    scanned = _LIST + ivf.rows / ivf.lists * (selectivity + _SELECTING * (selection is not None))
    best: tuple[float, int, int] | None = None
    most = (0.0, ivf.lists, DEPTHS[-1])
    for probes in _steps(ivf.lists):
        if best is not None and probes * scanned + DEPTHS[0] * K * _RANKING >= best[0]:
            break
        for depth, found in zip(DEPTHS, _recalls(ivf, asked, probes, selection, DEPTHS), strict=True):
            cost = probes * scanned + depth * K * _RANKING
            if found >= AIM and (best is None or cost < best[0]):
                best = (cost, probes, depth)
            if found > most[0]:
                most = (found, probes, depth)
    return (best or most)[1:]


def _steps(lists: int) -> list[int]:
    """4, 6, 8, 12, 16, 24, ... and all lists."""
    powers = [1 << power for power in range(2, lists.bit_length())]
    return sorted({step for power in powers for step in (power, power * 3 // 2) if step < lists} | {lists})


def _recalls(ivf: Ivf, asked: Asked, probes: int, selection: Selection | None, depths: Sequence[int]) -> list[float]:
    bits = None if selection is None else selection.bits
    candidates = ivf.candidates(asked.vectors, max(depths) * K + 1, probes, bits)
    known = asked.truth >= 0
    shares = []
    for depth in depths:
        first = candidates[:, : depth * K]
        hits = (asked.truth[:, :, None] == first[:, None, :]).any(axis=2) & known
        shares.append(float(hits.sum() / max(known.sum(), 1)))
    return shares


def _masks(rows: int) -> list[tuple[float, NDArray[np.bool_] | None]]:
    """Selectivities that are not answered exactly anyway, with rows at random."""
    random = np.random.default_rng(rows).random(rows, np.float32)
    return [(share, None if share == 1 else random < share) for share in SELECTIVITIES if share == 1 or share * rows > EXACT_ROWS]


def _first_k(parts: Sequence[tuple[Rows, Rows, Matrix]], queries: int) -> Rows:
    query, row, score = (np.concatenate(values) for values in zip(*parts, strict=True))
    known = np.isfinite(score)
    query, row, score = query[known], row[known], score[known]
    order = np.lexsort((row, -score, query))
    query, row = query[order], row[order]
    rank = np.arange(len(query)) - np.searchsorted(query, query)
    found = np.full((queries, K), -1, np.int64)
    kept = rank < K
    found[query[kept], rank[kept]] = row[kept]
    return found
