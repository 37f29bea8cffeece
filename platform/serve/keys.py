"""API keys: a file of labels and SHA-256 of random keys, looked at again as it changes; nothing secret is stored.

    {"label": "ward-7", "sha256": "...", "rate": 20, "expires": "2027-06-30"}      one line a key

A key is 256 random bits, so one round of SHA-256 is enough: there is nothing to guess.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from pathlib import Path

from pydantic import Field, ValidationError

from biomedray.artifacts import write_atomic
from biomedray.config import Config
from biomedray.errors import UserError

_LOG = logging.getLogger(__name__)

_PREFIX = "bmr_"
_LOOK_SECONDS = 1.0
_LABEL = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class Key(Config):
    """Who holds a key, how often they may ask and until when."""

    label: str = Field(pattern=_LABEL)
    """Shown in logs and metrics."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Hex digest of the key."""
    rate: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Items a second; the service's own rate unless told."""
    expires: date | None = None
    """The last day on which it is good (UTC)."""

    def is_good(self, today: date) -> bool:
        """Whether it has not expired."""
        return self.expires is None or today <= self.expires


def read_keys(path: Path) -> list[Key]:
    """The keys of a file.

    Raises:
        UserError: it can't be read, or a line is no key; the line is named, never quoted.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can't read the keys ({getattr(error, 'strerror', None) or 'no text'})") from None
    keys = [_parsed(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    labels = [key.label for key in keys]
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise UserError(f"{path}: two keys are called {twice}; remove one with 'biomedray keys {path} --remove {twice}'")
    return keys


def add_key(path: Path, label: str, rate: float | None = None, expires: date | None = None) -> str:
    """Store a new key's hash under ``label`` and return the key, which is nowhere else.

    Raises:
        UserError: the label is taken or malformed, or the file can't be read or written.
    """
    keys = read_keys(path) if path.exists() else []
    if any(key.label == label for key in keys):
        raise UserError(f"{path}: there is a key called {label}; choose another label, or remove it first")
    secret = _PREFIX + secrets.token_urlsafe(32)
    try:
        keys.append(Key(label=label, sha256=_digest(secret), rate=rate, expires=expires))
    except ValidationError:
        raise UserError("a label is up to 64 letters, digits, '.', '_' or '-', and a rate is more than 0") from None
    _write(path, keys)
    return secret


def remove_key(path: Path, label: str) -> None:
    """Take a key out; running services refuse it within seconds.

    Raises:
        UserError: there is no such label, or the file can't be read or written.
    """
    keys = read_keys(path)
    kept = [key for key in keys if key.label != label]
    if len(kept) == len(keys):
        raise UserError(f"{path}: no key is called {label}; --list shows them")
    _write(path, kept)


class KeyRing:
    """The keys of a file, read again when it has changed; a file that has become unreadable leaves the keys as they were."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Read the file.

        Raises:
            UserError: it can't be read or holds no key.
        """
        self._path = path
        self._clock = clock
        self._stamp = _stamp(path)
        self._looked = clock()
        self._keys: Sequence[Key] = read_keys(path)
        if not self._keys:
            raise UserError(f"{path}: holds no key; add one with 'biomedray keys {path} --add LABEL'")

    def find(self, secret: str) -> Key | None:
        """The key, if it is one of the file's and has not expired; every hash is compared, in constant time."""
        self._look()
        digest = _digest(secret)
        found = [key for key in self._keys if hmac.compare_digest(key.sha256, digest)]
        return found[0] if found and found[0].is_good(datetime.now(UTC).date()) else None

    def _look(self) -> None:
        if self._clock() - self._looked < _LOOK_SECONDS:
            return
        self._looked = self._clock()
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keys = read_keys(self._path)
        except UserError as error:
            _LOG.warning("the old keys stay in use: %s", error)
            return
        _LOG.warning("keys read again: %d", len(self._keys))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _parsed(path: Path, number: int, line: str) -> Key:
    try:
        return Key.model_validate(json.loads(line))
    except (ValueError, RecursionError):
        message = f'{path}: line {number} is no key; it should be like {{"label": "ward-7", "sha256": "64 hex digits"}}'
        raise UserError(message) from None


def _write(path: Path, keys: Sequence[Key]) -> None:
    lines = [key.model_dump_json(exclude_none=True) + "\n" for key in keys]
    try:
        write_atomic(path, "".join(lines))
        path.chmod(0o600)
    except OSError as error:
        raise UserError(f"{path}: can't write the keys ({error.strerror})") from None


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
