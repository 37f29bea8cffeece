"""The stream inside an archive, whatever compressed it, with a meter on it: nothing that unpacks may be endless."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_BLOCK = 512
# Long names and other extended headers of one member: real ones have a few blocks. tarfile reads them whole, and reads ahead.
_MAX_HEADER = 2**20
_MAX_EMPTY = 16


class TooLargeError(Exception):
    """The archive is over a limit; the message says which."""


class MeteredStream:
    """What ``tarfile`` reads: neither the whole nor the headers of one member may be endless."""

    def __init__(self, raw: Any, most: int) -> None:
        self._raw = raw
        self._most = most
        self._position = 0
        self._allowed = _MAX_HEADER
        self._empty = 0

    def allow(self, size: int) -> None:
        """A member of that size has begun: its bytes and the headers of the next one may be read.

        Raises:
            TooLargeError: the whole would be over its bound.
        """
        self._allowed = self._position + max(size, 0) + _BLOCK + _MAX_HEADER
        if self._position + size > self._most:
            raise TooLargeError(f"unpacks to more than {self._most} bytes")

    def read(self, size: int) -> bytes:
        """The next bytes.

        Raises:
            TooLargeError: beyond a bound; whatever the decompressor raises on damage comes through.
            EOFError: asked again and again after the end: tarfile skips a member that isn't there block by block.
        """
        data: bytes = self._raw.read(size)
        self._empty = 0 if data else self._empty + 1
        if self._empty > _MAX_EMPTY:
            raise EOFError("the archive ends within a member")
        self._position += len(data)
        if self._position > self._most:
            raise TooLargeError(f"unpacks to more than {self._most} bytes")
        if self._position > self._allowed:
            raise TooLargeError(f"the headers of one member take more than {_MAX_HEADER} bytes")
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._raw.close()


def open_stream(path: Path, most: int) -> MeteredStream:
    """The tar inside, found by magic bytes: a name may lie about its compression. It gives at most ``most`` bytes."""
    with path.open("rb") as file:
        magic = file.read(6)
    openers: tuple[tuple[bytes, Callable[..., Any]], ...] = (
        (b"\x1f\x8b", gzip.open),
        (b"\xfd7zXZ\x00", lzma.open),
        (b"BZh", bz2.open),
    )
    return MeteredStream(next((opener for start, opener in openers if magic.startswith(start)), open)(path, "rb"), most)
