"""Load on an HTTP service: an open loop (Poisson arrivals, timed from when a request was due) and a closed one.

    arrivals due -> connection (kept alive, one more when none is idle) -> answer -> status, latency, right or not

Open loop: requests arrive at ``rate`` whether or not earlier ones were answered, and latency counts from the moment
that a request was *due*, so that a service which stalls is charged for everyone who waited (no coordinated omission).
Closed loop: ``clients`` connections that each send the next request when the last was answered; what comes out is the peak.

It runs in a process of its own (``run``) and speaks HTTP/1.1 itself, which keeps its share of the CPU small: see ``cost``.
``--check`` compares each vector with the first answer to the same payload: what is served under load must be the same.

    python benchmarks/_load.py --url http://127.0.0.1:8000 --rate 50 --seconds 20 --payload images FILE... --json OUT
    python benchmarks/_load.py --url http://127.0.0.1:8000 --clients 16 --seconds 20 --payload texts FILE --items 32 --json OUT
    python benchmarks/_load.py --cost       # CPU time of this generator for one request, against a fixed answer
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from _wire import RAW, Connection, CutError, Payload, get_payload, image_payloads, search_payloads, text_payloads

MOST_CONNECTIONS = 2000
OK = 200
_LEAST_COSINE = 0.999


@dataclass(frozen=True)
class Answer:
    """What became of one request; times in seconds since the start, ``status`` of HTTP or cut, refused, timeout, crowded."""

    due: float
    sent: float
    done: float
    status: str
    items: int
    right: bool = True


@dataclass(frozen=True)
class Load:
    """How to load a service: ``rate`` requests a second, or else ``clients`` that never pause."""

    url: str
    rate: float | None = None
    clients: int = 1
    seconds: float = 10.0
    warm: float = 0.0
    timeout: float = 30.0
    seed: int = 0
    check: bool = False


@dataclass
class Generator:
    """Sends payloads, drawn by a seed, and keeps what became of them."""

    load: Load
    payloads: Sequence[Payload]
    answers: list[Answer] = field(default_factory=list)
    started: float = 0.0
    _idle: list[Connection] = field(default_factory=list)
    _connections: int = 0
    _known: dict[int, Any] = field(default_factory=dict)

    async def run(self) -> None:
        """Open loop or closed; all connections are closed at the end."""
        await (self.open_loop() if self.load.rate else self.closed_loop())
        for connection in self._idle:
            connection.close()
        await asyncio.sleep(0)

    async def open_loop(self) -> None:
        """Poisson arrivals; waits for the last answer."""
        random_ = random.Random(self.load.seed)
        assert self.load.rate
        self.started = time.perf_counter()
        due, end, tasks = 0.0, self.load.warm + self.load.seconds, set()
        while (due := due + random_.expovariate(self.load.rate)) < end:
            if (pause := due - self._now()) > 0:
                await asyncio.sleep(pause)
            task = asyncio.ensure_future(self._one(random_.randrange(len(self.payloads)), due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        while tasks:
            await asyncio.wait(tasks)

    async def closed_loop(self) -> None:
        """Clients that never pause."""
        self.started = time.perf_counter()
        await asyncio.gather(*(self._client(random.Random((self.load.seed << 16) + n)) for n in range(self.load.clients)))

    async def _client(self, random_: random.Random) -> None:
        end = self.load.warm + self.load.seconds
        while (now := self._now()) < end:
            await self._one(random_.randrange(len(self.payloads)), now)
            if self.answers[-1].status in ("refused", "cut", "429", "503"):
                await asyncio.sleep(0.25)  # nobody who was refused asks again in a busy loop

    async def _one(self, number: int, due: float) -> None:
        payload, sent, right, connection = self.payloads[number], self._now(), True, None
        try:
            async with asyncio.timeout(self.load.timeout):
                connection = await self._take()
                sent = self._now()
                code, head, body = await connection.ask(payload.raw)
            status = str(code)
            right = not self.load.check or code != OK or self._is_right(number, head, body)
            if connection.open:
                self._idle.append(connection)
        except TimeoutError:
            status = "timeout"
            if connection:
                connection.close()
        except CutError:
            status = "cut"
        except _CrowdedError:
            status = "crowded"
        except OSError:
            status = "refused"
        if connection and not connection.open:
            self._connections -= 1
        self.answers.append(Answer(due, sent, self._now(), status, payload.items, right))

    async def _take(self) -> Connection:
        while self._idle:
            if (connection := self._idle.pop()).open:
                return connection
            self._connections -= 1
        if self._connections >= MOST_CONNECTIONS:
            raise _CrowdedError
        self._connections += 1
        try:
            parts = urlsplit(self.load.url)
            _, made = await asyncio.get_running_loop().create_connection(Connection, parts.hostname, parts.port or 80)
        except BaseException:
            self._connections -= 1
            raise
        return made

    def _is_right(self, number: int, head: bytes, body: bytes) -> bool:
        """Whether vectors point where the first answer to this payload did; other answers are only compared in status."""
        if RAW.encode() not in head.lower():
            return True
        vectors = np.frombuffer(body, "<f4").reshape(self.payloads[number].items, -1)
        known = self._known.setdefault(number, vectors)
        return known.shape == vectors.shape and bool((known * vectors).sum(axis=1).min() >= _LEAST_COSINE)

    def _now(self) -> float:
        return time.perf_counter() - self.started


class _CrowdedError(Exception):
    """As many connections are open as this generator allows itself."""


def drive(load: Load, payloads: Sequence[Payload]) -> dict[str, Any]:
    """Load the service from this process; a summary, as ``summary``."""
    generator = Generator(load, payloads)
    cpu = time.process_time()
    _loop_run(generator.run())
    spent = time.process_time() - cpu
    found = summary(load, generator.answers)
    return {**found, "generator_ms": 1000 * spent / max(1, len(generator.answers))}


def run(load: Load, payload: Sequence[str | Path], items: int = 1, key: str | None = None) -> dict[str, Any]:
    """As ``drive``, in a process of its own; ``payload`` is a kind (images, texts, search, get) and its files or path."""
    with start(load, payload, items, key) as running:
        return running.result()


@dataclass
class Running:
    """Load that is under way in another process."""

    process: subprocess.Popen[bytes]
    out: Path

    def __enter__(self) -> Running:
        """Use in a with statement: leaving it ends the process."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process if it is still there."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def result(self) -> dict[str, Any]:
        """Wait for the end; the summary."""
        if self.process.wait():
            raise SystemExit(f"the load generator ended with {self.process.returncode}")
        found: dict[str, Any] = json.loads(self.out.read_text())
        self.out.unlink()
        return found


def start(load: Load, payload: Sequence[str | Path], items: int = 1, key: str | None = None) -> Running:
    """Begin loading in a process of its own, and go on here: to kill, swap or watch meanwhile."""
    with tempfile.NamedTemporaryFile(suffix=".json", prefix="load-", delete=False) as file:
        out = Path(file.name)
    options = [f"--{name}={value}" for name, value in asdict(load).items() if value is not None and name != "check"]
    options += ["--check"] if load.check else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **({"BIOMEDRAY_KEY": key} if key else {})}
    command = [sys.executable, __file__, *options, f"--items={items}", f"--json={out}", "--payload", *map(str, payload)]
    return Running(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL), out)


def summary(load: Load, answers: Sequence[Answer]) -> dict[str, Any]:
    """Counts by status, latencies in ms of what was accepted and of what was refused, goodput in items a second."""
    counted = [answer for answer in answers if answer.due >= load.warm]
    good = [answer for answer in counted if answer.status == str(OK) and answer.right]
    # Of all that was sent: under overload what is answered now was asked before the warm-up ended.
    done = [answer for answer in answers if answer.status == str(OK) and answer.right and _in_time(load, answer)]
    refused = [answer for answer in counted if answer.status in ("429", "503")]
    return {
        "load": {name: value for name, value in asdict(load).items() if name != "url"},
        "requests": len(counted),
        "by_status": dict(sorted(Counter(answer.status for answer in counted).items())),
        "wrong": sum(not answer.right for answer in counted),
        "requests_per_s": len(done) / load.seconds,
        "items_per_s": sum(answer.items for answer in done) / load.seconds,
        "accepted_ms": quantiles([answer.done - answer.due for answer in good]),
        "refused_ms": quantiles([answer.done - answer.due for answer in refused]),
        "late_ms": quantiles([answer.sent - answer.due for answer in counted]),
        "timeline": timeline(answers),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def _in_time(load: Load, answer: Answer) -> bool:
    return load.warm <= answer.done <= load.warm + load.seconds


def quantiles(seconds: Sequence[float]) -> dict[str, float] | None:
    """p50, p90, p99 and the largest, in ms."""
    if not seconds:
        return None
    p50, p90, p99, most = np.quantile(seconds, [0.5, 0.9, 0.99, 1.0]) * 1000
    return {"p50": float(p50), "p90": float(p90), "p99": float(p99), "max": float(most)}


def timeline(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """For each second since the start, warm-up included: answers by status, items served well, wrong ones."""
    length = int(max((answer.done for answer in answers), default=0.0)) + 1
    rows: list[dict[str, Any]] = [{"second": second, "items": 0, "wrong": 0, "by_status": Counter()} for second in range(length)]
    for answer in answers:
        row = rows[int(answer.done)]
        row["by_status"][answer.status] += 1
        row["wrong"] += not answer.right
        row["items"] += answer.items if answer.status == str(OK) and answer.right else 0
    return rows


def cost(requests_a_second: float = 400.0, seconds: float = 5.0) -> dict[str, Any]:
    """CPU time of the generator for one request, against a service that always sends the same 2 kB."""
    process = subprocess.Popen([sys.executable, __file__, "--fixed"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        url = f"http://127.0.0.1:{int(process.stdout.readline())}"
        payloads = image_payloads(url, [bytes(50_000)])
        return {
            "open": drive(Load(url, rate=requests_a_second, seconds=seconds), payloads)["generator_ms"],
            "closed": drive(Load(url, clients=8, seconds=seconds), payloads)["generator_ms"],
        }
    finally:
        process.kill()
        process.wait()


async def _fixed() -> None:
    """A service that reads a request and sends a fixed answer."""
    answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: 2048\r\n\r\n" + bytes(2048)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                await reader.readexactly(int(head.partition(b"content-length: ")[2].split(b"\r\n")[0]))
                writer.write(answer)
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def _loop_run(work: Coroutine[Any, Any, None]) -> None:
    """On uvloop where it is installed: half the CPU time."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(work)
    else:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(work)


def _payloads(options: argparse.Namespace) -> list[Payload]:
    (kind, *names), key = options.payload, os.environ.get("BIOMEDRAY_KEY")
    if kind == "get":
        return [get_payload(options.url, name, key) for name in names]
    if kind == "images":
        return image_payloads(options.url, [Path(name).read_bytes() for name in names], key)
    lines = [line for name in names for line in Path(name).read_text().splitlines() if line.strip()]
    if kind == "search":
        return search_payloads(options.url, [json.loads(line) for line in lines], key)
    return text_payloads(options.url, lines, options.items, key)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Load on an HTTP service; the key, if any, from BIOMEDRAY_KEY.")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--rate", type=float, help="requests a second, Poisson arrivals; without it a closed loop")
    parser.add_argument("--clients", type=int, default=1, help="of the closed loop")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--warm", type=float, default=0.0, help="seconds before that, not counted")
    parser.add_argument("--timeout", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--items", type=int, default=1, help="texts in a request")
    parser.add_argument("--check", action="store_true", help="compare each vector with the first one of its payload")
    parser.add_argument("--payload", nargs="+", metavar="KIND FILE", help="images FILE..., texts FILE, search JSONL, get PATH")
    parser.add_argument("--json", type=Path, help="where the summary goes")
    parser.add_argument("--cost", action="store_true", help="CPU ms of this generator for one request")
    parser.add_argument("--fixed", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fixed:
        asyncio.run(_fixed())
        return
    if options.cost:
        print(json.dumps(cost()))
        return
    names = Load.__dataclass_fields__
    found = drive(Load(**{name: getattr(options, name) for name in names}), _payloads(options))
    if options.json:
        options.json.write_text(json.dumps(found) + "\n")
    print(json.dumps({**found, "timeline": len(found["timeline"])}, indent=1))


if __name__ == "__main__":
    main()
