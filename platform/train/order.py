"""In which order rows are seen: a pure function of seed, epoch and position, with no state to save.

    row groups of the split --permute--> windows of some groups --permute rows in each--> positions 0, 1, 2 ...

A full permutation when all groups fit one window; otherwise only a window's groups need be in memory, and only the
permutation of the groups is held: 3 MB for the 360,000 row groups of all of PMC.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]


class EpochOrder:
    """The order of one epoch over row groups of the given sizes."""

    def __init__(self, sizes: Sequence[int] | Rows, window: int, seed: int, epoch: int) -> None:
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
        return [(int(group), int(row)) for group, row in self.at(start, stop)]

    def at(self, start: int, stop: int) -> Rows:
        """[stop - start, 2]: as ``rows``."""
        found = [np.zeros((0, 2), dtype=np.int64)]
        position = start
        while position < stop:
            begin, end = self.window_of(position)
            found.append(self._rows_of(begin)[position - begin : min(stop, end) - begin])
            position = min(stop, end)
        return np.concatenate(found)

    def arranged(self, start: int, stop: int) -> tuple[Rows, Rows]:
        """Positions [n] and rows [n, 2] of a global batch, rows of one row group side by side.

        Who is in a batch does not change; but workers that take equal stretches of it need few row groups each,
        where in the order of positions each of them would have to read every row group of the window.
        """
        rows = self.at(start, stop)
        by_group = np.lexsort((rows[:, 1], rows[:, 0]))
        return start + by_group, rows[by_group]

    def window_of(self, position: int) -> tuple[int, int]:
        """First position, and first after the last, of the window that a position lies in."""
        window = int(np.searchsorted(self._ends, position, side="right"))
        return int(self._ends[window - 1]) if window else 0, int(self._ends[window])

    def substitutes(self, position: int, start: int, stop: int, count: int) -> list[tuple[int, int]]:
        """Rows of the same window that may stand in for the one at a position, drawn from its key alone.

        They are not of the batch ``start`` to ``stop``, as long as the window has others.
        """
        begin, end = self.window_of(position)
        others = [*range(begin, max(begin, start)), *range(min(stop, end), end)] or list(range(begin, end))
        drawn = generator(3, *self._key, position).choice(others, size=min(count, len(others)), replace=False)
        rows = self._rows_of(begin)
        return [(int(group), int(row)) for group, row in rows[drawn - begin]]

    def _rows_of(self, begin: int) -> Rows:
        window = int(np.searchsorted(self._ends, begin, side="right"))
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
