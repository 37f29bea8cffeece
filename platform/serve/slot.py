"""The engine that answers now, and the swap to another one while requests run.

request -> lease of the engine of that moment -> answer -> lease back; an engine that was replaced closes with its last lease.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import ASGIApp, Receive, Scope, Send

from biomedray.serve.access import PROBES
from biomedray.serve.engine import Engine
from biomedray.serve.limits import Limits
from biomedray.serve.metrics import Metrics
from biomedray.serve.problems import Problem

ENGINE = "biomedray.engine"
"""Key of a request's scope that holds its engine, or None while there is none."""


_LOOK_SECONDS = 0.02


class Slot:
    """Holds one engine at a time; all methods belong to one event loop."""

    def __init__(self, engine: Engine | None = None, limits: Limits | None = None, metrics: Metrics | None = None) -> None:
        self.limits = engine.limits if engine else limits or Limits()
        self.metrics = engine.metrics if engine else metrics or Metrics()
        self.draining = False
        """Whether new requests are refused, because the service is going down."""
        self.trouble: str | None = None
        """Why the last attempt to put another engine in failed, in one line without paths."""
        self._engine = engine
        self._alive = [engine] if engine else []
        self._leases: Counter[int] = Counter()

    @property
    def engine(self) -> Engine | None:
        """The engine that new requests get."""
        return self._engine

    def put(self, engine: Engine) -> None:
        """Serve from ``engine`` from now on; the one before closes when the last request that uses it has ended."""
        self._engine = engine
        self._alive.append(engine)
        self.trouble = None
        self._let_go()

    def described(self) -> str:
        """Model and generation in a few words, for a log."""
        engine = self._engine
        if engine is None:
            return "nothing"
        generation = "" if engine.index is None else f", index generation {engine.index.generation.name}"
        return f"{engine.encoder.name} ({engine.encoder.fingerprint}){generation}"

    @contextmanager
    def lease(self) -> Iterator[Engine | None]:
        """The engine of this moment, kept open until the block ends."""
        engine = self._engine
        self._leases[id(engine)] += 1
        try:
            yield engine
        finally:
            self._leases[id(engine)] -= 1
            if engine is not self._engine:
                self._let_go()

    def busy(self) -> int:
        """Requests that hold an engine at this moment."""
        return self._leases.total()

    async def drain(self, seconds: float) -> int:
        """Refuse what comes from now on and wait, ``seconds`` at most, for what runs; returns what still runs then."""
        self.draining = True
        until = time.monotonic() + seconds
        while self.busy() and time.monotonic() < until:
            await asyncio.sleep(_LOOK_SECONDS)
        return self.busy()

    def close(self) -> None:
        """Close every engine."""
        self._engine = None
        self._leases.clear()
        self._let_go()

    def _let_go(self) -> None:
        """Close what nobody uses: engines first, and lanes that no engine left has in common with them."""
        gone = [engine for engine in self._alive if engine is not self._engine and not self._leases[id(engine)]]
        self._alive = [engine for engine in self._alive if engine not in gone]
        used = [engine.lanes for engine in self._alive]
        for engine in gone:
            del self._leases[id(engine)]
            engine.close(lanes=engine.lanes not in used)


class Leased:
    """ASGI middleware: each HTTP request holds the engine of the moment at which it came; Guard stands before it."""

    def __init__(self, app: ASGIApp, slot: Slot) -> None:
        self._app = app
        self._slot = slot

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection.

        Raises:
            Problem: 503, the service is going down.
        """
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._slot.draining and scope["path"] not in PROBES:
            raise Problem(503, "the service is going down", "going_down", retry_after=1)
        with self._slot.lease() as engine:
            scope[ENGINE] = engine
            await self._app(scope, receive, send)
