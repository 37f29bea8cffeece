"""Exact vectors on disk: memory-mapped rows, gathered or multiplied by blocks, with a bound on what stays resident."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]
Rows = NDArray[np.int64]

BLOCK = 16_384
"""Rows that are multiplied at a time."""
_RESIDENT = 192 * 1024 * 1024
# A touched page brings its neighbours in: 16 of them, or, where the cache is of huge pages, 2 MiB.
_AROUND = 2 * 1024 * 1024
_AT_ONCE = _RESIDENT // _AROUND


class MappedRows:
    """[n, d] float16 or float32 of a .npy file; thread-safe.

    Pages of a mapping count as the process's memory once they were touched, though the kernel can take them back. So that
    re-ranking at random does not make the whole file resident, the mapping is let go now and then: the pages stay in the
    kernel's cache and are mapped again when they are needed.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            shape, _, dtype = _header(file, version)
            offset = file.tell()
            if path.stat().st_size != offset + int(np.prod(shape)) * dtype.itemsize:
                raise ValueError(f"{path.name}: not as long as its header says")
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._rows: NDArray[Any] = np.frombuffer(self._map, dtype, offset=offset).reshape(shape)
        self._touched = 0
        self._small = self._rows.nbytes <= _RESIDENT

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and dimensions."""
        return self._rows.shape[0], self._rows.shape[1]

    def take(self, rows: Rows) -> Matrix:
        """Rows [m, d] as float32."""
        if self._small:
            found: Matrix = self._rows[rows].astype(np.float32, copy=False)
            return found
        found = np.empty((len(rows), self._rows.shape[1]), np.float32)
        for start in range(0, len(rows), _AT_ONCE):
            found[start : start + _AT_ONCE] = self._rows[rows[start : start + _AT_ONCE]]
            self._note(min(_AT_ONCE, len(rows) - start) * _AROUND)
        return found

    def blocks(self) -> Iterator[tuple[int, Matrix]]:
        """First row and [at most BLOCK, d] float32, for all rows."""
        for start in range(0, len(self), BLOCK):
            yield start, self._rows[start : start + BLOCK].astype(np.float32, copy=False)
            if not self._small:
                self._note(BLOCK * self._rows.shape[1] * self._rows.itemsize)

    def dots(self, vector: NDArray[np.float32]) -> NDArray[np.float32]:
        """Products [n] of all rows with a vector."""
        if self._rows.dtype == np.float32:
            products: NDArray[np.float32] = self._rows @ vector
            return products
        return np.concatenate([block @ vector for _, block in self.blocks()])

    def _note(self, size: int) -> None:
        self._touched += size
        if self._touched >= _RESIDENT:
            self.let_go()

    def let_go(self) -> None:
        """Give the resident pages back."""
        self._touched = 0
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)


def _header(file: Any, version: tuple[int, int]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    found: tuple[tuple[int, ...], bool, np.dtype[Any]] = read(file)
    return found
