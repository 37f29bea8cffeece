"""Checksums of an index: what native code parses is checked before it is opened, the large plain files while it serves.

faiss, Arrow, codes, keys      read and hashed before anything parses them (a damaged offset could crash the process)
vectors, lines of JSON         sizes at once, all bytes in a thread; damage there can only misplace a hit or spoil its text
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Literal

from biomedray.errors import UserError

_LOG = logging.getLogger(__name__)
_BLOCK = 1 << 20
_HASHERS = 2

State = Literal["checking", "verified", "damaged"]


def check(folder: Path, files: Mapping[str, str], names: Sequence[str]) -> None:
    """Compare the checksums of some of a generation's files, two at a time.

    Raises:
        UserError: a file is missing or is not the one that was written.
    """
    with ExitStack() as stack, ThreadPoolExecutor(_HASHERS) as pool:
        opened = [(name, stack.enter_context(_open(folder / name))) for name in names]
        sums = pool.map(lambda entry: hashlib.file_digest(entry[1], "sha256").hexdigest(), opened)
        for name, found in zip(names, sums, strict=True):
            if found != files[name]:
                raise UserError(f"{folder / name}: damaged (its checksum differs); build the index again")


def read_checked(path: Path, expected: str) -> bytes:
    """The bytes of a file, hashed as they are handed on: nothing can change between check and use.

    Raises:
        UserError: it is missing or is not the one that was written.
    """
    with _open(path) as file:
        data = file.read()
    if hashlib.sha256(data).hexdigest() != expected:
        raise UserError(f"{path}: damaged (its checksum differs); build the index again")
    return data


class Background:
    """Checks large files in a thread; they are opened at once, so that a generation may be deleted meanwhile."""

    def __init__(self, folder: Path, files: Mapping[str, str], names: Sequence[str]) -> None:
        """Raises UserError where a file is missing."""
        self._opened = [(folder / name, files[name], _open(folder / name)) for name in names]
        self._stop = threading.Event()
        self.state: State = "checking" if names else "verified"
        self._thread = threading.Thread(target=self._run, name="verify", daemon=True)
        self._thread.start()

    def wait(self) -> State:
        """The outcome, once it is there."""
        self._thread.join()
        return self.state

    def close(self) -> None:
        """Stop checking."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            sound = all(list(map(self._sound, *zip(*self._opened, strict=True)))) if self._opened else True
        finally:
            for _, _, file in self._opened:
                file.close()
        if not self._stop.is_set():
            self.state = "verified" if sound else "damaged"

    def _sound(self, path: Path, expected: str, file: BinaryIO) -> bool:
        digest = hashlib.sha256()
        while not self._stop.is_set() and (block := file.read(_BLOCK)):
            digest.update(block)
        if self._stop.is_set() or digest.hexdigest() == expected:
            return True
        _LOG.error("%s: damaged (its checksum differs); build the index again", path.name)
        return False


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: missing or unreadable ({error.strerror}); build the index again") from None
