"""How often a caller may ask: a bucket for each key that fills by the second and is emptied by the items of requests.

A request goes ahead while its bucket holds an item and pays for its items as they become known, so that a large one
leaves a debt that the next ones wait for. Buckets belong to a replica: with n replicas a caller has up to n times the rate.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass

_BURST_SECONDS = 10.0
_METER: ContextVar[Meter | None] = ContextVar("meter", default=None)


class Bucket:
    """Items that a caller may still ask for: at most ten seconds' worth, and one at least."""

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        """``rate``: items a second."""
        self._rate = rate
        self._most = max(1.0, rate * _BURST_SECONDS)
        self._level = self._most
        self._clock = clock
        self._at = clock()

    def wait(self) -> float:
        """Seconds until a request may go ahead; 0 at once."""
        now = self._clock()
        self._level = min(self._most, self._level + (now - self._at) * self._rate)
        self._at = now
        return max(0.0, 1.0 - self._level) / self._rate

    def take(self, items: float) -> None:
        """Pay for items, into debt if need be."""
        self._level -= items


@dataclass
class Meter:
    """Items of one request, paid for as they become known; ``prepaid`` were paid for when it came."""

    bucket: Bucket | None = None
    prepaid: float = 0.0
    items: int = 0

    def count(self, items: int) -> None:
        """The encoder has so many items more to take."""
        self.items += items
        used = min(self.prepaid, items)
        self.prepaid -= used
        if self.bucket is not None:
            self.bucket.take(items - used)


def begin(bucket: Bucket | None, cost: float) -> Meter:
    """Meter the request that runs in this task and in those that it starts, ``cost`` being paid for at once."""
    if bucket is not None:
        bucket.take(cost)
    meter = Meter(bucket, cost)
    _METER.set(meter)
    return meter


def spend(items: int) -> None:
    """Count items for the request that runs, if one is metered."""
    meter = _METER.get()
    if meter is not None:
        meter.count(items)
