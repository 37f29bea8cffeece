"""Who may ask: probes are open, every other route wants a key where keys are set, and takes from its rate.

headers -> sane? -> another site's page? -> key -> rate -> Caller; all of it before a byte of the body is read.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field
from starlette.datastructures import Headers
from starlette.types import Scope

from biomedray.config import Config
from biomedray.errors import UserError
from biomedray.serve.keys import KeyRing
from biomedray.serve.limits import Limits
from biomedray.serve.origins import Origins
from biomedray.serve.problems import Problem
from biomedray.serve.rates import Bucket

PROBES = frozenset({"/livez", "/healthz", "/readyz"})
"""Routes that need no key and cost nothing."""

_CHALLENGE = {
    "www-authenticate": 'Basic realm="biomedray", charset="UTF-8", Bearer realm="biomedray"'
}  # Chromium reads Basic only if all of the line has realms
_GET_COST = 0.1
_POST_COST = 1.0
_ONCE = ("authorization", "x-api-key", "content-length", "content-type", "host", "origin")
_LONGEST_KEY = 1024


class Access(Config):
    """Who may ask, how often, from which pages, and whether requests are logged."""

    keys: Path | None = None
    """File of API keys ('biomedray keys'); without one everybody who can reach the port may ask."""
    rate: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Items a second of each key, or of all callers together without keys; for each replica."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose pages may ask, as https://host:port; ``*`` is all."""
    access_log: bool = False
    """One JSON line for each request on the replica's stderr."""
    insecure: bool = False
    """Whether callers on other machines may ask without a key."""
    hosts: tuple[str, ...] = ()
    """Names (Host without its port) under which the service may be asked; none: under any."""

    def check(self, host: str) -> None:
        """Look at the keys before anything starts.

        Raises:
            UserError: their file can't be read or holds none, or there are none though others can reach the host.
        """
        if self.keys is not None:
            KeyRing(self.keys)
        elif not self.insecure and not _is_loopback(host):
            line = f"--host {host} lets other machines ask; give --keys FILE ('biomedray keys FILE --add LABEL'), or --insecure"
            raise UserError(line)

    def on(self, host: str) -> Access:
        """As it is where the service listens on this host.

        Without keys the loopback answers to its own names only: a page of another site whose name was made to lead there (DNS
        rebinding) is of the same origin to a browser, but asks under that name.

        Raises:
            UserError: as ``check``.
        """
        self.check(host)
        if self.keys is not None or self.insecure or self.hosts:
            return self
        own = dict.fromkeys(("localhost", "127.0.0.1", "::1", host))
        return self.model_copy(update={"hosts": tuple(own)})


@dataclass(frozen=True)
class Caller:
    """Who asks: the key's label, if one was wanted, what pays for the request, and its cost before its items are known."""

    label: str | None = None
    bucket: Bucket | None = None
    cost: float = 0.0


class Gate:
    """Decides by a request's head alone whether it may be read."""

    def __init__(self, access: Access, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        """Read the keys, if any.

        Raises:
            UserError: their file can't be read or holds none.
        """
        self.origins = Origins(access.cors_origins)
        self._hosts = {name.strip("[]").lower() for name in access.hosts}
        self.logged = access.access_log
        self._limits = limits
        self._ring = KeyRing(access.keys) if access.keys else None
        self._rate = access.rate
        self._clock = clock
        self._buckets: dict[str | None, tuple[float, Bucket]] = {}

    def check_head(self, scope: Scope) -> None:
        """Refuse heads that are too large or say the same thing twice.

        Raises:
            Problem: 431, 414 or 400.
        """
        fields = scope["headers"]
        if (
            len(fields) > self._limits.headers
            or sum(len(name) + len(value) for name, value in fields) > self._limits.header_bytes
        ):
            raise Problem(431, "too many header fields, or too large ones", "headers_too_large")
        if len(scope.get("raw_path") or b"") + len(scope["query_string"]) > self._limits.url_bytes:
            raise Problem(414, "the address is too long; send the query in the body", "url_too_long")
        names = [name for name, _ in fields]
        if len(set(names)) < len(names) and (twice := next((n for n in _ONCE if names.count(n.encode()) > 1), None)):
            raise Problem(400, f"{twice} is there twice", "repeated_header")

    def admit(self, scope: Scope, headers: Headers) -> Caller:
        """Who asks, if they may.

        Raises:
            Problem: 401, no key or not a good one; 403, a page of another site, or another name than the service's; 429, too
                much asked in too short a time.
        """
        if route_path(scope) in PROBES:
            return Caller()
        if self._hosts and _host_name(headers) not in self._hosts:
            raise Problem(403, "not asked under its own name; 'access.hosts' lets a name in, keys any", "wrong_host")
        self.origins.check(scope["method"], headers)
        label, own = None, None
        if self._ring is not None:
            key = self._ring.find(_secret(headers))
            if key is None:
                raise Problem(401, "this key is not known, or has expired", "invalid_api_key", headers=_CHALLENGE)
            label, own = key.label, key.rate
        rate = own or self._rate
        if rate is None:
            return Caller(label)
        bucket = self._bucket(label, rate)
        if wait := bucket.wait():
            raise Problem(429, f"more than {rate:g} items a second; try again later", "rate_limited", retry_after=wait)
        return Caller(label, bucket, _GET_COST if scope["method"] in ("GET", "HEAD") else _POST_COST)

    def _bucket(self, label: str | None, rate: float) -> Bucket:
        """A label's bucket; a fresh one when its rate has changed."""
        before, bucket = self._buckets.get(label, (None, None))
        if bucket is None or before != rate:
            bucket = Bucket(rate, self._clock)
            self._buckets[label] = rate, bucket
        return bucket


def route_path(scope: Scope) -> str:
    """The path that routes are matched against: without the prefix under which the application is mounted."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


def _host_name(headers: Headers) -> str:
    host = headers.get("host", "").lower()
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _secret(headers: Headers) -> str:
    """The key that was sent: as a bearer token, in X-API-Key, or as the password of HTTP Basic.

    Raises:
        Problem: 401, none was sent.
    """
    scheme, _, rest = headers.get("authorization", "").partition(" ")
    secret = {"bearer": rest.strip(), "basic": _password(rest)}.get(scheme.lower(), "") or headers.get("x-api-key", "").strip()
    if not secret or len(secret) > _LONGEST_KEY:
        line = "a key is wanted: Authorization: Bearer KEY, X-API-Key: KEY, or HTTP Basic with the key as password"
        raise Problem(401, line, "missing_api_key", headers=_CHALLENGE)
    return secret


def _password(text: str) -> str:
    try:
        return base64.b64decode(text.strip(), validate=True).decode().partition(":")[2]
    except (binascii.Error, ValueError):
        return ""
