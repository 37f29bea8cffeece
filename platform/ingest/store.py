"""Objects of a store, read only: what a store can do, what can go wrong, and a folder as the simplest one.

address -> open_store -> HttpStore (S3 bucket, HTTP mirror: transfer.py) or FolderStore, all with the keys of PMC's bucket
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar
from urllib.parse import unquote, urlsplit

from biomedray.errors import UserError, WorkError
from biomedray.ingest.settings import FetchConfig
from biomedray.ingest.staging import Staging, md5_of

T = TypeVar("T")
RESUME = "start the same command again to resume"


class Trouble(StrEnum):
    """Why a file could not be had."""

    MISSING = "missing"
    TOO_LARGE = "too large"
    MISMATCH = "mismatch"
    FAILED = "failed"


class FetchError(Exception):
    """This one file can't be had, now or later."""

    def __init__(self, trouble: Trouble, detail: str) -> None:
        super().__init__(detail)
        self.trouble = trouble


class StoreDownError(WorkError):
    """The store as a whole doesn't answer: stop, rather than call every article bad."""

    def __init__(self, address: str, detail: str) -> None:
        super().__init__(f"{address}: {detail}; {RESUME}")


class Store(Protocol):
    """What every store can do. Keys are relative to its address."""

    address: str
    folder: Path | None
    """Of a store on disk."""
    refusal: str
    """What it said last in place of a size, other than that there is no such object; "" for nothing."""

    async def fetch(self, key: str, staging: Staging, md5: str = "", limit: int = 2**63) -> Path:
        """The file, fetched into the staging folder unless it is there; ``md5`` is what it must have, "" for unknown.

        Raises:
            FetchError: it is missing, larger than ``limit`` bytes, not what was promised, or can't be fetched.
            StoreDownError: nothing can be fetched.
        """
        ...

    async def size(self, key: str) -> int | None:
        """Bytes of an object, None where there is none (or the server doesn't say)."""
        ...

    async def close(self) -> None:
        """Let the connections go."""
        ...


def open_store(address: str, fetch: FetchConfig) -> Store:
    """The store at ``s3://bucket[/prefix]``, ``https://...``, ``http://...`` or ``file:///folder``; call within a loop.

    Raises:
        UserError: the address is none of these.
    """
    from biomedray.ingest.transfer import HttpStore, s3_url, signer

    parts = urlsplit(address)
    if parts.scheme == "file" and not parts.netloc:
        return FolderStore(address, Path(unquote(parts.path)))
    if parts.scheme in ("http", "https") and parts.netloc:
        return HttpStore(address, address.rstrip("/") + "/", fetch)
    if parts.scheme == "s3" and parts.netloc:
        sign = signer(address, fetch) if fetch.signed else None
        return HttpStore(address, s3_url(parts.netloc, parts.path.strip("/"), fetch), fetch, sign)
    raise UserError(f"{address}: no such kind of store; s3://BUCKET, https://..., http://... or file:///FOLDER is wanted")


class Background:
    """An event loop in a thread of its own, for plain code that fetches; also inside a notebook, which has its own loop."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="biomedray-fetch", daemon=True)
        self._thread.start()

    def start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Let it run, and go on meanwhile."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Run it and wait for its result."""
        return self.start(work).result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wait(_cancel_others())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


class FolderStore:
    """A folder with the keys of a bucket; nothing is copied."""

    def __init__(self, address: str, root: Path) -> None:
        if not root.is_dir():
            raise UserError(f"{address}: no such folder")
        self.address = address
        self.folder: Path | None = root.resolve()
        self.refusal = ""
        self._root = root.resolve()

    async def fetch(self, key: str, staging: Staging, md5: str = "", limit: int = 2**63) -> Path:  # noqa: ARG002  # see Store
        """See Store."""
        path = self._path(key)
        if path is None:
            raise FetchError(Trouble.MISSING, f"{key}: no such file")
        if path.stat().st_size > limit:
            raise FetchError(Trouble.TOO_LARGE, f"{key}: {path.stat().st_size} bytes, the limit is {limit}")
        if md5 and (found := md5_of(path).hexdigest()) != md5:
            raise FetchError(Trouble.MISMATCH, f"{key}: MD5 {found}, {md5} was promised")
        return path

    async def size(self, key: str) -> int | None:
        """See Store."""
        path = self._path(key)
        return None if path is None else path.stat().st_size

    async def close(self) -> None:
        """Nothing to let go."""

    def _path(self, key: str) -> Path | None:
        path = self._root / key
        return path if path.is_file() and path.resolve().is_relative_to(self._root) else None
