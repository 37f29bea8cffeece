"""Where to crop: on the CPU (``data.augment_on=cpu``), or on the device, for which the CPU only cuts out what a crop reaches.

    python benchmarks/train_crop.py

Reduced copies of pictures 4 by 3, short sides from R to 2R as the feed makes them. Rows: the crop by Pillow; what is left to
the CPU of a crop on the device (cut, and lay behind each other); that crop itself in torch, here on the same core (a GPU
takes it beside the step; not measured on a GPU). Microseconds of CPU a picture, one thread, median of rounds; ``bytes`` sent
for it, and as a share of a float image's. The crops are compared: they are the same to the bit.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image

from _measure import record
from biomedray.model.preprocess import Crop, Pixels, crop_box, cut, random_crop
from biomedray.model.resample import Canvases, pack, resample

_PICTURES, _ROUNDS = 64, 7


def main() -> None:
    """Measure and record."""
    torch.set_num_threads(1)
    rows = []
    for scale in ((0.9, 1.0), (0.5, 1.0)):
        crop = Crop(224, scale)
        copies = _copies(crop.reduced_side)
        canvases = _cut(copies, crop)
        assert np.array_equal(resample(canvases).numpy(), np.stack(_crops(copies, crop)))
        ways: dict[str, tuple[Callable[[], Any], int]] = {
            "crop on the CPU": (partial(_crops, copies, crop), 3 * crop.size**2),
            "cut on the CPU for a crop on the device": (partial(_cut, copies, crop), canvases.nbytes // _PICTURES),
            "crop in torch, on the CPU": (partial(resample, canvases), canvases.nbytes // _PICTURES),
        }
        seen: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(_ROUNDS):
            for name, (way, _sent) in ways.items():
                started = time.process_time()
                way()
                seen[name].append((time.process_time() - started) / _PICTURES * 1e6)
        for name, (_, sent) in ways.items():
            found = {"cpu_us": statistics.median(seen[name]), "bytes": sent, "of_float": sent / (4 * 3 * crop.size**2)}
            rows.append({"way": name, "smallest_crop": scale[0], **found})
    method = f"{_PICTURES} pictures, median of {_ROUNDS} rounds"
    record("train-crop", method, rows, torch=torch.__version__, gpu="not measured on a GPU")


def _copies(side: int) -> list[Pixels]:
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (_PICTURES, 40, 52, 3), dtype=np.uint8)
    sides = random.integers(side, 2 * side, _PICTURES).tolist()
    sizes = [(short * 4 // 3, short) for short in sides]
    return [np.asarray(Image.fromarray(one).resize(size)) for one, size in zip(noise, sizes, strict=True)]


def _crops(copies: list[Pixels], crop: Crop) -> list[Pixels]:
    return [random_crop(copy, crop, np.random.default_rng(i)) for i, copy in enumerate(copies)]


def _cut(copies: list[Pixels], crop: Crop) -> Canvases:
    boxes = [crop_box(copy.shape[1], copy.shape[0], crop, np.random.default_rng(i)) for i, copy in enumerate(copies)]
    return pack([cut(copy, box, crop.size) for copy, box in zip(copies, boxes, strict=True)], crop.size)


if __name__ == "__main__":
    main()
