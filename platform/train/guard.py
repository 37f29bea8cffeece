"""A watch over the loss: a batch that poisons training is left out, and broken weights go back to good ones.

loss, gradient norm -> fine    -> update; now and then a copy of this state, which was just seen to work
                    -> poisoned -> no update; twice in a row: back to the copy
                       more than ``guard_skips`` in the last 1,000 steps: the run ends with one line
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any

import torch

from biomedray.errors import WorkError
from biomedray.train.presets import LoopConfig

_WINDOW = 1000
_COPY_EVERY = 100
_MEMORY = 0.98
"""Weight of the past in the running mean of the loss."""
_WARM = 20
"""Steps before a loss can be called too large."""

State = dict[str, Any]


class Guard:
    """Decides about each step; ``save`` returns the whole state of model and optimiser, ``restore`` puts one back."""

    def __init__(self, config: LoopConfig, save: Callable[[], State], restore: Callable[[State], None]) -> None:
        self._config = config
        self._save, self._restore = save, restore
        self._good: State | None = None
        self._mean = 0.0
        self._steps = 0
        self._accepted = 0
        self._skipped: deque[int] = deque()
        self._in_a_row = 0

    @property
    def mean(self) -> float:
        """Running mean of the loss."""
        return self._mean

    def judge(self, loss: float, norm: float) -> str | None:
        """None if the step may be taken, else one line on what was done instead; call before the update.

        Raises:
            WorkError: it happened too often.
        """
        self._steps += 1
        reason = self._reason(loss, norm)
        if reason is None:
            self._accept(loss)
            return None
        self._in_a_row += 1
        self._skipped.append(self._steps)
        while self._skipped[0] <= self._steps - _WINDOW:
            self._skipped.popleft()
        if len(self._skipped) > self._config.guard_skips:
            raise WorkError(
                f"training diverged: {reason}, after {len(self._skipped) - 1} batches left out; "
                f"lower train.lr (now {self._config.lr:g}) or set train.grad_clip, and start into a new folder"
            )
        if self._in_a_row > 1 and self._good is not None:
            self._restore(self._good)
            return f"{reason}: batch left out, weights back to those of the last good copy"
        return f"{reason}: batch left out"

    def _reason(self, loss: float, norm: float) -> str | None:
        if not math.isfinite(loss):
            return f"loss {loss}"
        if not math.isfinite(norm):
            return f"gradient norm {norm}"
        factor = self._config.guard_spike
        if factor is not None and self._accepted >= _WARM and loss > factor * self._mean + 1:
            return f"loss {loss:.3g} after a mean of {self._mean:.3g}"
        return None

    def _accept(self, loss: float) -> None:
        if self._accepted % _COPY_EVERY == 0 or self._good is None:
            self._good = to_host(self._save())
        memory = min(_MEMORY, self._accepted / (self._accepted + 1))
        self._mean = memory * self._mean + (1 - memory) * loss
        self._accepted += 1
        self._in_a_row = 0

    def state_dict(self) -> State:
        """For a checkpoint; without the copy, which the checkpoint itself is."""
        plain = {"mean": self._mean, "steps": self._steps, "accepted": self._accepted, "in_a_row": self._in_a_row}
        return {**plain, "skipped": list(self._skipped)}

    def load_state_dict(self, state: State) -> None:
        """From a checkpoint."""
        self._mean, self._steps = float(state["mean"]), int(state["steps"])
        self._accepted, self._in_a_row = int(state["accepted"]), int(state["in_a_row"])
        self._skipped = deque(state["skipped"])
        self._good = None


def to_host(value: Any) -> Any:
    """A copy in main memory of everything in it."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: to_host(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_host(item) for item in value]
    return value
