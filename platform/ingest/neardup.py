"""Near-duplicate images by their 64-bit perceptual hashes: a banded join, table by table, and the clusters that come of it.

The hash is cut into six bands. Hashes that differ in at most four bits agree in at least two of them, so fifteen tables, one
for each two bands, hold every such pair side by side (Manku, Jain, Das Sarma, WWW 2007). A table is one sort.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

_WIDTHS = (11, 11, 11, 11, 10, 10)
_STARTS = (0, 11, 22, 33, 44, 54)
TABLES = tuple(combinations(range(6), 2))
MAX_DISTANCE = 4
"""Bits; what the tables can find."""

# Neighbours that each image is compared with in a table: all of a usual bucket, the nearest of a crowded one.
_WINDOW = 48
# Of the 256 bits of the fine hash. Pictures made after one pattern (two normal chest films, two forest plots) agree in the
# 64 bits, but differ in 16 and more of these; one picture in two sizes and compressions mostly in fewer
# (benchmarks/ingest_duplicates.py).
_FINE_DISTANCE = 14
# The same picture in another size or compression changes these by less.
_ASPECT, _ENTROPY, _COLOUR = 0.03, 1.2, 10.0

# Comparisons at once: some hundred megabytes.
_MEETINGS = 1 << 20

Edges = tuple[NDArray[np.uint64], NDArray[np.uint64]]
_Meetings: TypeAlias = NDArray[np.intp]


@dataclass(frozen=True)
class Images:
    """Distinct images as columns of one length.

    ``sha``: first 64 bits of the SHA-256; ``phash``; ``fine``: 256 bits, (N, 4); ``shape``: natural log of width / height;
    ``entropy`` in bits; ``colour``: colourfulness. Unknown values are NaN and agree with nothing.
    """

    sha: NDArray[np.uint64]
    phash: NDArray[np.uint64]
    fine: NDArray[np.uint64]
    shape: NDArray[np.float32]
    entropy: NDArray[np.float32]
    colour: NDArray[np.float32]

    def take(self, index: NDArray[np.intp] | NDArray[np.bool_]) -> Images:
        """The images at these positions."""
        return Images(
            self.sha[index], self.phash[index], self.fine[index], self.shape[index], self.entropy[index], self.colour[index]
        )


def images_of(rows: pa.Table | pa.RecordBatch) -> Images:
    """From a pairs artifact's columns; 0 stands for a hash that is not there (``phash`` null)."""
    width, height = (_numbers(rows[name], np.float64) for name in ("width", "height"))
    sha = np.array([int(sha[:16], 16) for sha in rows["image_sha256"].to_pylist()], np.uint64)
    fine = np.stack([_quarter(rows["phash_fine"].to_pylist(), i) for i in range(4)], axis=1)
    floats = (_numbers(rows[name], np.float32) for name in ("entropy", "colourfulness"))
    return Images(sha, _quarter(rows["phash"].to_pylist(), 0), fine, np.log(width / height).astype(np.float32), *floats)


def _quarter(hashes: list[str | None], quarter: int) -> NDArray[np.uint64]:
    """64 of the bits of hashes in hex."""
    return np.array([int(value[16 * quarter : 16 * quarter + 16], 16) if value else 0 for value in hashes], np.uint64)


def _numbers(column: pa.Array | pa.ChunkedArray, kind: type[np.floating[Any]]) -> NDArray[Any]:
    return np.array([np.nan if value is None else value for value in column.to_pylist()], kind)


def distinct(images: Images) -> Images:
    """Each image once; byte-identical ones have the same columns."""
    return images.take(np.unique(images.sha, return_index=True)[1])


def table_edges(images: Images, table: tuple[int, int], distance: int) -> Edges:
    """Pairs of near-duplicates (by ``sha``) that agree in the table's two bands and in at most ``distance`` bits differ."""
    key = _key(images.phash, table)
    order = np.lexsort((images.shape, images.phash, key))
    images, key = images.take(order), key[order]
    left: list[NDArray[np.uint64]] = []
    right: list[NDArray[np.uint64]] = []
    for step in range(1, min(_WINDOW, len(key) - 1) + 1):
        near = np.flatnonzero(key[:-step] == key[step:])
        if not near.size:
            break
        same = near[_alike(images.take(near), images.take(near + step), distance)]
        left.append(images.sha[same])
        right.append(images.sha[same + step])
    empty = np.empty(0, np.uint64)
    return np.concatenate([empty, *left]), np.concatenate([empty, *right])


def across(known: Images, others: Images, distance: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Near-duplicates between two lots of images, every one of them: positions in ``known`` and in ``others``, sorted."""
    found = []
    for table in TABLES:
        order = np.argsort(_key(known.phash, table), kind="stable")
        found += list(_meetings(known.take(order), order, others, table, distance))
    pairs = np.unique(np.concatenate([np.empty((2, 0), np.intp), *found], axis=1), axis=1)
    return pairs[0], pairs[1]


def _meetings(
    known: Images, order: NDArray[np.intp], others: Images, table: tuple[int, int], distance: int
) -> Iterator[_Meetings]:
    """``known`` lies in the order of its keys: each of the others meets the stretch of those with its own key."""
    keys, wanted = _key(known.phash, table), _key(others.phash, table)
    first = np.searchsorted(keys, wanted)
    count = np.searchsorted(keys, wanted, side="right") - first
    for rows in _stretches(count):
        other = np.repeat(rows, count[rows])
        ends = np.cumsum(count[rows])
        place = np.arange(len(other)) + np.repeat(first[rows] - ends + count[rows], count[rows])
        near = np.bitwise_count(known.phash[place] ^ others.phash[other]) <= distance
        place, other = place[near], other[near]
        same = _alike(known.take(place), others.take(other), distance)
        yield np.stack([order[place[same]], other[same]])


def _stretches(count: NDArray[np.intp]) -> Iterator[NDArray[np.intp]]:
    """Rows that meet any, in lots of bounded work (one row may exceed it)."""
    rows = np.flatnonzero(count)
    lots = np.cumsum(count[rows]) // _MEETINGS
    yield from (lot for lot in np.split(rows, np.flatnonzero(np.diff(lots)) + 1) if lot.size)


def clusters(left: NDArray[np.uint64], right: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Members and, for each, its cluster: the smallest member that edges connect it with. Members are sorted."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    nodes, index = np.unique(np.concatenate([left, right]), return_inverse=True)
    if not nodes.size:
        return nodes, nodes
    n = len(nodes)
    graph = coo_array((np.ones(len(left), bool), (index[: len(left)], index[len(left) :])), (n, n))
    _, label = connected_components(graph, directed=False)
    # Nodes are sorted, so the first of each label is the smallest.
    _, first = np.unique(label, return_index=True)
    return nodes, nodes[first[label]]


def _key(phash: NDArray[np.uint64], table: tuple[int, int]) -> NDArray[np.uint64]:
    a, b = ((phash >> np.uint64(_STARTS[band])) & np.uint64((1 << _WIDTHS[band]) - 1) for band in table)
    return (a << np.uint64(11)) | b


def _alike(one: Images, other: Images, distance: int) -> NDArray[np.bool_]:
    bits = np.bitwise_count(one.phash ^ other.phash)
    fine = np.bitwise_count(one.fine ^ other.fine).sum(axis=1)
    close = (np.abs(one.shape - other.shape) <= _ASPECT) & (np.abs(one.entropy - other.entropy) <= _ENTROPY)
    found: NDArray[np.bool_] = (
        (bits <= distance) & (fine <= _FINE_DISTANCE) & close & (np.abs(one.colour - other.colour) <= _COLOUR)
    )
    return found
