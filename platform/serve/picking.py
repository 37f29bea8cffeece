"""Which waiting items run together: lengths in, positions out; no queue, no clock.

lengths in turn   30 31 90 29 33 30        the first one decides: it runs now
near to it        30 31    29 33 30        nearest first, as long as the padding costs less than another batch would
in turn           30 31    29 33 30        up to so many items and so many padded units
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Bounds:
    """Of one batch. Its cost is the length of its longest item times its items."""

    items: int
    """Most items."""
    budget: int | None = None
    """Highest cost; one item alone may cost more."""
    padding: int | None = 0
    """Most of the cost that is padding: what starting another batch costs, in the same unit. None: nothing is padded, so the
    cost is the sum of the lengths, and any lengths go together."""

    def allow(self, items: int, longest: int, total: int) -> bool:
        """Whether so many items, the longest of this length and together of that, may be one batch."""
        cost = total if self.padding is None else items * longest
        fits = items <= self.items and (self.budget is None or cost <= self.budget)
        return fits and (self.padding is None or cost - total <= self.padding)


def pick(lengths: Sequence[int], bounds: Bounds) -> list[int]:
    """Positions of what runs with the first item, in turn; the first is always among them."""
    shortest, longest = _near(lengths, bounds)
    chosen, top, total = [0], lengths[0], lengths[0]
    for position, length in enumerate(lengths[1:], 1):
        if not shortest <= length <= longest:
            continue
        if bounds.allow(len(chosen) + 1, max(top, length), total + length):
            chosen.append(position)
            top, total = max(top, length), total + length
        elif len(chosen) == bounds.items:
            break
    return chosen


def is_full(lengths: Sequence[int], bounds: Bounds) -> bool:
    """Whether a batch of these has no room for another item as long as its longest."""
    items, longest = len(lengths) + 1, max(lengths)
    cost = sum(lengths) + longest if bounds.padding is None else items * longest
    return items > bounds.items or (bounds.budget is not None and cost > bounds.budget)


def _near(lengths: Sequence[int], bounds: Bounds) -> tuple[int, int]:
    """Shortest and longest length that may join the first item's, found by going outward from it."""
    ordered = sorted(lengths)
    if bounds.padding is None:
        return ordered[0], ordered[-1]
    left = right = bisect_left(ordered, lengths[0])
    padding = 0
    while right - left + 1 < bounds.items:
        below = ordered[right] - ordered[left - 1] if left else None
        above = (right - left + 1) * (ordered[right + 1] - ordered[right]) if right + 1 < len(ordered) else None
        step = min((cost for cost in (below, above) if cost is not None), default=None)
        if step is None or padding + step > bounds.padding:
            break
        padding += step
        left, right = (left, right + 1) if step == above else (left - 1, right)
    return ordered[left], ordered[right]
