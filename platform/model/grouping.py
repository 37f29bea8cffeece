"""Texts of like length through the tower together: who is in the batch, and the order of its features, do not change.

    lengths -> groups, each padded to its own longest (a multiple of STEP) -> tower -> back into the batch's order

Where to cut is computed: the cheapest by padded tokens, where a group more costs as much as so many tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

Lengths = npt.NDArray[np.int64]

STEP = 8
"""Groups are padded to multiples of this on a CPU ..."""
STEP_COMPILED = 32
"""... and of this where kernels are compiled for each shape: at most 8 shapes of 256 tokens."""
_GROUP_COST = {"cpu": 64, "cuda": 4096}
"""What starting one more group costs, in tokens: launches of kernels that a GPU would use for so many more."""


@dataclass(frozen=True)
class Group:
    """Texts that go through the tower together."""

    tokens: torch.Tensor
    """[m, l] token ids."""
    keys: torch.Tensor | None
    """[m] of their dropout."""
    full: bool
    """None of them has padding."""


@dataclass(frozen=True)
class Texts:
    """A batch of texts in groups."""

    groups: tuple[Group, ...]
    back: torch.Tensor | None
    """[n] where each text stands in the joined groups; None: they stand in their order."""

    @property
    def padded(self) -> int:
        """Tokens that the tower computes, padding included."""
        return sum(group.tokens.numel() for group in self.groups)


def one_group(tokens: torch.Tensor, keys: torch.Tensor | None = None, device: str | torch.device = "cpu") -> Texts:
    """All texts together, as they are."""
    return Texts((Group(_moved(tokens, device), None if keys is None else _moved(keys, device), False),), None)


def group(
    tokens: torch.Tensor, lengths: Lengths, keys: torch.Tensor | None, device: str | torch.device = "cpu", step: int = STEP
) -> Texts:
    """[n, L] token ids on the CPU and how many of each row are no padding -> groups on ``device``."""
    order = np.argsort(lengths, kind="stable")
    parts, start = [], 0
    for stop, length in cuts(lengths[order], tokens.shape[1], step, _GROUP_COST.get(torch.device(device).type, STEP)):
        rows = torch.from_numpy(order[start:stop])
        full = bool((lengths[order[start:stop]] == length).all())
        own = None if keys is None else _moved(keys[rows], device)
        parts.append(Group(_moved(tokens[rows, :length], device), own, full))
        start = stop
    return Texts(tuple(parts), _moved(torch.from_numpy(np.argsort(order)), device))


def cuts(lengths: Lengths, longest: int, step: int, group_cost: int) -> list[tuple[int, int]]:
    """Where to cut ascending lengths: (row after the group, length it is padded to), cheapest in all."""
    rounded = np.minimum(-(-np.maximum(lengths, 1) // step) * step, longest)
    sizes, counts = np.unique(rounded, return_counts=True)
    ends = np.concatenate([[0], counts.cumsum()])
    cost = np.zeros(len(ends), dtype=np.int64)
    before = np.zeros(len(ends), dtype=np.int64)
    for j in range(1, len(ends)):
        ways = cost[:j] + group_cost + (ends[j] - ends[:j]) * sizes[j - 1]
        before[j] = ways.argmin()
        cost[j] = ways[before[j]]
    found, j = [], len(sizes)
    while j > 0:
        found.append((int(ends[j]), int(sizes[j - 1])))
        j = int(before[j])
    return found[::-1]


def lengths_of(tokens: torch.Tensor, pad: int) -> Lengths:
    """[n, L] token ids -> [n] how many of each row come before its padding."""
    columns = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
    found: Lengths = ((tokens != pad) * columns).amax(dim=1).clamp(min=1).cpu().numpy()
    return found


def _moved(values: torch.Tensor, device: str | torch.device) -> torch.Tensor:
    return values.to(device, non_blocking=True)
