"""How a batch fits into memory at the least work: plain, some layers recomputed, micro-batches, or both.

    two small forward passes -> bytes a pair that the backward pass needs, with and without recomputing
    a budget                 -> the cheapest (share of layers, micro-batches) that fits

Work is counted in forward passes: a step is 3; recomputing a share s of the layers adds s; k micro-batches add 1 - 1/k.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn

from biomedray.errors import UserError
from biomedray.model.loss import world_size

GIB = 1 << 30
_SLACK = 1.25
"""What the backward pass takes beside what the forward pass kept: gradients of activations, work space."""
_SHARE_OF_FREE = 0.8
"""Of memory that is free when nothing is said."""


@dataclass(frozen=True)
class Costs:
    """Bytes, of one process."""

    fixed: int
    """Weights, gradients, the optimiser's moments, features and loss."""
    pair: float
    """What one pair keeps for the backward pass."""
    pair_recomputed: float
    """The same with all layers recomputed."""
    layers: int
    """Steps between none and all; 1 if only all or none of them can be."""


@dataclass(frozen=True)
class Fit:
    """How a local batch is taken through."""

    micro_batch: int
    share: float
    """Of the layers that are recomputed in the backward pass."""
    bytes: int
    """What it is expected to need."""

    def pieces(self, batch: int) -> int:
        """Micro-batches of a local batch."""
        return math.ceil(batch / self.micro_batch)

    def work(self, batch: int) -> float:
        """Forward passes that it costs."""
        return 3 + self.share + (1 - 1 / self.pieces(batch))


def choose(batch: int, costs: Costs, budget: int, share: float | None = None, micro_batch: int | None = None) -> Fit:
    """The least work that fits ``budget`` bytes for a local batch; ``share`` and ``micro_batch`` are what is already set.

    Raises:
        UserError: not even single pairs with all layers recomputed fit; the line says what is needed.
    """
    shares = [step / costs.layers for step in range(costs.layers + 1)] if share is None else [share]
    found = [fit for one in shares if (fit := _largest(batch, costs, budget, one, micro_batch)) is not None]
    if found:
        return min(found, key=lambda fit: (fit.work(batch), -fit.micro_batch))
    least = _needs(micro_batch or 1, costs, 1.0 if share is None else share)
    raise UserError(
        f"memory of {budget / GIB:.2f} GiB a worker: too little, weights and optimiser take {costs.fixed / GIB:.2f} GiB and "
        f"micro-batches of {micro_batch or 1} bring it to {least / GIB:.2f} GiB; raise train.memory_gb, lower train.micro_batch, "
        "or take a smaller model"
    )


def _largest(batch: int, costs: Costs, budget: int, share: float, micro_batch: int | None) -> Fit | None:
    """The largest micro-batch that fits with this share of layers recomputed."""
    each = _slope(costs, share)
    free = budget - _needs(0, costs, share)
    most = min(batch, int(free // each) if free > 0 else 0)
    size = most if micro_batch is None else min(micro_batch, batch)
    if size < 1 or size > most:
        return None
    even = math.ceil(batch / math.ceil(batch / size)) if micro_batch is None else size
    return Fit(even, share, _needs(even, costs, share))


def _slope(costs: Costs, share: float) -> float:
    """Bytes of one more pair; a recomputed layer is whole for a moment."""
    saved = costs.pair - costs.pair_recomputed
    moment = saved / max(1, costs.layers) if share > 0 else 0.0
    return max(1.0, _SLACK * min(costs.pair, costs.pair - share * saved + moment))


def _needs(pairs: int, costs: Costs, share: float) -> int:
    return int(costs.fixed + pairs * _slope(costs, share))


def budget_bytes(memory_gb: float | None, weights: int, device: str) -> int:
    """Memory of one process: as set, or most of what is free beside the weights that are already there."""
    if memory_gb is not None:
        return int(memory_gb * GIB)
    return int(_SHARE_OF_FREE * _free(device)) + weights


def _free(device: str) -> int:
    if device.startswith("cuda"):
        free, _ = torch.cuda.mem_get_info(device)
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", "0")) or world_size()
    return _free_here() // beside


def _free_here() -> int:
    """Bytes that this machine, or the container, can still give."""
    free = int(psutil.virtual_memory().available)
    with contextlib.suppress(OSError, ValueError):  # no control group, or one without a limit ("max")
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current"))
        free = min(free, max(0, limit - used))
    return free


def kept_bytes(modules: nn.Module, forward: Callable[[], Any]) -> int:
    """Bytes that ``forward`` keeps for its backward pass, weights not counted; nothing is changed but the random state."""
    weights = {value.untyped_storage().data_ptr() for value in (*modules.parameters(), *modules.buffers())}
    seen: dict[int, int] = {}
    held: list[torch.Tensor] = []

    def pack(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in weights and storage.data_ptr() not in seen:
            seen[storage.data_ptr()] = storage.nbytes()
            held.append(value)  # else its address could be used again
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        outputs = forward()
    total = sum(seen.values())
    del outputs
    held.clear()
    return total


def parameter_bytes(modules: nn.Module) -> int:
    """Bytes of all weights."""
    return sum(value.numel() * value.element_size() for value in modules.parameters())
