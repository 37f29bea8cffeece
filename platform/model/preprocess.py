"""Image bytes to the pixels that training sees: a reduced copy, then a seeded random crop.

    bytes -> decode (scaled) -> reduced uint8, short side R to 2R -> random crop -> [3, S, S] uint8 -> normalise (in the step)

The reduced copy always stands between, so that keeping it in memory changes nothing but the speed.
Evaluation does not use this: it goes through open_clip's own transform (``Encoder.preprocess``), but for strips so long that
this would enlarge them beyond reason (``bounded``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from biomedray import pixels

Pixels = npt.NDArray[np.uint8]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""

# A panorama keeps at most this many times its short side, or one strip could fill the memory.
_MAX_ASPECT = 8
# No figure is longer than this; up to here open_clip's own transform is cheap, and what it does is not touched.
_STRIP_ASPECT = 32
_ATTEMPTS = 10
BICUBIC_SUPPORT = 2.0
"""Reach of the bicubic filter, in pixels of whichever side is coarser."""


@dataclass(frozen=True)
class Crop:
    """Settings of RandomResizedCrop."""

    size: int
    """Side S of the result in pixels."""
    scale: tuple[float, float] = (0.9, 1.0)
    """Share of the image's area that a crop may take; open_clip's default."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Width over height of the crop before it is resized to a square."""
    relative: bool = False
    """Whether ``ratio`` is a factor on the image's own, as fits a model that sees whole figures squashed to a square."""

    @property
    def reduced_side(self) -> int:
        """Short side R of the reduced copy: enough that the smallest crop is hardly enlarged."""
        return math.ceil(self.size * min(1.5, 1 / math.sqrt(self.scale[0])))


def reduce(data: bytes, short_side: int) -> Pixels:
    """Bytes of an image file -> [H, W, 3] uint8; as ``shrink``.

    Raises:
        pixels.PixelError: the bytes are no image.
    """
    image, _ = pixels.decode(data, short_side=short_side)
    return shrink(image, short_side)


def shrink(image: Image.Image, short_side: int) -> Pixels:
    """RGB image -> [H, W, 3] uint8 whose short side has ``short_side`` pixels or more, but less than twice as many.

    Whole pixels are averaged, at a fraction of the cost of interpolation: the crop interpolates, once. Smaller images stay.
    """
    if (factor := min(image.size) // short_side) >= 2:
        image = image.reduce(factor)
    longest = _MAX_ASPECT * short_side
    if max(image.size) > longest:
        width, height = image.size
        image = image.resize((min(width, longest), min(height, longest)), Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.uint8)


def random_crop(image: Pixels, crop: Crop, random: np.random.Generator) -> Pixels:
    """[H, W, 3] uint8 -> [S, S, 3] uint8, a RandomResizedCrop decided by ``random`` alone."""
    return squared(cut(image, crop_box(image.shape[1], image.shape[0], crop, random), crop.size), crop.size)


@dataclass(frozen=True)
class Region:
    """The part of a picture that a crop reaches."""

    pixels: Pixels
    """[h, w, 3]."""
    box: Box
    """The crop within it."""


def cut(image: Pixels, box: Box, size: int) -> Region:
    """What a bicubic crop of ``image`` [H, W, 3] to [size, size] needs of it."""
    height, width = image.shape[:2]
    (left, right), (top, bottom) = (_reach(box[axis], box[axis + 2], limit, size) for axis, limit in ((0, width), (1, height)))
    return Region(image[top:bottom, left:right], (box[0] - left, box[1] - top, box[2] - left, box[3] - top))


def _reach(start: float, stop: float, limit: int, size: int) -> tuple[int, int]:
    """First and last-plus-one pixel that has a part in any output pixel; as precompute_coeffs of Pillow's Resample.c."""
    step = (stop - start) / size
    support = BICUBIC_SUPPORT * max(1.0, step)
    return max(0, int(start + step / 2 - support + 0.5)), min(limit, int(stop - step / 2 + support + 0.5))


def squared(region: Region, size: int) -> Pixels:
    """The crop as [size, size, 3], bicubic.

    Along the lines first and then across them, in two calls: which comes first, with a rounding between, depends on the
    picture's shape in some versions of Pillow.
    """
    left, top, right, bottom = region.box
    image = Image.fromarray(region.pixels)
    image = image.resize((size, image.height), Image.Resampling.BICUBIC, box=(left, 0, right, image.height))
    return np.asarray(image.resize((size, size), Image.Resampling.BICUBIC, box=(0, top, size, bottom)), dtype=np.uint8)


def bounded(image: Image.Image, size: int, mode: str, resample: Image.Resampling) -> Image.Image:
    """The picture itself, or of a long strip what open_clip's transform to ``size`` pixels can go on with at a bounded cost.

    ``mode`` is open_clip's resize_mode: shortest enlarges a strip of 1 x 60,000 pixels to ``size`` x 60,000 ``size`` to keep
    its middle, longest makes a side of no pixel.
    """
    short, long = sorted(image.size)
    if long <= _STRIP_ASPECT * short:
        return image
    if mode == "shortest":
        return _middle(image, size, resample)
    if mode == "longest" and round(size * short / long) == 0:
        return image.resize((1, size) if image.height == long else (size, 1), resample)
    return image


def _middle(image: Image.Image, size: int, resample: Image.Resampling) -> Image.Image:
    """What is left where the short side becomes ``size`` pixels and the middle is cut out; only that part is computed."""
    axis = 0 if image.width > image.height else 1
    short, long = sorted(image.size)
    whole = int(size * long / short)  # as torchvision's Resize, then its CenterCrop
    start, step = round((whole - size) / 2), long / whole
    first, last = _reach(start * step, (start + size) * step, long, size)
    part, box = [0, 0, *image.size], [0.0, 0.0, *image.size]
    part[axis], part[axis + 2] = first, last
    box[axis], box[axis + 2] = start * step - first, (start + size) * step - first
    return image.crop((part[0], part[1], part[2], part[3])).resize((size, size), resample, (box[0], box[1], box[2], box[3]))


def crop_box(width: int, height: int, crop: Crop, random: np.random.Generator) -> Box:
    """Where ``random`` has a picture cropped; as torchvision: some attempts at scale and ratio, else the middle."""
    least, most = (ratio * (width / height if crop.relative else 1) for ratio in crop.ratio)
    log_ratio = np.log((least, most))
    for _ in range(_ATTEMPTS):
        area = width * height * random.uniform(*crop.scale)
        ratio = math.exp(random.uniform(*log_ratio))
        wide, high = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < high <= height:
            left, top = int(random.integers(0, width - wide + 1)), int(random.integers(0, height - high + 1))
            return left, top, left + wide, top + high
    ratio = min(max(width / height, least), most)
    wide, high = min(width, round(height * ratio)), min(height, round(width / ratio))
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high


def normalise(batch: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """[n, S, S, 3] uint8 -> [n, 3, S, S] float32, on whatever device the batch is."""
    values = batch.permute(0, 3, 1, 2).float().div_(255)
    return values.sub_(mean.view(1, 3, 1, 1)).div_(std.view(1, 3, 1, 1))
