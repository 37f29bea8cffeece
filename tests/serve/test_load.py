"""The load generator of the benchmarks: what it counts is what happened."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import _load
import _wire

Talk = Callable[[int, bytes], bytes | float]
VECTOR = np.float32([0.6, 0.8]).tobytes()


def answer(status: int, body: bytes = b"", head: str = "") -> bytes:
    return f"HTTP/1.1 {status} X\r\n{head}content-length: {len(body)}\r\n\r\n".encode() + body


def vector(body: bytes = VECTOR) -> bytes:
    return answer(200, body, "content-type: application/octet-stream\r\n")


@contextmanager
def service(talk: Talk) -> Iterator[str]:
    """A server that answers the n-th request as told: bytes to send, or seconds to wait before it hangs up."""
    loop, started, count = asyncio.new_event_loop(), threading.Event(), iter(range(10**6))
    port = 0

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = head.partition(b"content-length: ")[2].split(b"\r\n")[0]
                reply = talk(next(count), await reader.readexactly(int(length or 0)))
                if isinstance(reply, float):
                    await asyncio.sleep(reply)
                    break
                for at in range(0, len(reply), 40):  # in pieces, as networks do
                    writer.write(reply[at : at + 40])
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()

    async def run() -> None:
        nonlocal port
        server = await asyncio.start_server(serve_one, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        started.set()
        await stopping.wait()
        server.close()

    stopping = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    started.wait()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        loop.call_soon_threadsafe(stopping.set)
        thread.join()
        loop.close()


def drive(talk: Talk, **options: Any) -> dict[str, Any]:
    with service(talk) as url:
        load = _load.Load(url, **{"seconds": 0.3, "seed": 1, **options})
        return _load.drive(load, _wire.text_payloads(url, ["a", "b", "c", "d"], items=1))


def test_every_status_is_counted_and_latency_apart() -> None:
    def talk(number: int, _: bytes) -> bytes:
        return vector() if number % 3 else answer(503, b"{}", "retry-after: 1\r\n")

    found = drive(talk, rate=200)
    assert set(found["by_status"]) == {"200", "503"}
    assert sum(found["by_status"].values()) == found["requests"]
    assert 35 < found["requests"] < 90
    assert found["accepted_ms"]["p50"] > 0
    assert found["refused_ms"]["p99"] >= found["refused_ms"]["p50"]
    assert sum(row["items"] for row in found["timeline"]) == found["by_status"]["200"]


def test_the_same_seed_asks_the_same() -> None:
    runs = []
    for _ in range(2):
        bodies: list[bytes] = []
        drive(lambda _, body, bodies=bodies: bodies.append(body) or vector(), rate=100)
        runs.append(sorted(bodies))
    assert runs[0] == runs[1]


def test_chunked_answers_and_closed_connections() -> None:
    chunked = b"HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    chunked += b"3\r\n" + VECTOR[:3] + b"\r\n5;x=y\r\n" + VECTOR[3:] + b"\r\n0\r\n\r\n"
    closing = answer(200, VECTOR, "connection: close\r\ncontent-type: application/octet-stream\r\n")
    found = drive(lambda number, _: closing if number % 2 else chunked, clients=3, check=True)
    assert set(found["by_status"]) == {"200"}
    assert found["wrong"] == 0


def test_wrong_answers_are_noticed_and_are_no_goodput() -> None:
    other = np.float32([0.8, 0.6]).tobytes()
    found = drive(lambda number, _: vector(other if number == 20 else VECTOR), rate=100, check=True)
    assert found["wrong"] == 1
    assert sum(row["items"] for row in found["timeline"]) == found["requests"] - 1


def test_cut_late_and_absent_services() -> None:
    found = drive(lambda number, _: 0.0 if number == 5 else 3.0 if number == 6 else vector(), rate=60, timeout=0.3)
    assert found["by_status"]["cut"] == 1
    assert found["by_status"]["timeout"] == 1
    load = _load.Load("http://127.0.0.1:9", clients=2, seconds=0.2)
    assert set(_load.drive(load, _wire.text_payloads(load.url, ["a"]))["by_status"]) == {"refused"}


def test_latency_counts_from_when_a_request_was_due() -> None:
    """A service that serves one at a time, slowly: an open loop must see the queue grow."""
    lock = threading.Lock()

    def talk(_: int, __: bytes) -> bytes:
        with lock:
            threading.Event().wait(0.02)
        return vector()

    found = drive(talk, rate=150)
    assert found["accepted_ms"]["max"] > 200
    assert found["accepted_ms"]["max"] > found["accepted_ms"]["p50"]


def test_in_a_process_of_its_own(tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("a\n\nb\n")
    with service(lambda *_: vector(VECTOR * 2)) as url:
        found = _load.run(_load.Load(url, rate=50, seconds=0.5, check=True), ["texts", texts], items=2, key="k")
    assert found["items_per_s"] == pytest.approx(2 * found["requests_per_s"])
    assert found["wrong"] == 0
