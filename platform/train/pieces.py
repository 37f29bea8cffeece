"""Which pieces a batch is taken through in: measured once on the model, chosen once a batch size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from biomedray.errors import UserError
from biomedray.model.features import Towers
from biomedray.model.loss import world_size
from biomedray.train import memory, parts
from biomedray.train.accumulate import Features, Part, still_statistics
from biomedray.train.presets import LoopConfig

_PROBE = 2
"""Pairs of a measurement."""
_NEEDED = 3
"""A matrix of similarities, its softmax and its gradient are in memory at once ..."""
_WAYS = 2
"""... in each direction."""


class Planner:
    """Chooses micro-batches and recomputed layers, and sets the latter on the towers."""

    def __init__(self, towers: Towers, run: Callable[[Part], Features], config: LoopConfig, device: str) -> None:
        self._towers, self._run, self._config, self._device = towers, run, config, device
        self._found: dict[int, memory.Fit] = {}
        self._measured: tuple[float, float] | None = None
        self.last: memory.Fit | None = None

    def __call__(self, batch: parts.Batch) -> memory.Fit:
        """How to take a process' share of a batch through.

        Raises:
            UserError: it can't be done in the memory there is.
        """
        count = len(batch.tokens)
        if count not in self._found:
            self._found[count] = self._choose(batch, count)
            self._towers.recompute(self._found[count].share)
        elif self.last is not self._found[count]:
            self._towers.recompute(self._found[count].share)
        self.last = self._found[count]
        return self.last

    def too_little(self, plan: memory.Fit) -> UserError:
        """The line for a device that ran out of memory all the same."""
        return UserError(
            f"the device ran out of memory with micro-batches of {plan.micro_batch} "
            f"(planned: {plan.bytes / memory.GIB:.1f} GiB); "
            f"set train.micro_batch={max(1, plan.micro_batch // 2)} or train.memory_gb"
        )

    def _choose(self, batch: parts.Batch, count: int) -> memory.Fit:
        checkpointing = self._config.grad_checkpointing
        share = None if checkpointing == "auto" else float(checkpointing)
        if self._config.memory_gb is None and self._config.micro_batch is not None and share is not None:
            return memory.Fit(min(self._config.micro_batch, count), share, 0)  # nothing is left to choose
        plain, recomputed = self._measure(batch)
        layers = sum(self._towers.layers) if min(self._towers.layers) > 0 else 1
        costs = memory.Costs(self._fixed(batch, count), plain, recomputed, layers)
        budget = memory.budget_bytes(self._config.memory_gb, memory.parameter_bytes(self._towers), self._device)
        return memory.choose(count, costs, budget, share, self._config.micro_batch)

    def _measure(self, batch: parts.Batch) -> tuple[float, float]:
        """Bytes a pair with texts of full length, without and with recomputing."""
        if self._measured is None:
            context = int(getattr(self._towers.clip, "context_length", batch.tokens.shape[1]))
            part = parts.probe(batch, _PROBE, self._device, max(batch.tokens.shape[1], context))
            found = []
            for share in (0.0, 1.0):
                self._towers.recompute(share)
                with still_statistics(self._towers), torch.enable_grad():
                    found.append(memory.kept_bytes(self._towers, lambda: self._run(part)) / _PROBE)
            # Pictures as floats, twice while they are normalised; not kept, but there.
            floats = 2 * 4 * batch.pixels[0].numel()
            self._measured = found[0] + floats, min(found) + floats
        return self._measured

    def _fixed(self, batch: parts.Batch, count: int) -> int:
        """Weights, gradients, two moments, what processes exchange, a moving average, pictures, features, loss."""
        weights = memory.parameter_bytes(self._towers)
        copies = 4 + (world_size() > 1) + (self._config.ema_decay is not None)
        everyone = count * world_size()
        similarities = min(count * everyone, self._config.loss_tile**2)
        width = self._width()
        features = 4 * width * (4 * count + 4 * everyone * (world_size() > 1))
        return copies * weights + batch.pixels.nbytes + features + 4 * _NEEDED * _WAYS * similarities

    def _width(self) -> int:
        clip: Any = self._towers.clip
        return int(getattr(getattr(clip, "text", None), "output_dim", 1024))
