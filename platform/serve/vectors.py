"""Exact vectors on disk: small files in memory, of large ones only the rows that are asked for are read."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biomedray.serve.files import Reader

Matrix = NDArray[np.float32]
Rows = NDArray[np.int64]

BLOCK = 16_384
"""Rows that are multiplied at a time."""
_SMALL = 192 * 1024 * 1024
"""Bytes up to which a file is mapped."""


class StoredRows:
    """[n, d] float16 or float32 of a .npy file; thread-safe.

    Ranking again reads some 50 rows of a query, anywhere in the file.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            self.shape, self._type = _header(file, version)
            self._offset = file.tell()
        self._row_bytes = self.shape[1] * self._type.itemsize
        if path.stat().st_size != self._offset + self.shape[0] * self._row_bytes:
            raise ValueError(f"{path.name}: not as long as its header says")
        self._mapped: NDArray[Any] | None = None
        if self.shape[0] * self._row_bytes <= _SMALL:
            self._mapped = np.asarray(np.load(path, mmap_mode="r"))
        else:
            self._file = Reader(path)

    def __len__(self) -> int:
        return self.shape[0]

    def take(self, rows: Rows) -> Matrix:
        """Rows [m, d] as float32."""
        if self._mapped is not None:
            return np.asarray(self._mapped[rows], np.float32)
        found = np.empty((len(rows), self.shape[1]), self._type)
        if len(rows):
            into = found.view(np.uint8).reshape(-1).data
            begins = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
            places = (self._offset + rows * self._row_bytes).tolist()
            for begin, end in pairwise(begins):  # rows that follow one another are one read
                self._file.read_into(into[begin * self._row_bytes : end * self._row_bytes], places[begin])
        return found.astype(np.float32, copy=False)

    def blocks(self) -> Iterator[tuple[int, Matrix]]:
        """First row and [at most BLOCK, d] float32, for all rows."""
        for start in range(0, len(self), BLOCK):
            yield start, self.take(np.arange(start, min(start + BLOCK, len(self))))

    def dots(self, vector: NDArray[np.float32]) -> NDArray[np.float32]:
        """Products [n] of all rows with a vector."""
        if self._mapped is not None and self._type == np.float32:
            products: NDArray[np.float32] = self._mapped @ vector
            return products
        return np.concatenate([block @ vector for _, block in self.blocks()])


def _header(file: Any, version: tuple[int, int]) -> tuple[tuple[int, int], np.dtype[Any]]:
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    (rows, dim), _, dtype = read(file)
    return (rows, dim), dtype
