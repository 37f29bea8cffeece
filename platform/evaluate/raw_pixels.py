"""The floor of a probe: the pixels themselves at 28 px, which an encoder has to beat."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from biomedray.errors import WorkError
from biomedray.evaluate.samples import Sample
from biomedray.evaluate.sets import ImageSet
from biomedray.pixels import PixelError, decode

SIDE = 28
_STRETCH = 256


def raw_pixels(data: ImageSet, split: str, ids: Sequence[str]) -> NDArray[np.uint8]:
    """[n, 28, 28, 3] pixels of these samples of a split, in this order; wide pictures are squeezed, not cut.

    Raises:
        WorkError: one of them can't be decoded.
    """
    wanted = {name: row for row, name in enumerate(ids)}
    found = np.zeros((len(ids), SIDE, SIDE, 3), np.uint8)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, data.size(split), _STRETCH):
            samples = [one for one in data.read(split, start, start + _STRETCH) if one.id in wanted]
            for sample, small in zip(samples, pool.map(_small, samples), strict=True):
                found[wanted[sample.id]] = small
    return found


def as_features(parts: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
    """[n, d] features of each part; one channel where every picture of all parts is grey."""
    grey = all((part[..., :1] == part).all() for part in parts)
    return [np.divide((part[..., 0] if grey else part).reshape(len(part), -1), 255, dtype=np.float32) for part in parts]


def _small(sample: Sample) -> NDArray[np.uint8]:
    try:
        picture = decode(sample.image)[0] if isinstance(sample.image, bytes) else Image.fromarray(sample.image).convert("RGB")
    except PixelError as error:
        raise WorkError(f"{sample.id}: could be embedded but not decoded again ({error})") from None
    return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.uint8)
