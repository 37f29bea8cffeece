"""The batches of a whole run, counted in pairs, so that one number (pairs seen) says where it stands."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from biomedray.errors import UserError
from biomedray.train.presets import LoopConfig


@dataclass(frozen=True)
class BatchSpec:
    """One global batch: positions ``start`` to before ``stop`` of an epoch's order."""

    epoch: int
    start: int
    stop: int
    seen: int
    """Pairs seen once this batch is done."""
    ends_epoch: bool


@dataclass(frozen=True)
class Workers:
    """How many workers share a batch; from ``least`` to ``most``, as machines come and go."""

    least: int
    most: int

    @classmethod
    def of(cls, given: int | str | Workers) -> Workers:
        """From ``2`` or ``1-4``.

        Raises:
            UserError: it is neither.
        """
        if isinstance(given, Workers):
            return given
        first, dash, last = str(given).partition("-")
        try:
            found = cls(int(first), int(last if dash else first))
        except ValueError:
            raise UserError(f"--workers {given}: give a number, or the fewest and the most: --workers 1-4") from None
        if not 1 <= found.least <= found.most:
            raise UserError(f"--workers {given}: at least 1, and the smaller number first")
        return found

    @property
    def elastic(self) -> bool:
        """Whether the number may change while the run goes on."""
        return self.least < self.most

    def check(self, batch_sizes: list[int]) -> None:
        """Refuse batches that can't be dealt out evenly, which the loss over all workers' pairs wants.

        Raises:
            UserError: there is one; the line says what would fit.
        """
        counts = range(self.least, self.most + 1)
        for size in batch_sizes:
            if uneven := [count for count in counts if size % count]:
                multiple = math.lcm(*counts)
                fits = max(multiple, size // multiple * multiple)
                hint = f"{fits} fits all of --workers {self}" if self.elastic else f"{fits} would be"
                raise UserError(f"train.batch_size {size}: not a multiple of {uneven[0]} workers; {hint}")

    def __str__(self) -> str:
        return f"{self.least}-{self.most}" if self.elastic else str(self.least)


class Plan:
    """Which batches a run of ``rows`` train pairs consists of; rows that fill no batch are left out of an epoch."""

    def __init__(self, rows: int, config: LoopConfig) -> None:
        self._config = config
        self._per_epoch = [rows // self.batch_size(epoch) for epoch in range(config.epochs)]
        for epoch, steps in enumerate(self._per_epoch):
            if steps == 0:
                raise UserError(
                    f"train.batch_size {self.batch_size(epoch)}: larger than the train split ({rows} pairs); "
                    f"set it to {rows} or less"
                )

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole run."""
        return sum(self._per_epoch)

    @property
    def total_samples(self) -> int:
        """Pairs seen in the whole run, repeats counted."""
        return sum(steps * self.batch_size(epoch) for epoch, steps in enumerate(self._per_epoch))

    @property
    def batch_sizes(self) -> list[int]:
        """Global batch size of each epoch."""
        return [self.batch_size(epoch) for epoch in range(self._config.epochs)]

    def batch_size(self, epoch: int) -> int:
        """Global batch size of an epoch."""
        size = self._config.batch_size
        for first, changed in sorted(self._config.batch_schedule):
            size = changed if epoch >= first else size
        return size

    def batches(self, seen: int = 0) -> Iterator[BatchSpec]:
        """The batches that follow once ``seen`` pairs are done."""
        before = 0
        for epoch, steps in enumerate(self._per_epoch):
            size = self.batch_size(epoch)
            for step in range(steps):
                before += size
                if before > seen:
                    yield BatchSpec(epoch, step * size, (step + 1) * size, before, step + 1 == steps)

    def learning_rate(self, seen: int, time_share: float = 0.0) -> float:
        """Linear rise over the warm-up, then half a cosine down to 0; a function of pairs seen.

        ``time_share`` is the part of ``max_seconds`` that has passed, where the run has such a limit.
        """
        warmup = min(self._config.warmup_steps * self._config.batch_size, self.total_samples // 2)
        at = seen + self._config.batch_size
        if at < warmup:
            return self._config.lr * at / warmup
        progress = max(time_share, (seen - warmup) / max(1, self.total_samples - warmup))
        return self._config.lr * (1 + math.cos(math.pi * min(1.0, max(0.0, progress)))) / 2
