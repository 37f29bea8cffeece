"""HTTP/1.1 as the load generator speaks it: requests made ready beforehand, one kept-alive connection as a protocol."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

RAW = "application/octet-stream"


@dataclass(frozen=True)
class Payload:
    """One request, ready to send, and how many texts or images it holds."""

    raw: bytes
    items: int = 1


def image_payloads(url: str, files: Sequence[bytes], key: str | None = None) -> list[Payload]:
    """Each file as the raw body of /v1/embeddings/image, the vector back as float32."""
    return [_post(url, "/v1/embeddings/image", data, "application/octet-stream", key) for data in files]


def text_payloads(url: str, texts: Sequence[str], items: int = 1, key: str | None = None) -> list[Payload]:
    """Runs of ``items`` texts for /v1/embeddings, the vectors back as float32."""
    runs = [list(texts[at : at + items]) for at in range(0, len(texts), items)]
    bodies = [json.dumps({"input": run, "encoding_format": "base64"}).encode() for run in runs]
    return [_post(url, "/v1/embeddings", body, "application/json", key, len(run)) for body, run in zip(bodies, runs, strict=True)]


def search_payloads(url: str, queries: Sequence[Mapping[str, Any]], key: str | None = None) -> list[Payload]:
    """Bodies of /v1/search."""
    return [_post(url, "/v1/search", json.dumps(query).encode(), "application/json", key) for query in queries]


def get_payload(url: str, path: str, key: str | None = None) -> Payload:
    """A GET of one path."""
    return Payload(_head("GET", url, path, key) + b"\r\n")


def _post(url: str, path: str, body: bytes, media: str, key: str | None, items: int = 1) -> Payload:
    accept = RAW if path.startswith("/v1/embeddings") else "application/json"
    more = f"content-type: {media}\r\naccept: {accept}\r\ncontent-length: {len(body)}\r\n\r\n"
    return Payload(_head("POST", url, path, key) + more.encode() + body, items)


def _head(method: str, url: str, path: str, key: str | None) -> bytes:
    parts = urlsplit(url)
    auth = f"authorization: Bearer {key}\r\n" if key else ""
    return f"{method} {parts.path.rstrip('/')}{path} HTTP/1.1\r\nhost: {parts.netloc}\r\n{auth}".encode()


class CutError(Exception):
    """The connection ended before the answer was whole."""


class Connection(asyncio.Protocol):
    """One kept-alive connection that has at most one request under way."""

    def __init__(self) -> None:
        self.open = False
        self._transport: Any = None
        self._buffer = bytearray()
        self._answer: asyncio.Future[tuple[int, bytes, bytes]] | None = None
        self._body_at = 0
        self._length: int | None = None

    def connection_made(self, transport: Any) -> None:
        """Ready to send."""
        self._transport, self.open = transport, True

    def ask(self, raw: bytes) -> asyncio.Future[tuple[int, bytes, bytes]]:
        """Send a request; its answer is (status, head, body)."""
        self._buffer.clear()
        self._body_at, self._length = 0, None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(raw)
        return self._answer

    def data_received(self, data: bytes) -> None:
        """Gather until the answer is whole."""
        self._buffer += data
        if not self._body_at and not self._read_head():
            return
        if self._length is None:
            body = _unchunked(self._buffer, self._body_at)
            if body is None:
                return
        elif len(self._buffer) - self._body_at < self._length:
            return
        else:
            body = bytes(self._buffer[self._body_at : self._body_at + self._length])
        answer, self._answer = self._answer, None
        head = bytes(self._buffer[: self._body_at])
        if b"connection: close" in head.lower():
            self.close()
        if answer and not answer.done():
            answer.set_result((int(head[9:12]), head, body))

    def connection_lost(self, error: Exception | None) -> None:
        """Whoever waits is told."""
        self.open = False
        if self._answer and not self._answer.done():
            self._answer.set_exception(CutError(str(error)))

    def close(self) -> None:
        """Let go of the socket."""
        self.open = False
        self._transport.close()

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        self._body_at = end + 4
        for line in self._buffer[:end].lower().split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name == b"content-length":
                self._length = int(value)
        if self._length is None and b"transfer-encoding" not in self._buffer[:end].lower():
            self._length = 0
        return True


def _unchunked(buffer: bytearray, at: int) -> bytes | None:
    """The body of a chunked answer, or None while it is not whole."""
    if not buffer.endswith(b"0\r\n\r\n"):
        return None
    parts = []
    while True:
        line = buffer.find(b"\r\n", at)
        if line < 0:
            return None
        size = int(buffer[at:line].split(b";")[0], 16)
        if not size:
            return b"".join(parts)
        parts.append(bytes(buffer[line + 2 : line + 2 + size]))
        at = line + 4 + size
