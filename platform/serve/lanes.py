"""One model's two lanes, texts and images: prepared in threads, batched, run one batch at a time on the model's thread.

    texts  -> token ids (a thread) -------------> batcher: tokens; like lengths together --+
    images -> header, decode, resize (threads) -> batcher: pixels, as uint8 ---------------+-> model thread -> unit vectors
    canary ------------------------------------------------------- ahead of both queues ---+   (or a coroutine that asks
                                                                                               another process)
All coroutines belong to one event loop; nothing blocks it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from biomedray.model.tokenizer import Tokenized
from biomedray.serve import canary, rates
from biomedray.serve.batcher import Batcher, BatcherOptions, DeadlineError, ItemError, QueueFullError
from biomedray.serve.canary import Canary, Health
from biomedray.serve.inputs import ImageSource, image_bytes, item_problem
from biomedray.serve.limits import Limits
from biomedray.serve.metrics import Metrics
from biomedray.serve.problems import Problem

Vectors = NDArray[np.float32]
Ids = NDArray[np.int64]
Pixels = NDArray[np.uint8]
T = TypeVar("T")

_CANARY = "chest radiograph"
_TOKENIZED_TOGETHER = 64
# Groups of texts that are with the tokenizer's thread, one of which runs: the canary's text waits for no more than these.
_TOKENIZED_AHEAD = 2
# What starting a batch costs, in tokens: for the CPU measured by benchmarks/serve_encoders.py, for a GPU an estimate.
_START_TOKENS = {"cpu": 64, "cuda": 4096}
_BATCH_TOKENS = {"cpu": 2048, "cuda": 4096}


class EncoderLike(Protocol):
    """What serving needs of biomedray.model.encoder.Encoder."""

    name: str
    embed_dim: int
    context_length: int
    image_size: int
    fingerprint: str
    logit_scale: float
    device: str
    packs: bool

    def preprocess_uint8(self, image: bytes | Pixels) -> Pixels:
        """One image file's bytes, or its pixels -> [S, S, 3]."""

    def encode_pixels(self, batch: torch.Tensor) -> Vectors:
        """[n, S, S, 3] uint8 -> [n, d] unit vectors."""

    def tokenize(self, texts: Sequence[str]) -> list[Tokenized]:
        """Each text's token ids; called by several threads at a time."""

    def encode_tokens(self, rows: Sequence[Ids]) -> Vectors:
        """Token ids of n texts -> [n, d] unit vectors."""


@dataclass(frozen=True)
class Towers:
    """The model where it runs: in this process, on a thread of its own, or behind coroutine functions (no executor)."""

    texts: Callable[[list[Ids]], Any]
    """Token ids of n texts -> [n, d], or a coroutine of that."""
    images: Callable[[list[Pixels]], Any]
    """N times [S, S, 3] uint8 -> [n, d], or a coroutine of that."""
    executor: Executor | None
    workers: int = 1
    """Models behind the coroutine functions."""

    @classmethod
    def here(cls, encoder: EncoderLike) -> Towers:
        """In this process."""
        threads = torch.get_num_threads()

        def begin() -> None:
            torch.set_num_threads(threads)  # a new thread of the interpreter does not inherit it

        def images(batch: list[Pixels]) -> Vectors:
            return encoder.encode_pixels(torch.from_numpy(np.stack(batch)))

        return cls(encoder.encode_tokens, images, ThreadPoolExecutor(1, "model", begin))

    async def run(self, call: Callable[[Any], Any], batch: Any) -> Vectors:
        """One of both, wherever it runs."""
        if self.executor is None:
            return _checked(await call(batch))
        return _checked(await asyncio.get_running_loop().run_in_executor(self.executor, call, batch))


class Lanes:
    """An encoder, its two batchers, its canary and its threads."""

    def __init__(
        self,
        encoder: EncoderLike,
        limits: Limits,
        metrics: Metrics,
        towers: Towers | None = None,
        threads: int | None = None,
    ) -> None:
        """``threads`` decode; None: as many as limits say."""
        self.encoder = encoder
        self.limits = limits
        self._metrics = metrics
        self._towers = towers or Towers.here(encoder)
        self._decoders = ThreadPoolExecutor(threads or limits.prepare_threads or _decoders(encoder.device), "decode")
        self._tokenizer = ThreadPoolExecutor(1, "tokenize")
        self._turns = asyncio.Semaphore(_TOKENIZED_AHEAD)
        self._texts: Batcher[str, Tokenized, tuple[Vectors, int]] = Batcher(
            self._run_texts, self._ready_texts, None, self._text_options(), lambda row: len(row.ids)
        )
        self._images: Batcher[ImageSource, Pixels, Vectors] = Batcher(
            self._run_images, self._ready_images, None, self._image_options()
        )
        self._canary = Canary(self._canary_vector)

    async def texts(self, texts: Sequence[str], deadline: float | None = None) -> Vectors:
        """Embeddings [n, d] of texts; ``deadline`` by the event loop's clock, None: ``limits.request_seconds`` from now.

        Raises:
            Problem: the queue is full, or the deadline has passed (503).
        """
        vectors, _ = await self.texts_counted(texts, deadline)
        return vectors

    async def texts_counted(self, texts: Sequence[str], deadline: float | None = None) -> tuple[Vectors, int]:
        """As ``texts``, and the tokens of all texts together before any cut."""
        found = await self._submit(self._texts, texts, ["input"] * len(texts), deadline)
        return self._stack([vector for vector, _ in found]), sum(count for _, count in found)

    async def images(self, sources: Sequence[ImageSource], names: Sequence[str], deadline: float | None = None) -> Vectors:
        """Embeddings [n, d] of image files; ``names`` says how a refusal calls each; ``deadline`` as for ``texts``.

        Raises:
            Problem: one can't be read (422, 413), the queue is full, or the deadline has passed (503).
        """
        return self._stack(await self._submit(self._images, sources, names, deadline))

    def health(self) -> Health:
        """Whether the model answers, and as it did at first; (ok, seconds since the last good canary, reason), at once."""
        self._canary.start()
        return self._canary.health()

    async def canary(self) -> None:
        """Ask the model now.

        Raises:
            RuntimeError: the model's answer has changed or is not finite, or there is none.
        """
        if not (health := await self._canary.ask()).ok:
            raise RuntimeError(health.reason)

    def pending(self) -> dict[str, int]:
        """Items of each kind that wait or run."""
        return {"text": self._texts.pending, "image": self._images.pending}

    def full(self, kind: str) -> bool:
        """Whether another item of a kind (text, image) would be refused now."""
        return self._lane(kind).full

    def retry_after(self, kind: str) -> float:
        """Seconds until what is pending of a kind will have run, as measured; from 1 to 30."""
        return self._lane(kind).retry_after

    def wait(self, kind: str) -> float | None:
        """None while there is room for another item of a kind, else as ``retry_after``."""
        return self.retry_after(kind) if self.full(kind) else None

    def close(self) -> None:
        """Let the threads go; what waits fails."""
        self._canary.close()
        for lane in (self._texts, self._images):
            lane.close()
        for executor in (self._towers.executor, self._decoders, self._tokenizer):
            if executor is not None:
                executor.shutdown(wait=False, cancel_futures=True)

    def _lane(self, kind: str) -> Batcher[Any, Any, Any]:
        lanes: dict[str, Batcher[Any, Any, Any]] = {"text": self._texts, "image": self._images}
        return lanes[kind]

    async def _submit(
        self, lane: Batcher[Any, Any, T], items: Sequence[Any], names: Sequence[str], deadline: float | None
    ) -> list[T]:
        self._canary.start()
        rates.spend(len(items))
        if deadline is None:
            deadline = asyncio.get_running_loop().time() + self.limits.request_seconds
        try:
            return await lane.submit(items, deadline)
        except QueueFullError as error:
            raise Problem(503, "overloaded; try again later", "overloaded", retry_after=error.retry_after) from None
        except DeadlineError:
            raise Problem(503, "not done in time; try again later", "timeout", retry_after=lane.retry_after) from None
        except ItemError as error:
            raise item_problem(error.cause, names[error.index]) from None

    # ---- prepare

    async def _ready_texts(self, texts: Sequence[str]) -> list[Tokenized]:
        async with self._turns:
            return await self._tokenize(texts)

    async def _tokenize(self, texts: Sequence[str]) -> list[Tokenized]:
        return await asyncio.get_running_loop().run_in_executor(self._tokenizer, self.encoder.tokenize, list(texts))

    async def _ready_images(self, sources: Sequence[ImageSource]) -> list[Pixels]:
        loop = asyncio.get_running_loop()
        return [await loop.run_in_executor(self._decoders, self._decode, source) for source in sources]

    def _decode(self, source: ImageSource) -> Pixels:
        started = time.monotonic()
        pixels = self.encoder.preprocess_uint8(image_bytes(source, self.limits))
        self._metrics.observe_stage("decode", time.monotonic() - started)
        return pixels

    # ---- run

    async def _run_texts(self, batch: list[Tokenized]) -> list[tuple[Vectors, int]]:
        vectors = await self._timed(self._towers.texts, [row.ids for row in batch])
        return [(vector, row.count) for vector, row in zip(vectors, batch, strict=True)]

    async def _run_images(self, batch: list[Pixels]) -> list[Vectors]:
        return list(await self._timed(self._towers.images, batch))

    async def _timed(self, call: Callable[[Any], Any], batch: Any) -> Vectors:
        started = time.monotonic()
        vectors = await self._towers.run(call, batch)
        self._metrics.observe_stage("model", time.monotonic() - started)
        self._canary.sign_of_life()
        return vectors

    async def _canary_vector(self) -> Vectors:
        """Ahead of what waits, by the way that texts go: at most a batch of each lane is before it.

        The model's answers to pictures don't show that the tokenizer hangs, so its time is bounded here.
        """
        (row,) = await asyncio.wait_for(self._tokenize([_CANARY]), canary.STALE_SECONDS)
        vector: Vectors = (await self._towers.run(self._towers.texts, [row.ids]))[0]
        return vector

    # ---- bounds

    def _text_options(self) -> BatcherOptions:
        limits, device = self.limits, self.encoder.device.split(":")[0]
        start = None if self._packs else _START_TOKENS.get(device, _START_TOKENS["cuda"])
        budget = limits.batch_tokens or _BATCH_TOKENS.get(device, _BATCH_TOKENS["cuda"])
        return self._options("text", limits.batch_texts, limits.queue_texts, budget, start, _TOKENIZED_TOGETHER)

    def _image_options(self) -> BatcherOptions:
        limits, area = self.limits, self.encoder.image_size**2
        most = max(1, min(limits.batch_images, limits.batch_pixels // area))
        return self._options("image", most, limits.queue_images, None, 0, 1)

    @property
    def _packs(self) -> bool:
        return self._towers.executor is not None and self.encoder.packs

    def _options(
        self, kind: str, items: int, pending: int, budget: int | None, padding: int | None, together: int
    ) -> BatcherOptions:
        return BatcherOptions(
            max_batch=items,
            max_pending=pending,
            budget=budget,
            padding=padding,
            max_seconds=self.limits.queue_seconds,
            together=together,
            workers=self._towers.workers,
            ahead=0 if self._towers.executor is not None and self.encoder.device == "cpu" else 1,
            observe=partial(self._metrics.observe_batch, kind),
            waited=partial(self._metrics.observe_stage, "queue"),
        )

    def _stack(self, rows: Sequence[Vectors]) -> Vectors:
        return np.stack(rows) if rows else np.empty((0, self.encoder.embed_dim), np.float32)


def _decoders(device: str) -> int:
    return max(2, torch.get_num_threads() // 2 if device == "cpu" else os.cpu_count() or 2)


def _checked(vectors: Vectors) -> Vectors:
    if not np.isfinite(vectors).all():
        raise ValueError("the model answered with values that are not finite")
    return vectors
