"""Fetched files on their way into a part: whole ones under the name of their content, cut ones to be continued.

staging/ab12...          whole, checked; renamed into place
staging/ab12....partial  what came before the connection or the process ended; continued by range
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from biomedray.errors import WorkError

_BLOCK = 2**20
_MD5 = re.compile(r"[0-9a-f]{32}")


def plain_md5(etag: str | None) -> str:
    """The MD5 that an ETag or checksum is; "" for none, a weak one, or one of several parts (``...-3``)."""
    text = (etag or "").strip().strip('"').lower()
    return text if _MD5.fullmatch(text) else ""


class MismatchError(ValueError):
    """The bytes that came are not those that were promised."""


class Staging:
    """A folder of fetched files; it outlives a killed process, and goes when the part that they belong to is committed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._seen: set[str] = set()
        self._made = False

    def whole(self, url: str, md5: str) -> Path | None:
        """The file, where it was fetched before; one found from an earlier process is checked against its MD5 first."""
        name = _name(url, md5)
        path = self._path(name)
        if name not in self._seen:
            if not path.is_file():
                return None
            if md5 and md5_of(path).hexdigest() != md5:
                path.unlink()
                return None
            self._seen.add(name)
        return path

    def partial(self, url: str, md5: str) -> Partial:
        """Where the bytes of a file go until they are all there."""
        name = _name(url, md5)
        path = self._path(name)
        if not self._made:
            with _disk(path):
                self.folder.mkdir(parents=True, exist_ok=True)
            self._made = True
        self._seen.discard(name)
        return Partial(path, md5, self._seen)

    def clear(self) -> None:
        """Remove everything: the part is committed."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._seen.clear()
        self._made = False

    def _path(self, name: str) -> Path:
        return self.folder / name


def _name(url: str, md5: str) -> str:
    return md5 or "u" + hashlib.sha256(url.encode()).hexdigest()[:31]


def md5_of(path: Path) -> hashlib._Hash:
    """The MD5 of a file, as a digest that can be continued."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    """A full or failing disk is no fault of the files fetched: the run stops."""
    try:
        yield
    except OSError as error:
        raise WorkError(
            f"{path.parent}: cannot be written: {error.strerror}; mend that, then start the same command again to resume"
        ) from error


class Partial:
    """A file that is being fetched: how much of it is there, and its MD5 so far.

    Without a promised MD5 nothing says that the bytes of an earlier process are of the same object: they are dropped.
    """

    def __init__(self, path: Path, md5: str, seen: set[str]) -> None:
        self._target, self._md5, self._seen = path, md5, seen
        self.etag = ""
        """By the answer that brought the bytes, in this process."""
        self._path = path.with_name(f"{path.name}.partial")
        with _disk(path):
            self._file = self._open()
        self._digest = hashlib.md5(usedforsecurity=False)
        self.size = self._file.seek(0, os.SEEK_END)
        if self.size and md5:
            self._digest = md5_of(self._path)
        elif self.size:
            self.restart()

    def _open(self) -> BinaryIO:
        file = self._path.open("ab")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            # A worker that was given up for dead is still writing: it keeps its file, this one takes another.
            file.close()
            self._path = self._path.with_name(f"{self._path.name}-{os.getpid()}")
            file = self._path.open("ab")
        return file

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()
        if error is not None and self.size == 0:
            self._path.unlink(missing_ok=True)

    @property
    def promised(self) -> bool:
        """Whether the whole file can be checked."""
        return bool(self._md5)

    def write(self, data: bytes) -> None:
        """Append."""
        with _disk(self._path):
            self._file.write(data)
        self._digest.update(data)
        self.size += len(data)

    def restart(self) -> None:
        """Drop what is there."""
        self._file.truncate(0)
        self._digest = hashlib.md5(usedforsecurity=False)
        self.size = 0
        self.etag = ""

    def finish(self, told: str = "") -> Path:
        """Check the whole file and move it into place; ``told`` is the MD5 by the answer's header, where none was promised.

        Raises:
            MismatchError: it is not what was promised; nothing of it is kept.
        """
        wanted, found = self._md5 or told, self._digest.hexdigest()
        if wanted and wanted != found:
            size = self.size
            self.restart()
            raise MismatchError(f"{size} bytes with MD5 {found}, {wanted} was promised")
        with _disk(self._path):
            self._file.flush()
            self._path.replace(self._target)
        self._seen.add(self._target.name)
        return self._target
