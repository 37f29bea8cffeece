"""What all workers of a run know of each other: means, the most, what the first holds, and which pairs a batch has."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import distributed

from biomedray.model.loss import world_size

T = TypeVar("T")
_WORD = 1 << 64


def mean(value: torch.Tensor) -> float:
    """Mean of a number over all workers."""
    if world_size() == 1:
        return float(value)
    total = value.detach().clone()
    distributed.all_reduce(total)
    return float(total) / world_size()


def most(value: int, device: str) -> int:
    """The largest of all workers' numbers."""
    if world_size() == 1:
        return value
    held = torch.tensor(value, device=device)
    distributed.all_reduce(held, op=distributed.ReduceOp.MAX)
    return int(held)


def from_first(value: T) -> T:
    """What the first worker holds."""
    if world_size() == 1:
        return value
    held = [value]
    distributed.broadcast_object_list(held, src=0)
    return held[0]


def fingerprint_of(pair_ids: Iterable[str], device: str) -> str:
    """16 hex digits for the pairs of all workers together, however they are dealt out: the sum of their ids' hashes."""
    own = sum(int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) for name in pair_ids) % _WORD
    held = torch.tensor(own - _WORD if own >> 63 else own, dtype=torch.int64, device=device)
    if world_size() > 1:
        distributed.all_reduce(held)  # whole numbers of 64 bits wrap around
    return f"{int(held) % _WORD:016x}"
