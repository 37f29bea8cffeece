"""A slow copy of the weights: their exponential moving average over steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Ema:
    """Average of a model's parameters in float32, on their device; buffers are taken as they are.

    The decay rises to its value as (1 + t) / (10 + t), so that the first weights are soon forgotten.
    """

    def __init__(self, clip: nn.Module, decay: float) -> None:
        self._decay = decay
        self._steps = 0
        self._names = [name for name, _ in clip.named_parameters()]
        self._live = [parameter for _, parameter in clip.named_parameters()]
        self._slow = [parameter.detach().float().clone() for parameter in self._live]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are now."""
        self._steps += 1
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        torch._foreach_lerp_(self._slow, [parameter.detach().float() for parameter in self._live], 1 - decay)

    @torch.no_grad()
    def copy_to(self, clip: nn.Module) -> None:
        """Give a model of the same layout these weights."""
        for parameter, slow in zip(clip.parameters(), self._slow, strict=True):
            parameter.copy_(slow)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"steps": self._steps, "weights": dict(zip(self._names, self._slow, strict=True))}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint."""
        self._steps = int(state["steps"])
        for name, slow in zip(self._names, self._slow, strict=True):
            slow.copy_(state["weights"][name])
