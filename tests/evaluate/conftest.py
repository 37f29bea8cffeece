"""What tests of evaluation share: every layout of labelled images in miniature."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from biomedray.pixels import decode


@pytest.fixture(scope="session")
def mini(load_module: Callable[[Path], ModuleType]) -> ModuleType:
    """The makers of miniatures."""
    return load_module(Path(__file__).parent / "miniatures.py")


class BrightnessModel:
    """Pictures embed as their brightness, an angle; texts as the brightness of the class whose words they hold."""

    name = "brightness"
    fingerprint = "brightness-1"
    embed_dim = 2
    logit_scale = 20.0
    context_length = 16
    image_size = 8
    device = "cpu"

    def __init__(self, words: dict[str, float], *, noise: float = 0.0) -> None:
        self.words = words
        self.noise = noise

    def preprocess(self, image: bytes | np.ndarray) -> torch.Tensor:
        picture = decode(image)[0] if isinstance(image, bytes) else Image.fromarray(image).convert("RGB")
        small = np.asarray(picture.resize((8, 8)), dtype=np.float32) / 255
        return torch.from_numpy(small).permute(2, 0, 1)

    def encode_pixels(self, batch: torch.Tensor) -> np.ndarray:
        bright = batch.mean(dim=(1, 2, 3)).numpy()
        rough = batch.numpy().reshape(len(batch), -1).std(axis=1)
        return _on_circle(bright + self.noise * np.sin(1e4 * rough))

    def encode_images(self, images: list[bytes]) -> np.ndarray:
        return self.encode_pixels(torch.stack([self.preprocess(one) for one in images]))

    def encode_texts(self, texts: list[str]) -> np.ndarray:
        longest = [max((word for word in self.words if word in text), key=len, default="") for text in texts]
        return _on_circle(np.array([self.words.get(word, 0.5) for word in longest]))


def _on_circle(bright: np.ndarray) -> np.ndarray:
    angle = bright * np.pi / 2
    return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


@pytest.fixture(scope="session")
def brightness_model() -> type[BrightnessModel]:
    """A model whose answers are plain to compute; its miniatures' class i has a brightness of 60 + 60 i of 255."""
    return BrightnessModel
