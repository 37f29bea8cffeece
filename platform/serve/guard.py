"""ASGI middleware around every request: id, body cap, time limit, last-resort errors, headers, metrics.

The whole body is read here, counted as it streams in, and then handed on; so no route sees a
body that is too large, and a slow sender holds no more than a connection.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from biomedray.serve.limits import Limits
from biomedray.serve.metrics import Metrics
from biomedray.serve.problems import Problem, error_body

_LOG = logging.getLogger(__name__)
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
}
_RETRY_SECONDS = 1.0


class _DisconnectedError(Exception):
    """The sender went away before its body was whole."""


class Guard:
    """Wraps the HTTP application of one replica."""

    def __init__(self, app: ASGIApp, limits: Limits, metrics: Metrics, send_request_id: bool = True) -> None:
        """``send_request_id`` is off behind Ray Serve, whose proxy sends the header itself."""
        self._app = app
        self._limits = limits
        self._metrics = metrics
        self._send_request_id = send_request_id
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection; anything but HTTP passes through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, send, self._send_request_id)
        try:
            async with asyncio.timeout(self._limits.request_seconds):
                await self._serve(scope, receive, exchange)
        except _DisconnectedError:
            return
        except TimeoutError:
            message = f"not done within {self._limits.request_seconds:g} seconds"
            await exchange.refuse(Problem(503, message, "timeout", retry_after=_RETRY_SECONDS))
        except Problem as problem:
            await exchange.refuse(problem)
        except Exception:  # noqa: BLE001  # the last resort: nothing of it may reach the caller
            _LOG.exception("request %s failed", scope["request_id"])
            await exchange.refuse(Problem(500, "the request failed inside the server", "internal_error"))
        finally:
            self._metrics.observe_request(_route(scope), exchange.status, time.monotonic() - exchange.started)

    async def _serve(self, scope: Scope, receive: Receive, exchange: _Exchange) -> None:
        with self._holding() as hold:
            body = await self._read(scope, receive, hold)
            await self._app(scope, _Replay(body, receive), exchange.send)

    async def _read(self, scope: Scope, receive: Receive, hold: _Hold) -> bytes:
        cap = self._limits.body_bytes
        declared = dict(scope["headers"]).get(b"content-length", b"")
        if declared.isdigit() and int(declared[:20]) > cap:
            raise _too_large(cap)
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _DisconnectedError
            chunk = message.get("body", b"")
            if len(body) + len(chunk) > cap:
                raise _too_large(cap)
            hold.add(len(chunk))
            body += chunk
            if not message.get("more_body", False):
                return bytes(body)

    @contextmanager
    def _holding(self) -> Iterator[_Hold]:
        hold = _Hold(self)
        try:
            yield hold
        finally:
            self._held -= hold.size

    def hold(self, size: int) -> None:
        """Count bytes of a body against what all bodies may take together."""
        if self._held + size > self._limits.inflight_bytes:
            raise Problem(503, "too many large requests at once; try again later", "overloaded", retry_after=_RETRY_SECONDS)
        self._held += size


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


class _Exchange:
    """One request's id, and the sending of its answer."""

    def __init__(self, scope: Scope, send: Send, send_request_id: bool) -> None:
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        self.request_id = given.decode() if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        self.started = time.monotonic()
        self.status = 0
        self._scope = scope
        self._send = send
        self._headers = {**_HEADERS, "x-request-id": self.request_id} if send_request_id else _HEADERS
        scope["request_id"] = self.request_id

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in self._headers.items():
                headers.setdefault(name, value)
        await self._send(message)

    async def refuse(self, problem: Problem) -> None:
        """Answer with a refusal, unless an answer is already on its way."""
        if self.status:
            return
        body: dict[str, Any] = error_body(problem.status_code, str(problem.detail), problem.code, problem.param, self.request_id)
        response = JSONResponse(body, problem.status_code, headers=dict(problem.headers or {}))
        await response(self._scope, _nothing, self.send)


def _too_large(cap: int) -> Problem:
    return Problem(413, f"the body is larger than {cap} bytes; send fewer items or smaller images", "body_too_large")


def _route(scope: Scope) -> str:
    return str(getattr(scope.get("route"), "path", "unknown"))


async def _nothing() -> Message:
    return {"type": "http.disconnect"}
