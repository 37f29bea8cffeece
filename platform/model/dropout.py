"""Dropout whose mask is a function of (seed, sample, place), whatever else is in the batch.

A sample's key is a number made from the step's seed and the sample's position in the global batch. Masks are hashed
from it, so they are the same at any number of workers and micro-batches, however far a text is padded, and when a
layer is recomputed. Nothing is stored for the backward pass: the mask is hashed again.

    keep <=> hash(column) ^ hash(key, site, line), times an odd hash of the same, is not in the lowest p of its range
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

_WEYL = 0x9E3779B97F4A7C15  # SplitMix64 (Steele, Lea & Flood 2014) and its two multipliers
_M1 = 0xBF58476D1CE4E5B9
_M2 = 0x94D049BB133111EB
_LOW = 0xFFFFFFFF
_PATCHES = 1 << 20
"""The site of patch dropout, beyond those of any layer."""


def row_keys(seed: int, first: int, count: int) -> torch.Tensor:
    """[count] int64 keys of the samples at positions ``first``, ... of a global batch."""
    with np.errstate(over="ignore"):
        at = np.arange(first, first + count, dtype=np.uint64) + np.uint64(1)
        state = at * np.uint64(_WEYL) + np.uint64(seed % (1 << 64)) * np.uint64(_M1)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(_M1)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(_M2)
        state ^= state >> np.uint64(31)
    return torch.from_numpy(state.view(np.int64))


def random_keys(count: int, device: torch.device) -> torch.Tensor:
    """Keys from torch's own generator, for a tower that is run without a step around it."""
    return torch.randint(-(1 << 62), 1 << 62, (count,), device=device)


def drop(values: torch.Tensor, p: float, keys: torch.Tensor, site: int) -> torch.Tensor:
    """Dropout of [n, ..., lines, columns] with keys [n]: entries fall out with probability ``p``, the rest grow by 1 / (1 - p).

    ``site`` tells the places of a network apart. A line's mask does not depend on how many lines or columns there are.
    """
    if p == 0:
        return values
    shape = values.shape[1:-1]
    index = torch.zeros(shape, dtype=torch.int64, device=values.device)
    for axis, size in enumerate(shape):
        steps = torch.arange(size, device=values.device).view(-1, *[1] * (len(shape) - axis - 1))
        index = index * (1 << 20) + steps
    mixed = _mix(keys.view(-1, *[1] * len(shape)) ^ _mix(index + (site + 1) * (1 << 44)))
    offset = _int32(mixed).unsqueeze(-1)
    factor = _int32((mixed >> 32) | 1).unsqueeze(-1)
    column = _int32(_mix(torch.arange(values.shape[-1], device=values.device)))
    dropped: torch.Tensor = _Drop.apply(values, offset, factor, column, p)
    return dropped


def kept_patches(keys: torch.Tensor, patches: int, prob: float) -> torch.Tensor:
    """[n, kept] int64: which of a picture's patches stay, as many as timm and open_clip keep, in ascending order."""
    kept = max(1, int(patches * (1 - prob)))
    columns = torch.arange(patches, device=keys.device) + _PATCHES * (1 << 20)
    ranks = _mix(keys[:, None] ^ _mix(columns))
    return ranks.argsort(dim=1)[:, :kept].sort(dim=1).values


class SampledPatchDropout(nn.Module):
    """Takes the place of timm's and open_clip's PatchDropout; ``keys`` are set before each forward pass."""

    def __init__(self, prob: float, prefix: int) -> None:
        super().__init__()
        self.prob = prob
        self.prefix = prefix
        self.keys: torch.Tensor | None = None

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """[n, prefix + L, D] -> [n, prefix + kept, D]."""
        if not self.training or self.prob == 0:
            return tokens
        keys = random_keys(len(tokens), tokens.device) if self.keys is None else self.keys
        at = kept_patches(keys, tokens.shape[1] - self.prefix, self.prob) + self.prefix
        kept = tokens.gather(1, at[..., None].expand(-1, -1, tokens.shape[-1]))
        return torch.cat([tokens[:, : self.prefix], kept], dim=1)


class _Drop(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values: torch.Tensor, offset: torch.Tensor, factor: torch.Tensor, column: torch.Tensor, p: float
    ) -> torch.Tensor:
        ctx.save_for_backward(offset, factor, column)
        ctx.p = p
        return _masked(values, offset, factor, column, p)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:
        offset, factor, column = ctx.saved_tensors
        return _masked(gradients[0], offset, factor, column, ctx.p), None, None, None, None


def _masked(values: torch.Tensor, offset: torch.Tensor, factor: torch.Tensor, column: torch.Tensor, p: float) -> torch.Tensor:
    hashed = (offset ^ column).mul_(factor)
    lost = hashed < round(p * (1 << 32)) - (1 << 31)
    return (values * (1 / (1 - p))).masked_fill_(lost, 0)


def _mix(state: torch.Tensor) -> torch.Tensor:
    """SplitMix64's finaliser on int64, whose right shift must be made a logical one."""
    state = (state ^ _shifted(state, 30)) * _signed(_M1)
    state = (state ^ _shifted(state, 27)) * _signed(_M2)
    return state ^ _shifted(state, 31)


def _shifted(state: torch.Tensor, by: int) -> torch.Tensor:
    return (state >> by) & ((1 << (64 - by)) - 1)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _int32(state: torch.Tensor) -> torch.Tensor:
    """The low 32 bits."""
    low = state & _LOW
    return (low - ((low >> 31) << 32)).to(torch.int32)
