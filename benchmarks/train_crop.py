"""Where to crop: the seeded crop on the CPU as it is, against what a crop on the device would need of the CPU and send.

    python benchmarks/train_crop.py

A crop on the device wants pictures of one size, so each reduced copy must be resized to a square on the CPU first, and the
whole square is sent. Rows: that resize; the crop as it is (Pillow, bicubic); the crop in torch (bilinear, no filter for
shrinking) on the same core. Microseconds of CPU a picture, one thread, median of rounds; ``bytes`` sent for it, and as a
share of a float image's.
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
from torch.nn import functional

from _measure import record
from biomedray.model.preprocess import Crop, random_crop

_PICTURES, _ROUNDS = 64, 7


def main() -> None:
    """Measure and record."""
    torch.set_num_threads(1)
    rows = []
    for scale in ((0.9, 1.0), (0.5, 1.0)):
        crop = Crop(224, scale)
        side = crop.reduced_side
        noise = np.random.default_rng(0).integers(0, 256, (_PICTURES, 40, 52, 3), dtype=np.uint8)
        copies = [np.asarray(Image.fromarray(one).resize((side * 4 // 3, side), Image.Resampling.BICUBIC)) for one in noise]
        squares = torch.from_numpy(np.stack(_squares(copies, side)))
        ways: dict[str, tuple[Callable[[], Any], int]] = {
            "resize to a square (CPU's part of a crop on the device)": (partial(_squares, copies, side), side),
            "crop on the CPU": (partial(_crops, copies, crop), crop.size),
            "crop in torch, on the CPU": (partial(_in_torch, squares, scale[0], crop.size), side),
        }
        seen: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(_ROUNDS):
            for name, (way, _side) in ways.items():
                started = time.process_time()
                way()
                seen[name].append((time.process_time() - started) / _PICTURES * 1e6)
        for name, (_, sent) in ways.items():
            found = {"cpu_us": statistics.median(seen[name]), "bytes": 3 * sent**2, "of_float": sent**2 / (4 * crop.size**2)}
            rows.append({"way": name, "smallest_crop": scale[0], **found})
    record("train-crop", f"{_PICTURES} pictures, median of {_ROUNDS} rounds", rows, torch=torch.__version__)


def _squares(copies: list[np.ndarray], side: int) -> list[np.ndarray]:
    return [np.asarray(Image.fromarray(copy).resize((side, side), Image.Resampling.BICUBIC)) for copy in copies]


def _crops(copies: list[np.ndarray], crop: Crop) -> list[np.ndarray]:
    return [random_crop(copy, crop, np.random.default_rng(i)) for i, copy in enumerate(copies)]


def _in_torch(squares: torch.Tensor, share: float, size: int) -> torch.Tensor:
    boxes = torch.zeros(len(squares), 2, 3)
    boxes[:, 0, 0] = boxes[:, 1, 1] = share**0.5
    grid = functional.affine_grid(boxes, [len(squares), 3, size, size], align_corners=False)
    return functional.grid_sample(squares.permute(0, 3, 1, 2).float(), grid, padding_mode="border", align_corners=False)


if __name__ == "__main__":
    main()
