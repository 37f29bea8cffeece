"""A loaded model with its preprocessing: image bytes and texts to unit vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict

from biomedray import pixels
from biomedray.model import features, tokenizer, weights

Vectors = npt.NDArray[np.float32]

_BATCH = 64


class Encoder:
    """Both towers of a model, ready to embed; pure torch, no gradients."""

    name: str
    embed_dim: int
    """Length D of an embedding."""
    context_length: int
    """Most tokens of a text that the model sees."""
    image_size: int
    """Side S in pixels of the square that the image tower sees."""
    fingerprint: str
    """Identity of weights, tokenizer and settings, wherever the folder lies."""
    logit_scale: float
    """Factor on cosine similarities that turns them into logits."""
    device: str

    def __init__(self, opened: weights.OpenedModel, name: str, device: str) -> None:
        clip: Any = opened.clip
        self.name = name
        self.device = device
        self.embed_dim = int(opened.config["model_cfg"]["embed_dim"])
        self.fingerprint = opened.fingerprint
        self.logit_scale = float(clip.logit_scale.detach().exp().mean())
        settings = eval_settings(opened)
        self.image_size = side(settings)
        self._clip = clip
        self._tokens = tokenizer.Tokens(opened.tokenizer, trim=features.ignores_padding(clip))
        self.context_length = self._tokens.context_length
        self._transform: Callable[[Any], torch.Tensor] = image_transform_v2(PreprocessCfg(**settings), is_train=False)

    @classmethod
    def load(cls, spec: str | Path, device: str = "cpu") -> Encoder:
        """Load a model folder, ``local-dir:FOLDER`` or ``hf-hub:org/name``.

        Raises:
            UserError: the model is missing, incomplete or not one that open_clip can load.
        """
        name = str(spec).split(":", 1)[-1].rstrip("/").rsplit("/", 1)[-1]
        return cls(weights.open_folder(spec, device), name, device)

    def preprocess(self, image: bytes | npt.NDArray[np.uint8]) -> torch.Tensor:
        """An image file's bytes, or its pixels -> [3, S, S] float32, exactly as open_clip's eval transform.

        Raises:
            pixels.PixelError: it is no image.
        """
        return self._transform(pixels.picture(image))

    def encode_images(self, images: Sequence[bytes | npt.NDArray[np.uint8]]) -> Vectors:
        """N image files' bytes, or their pixels -> [n, D] float32 unit vectors.

        Raises:
            pixels.PixelError: one of them is no image.
        """
        parts = (torch.stack([self.preprocess(data) for data in batch]) for batch in _batches(images))
        return self._stack(self.encode_pixels(part) for part in parts)

    def encode_pixels(self, batch: torch.Tensor) -> Vectors:
        """[n, 3, S, S] preprocessed pixels -> [n, D] float32 unit vectors."""
        with torch.inference_mode():
            return _numpy(features.image_features(self._clip, batch.to(self.device)))

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """N texts -> [n, D] float32 unit vectors; what exceeds the context is cut off."""
        return self._stack(self._encode_tokens(self._tokens(batch)) for batch in _batches(texts))

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text before any cut, the start and end marks included."""
        return self._tokens.count(texts)

    def _encode_tokens(self, tokens: torch.Tensor) -> Vectors:
        with torch.inference_mode():
            return _numpy(features.text_features(self._clip, tokens.to(self.device)))

    def _stack(self, parts: Iterable[Vectors]) -> Vectors:
        return np.concatenate([np.zeros((0, self.embed_dim), np.float32), *parts])


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


def _batches(items: Sequence[Any]) -> Iterable[Sequence[Any]]:
    return (items[start : start + _BATCH] for start in range(0, len(items), _BATCH))


def _numpy(batch: torch.Tensor) -> Vectors:
    vectors: Vectors = batch.cpu().numpy()
    return vectors
