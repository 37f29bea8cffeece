"""A loaded model with its preprocessing: image bytes and texts to unit vectors."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from biomedray.errors import UserError
from biomedray.model import backends, precision, weights
from biomedray.model.front import Front
from biomedray.model.tokenizer import Tokenized

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
    precision: str
    """What the towers compute in: float32 or bfloat16; vectors are normalised in float32."""
    backend: str
    """What computes them: torch or openvino."""

    def __init__(self, opened: weights.OpenedModel, name: str, device: str) -> None:
        clip: Any = opened.clip
        self.name = name
        self.device = device
        self.embed_dim = int(opened.config["model_cfg"]["embed_dim"])
        self.fingerprint = opened.fingerprint
        self.logit_scale = float(clip.logit_scale.detach().exp().mean())
        self._front = Front(opened)
        self.image_size = self._front.image_size
        self.context_length = self._front.tokens.context_length
        self._clip = clip
        self._towers: backends.Backend = backends.Torch(clip, device)
        self.precision, self.backend = "float32", "torch"

    @classmethod
    def load(cls, spec: str | Path, device: str = "cpu", precision: str = "float32", backend: str = "torch") -> Encoder:
        """Load a model folder, ``local-dir:FOLDER`` or ``hf-hub:org/name``; ``precision`` and ``backend`` as ``compute_in``.

        Raises:
            UserError: the model is missing, incomplete or not one that open_clip can load; or as ``compute_in``.
        """
        name = str(spec).split(":", 1)[-1].rstrip("/").rsplit("/", 1)[-1]
        encoder = cls(weights.open_folder(spec, device), name, device)
        encoder.compute_in(precision, backend)
        return encoder

    def compute_in(self, wanted: str, backend: str = "torch") -> None:
        """Compute in float32, in bfloat16, or (auto) in bfloat16 where the device has it; by torch or OpenVINO.

        Vectors of a few pictures and texts are compared with those before. Where their cosine is below 0.999, ``auto`` stays
        with float32 and logs a warning. Once in bfloat16 there is no way back.

        Raises:
            UserError: no such precision or backend, it is not installed, or the vectors differ.
        """
        half = precision.wanted(wanted, self.device)
        backends.check(backend, self.device)
        if not half and backend == "torch":
            return
        before = _probe(self._front, self._towers)
        towers, undo = backends.open_towers(self._clip, self.device, backend, half, self._shape())
        cosine = precision.lowest_cosine(before, _probe(self._front, towers))
        if cosine >= precision.LEAST_COSINE:
            self._towers, self.precision, self.backend = towers, "bfloat16" if half else "float32", backend
            return
        undo()
        line = f"{self.name}: its vectors in {'bfloat16' if half else 'float32'} by {backend} have a cosine of {cosine:.4f}"
        if wanted != "auto" or not half:
            raise UserError(f"{line} to those in float32 by torch; use precision float32 and backend torch")
        logging.getLogger(__name__).warning("%s to those in float32, so it stays with float32", line)
        self.compute_in("float32", backend)

    def let_go(self) -> None:
        """Forget the weights: what is left decodes, resizes and tokenizes for towers that run elsewhere."""
        self._clip = self._towers = None  # type: ignore[assignment]  # nothing embeds here any more

    def preprocess(self, image: bytes | npt.NDArray[np.uint8]) -> torch.Tensor:
        """An image file's bytes, or its pixels -> [3, S, S] float32, exactly as open_clip's eval transform.

        Raises:
            pixels.PixelError: it is no image.
        """
        return self._front.preprocess(image)

    def preprocess_uint8(self, image: bytes | npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """As ``preprocess``, but [S, S, 3] before it is normalised: a quarter of the bytes, and ``encode_pixels`` takes it.

        Raises:
            pixels.PixelError: it is no image.
        """
        return self._front.preprocess_uint8(image)

    def tokenize(self, texts: Sequence[str]) -> list[Tokenized]:
        """Each text's token ids, and how many there were before any cut; several threads may call it at a time."""
        return self._front.tokens.rows(texts)

    def encode_images(self, images: Sequence[bytes | npt.NDArray[np.uint8]]) -> Vectors:
        """N image files' bytes, or their pixels -> [n, D] float32 unit vectors.

        Raises:
            pixels.PixelError: one of them is no image.
        """
        parts = (torch.stack([self.preprocess(data) for data in batch]) for batch in _batches(images))
        return self._stack(self.encode_pixels(part) for part in parts)

    def encode_pixels(self, batch: torch.Tensor) -> Vectors:
        """[n, 3, S, S] preprocessed pixels, or [n, S, S, 3] uint8 ones -> [n, D] float32 unit vectors."""
        batch = batch.to(self.device)
        return _numpy(self._towers.images(self._front.normalise(batch) if batch.dtype is torch.uint8 else batch))

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """N texts -> [n, D] float32 unit vectors; what exceeds the context is cut off."""
        return self._stack(self.encode_tokens([row.ids for row in self.tokenize(batch)]) for batch in _batches(texts))

    def encode_tokens(self, rows: Sequence[npt.NDArray[np.int64]]) -> Vectors:
        """N texts' token ids, as ``tokenize`` gives them -> [n, D] float32 unit vectors."""
        return self._stack(_numpy(_texts(self._front, self._towers, batch)) for batch in _batches(rows))

    @property
    def packs(self) -> bool:
        """Whether texts of any lengths are embedded together at no cost for padding."""
        return self._towers.packs

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text before any cut, the start and end marks included."""
        return self._front.tokens.count(texts)

    def _shape(self) -> tuple[int, int | None]:
        return self.image_size, self._front.tokens.fixed_length

    def _stack(self, parts: Iterable[Vectors]) -> Vectors:
        return np.concatenate([np.zeros((0, self.embed_dim), np.float32), *parts])


def _probe(front: Front, towers: backends.Backend) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors of a noisy and a smooth picture and of a short and a long text."""
    size = front.image_size
    noise = torch.randint(0, 256, (size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    ramp = torch.linspace(0, 255, size).to(torch.uint8)[:, None, None].expand(size, size, 3)
    texts = ["chest radiograph", "Figure 2. CT of the abdomen: a lesion in the left lobe of the liver (arrow). " * 2]
    images = towers.images(front.normalise(torch.stack([noise, ramp])))
    return images.cpu(), _texts(front, towers, [row.ids for row in front.tokenize(texts)]).cpu()


def _texts(front: Front, towers: backends.Backend, rows: Sequence[npt.NDArray[np.int64]]) -> torch.Tensor:
    return towers.packed(rows) if towers.packs else towers.texts(front.tokens.stack(rows))


def _batches(items: Sequence[Any]) -> Iterable[Sequence[Any]]:
    return (items[start : start + _BATCH] for start in range(0, len(items), _BATCH))


def _numpy(batch: torch.Tensor) -> Vectors:
    vectors: Vectors = batch.cpu().numpy()
    return vectors
