r"""ASGI middleware around every request: who asks, room, body, time limits, last-resort errors, headers, metrics, log.

head -> gate (key, rate, origin) -> queue full? -> body, counted and timed as it streams in -> application -> answer
             \ 4xx                     \ 503                \ 413, 408                          \ caller left: cancelled

Whatever can be said by the head alone is said before the body is read, so that refusals stay cheap under load.
The body is handed on whole; so no route sees one that is too large, and a slow sender holds no more than a connection.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from biomedray.serve import logs, rates
from biomedray.serve.access import Access, Caller, Gate, route_path
from biomedray.serve.limits import QUEUE_HEADER, Limits
from biomedray.serve.metrics import Metrics
from biomedray.serve.problems import REFUSAL, Problem, error_body

Busy = Callable[[str, int], float | None]
"""(path, declared bytes of the body) -> seconds after which to come again if there is no room now."""

_LOG = logging.getLogger(__name__)
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
)
_METHODS = ("GET", "HEAD", "POST", "OPTIONS", "PUT", "PATCH", "DELETE")
_MARKS = (b",", b":", b"[", b"{")
_RETRY_SECONDS = 1.0
_LEFT = 499
_CLOSE = {"connection": "close"}


class _DisconnectedError(Exception):
    """The caller went away before its answer."""


class Guard:
    """Wraps the HTTP application of one replica."""

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        metrics: Metrics,
        gate: Gate | None = None,
        busy: Busy | None = None,
        send_request_id: bool = True,
    ) -> None:
        """``send_request_id`` is off behind Ray Serve, whose proxy sends the header itself."""
        self._app = app
        self._limits = limits
        self._metrics = metrics
        self._gate = gate or Gate(Access(), limits)
        self._busy = busy
        self._send_request_id = send_request_id
        self._held = 0
        if self._gate.logged:
            logs.start()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection; anything but HTTP passes through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        exchange = _Exchange(scope, headers, send, self._send_request_id)
        exchange.headers += [(name.encode(), value.encode()) for name, value in self._gate.origins.answer(headers).items()]
        with self._metrics.in_flight.track_inprogress():
            try:
                await self._serve(scope, headers, receive, exchange)
            except _DisconnectedError:
                exchange.status = exchange.status or _LEFT
            except asyncio.CancelledError:
                exchange.status = exchange.status or _LEFT
                raise
            except Problem as problem:
                await exchange.refuse(problem)
            except Exception:  # noqa: BLE001  # the last resort: nothing of it may reach the caller
                _LOG.exception("request %s failed", exchange.request_id)
                await exchange.refuse(Problem(500, "the request failed inside the server", "internal_error"))
            finally:
                self._account(scope, exchange)

    async def _serve(self, scope: Scope, headers: Headers, receive: Receive, exchange: _Exchange) -> None:
        self._gate.check_head(scope)
        if (allowed := self._gate.origins.preflight(scope["method"], headers)) is not None:
            await Response(status_code=204, headers=allowed)(scope, receive, exchange.send)
            return
        caller = self._gate.admit(scope, headers)
        exchange.caller = caller
        self._check_room(scope, headers)
        exchange.meter = rates.begin(caller.bucket, caller.cost)
        with self._holding() as hold:
            try:
                async with asyncio.timeout(self._limits.request_seconds):
                    body = await self._read(headers, receive, hold)
                    exchange.bytes_in = len(body)
                    await self._run(scope, body, receive, exchange)
            except TimeoutError:
                message = f"not done within {self._limits.request_seconds:g} seconds"
                raise Problem(503, message, "timeout", retry_after=_RETRY_SECONDS) from None

    async def _run(self, scope: Scope, body: bytes, receive: Receive, exchange: _Exchange) -> None:
        replay = _Replay(body, receive)
        if scope["method"] == "HEAD":
            await _answer_head(self._app, scope, replay, exchange.send)
            return
        if scope["method"] == "GET":
            await self._app(scope, replay, exchange.send)
            return
        async with _Watch(receive, exchange):
            await self._app(scope, replay, exchange.send)

    def _check_room(self, scope: Scope, headers: Headers) -> None:
        """What the head says of the body, against the caps and the queues."""
        declared = headers.get("content-length", "")
        length = int(declared[:20]) if declared.isascii() and declared.isdigit() else 0
        if length > self._limits.body_bytes:
            raise _too_large(self._limits.body_bytes)
        if self._held + length > self._limits.inflight_bytes:
            raise _no_room()
        if self._busy is not None and scope["method"] == "POST" and (wait := self._busy(route_path(scope), length)) is not None:
            # A shorter queue might run empty before the proxy asks again.
            told = {QUEUE_HEADER: f"{wait:.0f}"} if wait > 1 else {}
            raise Problem(503, "overloaded; try again later", "overloaded", retry_after=wait, headers=told)

    async def _read(self, headers: Headers, receive: Receive, hold: _Hold) -> bytes:
        """The whole body; as time goes by it must have come at ``read_rate`` on average."""
        started = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout_at(started + self._limits.read_seconds) as deadline:
                body = await self._collect(receive, hold, lambda size: deadline.reschedule(self._latest(started, size)))
        except TimeoutError:
            raise Problem(408, "the body comes too slowly", "body_too_slow", headers=_CLOSE) from None
        self._metrics.observe_stage("read", asyncio.get_running_loop().time() - started)
        if len(body) > self._limits.json_marks and "json" in headers.get("content-type", ""):
            self._check_marks(body)
        return body

    async def _collect(self, receive: Receive, hold: _Hold, on_chunk: Callable[[int], None]) -> bytes:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _DisconnectedError
            chunk = message.get("body", b"")
            if len(body) + len(chunk) > self._limits.body_bytes:
                raise _too_large(self._limits.body_bytes)
            hold.add(len(chunk))
            body += chunk
            if not message.get("more_body", False):
                return bytes(body)
            on_chunk(len(body))

    def _latest(self, started: float, size: int) -> float:
        return started + self._limits.read_seconds + size / self._limits.read_rate

    def _check_marks(self, body: bytes) -> None:
        if sum(body.count(mark) for mark in _MARKS) > self._limits.json_marks:
            raise Problem(413, f"the JSON has more than {self._limits.json_marks} elements", "json_too_large")

    @contextmanager
    def _holding(self) -> Iterator[_Hold]:
        hold = _Hold(self)
        try:
            yield hold
        finally:
            self._held -= hold.size
            self._metrics.held_bytes.set(self._held)

    def hold(self, size: int) -> None:
        """Count bytes of a body against what all bodies may take together."""
        if self._held + size > self._limits.inflight_bytes:
            raise _no_room()
        self._held += size
        self._metrics.held_bytes.set(self._held)

    def _account(self, scope: Scope, exchange: _Exchange) -> None:
        seconds, route = time.monotonic() - exchange.started, _route(scope)
        self._metrics.observe_request(route, exchange.status, seconds)
        refusal = scope.get(REFUSAL)
        if refusal is not None:
            self._metrics.refused.labels(refusal).inc()
        if self._gate.logged:
            method = scope["method"] if scope["method"] in _METHODS else "OTHER"
            items = exchange.meter.items if exchange.meter else 0
            about = (exchange.request_id, exchange.caller.label, method, route, exchange.status)
            logs.write(logs.Line(*about, exchange.bytes_in, items, seconds, refusal))


class _Hold:
    """How many bytes of one body are counted."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self.size = 0

    def add(self, size: int) -> None:
        self._guard.hold(size)
        self.size += size


class _Replay:
    """A ``receive`` that hands the read body on once, then listens for the disconnect."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


class _Watch:
    """Cancels the work of the block when its caller hangs up before the answer is whole."""

    def __init__(self, receive: Receive, exchange: _Exchange) -> None:
        self._receive = receive
        self._exchange = exchange
        self._left = False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._listener = asyncio.create_task(self._listen())

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._listener.cancel()
        if self._left and self._task.uncancel() == 0 and kind is not None and issubclass(kind, asyncio.CancelledError):
            raise _DisconnectedError from error

    async def _listen(self) -> None:
        with suppress(Exception):  # a caller that can't be heard any more has not said that it left
            while (await self._receive())["type"] != "http.disconnect":
                pass
            if not self._exchange.whole:
                self._left = True
                self._task.cancel()


class _Exchange:
    """One request's id and caller, and the sending of its answer."""

    def __init__(self, scope: Scope, headers: Headers, send: Send, send_request_id: bool) -> None:
        given = headers.get("x-request-id", "").encode("latin-1")
        self.request_id = given.decode() if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        self.started = time.monotonic()
        self.status = 0
        self.whole = False
        self.bytes_in = 0
        self.caller = Caller()
        self.meter: rates.Meter | None = None
        self.headers = [*_HEADERS, (b"x-request-id", self.request_id.encode())] if send_request_id else list(_HEADERS)
        self._scope = scope
        self._send = send
        scope["request_id"] = self.request_id

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            fields = list(message.get("headers", ()))
            given = {name for name, _ in fields}
            message["headers"] = [*fields, *(field for field in self.headers if field[0] not in given)]
        elif not message.get("more_body", False):
            self.whole = True
        await self._send(message)

    async def refuse(self, problem: Problem) -> None:
        """Answer with a refusal, unless an answer is already on its way."""
        if self.status:
            return
        self._scope[REFUSAL] = problem.code
        body: dict[str, Any] = error_body(problem.status_code, str(problem.detail), problem.code, problem.param, self.request_id)
        response = JSONResponse(body, problem.status_code, headers=dict(problem.headers or {}))
        await response(self._scope, _nothing, self.send)


def _too_large(cap: int) -> Problem:
    return Problem(413, f"the body is larger than {cap} bytes; send fewer items or smaller images", "body_too_large")


def _no_room() -> Problem:
    return Problem(503, "too many large requests at once; try again later", "overloaded", retry_after=_RETRY_SECONDS)


def _route(scope: Scope) -> str:
    """The route's template: what the router found, or would have found had the request come that far."""
    route = scope.get("route")
    if route is None and (app := scope.get("app")) is not None:
        route = next((each for each in leaves(app.routes) if each.matches(scope)[0] is not Match.NONE), None)
    return str(getattr(route, "path", "unknown"))


def leaves(routes: Iterable[BaseRoute]) -> Iterator[BaseRoute]:
    """Routes one by one, also those of routers that were included (which newer FastAPI keeps whole)."""
    for route in routes:
        inner = getattr(route, "original_router", None)
        if inner is None:
            yield route
        else:
            yield from leaves(inner.routes)


async def _answer_head(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """As GET is answered, without the body (RFC 9110, 9.3.2): the routes know GET only."""
    asked = {**scope, "method": "GET"}  # a copy: the server frames the answer by the method in its own

    async def send_head(message: Message) -> None:
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    try:
        await app(asked, receive, send_head)
    finally:
        scope.update({name: asked[name] for name in ("route", REFUSAL) if name in asked})


async def _nothing() -> Message:
    return {"type": "http.disconnect"}
