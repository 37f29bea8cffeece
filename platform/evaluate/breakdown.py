"""Where a model finds and where it doesn't: R@1 by kind of picture, journal, year, length of the caption.

Slices of one dimension are disjoint and add up to all queries: what has fewer than 30 queries, or is not among the largest
slices, is counted together as "other".
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from biomedray.evaluate.stats import RESAMPLES, IntVector, at_the_edge, bootstrap_means

LEAST = 30
MOST_SLICES = 20
OTHER = "other"
UNKNOWN = "not known"

TOKEN_EDGES = (16, 32, 64, 128, 256)
_SIDE_EDGES = (224, 336, 672)
_GRAPHIC_EDGES = (1, 2, 4)
_SURE = 0.5

PAIR_COLUMNS = ("journal", "year", "container", "n_tokens", "n_graphics", "width", "height", "compound_hint", "chart_hint")


def breakdown(
    hits: Mapping[str, IntVector], dimensions: Mapping[str, Sequence[str]], clusters: IntVector, resamples: int = RESAMPLES
) -> dict[str, list[dict[str, Any]]]:
    """R@1 with its interval for each slice of each dimension.

    Args:
        hits: [n] hit (1) or miss (0) of each query, by direction.
        dimensions: [n] slice of each query, by dimension.
        clusters: [n] what is drawn as a whole.
        resamples: how many draws.

    Returns:
        For each dimension its slices, the largest first and "other" last: slice, n, clusters, values merged into it
        (of "other"), and value, low and high for each direction.
    """
    return {name: _slices(hits, np.array(labels, dtype=object), clusters, resamples) for name, labels in dimensions.items()}


def dimensions_of_pairs(rows: Mapping[str, Sequence[Any]]) -> dict[str, list[str]]:
    """Slices of pairs, from columns ``PAIR_COLUMNS`` of their table."""
    hints = zip(rows["compound_hint"], rows["chart_hint"], strict=True)
    sides = zip(rows["width"], rows["height"], strict=True)
    return {
        "picture": [kind_of_picture(compound, chart) for compound, chart in hints],
        "journal": [name or UNKNOWN for name in rows["journal"]],
        "year": [UNKNOWN if year is None else str(year) for year in rows["year"]],
        "caption length, words and marks": [in_range(count, TOKEN_EDGES) for count in rows["n_tokens"]],
        "pictures of the figure": [in_range(count, _GRAPHIC_EDGES) for count in rows["n_graphics"]],
        "short side, pixels": [in_range(min(side), _SIDE_EDGES) for side in sides],
        "place in the article": [place or UNKNOWN for place in rows["container"]],
    }


def dimensions_of_captions(captions: Sequence[str]) -> dict[str, list[str]]:
    """Slices of a set that has nothing but captions: their length in words."""
    return {"caption length, words": [in_range(len(caption.split()), TOKEN_EDGES) for caption in captions]}


def kind_of_picture(compound: float | None, chart: float | None) -> str:
    """What ingest's cheap hints say of a picture, or that nobody looked."""
    if compound is None and chart is None:
        return "not looked at"
    if (compound or 0) >= _SURE:
        return "several panels"
    return "chart or drawing" if (chart or 0) >= _SURE else "single picture"


def in_range(value: float | None, edges: Sequence[int]) -> str:
    """The range of a number: "up to 16", "17-32", ..., "over 256"."""
    if value is None:
        return UNKNOWN
    place = bisect_left(edges, value)
    if place == len(edges):
        return f"over {edges[-1]}"
    first = edges[place - 1] + 1 if place else None
    if first is None:
        return f"up to {edges[0]}" if edges[0] > 1 else str(edges[0])
    return f"{first}-{edges[place]}" if first < edges[place] else str(first)


def _slices(
    hits: Mapping[str, IntVector], labels: np.ndarray[Any, Any], clusters: IntVector, resamples: int
) -> list[dict[str, Any]]:
    counts = Counter(labels.tolist())
    large = [name for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if count >= LEAST][:MOST_SLICES]
    kept = set(large) - {OTHER}
    merged = np.array([label if label in kept else OTHER for label in labels], dtype=object)
    names = [name for name in large if name in kept] + [OTHER] * (OTHER in merged)
    found = []
    for name in names:
        rows = np.flatnonzero(merged == name)
        slice_: dict[str, Any] = {"slice": name, "n": len(rows), "clusters": len(np.unique(clusters[rows]))}
        if name == OTHER:
            slice_["values"] = len(set(counts) - kept)
        columns = np.column_stack([values[rows] for values in hits.values()])
        drawn = [at_the_edge(share, slice_["clusters"]) for share in bootstrap_means(columns, clusters[rows], resamples)]
        found.append(slice_ | {way: asdict(interval) for way, interval in zip(hits, drawn, strict=True)})
    return found
