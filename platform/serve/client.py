"""Clients of the service, waiting and asyncio: texts and images to arrays, searches to hits, patience while it is busy.

    with Client("http://127.0.0.1:8000", key="...") as client:
        vectors = client.embed_texts(["a chest radiograph"])        # [1, d] float32, unit length
        hits = client.search(image=Path("mine.png").read_bytes(), k=5)

``AsyncClient`` has the same methods to await, and keeps several requests under way. Lists of any length are cut to the
limits that /v1/info tells; 408, 429, 503 and lost connections are tried again, as Retry-After says and a little later.
Texts, images and keys are neither logged nor part of an error.
"""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypedDict, TypeVar, Unpack

import httpx

from biomedray.errors import WorkError
from biomedray.serve import calls
from biomedray.serve.calls import Call, Parts, Patience, Plan, Query, RefusedError, Target, Tries, Vectors

__all__ = ["AsyncClient", "Client", "RefusedError", "shrink_image"]

T = TypeVar("T")
Make = Callable[[dict[str, Any]], Plan[T]]
_JPEG_QUALITY = 95


class Options(TypedDict, total=False):
    """How patient a client is, and what it does to images; as ``_Base`` says."""

    timeout: float
    retries: int
    deadline: float
    shrink: int | None


class _Base:
    """What both clients are made of."""

    def __init__(
        self,
        url: str,
        key: str | None = None,
        timeout: float = 120.0,
        retries: int = 5,
        deadline: float = 300.0,
        shrink: int | None = None,
    ) -> None:
        """``timeout`` of one try and ``deadline`` of one request with all its tries, in seconds; ``key`` if one is set.

        ``shrink`` makes images smaller before they are sent, to that many pixels on the short side (448 is twice what
        ViT-B/16 sees). That saves 5 to 10 times of upload and of the service's decoding, but it is off unless asked
        for, since a picture that is scaled twice has a slightly other vector than the original file.

        Raises:
            WorkError: the URL is none.
        """
        if not url.startswith(("http://", "https://")):
            raise WorkError(f"{url}: the address of a service is wanted, such as http://127.0.0.1:8000")
        self._url = url
        self._headers = {} if key is None else {"authorization": f"Bearer {key}"}
        self._timeout = timeout
        self._patience = Patience(retries, deadline)
        self._shrink = shrink
        self._about: dict[str, Any] | None = None

    def __repr__(self) -> str:
        """Without the key."""
        return f"{type(self).__name__}({self._url!r})"

    def _options(self, call: Call, tries: Tries) -> dict[str, Any]:
        return {**call.options, "timeout": min(self._timeout, tries.left())}

    def _ready(self, images: Sequence[bytes]) -> Sequence[bytes]:
        return images if self._shrink is None else [shrink_image(data, self._shrink) for data in images]

    def _query(self, image: bytes | None, **parts: Any) -> Query:
        return Query(image=None if image is None else self._ready([image])[0], **parts)


class Client(_Base):
    """Talks to one service and waits; use it as a context manager or call ``close``. Threads may share it."""

    def __init__(
        self, url: str, key: str | None = None, *, transport: httpx.BaseTransport | None = None, **more: Unpack[Options]
    ) -> None:
        """As ``_Base``: ``timeout``, ``retries``, ``deadline``, ``shrink``."""
        super().__init__(url, key, **more)
        self._http = httpx.Client(base_url=url, headers=self._headers, transport=transport)

    def __enter__(self) -> Client:
        """Use in a with statement."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def info(self) -> dict[str, Any]:
        """Model, index and limits of the service, asked anew."""
        self._about = self._do(calls.info())
        return self._about

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """Texts -> [n, d] float32 unit vectors, in order.

        Raises:
            RefusedError: the service refuses a text (``item`` says which) or stays busy.
        """
        return self._within(lambda about: calls.embed_texts(texts, about))

    def embed_images(self, images: Sequence[bytes]) -> Vectors:
        """Bytes of image files -> [n, d] float32 unit vectors, in order.

        Raises:
            RefusedError: the service refuses an image (``item`` says which) or stays busy.
        """
        return self._within(lambda about: calls.embed_images(self._ready(images), about))

    def classify(self, image: bytes, labels: Sequence[str], templates: Sequence[str] | None = None) -> dict[str, float]:
        """Zero-shot: label -> probability, likeliest first."""
        return self._do(calls.classify(self._ready([image])[0], labels, templates))

    def search(
        self,
        text: str | None = None,
        image: bytes | None = None,
        k: int = 10,
        target: Target = "figure",
        filters: Mapping[str, Any] | None = None,
        collapse_duplicates: bool = True,
        **parts: Unpack[Parts],
    ) -> list[dict[str, Any]]:
        """Hits, best first, as docs/reference/http.md says; ``parts``: vector, pair_id, minus, weights."""
        return self._do(calls.search(self._query(image, text=text, **parts), k, target, filters, collapse_duplicates))

    def proxy(
        self,
        image: bytes | None = None,
        vector: Vectors | None = None,
        k: int = 5,
        min_score: float | None = None,
        filters: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Public figures that may stand in for a private image: ``proxies``, and a ``note`` when there is none."""
        return self._do(calls.proxy(self._query(image, vector=vector), k, min_score, filters))

    def figure(self, pair_id: str, size: int | None = None) -> bytes:
        """The file of a figure, or a JPEG of at most ``size`` pixels a side."""
        return self._do(calls.figure(pair_id, size))

    def _within(self, make: Make[T]) -> T:
        return self._do(make(self._about or self.info()))

    def _do(self, plan: Plan[T]) -> T:
        return plan.read([self._send(call) for call in plan.calls])

    def _send(self, call: Call) -> httpx.Response:
        tries = Tries(call, self._patience)
        while True:
            outcome: httpx.Response | httpx.RequestError
            try:
                outcome = self._http.request(call.method, call.path, **self._options(call, tries))
            except httpx.RequestError as error:
                outcome = error
            pause = tries.pause(outcome)
            if pause is None:
                assert not isinstance(outcome, httpx.RequestError)
                return outcome
            time.sleep(pause)


class AsyncClient(_Base):
    """As ``Client``, to await; a long list has ``in_flight`` requests under way at a time."""

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        in_flight: int = 4,
        transport: httpx.AsyncBaseTransport | None = None,
        **more: Unpack[Options],
    ) -> None:
        """As ``_Base``: ``timeout``, ``retries``, ``deadline``, ``shrink``."""
        super().__init__(url, key, **more)
        self._http = httpx.AsyncClient(base_url=url, headers=self._headers, transport=transport)
        self._in_flight = in_flight

    async def __aenter__(self) -> AsyncClient:
        """Use in an async with statement."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections."""
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def info(self) -> dict[str, Any]:
        """As ``Client.info``."""
        self._about = await self._do(calls.info())
        return self._about

    async def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """As ``Client.embed_texts``."""
        return await self._within(lambda about: calls.embed_texts(texts, about))

    async def embed_images(self, images: Sequence[bytes]) -> Vectors:
        """As ``Client.embed_images``."""
        ready = await asyncio.to_thread(self._ready, images)
        return await self._within(lambda about: calls.embed_images(ready, about))

    async def classify(self, image: bytes, labels: Sequence[str], templates: Sequence[str] | None = None) -> dict[str, float]:
        """As ``Client.classify``."""
        return await self._do(calls.classify(self._ready([image])[0], labels, templates))

    async def search(
        self,
        text: str | None = None,
        image: bytes | None = None,
        k: int = 10,
        target: Target = "figure",
        filters: Mapping[str, Any] | None = None,
        collapse_duplicates: bool = True,
        **parts: Unpack[Parts],
    ) -> list[dict[str, Any]]:
        """As ``Client.search``."""
        return await self._do(calls.search(self._query(image, text=text, **parts), k, target, filters, collapse_duplicates))

    async def proxy(
        self,
        image: bytes | None = None,
        vector: Vectors | None = None,
        k: int = 5,
        min_score: float | None = None,
        filters: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """As ``Client.proxy``."""
        return await self._do(calls.proxy(self._query(image, vector=vector), k, min_score, filters))

    async def figure(self, pair_id: str, size: int | None = None) -> bytes:
        """As ``Client.figure``."""
        return await self._do(calls.figure(pair_id, size))

    async def _within(self, make: Make[T]) -> T:
        return await self._do(make(self._about or await self.info()))

    async def _do(self, plan: Plan[T]) -> T:
        waiting = iter(enumerate(plan.calls))
        answers: dict[int, httpx.Response] = {}
        workers = [asyncio.ensure_future(self._work(waiting, answers)) for _ in range(self._in_flight)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
        return plan.read([answers[number] for number in range(len(answers))])

    async def _work(self, waiting: Iterator[tuple[int, Call]], answers: dict[int, httpx.Response]) -> None:
        """Send one call after another, until none is left; the first failure ends all workers."""
        for number, call in waiting:
            answers[number] = await self._send(call)

    async def _send(self, call: Call) -> httpx.Response:
        tries = Tries(call, self._patience)
        while True:
            outcome: httpx.Response | httpx.RequestError
            try:
                outcome = await self._http.request(call.method, call.path, **self._options(call, tries))
            except httpx.RequestError as error:
                outcome = error
            pause = tries.pause(outcome)
            if pause is None:
                assert not isinstance(outcome, httpx.RequestError)
                return outcome
            await asyncio.sleep(pause)


def shrink_image(data: bytes, short_side: int) -> bytes:
    """The image as a JPEG of ``short_side`` pixels on its short side; as it is when it is no larger, or can't be read here."""
    from PIL import Image

    from biomedray import pixels

    try:
        header = pixels.read_header(data)
        if min(header.width, header.height) <= short_side:
            return data
        image, _ = pixels.decode(data, short_side)
    except pixels.PixelError:
        return data  # the service says what is wrong with it
    scale = short_side / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()
