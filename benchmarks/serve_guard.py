"""What the guard adds to a request, and what a refusal costs before and after the body is read.

CPU time of one thread per request, median of 15 rounds of 300, the ways in turn, at the level of ASGI: no sockets, no
routes. The application behind answers 32 bytes of JSON and does nothing. 'read, then refused' parses the JSON of a 60 kB image
and then refuses, as a full queue does; 'refused by its head' is told so by the hook that looks at the queues.

    python benchmarks/serve_guard.py
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from _measure import record
from biomedray.serve.access import Access, Gate
from biomedray.serve.guard import Guard
from biomedray.serve.keys import add_key
from biomedray.serve.limits import Limits
from biomedray.serve.metrics import Metrics
from biomedray.serve.problems import Problem

ROUNDS, REQUESTS = 15, 300
SMALL = b'{"input": "a caption of a figure"}'
LARGE = json.dumps({"input": "data:image/jpeg;base64," + base64.b64encode(os.urandom(60_000)).decode()}).encode()


async def answer(_: Any, receive: Any, send: Any) -> None:
    """The application behind."""
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": b'{"object": "list", "data": [0]}\n'})


async def read_then_refuse(_: Any, receive: Any, __: Any) -> None:
    """What a full queue does."""
    json.loads((await receive())["body"])
    raise Problem(503, "overloaded; try again later", "overloaded", retry_after=1)


def guarded(app: Any, access: Access | None = None, full: bool = False) -> Any:
    """The application with a guard."""
    limits = Limits()
    return Guard(app, limits, Metrics(), Gate(access or Access(), limits), (lambda *_: 1.0) if full else None)


async def spent(app: Any, body: bytes, fields: dict[str, str]) -> float:
    """CPU milliseconds of a request."""
    head = {
        "host": "127.0.0.1",
        "content-type": "application/json",
        "content-length": str(len(body)),
        "user-agent": "x",
        **fields,
    }
    headers = [(name.encode(), value.encode()) for name, value in head.items()]
    plain = {"type": "http", "method": "POST", "path": "/v1/embeddings", "raw_path": b"/v1/embeddings", "query_string": b""}

    async def send(message: Any) -> None:
        pass

    started = time.thread_time()
    for _ in range(REQUESTS):
        parts, stay = [body], asyncio.get_running_loop().create_future()

        async def receive(parts: list[bytes] = parts, stay: asyncio.Future[Any] = stay) -> Any:
            return {"type": "http.request", "body": parts.pop()} if parts else await stay

        await app({**plain, "headers": headers}, receive, send)
    return 1000 * (time.thread_time() - started) / REQUESTS


def main() -> None:
    """Measure and record."""
    logging.getLogger("biomedray.access").addHandler(logging.NullHandler())
    logging.getLogger("biomedray.access").propagate = False
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "keys"
        secret = [add_key(path, f"key-{number}") for number in range(20)][-1]
        key = {"authorization": f"Bearer {secret}"}
        ways: dict[str, tuple[Any, bytes, dict[str, str]]] = {
            "no guard": (answer, SMALL, {}),
            "guard": (guarded(answer), SMALL, {}),
            "and 20 keys": (guarded(answer, Access(keys=path)), SMALL, key),
            "and a rate": (guarded(answer, Access(keys=path, rate=1e9)), SMALL, key),
            "and a log": (guarded(answer, Access(keys=path, rate=1e9, access_log=True)), SMALL, key),
            "60 kB, answered": (guarded(answer), LARGE, {}),
            "60 kB, read, then refused": (guarded(read_then_refuse), LARGE, {}),
            "60 kB, refused by its head: queue": (guarded(answer, full=True), LARGE, {}),
            "60 kB, refused by its head: key": (guarded(answer, Access(keys=path)), LARGE, {"x-api-key": "wrong"}),
        }
        seen: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, way in ways.items():
                seen[name].append(asyncio.run(spent(*way)))
    rows = [{"way": name, "cpu_ms": statistics.median(times)} for name, times in seen.items()]
    record("serve-guard", "CPU milliseconds of a request in the guard", rows)


if __name__ == "__main__":
    main()
