"""What the adapters share: decoding, batches, unit vectors, the identity of files, and one line for what is missing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from biomedray import pixels
from biomedray.artifacts import fingerprint
from biomedray.errors import UserError
from biomedray.evaluate.models import Picture, Vectors

_BATCH = 64
WEIGHTS = ("model.safetensors", "pytorch_model.bin", "model.safetensors.index.json", "pytorch_model.bin.index.json")


@dataclass(frozen=True)
class Parts:
    """What an adapter has to bring."""

    name: str
    fingerprint: str
    logit_scale: float
    context_length: int
    transform: Callable[[Image.Image], torch.Tensor]
    """RGB picture -> [3, S, S]."""
    images: Callable[[torch.Tensor], torch.Tensor]
    """[n, 3, S, S] -> [n, D], of any length."""
    texts: Callable[[list[str]], torch.Tensor]
    """N texts -> [n, D], of any length."""


class Adapted:
    """A ``Model`` made of parts; sizes are what the towers give."""

    def __init__(self, parts: Parts, device: str) -> None:
        self.name = parts.name
        self.fingerprint = parts.fingerprint
        self.logit_scale = parts.logit_scale
        self.context_length = parts.context_length
        self.device = device
        self._parts = parts
        self.image_size, width, self.embed_dim = self._tried()
        if width != self.embed_dim:
            raise UserError(f"{self.name}: its pictures have {width} values, its texts {self.embed_dim}: not to be compared")

    def preprocess(self, image: Picture) -> torch.Tensor:
        """A file's bytes or its pixels -> [3, S, S] float32; pixels.PixelError: it is no image."""
        return self._transformed(pixels.picture(image))

    def encode_pixels(self, batch: torch.Tensor) -> Vectors:
        """[n, 3, S, S] -> [n, D] float32 unit vectors."""
        with torch.inference_mode():
            return self._unit(self._parts.images(batch.to(self.device)))

    def encode_images(self, images: Sequence[Picture]) -> Vectors:
        """N images -> [n, D] float32 unit vectors; pixels.PixelError: one of them is none."""
        parts = (torch.stack([self.preprocess(image) for image in batch]) for batch in _batches(images))
        return self._join(self.encode_pixels(part) for part in parts)

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """N texts -> [n, D] float32 unit vectors; what exceeds the context is cut off."""
        with torch.inference_mode():
            return self._join(self._unit(self._parts.texts(list(batch))) for batch in _batches(texts))

    def _tried(self) -> tuple[int, int, int]:
        """Side of its pictures, and how many values a picture and a text have: one of each is sent through."""
        try:
            blank = self._transformed(Image.new("RGB", (32, 32)))
            with torch.inference_mode():
                text = self._unit(self._parts.texts(["a"]))
            return int(blank.shape[-1]), self.encode_pixels(blank[None]).shape[1], text.shape[1]
        except Exception as error:  # whatever a stranger's model finds wrong with what every CLIP takes
            raise UserError(f"{self.name}: a picture or a text does not go through it: {line(error)}") from error

    def _transformed(self, image: Image.Image) -> torch.Tensor:
        return self._parts.transform(image).float()

    @staticmethod
    def _unit(features: torch.Tensor) -> Vectors:
        found: Vectors = functional.normalize(features.detach().float(), dim=-1).cpu().numpy()
        return found

    def _join(self, parts: Iterable[Vectors]) -> Vectors:
        return np.concatenate([np.zeros((0, self.embed_dim), np.float32), *parts])


def _batches(items: Sequence[Any]) -> Iterable[Sequence[Any]]:
    return (items[start : start + _BATCH] for start in range(0, len(items), _BATCH))


def identity(kind: str, files: Iterable[Path], *more: Any) -> str:
    """Fingerprint of the content of files and of what else decides the vectors."""
    digests = []
    for path in sorted(files):
        with path.open("rb") as file:
            digests.append([path.name, hashlib.file_digest(file, "sha256").hexdigest()])
    return fingerprint([kind, digests, *more])


def line(error: BaseException) -> str:
    """The first line of what another library says."""
    return ((str(error) or type(error).__name__).strip().splitlines() or [type(error).__name__])[0][:300]


@contextmanager
def quiet() -> Iterator[None]:
    """By default transformers shows a bar and lists every weight that it misses; one line of ours says it."""
    import transformers

    logging: Any = transformers.logging
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def fetch(name: str, kind: str, patterns: list[str]) -> Path:
    """The snapshot of a model on the Hugging Face hub, or in its cache.

    Raises:
        UserError: it can't be had.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except Exception as error:  # noqa: BLE001  # the hub client raises some twenty kinds; all mean: not to be had
        raise UserError(f"{kind}:{name}: no such folder, and it cannot be fetched from the hub ({line(error)})") from None
