"""The guard at the level of ASGI and of sockets: refused before it is read, slow senders, callers who leave."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from biomedray.serve.engine import Engine
from biomedray.serve.guard import Guard
from biomedray.serve.limits import QUEUE_HEADER, Limits
from biomedray.serve.metrics import Metrics
from biomedray.serve.routes import create_app

from .conftest import FakeEncoder

JSON = {"content-type": "application/json"}
Messages = list[dict[str, Any]]


async def ask(
    app: Any, path: str, receive: Callable[[], Any], headers: dict[str, str] | None = None, method: str = "POST", query: str = ""
) -> Messages:
    """One request; what the application sends."""
    sent: Messages = []

    async def send(message: Any) -> None:
        sent.append(message)

    fields = [(name.lower().encode(), value.encode()) for name, value in (JSON if headers is None else headers).items()]
    scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": query.encode()}
    rest = {"headers": fields, "root_path": "", "scheme": "http", "http_version": "1.1", "asgi": {"version": "3.0"}}
    await app({**scope, **rest}, receive, send)
    return sent


def refusal(sent: Messages) -> tuple[int, str]:
    return sent[0]["status"], json.loads(sent[1]["body"])["error"]["code"]


def header(sent: Messages, name: str) -> str | None:
    return dict(sent[0]["headers"]).get(name.encode(), b"").decode() or None


async def unread() -> Any:
    raise AssertionError("the body was read")


class Sender:
    """A caller who sends these parts with pauses between them, and then stays on the line until told to leave."""

    def __init__(self, *parts: bytes, pause: float = 0.0, more: bool = False) -> None:
        self._parts = list(parts)
        self._pause = pause
        self._more = more
        self.leave = asyncio.Event()

    async def __call__(self) -> dict[str, Any]:
        if self._parts:
            await asyncio.sleep(self._pause)
            part = self._parts.pop(0)
            return {"type": "http.request", "body": part, "more_body": self._more or bool(self._parts)}
        await self.leave.wait()
        return {"type": "http.disconnect"}


@pytest.mark.parametrize(
    ("headers", "query", "expected"),
    [
        ({**JSON, "content-length": "99999999999999999999"}, "", (413, "body_too_large")),
        ({**JSON, "content-length": str(40 << 20)}, "", (413, "body_too_large")),
        ({f"x-{n}": "v" for n in range(101)}, "", (431, "headers_too_large")),
        ({"x": "v" * 17_000}, "", (431, "headers_too_large")),
        (JSON, "q=" + "x" * 9000, (414, "url_too_long")),
        ({**JSON, "origin": "https://evil.example"}, "", (403, "cross_site")),
    ],
)
def test_what_the_head_tells_is_refused_unread(
    encoder: FakeEncoder, headers: dict[str, str], query: str, expected: tuple[int, str]
) -> None:
    app = create_app(Engine(encoder))
    assert refusal(asyncio.run(ask(app, "/v1/embeddings", unread, headers, query=query))) == expected


def test_the_length_named_twice_is_refused_unread(encoder: FakeEncoder) -> None:
    fields = [(b"content-length", b"3"), (b"content-length", b"30")]
    sent: Messages = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/embeddings", "raw_path": b"/", "query_string": b"", "headers": fields}
    asyncio.run(create_app(Engine(encoder))({**scope, "root_path": ""}, unread, send))
    assert refusal(sent) == (400, "repeated_header")


def test_a_slow_sender_is_cut_off(encoder: FakeEncoder) -> None:
    limits = Limits(read_seconds=0.05, read_rate=1_000_000)

    async def run() -> Messages:
        return await ask(create_app(Engine(encoder, limits=limits)), "/v1/embeddings", Sender(b"{", b" ", b"}", pause=0.04))

    sent = asyncio.run(run())
    assert refusal(sent) == (408, "body_too_slow")
    assert header(sent, "connection") == "close"


def test_who_sends_at_the_wanted_rate_is_waited_for(encoder: FakeEncoder) -> None:
    limits = Limits(read_seconds=0.5, read_rate=10)
    parts = [b'{"input":', b'"a field"', b"        ", b"}"]

    async def run() -> Messages:
        return await ask(create_app(Engine(encoder, limits=limits)), "/v1/embeddings", Sender(*parts, pause=0.2))

    assert asyncio.run(run())[0]["status"] == 200


def test_full_queues_are_told_before_the_body_is_read(encoder: FakeEncoder) -> None:
    gate = threading.Event()

    class Stuck(FakeEncoder):
        def encode_texts(self, texts: Any) -> np.ndarray:
            if "a" in texts:  # not the canary
                gate.wait(20)
            return super().encode_texts(texts)

        def encode_pixels(self, batch: Any) -> np.ndarray:
            gate.wait(20)
            return super().encode_pixels(batch)

    engine = Engine(Stuck(), limits=Limits(queue_texts=1, queue_images=1))
    app = create_app(engine)

    async def run() -> list[Messages]:
        from .test_routes import RED

        text = asyncio.create_task(ask(app, "/v1/embeddings", Sender(b'{"input": "a"}')))
        image = asyncio.create_task(ask(app, "/v1/embeddings/image", Sender(RED), {"content-type": "image/png"}))
        while 0 in engine.lanes.pending().values():  # the lanes have no event for it
            await asyncio.sleep(0.01)
        refused = [
            await ask(app, path, unread, {**JSON, "content-length": length})
            for path, length in (
                *(("/v1/embeddings", "20"), ("/v1/embeddings/image", "20"), ("/v1/classify", "20")),
                *(("/v1/search", "300000"), ("/v1/search/image", "20"), ("/v1/proxy/image", "20")),
            )
        ]
        gate.set()
        return [*refused, await text, await image]

    *refused, text, image = asyncio.run(run())
    for sent in refused:
        assert refusal(sent) == (503, "overloaded")
        assert int(header(sent, "retry-after") or 0) >= 1
    assert (text[0]["status"], image[0]["status"]) == (200, 200)


@pytest.mark.parametrize(("seconds", "told"), [(7.4, "7"), (1.0, None)])
def test_only_a_queue_that_lasts_is_told_to_the_proxy(seconds: float, told: str | None) -> None:
    guard = Guard(unread, Limits(), Metrics(), busy=lambda _path, _length: seconds)
    sent = asyncio.run(ask(guard, "/v1/embeddings/image", unread))
    assert refusal(sent) == (503, "overloaded")
    assert header(sent, QUEUE_HEADER) == told


def test_a_caller_who_leaves_frees_its_place(encoder: FakeEncoder) -> None:
    gate, seen = threading.Event(), []

    class Slow(FakeEncoder):
        def encode_texts(self, texts: Any) -> np.ndarray:
            seen.extend(texts)
            if "a" in texts:  # not the canary
                gate.wait(20)
            return super().encode_texts(texts)

    engine = Engine(Slow())
    app = create_app(engine)

    async def run() -> tuple[Messages, Messages]:
        first, second = Sender(b'{"input": "a"}'), Sender(b'{"input": ["never", "run"]}')
        running = asyncio.create_task(ask(app, "/v1/embeddings", first))
        while "a" not in seen:  # set in another thread
            await asyncio.sleep(0.01)
        waiting = asyncio.create_task(ask(app, "/v1/embeddings", second))
        while engine.lanes.pending()["text"] < 3:  # as above
            await asyncio.sleep(0.01)
        second.leave.set()
        left = await waiting
        assert engine.lanes.pending()["text"] == 1
        gate.set()
        return await running, left

    answered, left = asyncio.run(run())
    assert answered[0]["status"] == 200
    assert left == []
    assert "never" not in seen
    text = engine.metrics.text().decode()
    assert 'route="/v1/embeddings",status="499"} 1.0' in text
    assert "biomedray_requests_in_flight 0.0" in text
    assert "biomedray_body_bytes_held 0.0" in text


def test_a_json_of_millions_of_elements_is_not_parsed(encoder: FakeEncoder) -> None:
    limits = Limits(json_marks=1000)
    body = b'{"input": [' + b"1," * 2000 + b"1]}"

    async def run() -> Messages:
        return await ask(create_app(Engine(encoder, limits=limits)), "/v1/embeddings", Sender(body))

    started = time.process_time()
    assert refusal(asyncio.run(run())) == (413, "json_too_large")
    assert time.process_time() - started < 5


def test_outside_cancellation_stays_one(encoder: FakeEncoder) -> None:
    gate = threading.Event()

    class Slow(FakeEncoder):
        def encode_texts(self, texts: Any) -> np.ndarray:
            gate.wait(20)
            return super().encode_texts(texts)

    async def run() -> None:
        task = asyncio.create_task(ask(create_app(Engine(Slow())), "/v1/embeddings", Sender(b'{"input": "a"}')))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.set()

    asyncio.run(run())
