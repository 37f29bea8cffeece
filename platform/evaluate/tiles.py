"""A tile of the similarity matrix, computed once and asked several things: on the CPU by numpy, on a GPU by torch.

Products are float32 in full precision (no TF32, no bfloat16), so that the textbook bound on their rounding holds; see
``rounding``. What a tile answers is small (counts, a few positions) and always numpy, so ranking knows no device.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

IntVector = NDArray[np.int64]
Float32 = NDArray[np.float32]
Positions = tuple[IntVector, IntVector]

ROWS, COLUMNS = 0, 1

_SLAB = 255
_UNIT_32, _UNIT_64 = 2.0**-24, 2.0**-53


class Tile(Protocol):
    """Scores of a block of rows against a block of columns, until the next product is asked for.

    ``axis`` says to whom a vector of limits belongs: ROWS (one for each row) or COLUMNS.
    """

    def above(self, limits: Float32, axis: int) -> Positions:
        """Rows and columns of the scores greater than the limit, in row-major order."""
        ...

    def count(self, low: Float32, high: Float32, axis: int) -> tuple[IntVector, Positions]:
        """How many scores are greater than ``high``, and where those in [low, high] are."""
        ...

    def largest(self, k: int, axis: int) -> Float32:
        """The k-th largest score of each row or column, -inf where there are fewer."""
        ...

    def values(self, where: Positions) -> Float32:
        """Scores at some positions."""
        ...

    def hide(self, where: Positions) -> None:
        """Set some scores to -inf."""
        ...


class Tiles(Protocol):
    """Where products are made."""

    size: int
    workers: int

    def product(self, rows: NDArray[Any], columns: NDArray[Any]) -> Tile:
        """[r, d] and [c, d] of any float type -> the tile of their inner products."""
        ...


def open_tiles(device: str, size: int | None = None) -> Tiles:
    """Tiles for a device in torch's words; a worker thread opens its own."""
    return CpuTiles(size or 1024) if device == "cpu" else TorchTiles(device, size or 8192)


def rounding(dim: int, norms: NDArray[np.float64], largest: float, single: bool = True) -> NDArray[np.float64]:
    """Most that a computed inner product differs from the true one, whatever the order of its sum.

    |fl(x.y) - x.y| <= g |x| |y| with g = d u / (1 - d u); Higham, Accuracy and Stability of Numerical Algorithms, section 3.1.

    Args:
        dim: d, length of the vectors.
        norms: |x| of each vector of one side.
        largest: the greatest |y| of the other side.
        single: float32, else float64.
    """
    products = dim * (_UNIT_32 if single else _UNIT_64)
    return np.asarray(products / (1 - products) * norms * largest, np.float64)


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Float32 products are what they say, and on one thread each: the workers are what runs side by side."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)


class CpuTiles:
    """The product is torch's (MKL), everything else numpy's, whose comparisons write to buffers that stay in the cache."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._scores = np.empty(size * size, np.float32)
        self._masks = np.empty((2, size * size), np.bool_)

    def product(self, rows: NDArray[Any], columns: NDArray[Any]) -> Tile:
        """See ``Tiles``."""
        shape = (len(rows), len(columns))
        scores = self._scores[: shape[0] * shape[1]].reshape(shape)
        torch.mm(_single(rows), _single(columns).T, out=torch.from_numpy(scores))
        masks = self._masks[:, : scores.size].reshape(2, *shape)
        return _CpuTile(scores, masks[0], masks[1])


class _CpuTile:
    def __init__(self, scores: Float32, first: NDArray[np.bool_], second: NDArray[np.bool_]) -> None:
        self._scores, self._first, self._second = scores, first, second

    def above(self, limits: Float32, axis: int) -> Positions:
        np.greater(self._scores, _across(limits, axis), out=self._first)
        return self._where(self._first)

    def count(self, low: Float32, high: Float32, axis: int) -> tuple[IntVector, Positions]:
        np.greater(self._scores, _across(high, axis), out=self._first)
        counts = _count_rows(self._first) if axis == ROWS else _count_columns(self._first)
        np.greater_equal(self._scores, _across(low, axis), out=self._second)
        np.not_equal(self._first, self._second, out=self._second)
        return counts, self._where(self._second)

    def largest(self, k: int, axis: int) -> Float32:
        size = self._scores.shape[1 - axis]
        if size < k:
            return np.full(self._scores.shape[axis], -np.inf, np.float32)
        return np.asarray(np.partition(self._scores, size - k, axis=1 - axis).take(size - k, axis=1 - axis), np.float32)

    def values(self, where: Positions) -> Float32:
        return self._scores[where]

    def hide(self, where: Positions) -> None:
        self._scores[where] = -np.inf

    def _where(self, mask: NDArray[np.bool_]) -> Positions:
        return np.divmod(np.flatnonzero(mask), mask.shape[1])


class TorchTiles:
    """All of it on one device of torch."""

    def __init__(self, device: str, size: int) -> None:
        self.size, self.workers = size, 1
        self._device = torch.device(device)

    def product(self, rows: NDArray[Any], columns: NDArray[Any]) -> Tile:
        """See ``Tiles``."""
        return _TorchTile(_single(rows).to(self._device) @ _single(columns).to(self._device).T)


class _TorchTile:
    def __init__(self, scores: torch.Tensor) -> None:
        self._scores = scores

    def above(self, limits: Float32, axis: int) -> Positions:
        return self._where(self._scores > self._limits(limits, axis))

    def count(self, low: Float32, high: Float32, axis: int) -> tuple[IntVector, Positions]:
        over = self._scores > self._limits(high, axis)
        near = (self._scores >= self._limits(low, axis)) & ~over
        return over.sum(dim=1 - axis).cpu().numpy(), self._where(near)

    def largest(self, k: int, axis: int) -> Float32:
        if self._scores.shape[1 - axis] < k:
            return np.full(self._scores.shape[axis], -np.inf, np.float32)
        found = self._scores.topk(k, dim=1 - axis).values.select(1 - axis, k - 1)
        return np.asarray(found.cpu().numpy())

    def values(self, where: Positions) -> Float32:
        return np.asarray(self._scores[self._index(where)].cpu().numpy())

    def hide(self, where: Positions) -> None:
        self._scores[self._index(where)] = -torch.inf

    def _limits(self, limits: Float32, axis: int) -> torch.Tensor:
        found: torch.Tensor = _across(torch.from_numpy(np.ascontiguousarray(limits)).to(self._scores.device), axis)
        return found

    def _where(self, mask: torch.Tensor) -> Positions:
        rows, columns = mask.nonzero(as_tuple=True)
        return rows.cpu().numpy(), columns.cpu().numpy()

    def _index(self, where: Positions) -> tuple[torch.Tensor, torch.Tensor]:
        rows, columns = (torch.from_numpy(part).to(self._scores.device) for part in where)
        return rows, columns


def _single(vectors: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(vectors, np.float32))


def _across(limits: Any, axis: int) -> Any:
    return limits[:, None] if axis == ROWS else limits[None, :]


def _count_rows(mask: NDArray[np.bool_]) -> IntVector:
    """True values of each row; eight of them are counted at a time, which is ten times as fast as their sum."""
    whole = mask.shape[1] // 8 * 8
    if whole < mask.shape[1]:
        tail = mask[:, whole:].sum(axis=1, dtype=np.int64)
        return np.asarray(tail + _count_rows(np.ascontiguousarray(mask[:, :whole])) if whole else tail, np.int64)
    return np.asarray(np.bitwise_count(mask.view(np.uint64)).sum(axis=1, dtype=np.int64))


def _count_columns(mask: NDArray[np.bool_]) -> IntVector:
    """True values of each column; slabs of 255 rows are summed in bytes, which can't overflow."""
    counts = np.zeros(mask.shape[1], np.int64)
    for start in range(0, len(mask), _SLAB):
        counts += np.add.reduce(mask[start : start + _SLAB].view(np.uint8), axis=0, dtype=np.uint8)
    return counts
