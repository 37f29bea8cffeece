"""Where a pairs artifact lies: a folder, or an address (s3://, gs://, https://, anything that pyarrow or fsspec opens)."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
from pyarrow import fs

from biomedray.artifacts import MANIFEST, Manifest, manifest_fingerprint, read_manifest
from biomedray.errors import UserError
from biomedray.records import Split


@dataclass(frozen=True)
class Source:
    """A pairs artifact to read from; plain text, so that it travels to workers."""

    address: str

    @classmethod
    def of(cls, pairs: Path | str | Source) -> Source:
        """From a folder, or an address with ``://`` in it."""
        if isinstance(pairs, Source):
            return pairs
        return cls(str(pairs) if is_remote(pairs) else str(Path(pairs).resolve()))

    @property
    def name(self) -> str:
        """The last part of the address."""
        return self.address.partition("?")[0].rstrip("/").rpartition("/")[2]

    @property
    def remote(self) -> bool:
        """Whether reading goes over a network, so that a failure may pass."""
        return is_remote(self.address)

    def files(self, split: Split) -> list[str]:
        """Parquet files of a split below the address, in order of name.

        Raises:
            UserError: the store doesn't list them (a web server must show an index page of the folder).
        """
        folder = f"data/split={split}"
        if not self.remote:
            return [f"{folder}/{path.name}" for path in sorted(Path(self.address, folder).glob("*.parquet"))]
        filesystem, base = open_filesystem(self.address)
        try:
            found = filesystem.get_file_info(fs.FileSelector(f"{base}/{folder}", allow_not_found=True))
        except Exception as error:  # noqa: BLE001  # each file system raises errors of its own
            raise UserError(f"{public(self.address)}: {folder} cannot be listed ({first_line(error)})") from None
        return [f"{folder}/{name}" for name in sorted(entry.base_name for entry in found) if name.endswith(".parquet")]

    def open(self, name: str) -> Any:
        """A file below the address, to be read at any place.

        Raises:
            OSError: it is not there, or the store does not answer.
        """
        if not self.remote:
            return pa.OSFile(str(Path(self.address, name)))
        filesystem, base = open_filesystem(self.address)
        if isinstance(filesystem, fs.PyFileSystem):  # pyarrow's way asks first and then says of any trouble "not found"
            return pa.PythonFile(filesystem.handler.fs.open(f"{base}/{name}", "rb"), mode="r")
        return filesystem.open_input_file(f"{base}/{name}")

    def manifest(self) -> Manifest:
        """The manifest, which says that the artifact is whole.

        Raises:
            UserError: there is none, it is of another kind, or the store refuses to show it.
        """
        if not self.remote:
            return read_manifest(Path(self.address), "pairs")
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, MANIFEST).write_bytes(self._manifest_bytes())
            try:
                return read_manifest(Path(folder), "pairs")
            except UserError as error:
                raise UserError(str(error).replace(folder, self.address.rstrip("/"))) from None

    def fingerprint(self) -> str:
        """Identity of the artifact, wherever it lies: the hash of its manifest."""
        if not self.remote:
            return manifest_fingerprint(Path(self.address))
        return hashlib.sha256(self._manifest_bytes()).hexdigest()[:16]

    def _manifest_bytes(self) -> bytes:
        return _read_once(self.address, MANIFEST)


def public(address: str) -> str:
    """An address as it may be shown: without user, key and query."""
    if not is_remote(address):
        return address
    scheme, _, rest = address.partition("?")[0].partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def is_remote(address: Path | str) -> bool:
    """Whether it is an address and not a folder."""
    return "://" in str(address)


@lru_cache(maxsize=8)
def _read_once(address: str, name: str) -> bytes:
    try:
        with Source(address).open(name) as file:
            data: bytes = file.read()
            return data
    except Exception as error:  # noqa: BLE001  # each file system raises errors of its own; all mean that it can't be read
        cause = error.__cause__ or error  # fsspec says of a server that is down that the file is not there
        if isinstance(cause, FileNotFoundError):
            raise UserError(f"{public(address)}: not a pairs artifact (no {name})") from None
        raise UserError(
            f"{public(address)}: cannot be read ({first_line(cause)}); check the address and the credentials"
        ) from None


@lru_cache(maxsize=32)
def open_filesystem(address: str) -> tuple[fs.FileSystem, str]:
    """The file system of an address and the path in it; pyarrow's own where it has one, else fsspec's.

    Raises:
        UserError: nothing here opens such an address.
    """
    try:
        filesystem, path = fs.FileSystem.from_uri(address)
    except pa.ArrowInvalid:
        try:
            other, path = fsspec.core.url_to_fs(address)
        except (ImportError, ValueError) as error:
            raise UserError(f"{public(address)}: cannot be opened ({first_line(error)})") from None
        filesystem = fs.PyFileSystem(fs.FSSpecHandler(other))
    except OSError as error:
        raise UserError(f"{public(address)}: cannot be opened ({first_line(error)})") from None
    return filesystem, path.rstrip("/")


def first_line(error: BaseException) -> str:
    """An error in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
