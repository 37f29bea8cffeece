"""A process' share of a batch as micro-batches: pictures as they come, texts from short to long.

Pictures and texts need not go through the towers in pairs, since the loss sees all features at once; so texts of one
length share a micro-batch and hardly any padding is computed. The longest come last, whose graph is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from biomedray.model import features, grouping
from biomedray.model.dropout import row_keys
from biomedray.train.accumulate import Part

_TEXT_SIDE = 1  # seeds of the two towers' masks differ by this


@dataclass(frozen=True)
class Batch:
    """A process' share of a global batch."""

    pixels: torch.Tensor
    """[n, S, S, 3] uint8, on the device."""
    tokens: torch.Tensor
    """[n, L] token ids, in main memory."""
    seed: int
    """Of the global batch."""
    rank: int

    def keys(self, side: int) -> torch.Tensor:
        """[n] of the samples' masks in the image (0) or the text tower (1), by their place in the global batch."""
        return row_keys(2 * self.seed + side, self.rank * len(self.tokens), len(self.tokens))

    def part_seed(self, number: int) -> int:
        """For what draws from torch's own generator in a micro-batch."""
        return int(np.random.SeedSequence((self.seed, self.rank, number)).generate_state(1)[0])


@dataclass(frozen=True)
class Work:
    """The parts of a batch."""

    parts: tuple[Part, ...]
    back: torch.Tensor | None
    """[n] where each text stands in the joined parts; None: they stand in their order."""
    tokens: int

    @cached_property
    def padded(self) -> int:
        """Tokens that the text tower computes, padding included."""
        return sum(part.texts.padded for part in self.parts)


def split(batch: Batch, pieces: int, clip: Any, device: str, compiled: bool = False) -> Work:
    """At most ``pieces`` micro-batches of equal size but for the last."""
    count = len(batch.tokens)
    groups = features.ignores_padding(clip)
    lengths = _lengths(batch, clip, groups)
    order = np.argsort(lengths, kind="stable") if groups and pieces > 1 else np.arange(count)
    size = -(-count // pieces)
    image_keys, text_keys = batch.keys(0).to(device, non_blocking=True), batch.keys(_TEXT_SIDE)
    step = grouping.STEP_COMPILED if compiled or device.startswith("cuda") else grouping.STEP
    found = []
    for number, start in enumerate(range(0, count, size)):
        rows = order[start : start + size]
        tokens, keys = batch.tokens[rows], text_keys[rows]
        texts = grouping.group(tokens, lengths[rows], keys, device, step) if groups else grouping.one_group(tokens, keys, device)
        own = slice(start, start + size)
        found.append(Part(batch.pixels[own], image_keys[own], texts, batch.part_seed(number)))
    back = torch.from_numpy(np.argsort(order)).to(device) if groups and pieces > 1 else None
    return Work(tuple(found), back, int(lengths.sum()))


def probe(batch: Batch, pairs: int, device: str, length: int) -> Part:
    """``pairs`` pairs with texts of ``length`` tokens, to see what memory they take."""
    at = torch.arange(pairs) % len(batch.tokens)
    tokens = torch.full((pairs, length), 1, dtype=batch.tokens.dtype)
    kept = batch.tokens[at]
    tokens[:, : kept.shape[1]] = torch.where(kept == 0, tokens[:, : kept.shape[1]], kept)
    keys = batch.keys(0)[at]
    return Part(batch.pixels[at.to(batch.pixels.device)], keys.to(device), grouping.one_group(tokens, keys, device), 0)


def _lengths(batch: Batch, clip: Any, groups: bool) -> grouping.Lengths:
    if groups:
        return grouping.lengths_of(batch.tokens, features.pad_id(clip))
    return np.full(len(batch.tokens), batch.tokens.shape[1], dtype=np.int64)
