r"""Files over HTTP, from S3 or a mirror: bounded concurrency, retries, ranges, checks.

key --GET--> 408, 429, 5xx, reset, timeout: wait (Retry-After, else doubling and jitter), go on by range
         \-> whole and MD5 right: a file in the staging folder    \-> for good: FetchError    \-> store down: StoreDownError
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import yarl

from biomedray.errors import UserError
from biomedray.ingest.settings import FetchConfig
from biomedray.ingest.staging import MismatchError, Partial, Staging, plain_md5
from biomedray.ingest.store import FetchError, StoreDownError, Trouble

_TRANSIENT = frozenset((408, 425, 429, 500, 502, 503, 504, 509))
_NO_HEAD = (405, 501)
_CHUNK = 2**18
_SLOWEST = 1024  # bytes a second; slower for longer than the read timeout is a server that hangs
_MOST_ATTEMPTS = 10  # times the retries: even when each attempt brings a few bytes more
_REFUSED_RETRIES = 2  # of a store that never answered: a wrong address shall not take minutes to be told
_NETWORK = (aiohttp.ClientError, TimeoutError, OSError)


def s3_url(bucket: str, prefix: str, fetch: FetchConfig) -> str:
    """Where a bucket's objects lie over HTTP: in the path at another endpoint, in the host's name at Amazon's."""
    tail = f"{quote(prefix)}/" if prefix else ""
    if fetch.endpoint:
        return f"{fetch.endpoint.rstrip('/')}/{bucket}/{tail}"
    host = f"s3.{fetch.region}.amazonaws.com"
    return f"https://{host}/{bucket}/{tail}" if "." in bucket else f"https://{bucket}.{host}/{tail}"


def env_proxy(url: str) -> str | None:
    """The proxy that the environment names for a URL; asked once, since aiohttp's trust_env asks anew for every request."""
    parts = urlsplit(url)
    return None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)


@dataclass
class _Outage:
    """Signs that it is the store that fails and not a file."""

    answered: bool = False
    failed: int = 0

    def well(self) -> None:
        self.answered = True
        self.failed = 0


class _RetryError(Exception):
    """Worth another attempt; ``after`` is how long the server asks to wait; ``refused``: there was no connection."""

    def __init__(self, detail: str, after: float = 0.0, refused: bool = False) -> None:
        super().__init__(detail)
        self.after, self.refused = after, refused


class HttpStore:
    """Objects below a URL, fetched with bounded concurrency, retries and checks."""

    folder: Path | None = None

    def __init__(self, address: str, base: str, fetch: FetchConfig, sign: Any = None) -> None:
        self.address, self._base, self._settings, self._sign = address, base, fetch, sign
        self.refusal = ""
        self._asks = "HEAD"
        self._slots = asyncio.Semaphore(fetch.concurrency)
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._outage = _Outage()
        self._quiet_until = 0.0
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=fetch.concurrency),
            timeout=aiohttp.ClientTimeout(sock_connect=fetch.connect_timeout_s, sock_read=fetch.read_timeout_s),
            headers={"Accept-Encoding": "identity", "User-Agent": "biomedray"},
            auto_decompress=False,
        )
        self._proxy = env_proxy(base)

    async def close(self) -> None:
        """Let the connections go."""
        await self._session.close()

    async def fetch(self, key: str, staging: Staging, md5: str = "", limit: int = 2**63) -> Path:
        """See Store."""
        url = self._url(key)
        lock = self._locks[md5 or url]  # two figures may need the same bytes at the same time
        try:
            async with lock:
                if found := staging.whole(url, md5):
                    return found
                async with self._slots:
                    with staging.partial(url, md5) as partial:
                        return await self._persist(url, partial, md5, limit)
        finally:
            self._locks.pop(md5 or url, None)

    async def size(self, key: str) -> int | None:
        """See Store."""
        url = self._url(key)
        for attempt in range(self._settings.retries + 1):
            try:
                answer = await self._ask(url)
                if answer.status in _NO_HEAD and self._asks == "HEAD":
                    self._asks = "GET"
                    answer = await self._ask(url)
                if answer.status not in _TRANSIENT:
                    self._outage.well()
                    return self._size_of(answer)
                last = _RetryError(f"HTTP {answer.status}", _retry_after(answer.headers))
            except _NETWORK as error:
                last = _as_retry(error)
            if last.refused and not self._outage.answered and attempt >= _REFUSED_RETRIES:
                break
            await self._wait(attempt, last)
        raise StoreDownError(self.address, f"can't be reached ({last})")

    async def _ask(self, url: str) -> aiohttp.ClientResponse:
        """The head of an object: by HEAD, or of its first byte where the server knows no HEAD."""
        method = self._asks
        first = {"Range": "bytes=0-0"} if method == "GET" else {}
        target = await self._target(url, method)
        async with self._slots, self._session.request(method, target, headers=first, proxy=self._proxy) as answer:
            return answer

    def _size_of(self, answer: aiohttp.ClientResponse) -> int | None:
        if answer.status == 206:
            total = answer.headers.get("Content-Range", "").rpartition("/")[2]
            return int(total) if total.isdecimal() else None
        if answer.status == 416:
            return 0  # no first byte
        if answer.status not in (200, 404, 410):
            self.refusal = f"HTTP {answer.status}"
        return answer.content_length if answer.status == 200 else None

    # ---- one file, until it is there or given up

    async def _persist(self, url: str, partial: Partial, md5: str, limit: int) -> Path:
        attempt = total = 0
        mismatches: list[str] = []
        while True:
            before = partial.size
            try:
                await self._attempt(url, partial, limit)
                return partial.finish(self._told(partial.etag, md5))
            except MismatchError as error:
                mismatches.append(str(error))
                if len(mismatches) > 1:
                    detail = f"{_last(url)}: {mismatches[-1]}, after a second fetch too"
                    raise FetchError(Trouble.MISMATCH, detail) from None
            except (_RetryError, *_NETWORK) as error:
                last = _as_retry(error)
                attempt = 0 if partial.size > before else attempt + 1
                total += 1
                await self._give_up_or_wait(url, attempt, total, last)

    def _told(self, etag: str, md5: str) -> str:
        """S3's ETag of an object of one part is its MD5; other servers' ETags mean nothing."""
        return plain_md5(etag) if not md5 and self.address.startswith("s3:") else ""

    async def _give_up_or_wait(self, url: str, attempt: int, total: int, last: _RetryError) -> None:
        retries = self._settings.retries
        if last.refused and not self._outage.answered:
            retries = min(retries, _REFUSED_RETRIES)
        if attempt <= retries and total <= _MOST_ATTEMPTS * (retries + 1):
            await self._wait(max(attempt - 1, 0), last)
            return
        if last.refused:
            raise StoreDownError(self.address, f"can't be reached ({last})")
        self._outage.failed += 1
        if self._outage.failed >= self._settings.give_up_after:
            raise StoreDownError(self.address, f"{self._outage.failed} files failed one after the other, the last with: {last}")
        if not await self._alive():
            raise StoreDownError(self.address, f"doesn't answer ({last})")
        raise FetchError(Trouble.FAILED, f"{_last(url)}: {last}, after {total} attempts")

    async def _alive(self) -> bool:
        """Whether the store answers at all: asked for a key that nobody has, it says so."""
        try:
            async with self._session.head(await self._target(self._url("metadata/"), "HEAD"), proxy=self._proxy) as answer:
                return answer.status not in _TRANSIENT
        except _NETWORK:
            return False

    async def _wait(self, attempt: int, last: _RetryError) -> None:
        settings = self._settings
        pause = min(settings.max_backoff_s, settings.backoff_s * 2 ** min(attempt, 30)) * random.uniform(0.5, 1)
        if last.after:
            pause = max(pause, min(last.after, 5 * settings.max_backoff_s))
            self._quiet_until = max(self._quiet_until, time.monotonic() + pause)
        await asyncio.sleep(pause)

    # ---- one attempt

    async def _attempt(self, url: str, partial: Partial, limit: int) -> None:
        """Fetch what is missing.

        Raises:
            _RetryError: worth another attempt; what came is kept where it can be continued.
            FetchError: not worth another one.
        """
        if (rest := self._quiet_until - time.monotonic()) > 0:
            await asyncio.sleep(rest * random.uniform(1, 1.2))
        strong = bool(partial.etag) and not partial.etag.startswith("W/")
        if not (strong or partial.promised):
            partial.restart()  # nothing would tell that the rest is of another object
        headers = {"Range": f"bytes={partial.size}-"} if partial.size else {}
        if partial.size and strong:
            headers["If-Match"] = partial.etag
        async with self._session.get(await self._target(url, "GET"), headers=headers, proxy=self._proxy) as answer:
            self._judge(url, answer.status, answer.headers, partial)
            self._outage.well()
            expected = _begin(answer, partial)
            if expected is not None and expected > limit:
                raise FetchError(Trouble.TOO_LARGE, f"{_last(url)}: {expected} bytes, the limit is {limit}")
            await self._drain(url, answer, partial, limit)
            if expected is not None and partial.size != expected:
                raise _RetryError(f"{partial.size} of {expected} bytes came")

    def _judge(self, url: str, status: int, headers: Mapping[str, str], partial: Partial) -> None:
        if status in (200, 206):
            return
        if status in _TRANSIENT:
            raise _RetryError(f"HTTP {status}", _retry_after(headers))
        self._outage.well()
        if status in (412, 416) and partial.size:
            partial.restart()
            raise _RetryError(f"HTTP {status}: the object changed")
        if status in (404, 410):
            raise FetchError(Trouble.MISSING, f"{_last(url)}: HTTP {status}")
        hint = " (forbidden, or no such object in a bucket that doesn't say so)" if status == 403 else ""
        raise FetchError(Trouble.FAILED, f"{_last(url)}: HTTP {status}{hint}")

    async def _drain(self, url: str, answer: aiohttp.ClientResponse, partial: Partial, limit: int) -> None:
        started, came = time.monotonic(), 0
        async for chunk in answer.content.iter_chunked(_CHUNK):
            came += len(chunk)
            if partial.size + len(chunk) > limit:
                partial.restart()
                raise FetchError(Trouble.TOO_LARGE, f"{_last(url)}: more than {limit} bytes")
            partial.write(chunk)
            elapsed = time.monotonic() - started
            if elapsed > self._settings.read_timeout_s and came < _SLOWEST * elapsed:
                raise _RetryError(f"less than {_SLOWEST} bytes a second")

    def _url(self, key: str) -> str:
        return self._base + quote(key, safe="/~")

    async def _target(self, url: str, method: str) -> yarl.URL:
        signed = await self._sign(method, unquote(url.removeprefix(self._base))) if self._sign else url
        return yarl.URL(signed, encoded=True)


def _begin(answer: aiohttp.ClientResponse, partial: Partial) -> int | None:
    """Make the partial file fit what is about to come; how large it will be then, None where the server doesn't say."""
    length, etag = answer.content_length, answer.headers.get("ETag", "")
    if answer.status == 206:
        match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", answer.headers.get("Content-Range", ""))
        same = partial.etag in ("", etag)
        if match is None or int(match[1]) != partial.size or not same:
            partial.restart()
            raise _RetryError("not the range that was asked for")
        partial.etag = etag
        return int(match[3]) if match[3] != "*" else int(match[2]) + 1
    partial.restart()
    partial.etag = etag
    return length


def _as_retry(error: BaseException) -> _RetryError:
    if isinstance(error, _RetryError):
        return error
    refused = isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
    detail = "timed out" if isinstance(error, TimeoutError) else (str(error) or type(error).__name__).splitlines()[0][:160]
    return _RetryError(detail, refused=refused)


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that a Retry-After header asks for, as a number or a date; 0 where there is none."""
    text = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d+)?", text):
        return float(text)
    try:
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0


def _last(url: str) -> str:
    return "/".join(unquote(url).split("/")[-2:])


def signer(address: str, fetch: FetchConfig) -> Any:
    """Signs the URL of a key, relative to the store's prefix, with the user's credentials; good for an hour."""
    import obstore

    bucket, prefix = urlsplit(address).netloc, urlsplit(address).path.strip("/")
    options: dict[str, Any] = {"endpoint": fetch.endpoint} if fetch.endpoint else {}
    store = obstore.store.S3Store(
        bucket,
        prefix=prefix or None,
        region=fetch.region,
        virtual_hosted_style_request=not fetch.endpoint and "." not in bucket,
        client_options={"allow_http": True},
        **options,
    )

    async def sign(method: Any, key: str) -> str:
        try:
            return await obstore.sign_async(store, method, key, timedelta(hours=1))
        except obstore.exceptions.BaseError as error:
            raise UserError(f"{address}: no credentials to sign with: {str(error).splitlines()[0][:200]}") from None

    return sign
