"""Pillow's bicubic crop of many pictures at once on their device, to the bit: crops drawn on the CPU, computed on a GPU.

    region of each picture that its crop reaches (``cut``) -> ``pack``: one run of bytes -> device -> ``resample``: [n, S, S, 3]

Pictures differ in size, so they lie behind each other, unpadded, and each output pixel gathers its taps: first along the
lines, then across them, in whole numbers with 22 bits behind the point, rounded after each pass, as Pillow's Resample.c
does. Whole numbers don't depend on who else is in the batch, so neither do the crops.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from biomedray.model.preprocess import BICUBIC_SUPPORT, Region

_BITS = 22
"""Behind the point of a weight: PRECISION_BITS of Resample.c."""
_A = -0.5
"""Its sharpness in Pillow."""
_AT_ONCE = 1 << 22
"""Output pixels of the first pass that are computed together: some 100 MB."""


@dataclass(frozen=True)
class Canvases:
    """Regions of n pictures to be made squares of one size."""

    flat: torch.Tensor
    """[P, 3] uint8, the regions' pixels, line by line, one region behind the other; on the device."""
    shapes: torch.Tensor
    """[n, 2] int64: height and width of each; in main memory."""
    boxes: torch.Tensor
    """[n, 4] float64: left, top, right, bottom of each crop; in main memory."""
    size: int
    """Side S of the results in pixels."""

    def __len__(self) -> int:
        return len(self.shapes)

    @property
    def nbytes(self) -> int:
        """What is sent to the device."""
        return sum(part.numel() * part.element_size() for part in (self.flat, self.shapes, self.boxes))

    def to(self, device: str) -> Canvases:
        """With the pixels on the device."""
        return replace(self, flat=self.flat.to(device, non_blocking=True))


def pack(regions: Sequence[Region], size: int, pin: bool = False) -> Canvases:
    """Regions one behind the other; ``pin``: in page-locked memory, from which a GPU fetches while it computes."""
    shapes = torch.tensor([region.pixels.shape[:2] for region in regions], dtype=torch.int64).view(-1, 2)
    flat = torch.empty((int(shapes.prod(1).sum()), 3), dtype=torch.uint8, pin_memory=pin)
    place, at = flat.numpy(), 0
    for region in regions:
        height, width = region.pixels.shape[:2]
        place[at : at + height * width].reshape(height, width, 3)[...] = region.pixels
        at += height * width
    return Canvases(flat, shapes, torch.tensor([region.box for region in regions], dtype=torch.float64).view(-1, 4), size)


def resample(canvases: Canvases) -> torch.Tensor:
    """[n, S, S, 3] uint8 on the device of the pixels: what ``Image.resize(box=..., resample=BICUBIC)`` makes of each."""
    size, device = canvases.size, canvases.flat.device
    found = torch.empty((len(canvases), size, size, 3), dtype=torch.uint8, device=device)
    pixels = canvases.shapes.prod(1).tolist()
    start = begin = 0
    for stop in _ends(canvases.shapes[:, 0].tolist(), size):
        end = begin + sum(pixels[start:stop])
        rows = slice(start, stop)
        found[rows] = _some(Canvases(canvases.flat[begin:end], canvases.shapes[rows], canvases.boxes[rows], size))
        start, begin = stop, end
    return found


def _ends(heights: list[int], size: int) -> list[int]:
    """Where to end each lot of pictures that is computed together."""
    ends, held = [], 0
    for number, height in enumerate(heights):
        if held and held + height * size > _AT_ONCE:
            ends.append(number)
            held = 0
        held += height * size
    return [*ends, len(heights)] if heights else []


def _some(canvases: Canvases) -> torch.Tensor:
    flat, size = canvases.flat, canvases.size
    heights, widths = canvases.shapes.to(flat.device, non_blocking=True).T
    across, down = (_Taps.of(canvases, axis) for axis in (0, 1))
    lines = int(canvases.shapes[:, 0].sum())
    picture = torch.repeat_interleave(torch.arange(len(canvases), device=flat.device), heights, output_size=lines)
    begins = torch.repeat_interleave(widths, heights, output_size=lines).cumsum(0) - widths[picture]
    wide = _gather(flat, begins[:, None] + across.first[picture], across.weights[picture])
    above = heights.cumsum(0) - heights
    return _gather(wide, above[:, None] + down.first, down.weights[:, :, None]).view(-1, size, size, 3)


def _gather(source: torch.Tensor, first: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Sum of [..., K] weights with the K entries of ``source`` [N, ...] from [...] ``first`` on, as bytes."""
    total = torch.full((*first.shape, *source.shape[1:]), 1 << (_BITS - 1), dtype=torch.int32, device=source.device)
    last = len(source) - 1
    for tap in range(weights.shape[-1]):
        entries = source[(first + tap).clamp_(max=last)]  # beyond a picture's end the weight is 0
        total.addcmul_(entries.int(), weights[..., tap].unsqueeze(-1))
    return total.bitwise_right_shift_(_BITS).clamp_(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class _Taps:
    """Of each output pixel along one axis: which inputs have a part in it, and what part."""

    first: torch.Tensor
    """[n, S] int64."""
    weights: torch.Tensor
    """[n, S, K] int32."""

    @classmethod
    def of(cls, canvases: Canvases, axis: int) -> _Taps:
        """Of the columns (axis 0) or the lines (1); precompute_coeffs and normalize_coeffs_8bpc of Resample.c."""
        size, device = canvases.size, canvases.flat.device
        widest = float((canvases.boxes[:, axis + 2] - canvases.boxes[:, axis]).amax())
        count = 2 * math.ceil(BICUBIC_SUPPORT * max(1.0, widest / size)) + 1
        start, stop = canvases.boxes.to(device, non_blocking=True)[:, [axis, axis + 2]].T[..., None]
        limit = canvases.shapes.to(device, non_blocking=True)[:, 1 - axis, None]
        step = (stop - start) / size
        filter_step = step.clamp(min=1.0)
        center = start + (torch.arange(size, device=device) + 0.5) * step
        first = (center - BICUBIC_SUPPORT * filter_step + 0.5).long().clamp_(min=0)
        end = torch.minimum((center + BICUBIC_SUPPORT * filter_step + 0.5).long(), limit)
        inputs = first[..., None] + torch.arange(count, device=device)
        parts = _bicubic((inputs - center[..., None] + 0.5) / filter_step[..., None])
        parts = torch.where(inputs < end[..., None], parts, 0.0)
        parts = parts / parts.sum(-1, keepdim=True) * (1 << _BITS)
        return cls(first, (parts + torch.copysign(torch.full_like(parts, 0.5), parts)).to(torch.int32))


def _bicubic(x: torch.Tensor) -> torch.Tensor:
    x = x.abs()
    near = ((_A + 2) * x - (_A + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * _A
    return torch.where(x < 1, near, torch.where(x < BICUBIC_SUPPORT, far, 0.0))
