"""What the service does, apart from HTTP and Ray: embed, classify, search, fetch a figure.

    texts  --------------------------> batcher --+
    images -> header, decode (threads) -> batcher --+-> one model thread -> vectors -> search (threads) -> hits

One replica process holds one engine. All coroutines belong to one event loop; nothing blocks it.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from biomedray.serve.batcher import Batcher, BatcherOptions, ItemError, QueueFullError
from biomedray.serve.images import ImageStore, ImageUnavailableError, Picture
from biomedray.serve.inputs import ImageSource, Item, Text, image_bytes, item_problem, texts_of
from biomedray.serve.limits import Limits
from biomedray.serve.metrics import Metrics
from biomedray.serve.problems import Problem, bad_value
from biomedray.serve.search import Hit, Query, SearchIndex

Vectors = NDArray[np.float32]
T = TypeVar("T")

_CANARY = "chest radiograph"
_CANARY_SECONDS = 5.0
_CANARY_COSINE = 0.999
_TEXT_CACHE = 4096
_POOL_THREADS = 2


class EncoderLike(Protocol):
    """What serving needs of biomedray.model.encoder.Encoder."""

    name: str
    embed_dim: int
    context_length: int
    image_size: int
    fingerprint: str
    logit_scale: float
    device: str

    def preprocess(self, data: bytes) -> torch.Tensor:
        """One image file's bytes -> [3, S, S] float32."""

    def encode_pixels(self, batch: torch.Tensor) -> Vectors:
        """[n, 3, S, S] -> [n, d] unit vectors."""

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Texts -> [n, d] unit vectors."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text."""


class Engine:
    """An encoder, its batchers, and optionally an index with its figures."""

    def __init__(
        self,
        encoder: EncoderLike,
        index: SearchIndex | None = None,
        images: ImageStore | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.encoder = encoder
        self.index = index
        self.images = images
        self.limits = limits or Limits()
        self.metrics = Metrics()
        self.metrics.index_rows.set(len(index) if index else 0)
        self._model = ThreadPoolExecutor(1, "model")
        self._decoders = ThreadPoolExecutor(_POOL_THREADS, "decode")
        self._pool = ThreadPoolExecutor(_POOL_THREADS, "search")
        self._texts: Batcher[str, str, Vectors] = Batcher(
            self._run_texts,
            self._ready_text,
            self._model,
            self._options("text", self.limits.batch_texts, self.limits.queue_texts),
        )
        self._images: Batcher[ImageSource, torch.Tensor, Vectors] = Batcher(
            self._run_images,
            self._ready_image,
            self._model,
            self._options("image", self.limits.batch_images, self.limits.queue_images),
        )
        self._cache: OrderedDict[str, Vectors] = OrderedDict()
        self._canary_vector: Vectors | None = None
        self._canary_at = -_CANARY_SECONDS
        self._canary_lock = asyncio.Lock()

    async def embed(self, items: Sequence[Item], param: str = "input") -> tuple[Vectors, int]:
        """Embeddings [n, d] in the order of the items, and the tokens of their texts.

        Raises:
            Problem: an item can't be embedded (422, 413), or the queue is full (503).
        """
        texts = [number for number, item in enumerate(items) if isinstance(item, Text)]
        pictures = [number for number, item in enumerate(items) if isinstance(item, ImageSource)]
        sources = [item for item in items if isinstance(item, ImageSource)]
        vectors = np.empty((len(items), self.encoder.embed_dim), np.float32)
        names = [param if len(items) == 1 else f"{param}[{number}]" for number in pictures]
        words = texts_of(items)
        text_vectors, image_vectors, tokens = await _together(
            self._embed_texts(words), self._embed_images(sources, names), self.count_tokens(words)
        )
        vectors[texts], vectors[pictures] = text_vectors, image_vectors
        return vectors, tokens

    async def count_tokens(self, texts: Sequence[str]) -> int:
        """Tokens of all texts together; on the model's thread, since tokenizers are not safe to share."""
        if not texts:
            return 0
        return sum(await asyncio.get_running_loop().run_in_executor(self._model, self.encoder.count_tokens, list(texts)))

    async def classify(self, image: ImageSource, labels: Sequence[str], templates: Sequence[str]) -> tuple[Vectors, Vectors]:
        """Zero-shot: probabilities [n] and cosine similarities [n] of the labels.

        A class is the normalised mean of its prompts' embeddings, ``{}`` in a template being its label;
        probabilities are the softmax of logit scale times cosine, as in CLIP.
        """
        prompts = [template.replace("{}", label) for label in labels for template in templates]
        picture, prompt_vectors = await _together(self._embed_images([image], ["image"]), self._embed_known_texts(prompts))
        classes = prompt_vectors.reshape(len(labels), len(templates), -1).mean(axis=1)
        classes /= np.maximum(np.linalg.norm(classes, axis=1, keepdims=True), 1e-12)
        cosines: Vectors = classes @ picture[0]
        logits = self.encoder.logit_scale * cosines.astype(np.float64)
        weights = np.exp(logits - logits.max())
        return (weights / weights.sum()).astype(np.float32), cosines

    async def query_vector(self, item: Item, param: str) -> Vectors:
        """The embedding [d] of a query; a text that was asked lately is not encoded again."""
        if isinstance(item, Text):
            vectors = await self._embed_known_texts([item.value])
        else:
            vectors = await self._embed_images([item], [param])
        vector: Vectors = vectors[0]
        return vector

    async def search(self, query: Query) -> tuple[list[Hit], int]:
        """Hits and the number of rows that passed the filters."""
        return await self._off_loop(self.need_index().search, query)

    async def picture(self, pair_id: str, size: int | None) -> Picture:
        """A figure of the index: its file, or a thumbnail of ``size`` pixels.

        Raises:
            Problem: 404, the index has no such pair or its image can't be had.
        """
        index = self.need_index()
        row = index.row_of(pair_id)
        if row is None or self.images is None:
            raise Problem(404, "no such pair in the index", "unknown_pair", "pair_id")
        record = index.record(row)
        read = self.images.original if size is None else partial(self.images.thumbnail, size=size)
        try:
            return await self._off_loop(read, record)
        except ImageUnavailableError as error:
            raise Problem(404, f"the figure can't be served: {error}", "image_unavailable", "pair_id") from None

    def need_index(self) -> SearchIndex:
        """The index.

        Raises:
            Problem: 404, the service runs without one.
        """
        if self.index is None:
            raise Problem(404, "this service has no index; start it with --index", "no_index")
        return self.index

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

    def update_gauges(self) -> None:
        """Bring the queue gauges up to date, before metrics are read."""
        self.metrics.pending.labels("text").set(self._texts.pending)
        self.metrics.pending.labels("image").set(self._images.pending)

    def close(self) -> None:
        """Let the threads go."""
        for executor in (self._model, self._decoders, self._pool):
            executor.shutdown(wait=False, cancel_futures=True)

    async def _embed_texts(self, texts: Sequence[str]) -> Vectors:
        return self._stack(await self._submit(self._texts, texts, ["input"] * len(texts)))

    async def _embed_known_texts(self, texts: Sequence[str]) -> Vectors:
        """As ``_embed_texts``, for what comes again and again: prompts of a label set, queries of a page."""
        found = {text: self._cache[text] for text in texts if text in self._cache}
        new = [text for text in dict.fromkeys(texts) if text not in found]
        found.update(zip(new, await self._embed_texts(new), strict=True))
        self._remember(found)
        return self._stack([found[text] for text in texts])

    async def _embed_images(self, sources: Sequence[ImageSource], names: Sequence[str]) -> Vectors:
        return self._stack(await self._submit(self._images, sources, names))

    async def _submit(self, batcher: Batcher[Any, Any, Vectors], items: Sequence[Any], names: Sequence[str]) -> list[Vectors]:
        try:
            return await batcher.submit(items)
        except QueueFullError as error:
            raise Problem(503, "overloaded; try again later", "overloaded", retry_after=error.retry_after) from None
        except ItemError as error:
            raise item_problem(error.cause, names[error.index]) from None

    def _remember(self, found: dict[str, Vectors]) -> None:
        for text, vector in found.items():
            self._cache[text] = vector
            self._cache.move_to_end(text)
        while len(self._cache) > _TEXT_CACHE:
            self._cache.popitem(last=False)

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
        return BatcherOptions(max_batch, max_pending, partial(self.metrics.observe_batch, kind))

    def _stack(self, rows: Sequence[Vectors]) -> Vectors:
        return np.stack(rows) if rows else np.empty((0, self.encoder.embed_dim), np.float32)

    async def _off_loop(self, call: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, call, *args)


def unit(vector: NDArray[Any], param: str) -> Vectors:
    """A vector [d] scaled to length one.

    Raises:
        Problem: it is zero or not finite.
    """
    largest = float(np.abs(vector).max())
    if not np.isfinite(largest) or largest < np.finfo(np.float32).tiny:
        raise bad_value(f"{param}: a finite vector that is not zero is wanted", param)
    scaled = vector.astype(np.float64) / largest
    return (scaled / np.linalg.norm(scaled)).astype(np.float32)


def _checked(vectors: Vectors) -> list[Vectors]:
    if not np.isfinite(vectors).all():
        raise ValueError("the model answered with values that are not finite")
    return list(vectors)


async def _together(*coroutines: Any) -> list[Any]:
    """Run coroutines side by side; the first failure cancels the others."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
