"""What becomes of pictures and texts before the towers see them; needs no weights and no device.

bytes, pixels -> preprocess -> [3, S, S] float32              exactly as open_clip's eval transform (strips: its middle)
              -> preprocess_uint8 -> [S, S, 3] uint8 -> normalise (a batch, on its device): the same values, to the bit
texts         -> tokenize -> rows of ids -> stack: [n, L]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict
from PIL import Image
from torchvision.transforms import Compose

from biomedray import pixels
from biomedray.model import features, tokenizer, weights
from biomedray.model.preprocess import bounded, normalise

_TO_NUMBERS = 2
"""The transform's last steps: ToTensor and Normalize."""


class Front:
    """A model's tokenizer and preprocessing."""

    def __init__(self, opened: weights.OpenedModel) -> None:
        settings = eval_settings(opened)
        self.image_size = side(settings)
        self.tokens = tokenizer.Tokens(opened.tokenizer, trim=features.ignores_padding(opened.clip))
        self._transform: Callable[[Any], torch.Tensor] = image_transform_v2(PreprocessCfg(**settings), is_train=False)
        self._squared = Compose(self._transform.transforms[:-_TO_NUMBERS])
        self._mode = str(settings["resize_mode"])
        self._resample = Image.Resampling.BILINEAR if settings["interpolation"] == "bilinear" else Image.Resampling.BICUBIC
        self._mean, self._std = (torch.tensor(settings[name]) for name in ("mean", "std"))

    def preprocess(self, image: bytes | npt.NDArray[np.uint8]) -> torch.Tensor:
        """An image file's bytes, or its pixels -> [3, S, S] float32.

        Raises:
            pixels.PixelError: it is no image.
        """
        return self._transform(self._picture(image))

    def preprocess_uint8(self, image: bytes | npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """As ``preprocess``, [S, S, 3] before it is normalised: a quarter of the bytes."""
        return np.asarray(self._squared(self._picture(image)), np.uint8)

    def _picture(self, image: bytes | npt.NDArray[np.uint8]) -> Image.Image:
        return bounded(pixels.picture(image), self.image_size, self._mode, self._resample)

    def normalise(self, batch: torch.Tensor) -> torch.Tensor:
        """[n, S, S, 3] uint8 -> [n, 3, S, S] float32, on the batch's device."""
        return normalise(batch, self._mean.to(batch.device), self._std.to(batch.device)).contiguous()

    def tokenize(self, texts: Sequence[str]) -> list[tokenizer.Tokenized]:
        """Each text's token ids and how many there were before any cut; threads may share it."""
        return self.tokens.rows(texts)


def eval_settings(opened: weights.OpenedModel) -> dict[str, Any]:
    """The fields of open_clip's PreprocessCfg as the folder's configuration resolves them."""
    clip: Any = opened.clip
    settings = merge_preprocess_dict(PreprocessCfg(), opened.config.get("preprocess_cfg", {}))
    settings["size"] = clip.visual.image_size
    return asdict(PreprocessCfg(**settings))


def side(settings: dict[str, Any]) -> int:
    """Side in pixels of the square image that such settings make."""
    size = settings["size"]
    return int(size if isinstance(size, int) else size[0])
