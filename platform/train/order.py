"""In which order rows are seen: a pure function of seed, epoch and position, with no state to save.

    row groups of the split --permute--> windows of some groups --permute rows in each--> positions 0, 1, 2 ...

A full permutation when all groups fit one window; otherwise only a window's groups need be in memory.
"""

from __future__ import annotations

from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]


class EpochOrder:
    """The order of one epoch over row groups of the given sizes."""

    def __init__(self, sizes: tuple[int, ...], window: int, seed: int, epoch: int) -> None:
        self._sizes = np.asarray(sizes, dtype=np.int64)
        self._window = window
        self._key = (seed, epoch)

    @cached_property
    def _groups(self) -> Rows:
        return generator(*self._key).permutation(len(self._sizes))

    @cached_property
    def _ends(self) -> Rows:
        """First position after each window."""
        counts = self._sizes[self._groups]
        return np.add.reduceat(counts, np.arange(0, len(counts), self._window)).cumsum()

    def rows(self, start: int, stop: int) -> list[tuple[int, int]]:
        """(row group, row in it) of the positions from start to before stop."""
        found: list[tuple[int, int]] = []
        position = start
        while position < stop:
            window = int(np.searchsorted(self._ends, position, side="right"))
            end = int(self._ends[window])
            begin = int(self._ends[window - 1]) if window else 0
            part = self._rows_of(window)[position - begin : min(stop, end) - begin]
            found.extend((int(group), int(row)) for group, row in part)
            position = min(stop, end)
        return found

    def _rows_of(self, window: int) -> Rows:
        groups = self._groups[window * self._window : (window + 1) * self._window]
        sizes = tuple(int(size) for size in self._sizes[groups])
        return _shuffled(tuple(int(group) for group in groups), sizes, (*self._key, window + 1))


@lru_cache(maxsize=4)
def _shuffled(groups: tuple[int, ...], sizes: tuple[int, ...], key: tuple[int, ...]) -> Rows:
    """[n, 2] (group, row) of all rows of some groups, shuffled."""
    rows = [np.stack([np.full(size, group), np.arange(size)], axis=1) for group, size in zip(groups, sizes, strict=True)]
    return generator(*key).permutation(np.concatenate(rows), axis=0)


def generator(*key: int) -> np.random.Generator:
    """Random numbers that depend on the key alone."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
