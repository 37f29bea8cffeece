"""One model's two lanes, texts and images: prepared in threads, batched, run one batch at a time on the model's thread.

    texts  ----------------------------------> batcher --+
    images -> header, decode, resize (threads) -> batcher --+-> one model thread -> unit vectors

All coroutines belong to one event loop; nothing blocks it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from biomedray.serve.batcher import Batcher, BatcherOptions, ItemError, QueueFullError
from biomedray.serve.inputs import ImageSource, image_bytes, item_problem
from biomedray.serve.limits import Limits
from biomedray.serve.metrics import Metrics
from biomedray.serve.problems import Problem

Vectors = NDArray[np.float32]

_CANARY = "chest radiograph"
_CANARY_SECONDS = 5.0
_CANARY_COSINE = 0.999
_DECODE_THREADS = 2


class EncoderLike(Protocol):
    """What serving needs of biomedray.model.encoder.Encoder."""

    name: str
    embed_dim: int
    context_length: int
    image_size: int
    fingerprint: str
    logit_scale: float
    device: str

    def preprocess(self, data: bytes | NDArray[np.uint8]) -> torch.Tensor:
        """One image file's bytes, or its pixels -> [3, S, S] float32."""

    def encode_pixels(self, batch: torch.Tensor) -> Vectors:
        """[n, 3, S, S] -> [n, d] unit vectors."""

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Texts -> [n, d] unit vectors."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text."""


class Lanes:
    """An encoder, its two batchers and its threads."""

    def __init__(self, encoder: EncoderLike, limits: Limits, metrics: Metrics) -> None:
        self.encoder = encoder
        self.limits = limits
        self._metrics = metrics
        self._model = ThreadPoolExecutor(1, "model")
        self._decoders = ThreadPoolExecutor(_DECODE_THREADS, "decode")
        self._texts: Batcher[str, str, Vectors] = Batcher(
            self._run_texts, self._ready_text, self._model, self._options("text", limits.batch_texts, limits.queue_texts)
        )
        self._images: Batcher[ImageSource, torch.Tensor, Vectors] = Batcher(
            self._run_images, self._ready_image, self._model, self._options("image", limits.batch_images, limits.queue_images)
        )
        self._canary_vector: Vectors | None = None
        self._canary_at = -_CANARY_SECONDS
        self._canary_lock = asyncio.Lock()

    async def texts(self, texts: Sequence[str]) -> Vectors:
        """Embeddings [n, d] of texts.

        Raises:
            Problem: the queue is full (503).
        """
        return self._stack(await self._submit(self._texts, texts, ["input"] * len(texts)))

    async def images(self, sources: Sequence[ImageSource], names: Sequence[str]) -> Vectors:
        """Embeddings [n, d] of image files; ``names`` says how a refusal calls each.

        Raises:
            Problem: one can't be read (422, 413), or the queue is full (503).
        """
        return self._stack(await self._submit(self._images, sources, names))

    async def count_tokens(self, texts: Sequence[str]) -> int:
        """Tokens of all texts together; on the model's thread, since tokenizers are not safe to share."""
        if not texts:
            return 0
        return sum(await asyncio.get_running_loop().run_in_executor(self._model, self.encoder.count_tokens, list(texts)))

    async def canary(self) -> None:
        """Embed one known text and compare with its first embedding, at most every few seconds.

        Raises:
            RuntimeError: the model's answer has changed or is not finite.
        """
        async with self._canary_lock:
            if time.monotonic() - self._canary_at < _CANARY_SECONDS:
                return
            loop = asyncio.get_running_loop()
            vector = (await loop.run_in_executor(self._model, self.encoder.encode_texts, [_CANARY]))[0]
            reference = vector if self._canary_vector is None else self._canary_vector
            if not float(vector @ reference) > _CANARY_COSINE:
                raise RuntimeError("the canary embedding has changed")
            self._canary_vector, self._canary_at = reference, time.monotonic()

    def pending(self) -> dict[str, int]:
        """Items of each kind that wait or run."""
        return {"text": self._texts.pending, "image": self._images.pending}

    def wait(self, kind: str) -> float | None:
        """Seconds after which to come again if another item of this kind would be refused now."""
        most = self.limits.queue_images if kind == "image" else self.limits.queue_texts
        return 1.0 if self.pending()[kind] >= most else None

    def close(self) -> None:
        """Let the threads go."""
        for executor in (self._model, self._decoders):
            executor.shutdown(wait=False, cancel_futures=True)

    async def _submit(self, batcher: Batcher[Any, Any, Vectors], items: Sequence[Any], names: Sequence[str]) -> list[Vectors]:
        try:
            return await batcher.submit(items)
        except QueueFullError as error:
            raise Problem(503, "overloaded; try again later", "overloaded", retry_after=error.retry_after) from None
        except ItemError as error:
            raise item_problem(error.cause, names[error.index]) from None

    async def _ready_text(self, text: str) -> str:
        return text

    async def _ready_image(self, source: ImageSource) -> torch.Tensor:
        return await asyncio.get_running_loop().run_in_executor(self._decoders, self._decode, source)

    def _decode(self, source: ImageSource) -> torch.Tensor:
        return self.encoder.preprocess(image_bytes(source, self.limits))

    def _run_texts(self, texts: list[str]) -> list[Vectors]:
        return _checked(self.encoder.encode_texts(texts))

    def _run_images(self, batch: list[torch.Tensor]) -> list[Vectors]:
        return _checked(self.encoder.encode_pixels(torch.stack(batch)))

    def _options(self, kind: str, max_batch: int, max_pending: int) -> BatcherOptions:
        return BatcherOptions(max_batch, max_pending, partial(self._metrics.observe_batch, kind))

    def _stack(self, rows: Sequence[Vectors]) -> Vectors:
        return np.stack(rows) if rows else np.empty((0, self.encoder.embed_dim), np.float32)


def _checked(vectors: Vectors) -> list[Vectors]:
    if not np.isfinite(vectors).all():
        raise ValueError("the model answered with values that are not finite")
    return list(vectors)
