"""What the service does, apart from HTTP and Ray: embed, classify, search, fetch a figure.

    texts, images -> lanes (batchers, one model thread) -> vectors -> search (threads) -> hits

One replica process holds one engine. All coroutines belong to one event loop; nothing blocks it.
"""

from __future__ import annotations

import asyncio
import io
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from biomedray.errors import WorkError
from biomedray.serve.images import ImageStore, ImageUnavailableError, Picture
from biomedray.serve.inputs import ImageSource, Item, Text, texts_of
from biomedray.serve.lanes import EncoderLike, Lanes
from biomedray.serve.limits import Limits
from biomedray.serve.metrics import Metrics
from biomedray.serve.problems import Problem, bad_value
from biomedray.serve.search import Found, Index, Query

Vectors = NDArray[np.float32]
T = TypeVar("T")

_TEXT_CACHE = 4096
_CACHED_CHARS = 512
"""Of a text that is remembered; queries and prompts are shorter, and thousands of long texts would fill the memory."""
_POOL_THREADS = 2


class Engine:
    """An encoder, its batchers, and optionally an index with its figures."""

    def __init__(
        self,
        encoder: EncoderLike,
        index: Index | None = None,
        images: ImageStore | None = None,
        limits: Limits | None = None,
        metrics: Metrics | None = None,
        lanes: Lanes | None = None,
    ) -> None:
        """``metrics`` and ``lanes`` are those of the engine that this one replaces: with its lanes it shares the model."""
        self.encoder = encoder
        self.index = index
        self.images = images
        self.limits = limits or Limits()
        self.metrics = metrics or Metrics()
        self.metrics.index_rows.set(len(index) if index else 0)
        self.lanes = lanes or Lanes(encoder, self.limits, self.metrics)
        self._pool = ThreadPoolExecutor(_POOL_THREADS, "search")
        self._cache: OrderedDict[str, Vectors] = OrderedDict()

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
        (text_vectors, tokens), image_vectors = await _together(
            self.lanes.texts_counted(words), self.lanes.images(sources, names)
        )
        vectors[texts], vectors[pictures] = text_vectors, image_vectors
        return vectors, tokens

    async def classify(self, image: ImageSource, labels: Sequence[str], templates: Sequence[str]) -> tuple[Vectors, Vectors]:
        """Zero-shot: probabilities [n] and cosine similarities [n] of the labels.

        A class is the normalised mean of its prompts' embeddings, ``{}`` in a template being its label;
        probabilities are the softmax of logit scale times cosine, as in CLIP.
        """
        prompts = [template.replace("{}", label) for label in labels for template in templates]
        picture, prompt_vectors = await _together(self.lanes.images([image], ["image"]), self._embed_known_texts(prompts))
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
            vectors = await self.lanes.images([item], [param])
        vector: Vectors = vectors[0]
        return vector

    async def search(self, query: Query) -> Found:
        """Hits, the number of rows that passed the filters, and whether all shards answered.

        Raises:
            Problem: 404, there is no index; 503, no shard of it answers.
        """
        try:
            found: list[Found] = await self._off_loop(self._timed, "search", self.need_index().search_many, [query])
        except WorkError as error:
            raise Problem(503, str(error), "index_unavailable", retry_after=5) from None
        return found[0]

    async def known(self, pair_id: str) -> tuple[int, Vectors] | None:
        """Row and figure embedding [d] of a pair of the index, if it has it.

        Raises:
            Problem: as ``search``.
        """
        index = self.need_index()

        def look() -> tuple[int, Vectors] | None:
            row = index.row_of(pair_id)
            return None if row is None else (row, index.vector(row, "figure"))

        try:
            return await self._off_loop(look)
        except WorkError as error:
            raise Problem(503, str(error), "index_unavailable", retry_after=5) from None

    async def picture(self, pair_id: str, size: int | None) -> Picture:
        """A figure of the index: its file, or a thumbnail of ``size`` pixels.

        Raises:
            Problem: 404, the index has no such pair or its image can't be had.
        """
        images, index = self.images, self.need_index()

        def read() -> Picture | None:
            row = index.row_of(pair_id)
            if row is None or images is None:
                return None
            record = index.record(row)
            return images.original(record) if size is None else images.thumbnail(record, size)

        try:
            found: Picture | None = await self._off_loop(self._timed, "picture", read)
        except ImageUnavailableError as error:
            raise Problem(404, f"the figure can't be served: {error}", "image_unavailable", "pair_id") from None
        except WorkError as error:
            raise Problem(503, str(error), "index_unavailable", retry_after=5) from None
        if found is None:
            raise Problem(404, "no such pair in the index", "unknown_pair", "pair_id")
        return found

    def need_index(self) -> Index:
        """The index.

        Raises:
            Problem: 404, the service runs without one.
        """
        if self.index is None:
            raise Problem(404, "this service has no index; start it with --index", "no_index")
        return self.index

    async def warm_up(self) -> None:
        """Embed a text and an image, so that the first request finds everything loaded.

        Raises:
            RuntimeError: the model does not answer as it should.
        """
        blank = io.BytesIO()
        Image.new("RGB", (self.encoder.image_size, self.encoder.image_size)).save(blank, "PNG")
        await self.lanes.canary()
        await self.lanes.images([ImageSource(blank.getvalue())], ["image"])

    def update_gauges(self) -> None:
        """Bring the queue gauges up to date, before metrics are read."""
        for kind, count in self.lanes.pending().items():
            self.metrics.pending.labels(kind).set(count)

    def close(self, lanes: bool = True) -> None:
        """Let the index and the threads go; without ``lanes`` the model stays, for the engine that shares it."""
        if lanes:
            self.lanes.close()
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self.index is not None:
            self.index.close()

    async def _embed_known_texts(self, texts: Sequence[str]) -> Vectors:
        """As ``lanes.texts``, for what comes again and again: prompts of a label set, queries of a page."""
        found = {text: self._cache[text] for text in texts if text in self._cache}
        new = [text for text in dict.fromkeys(texts) if text not in found]
        found.update(zip(new, await self.lanes.texts(new), strict=True))
        self._remember(found)
        return self._stack([found[text] for text in texts])

    def _remember(self, found: dict[str, Vectors]) -> None:
        for text, vector in found.items():
            if len(text) <= _CACHED_CHARS:
                self._cache[text] = vector
                self._cache.move_to_end(text)
        while len(self._cache) > _TEXT_CACHE:
            self._cache.popitem(last=False)

    def _stack(self, rows: Sequence[Vectors]) -> Vectors:
        return np.stack(rows) if rows else np.empty((0, self.encoder.embed_dim), np.float32)

    def _timed(self, stage: str, call: Callable[..., T], *args: Any) -> T:
        started = time.monotonic()
        try:
            return call(*args)
        finally:
            self.metrics.observe_stage(stage, time.monotonic() - started)

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


async def _together(*coroutines: Any) -> list[Any]:
    """Run coroutines side by side; the first failure cancels the others."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
