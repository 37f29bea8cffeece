"""Where pictures lie: single files, arrays in HDF5 and npz, members of tar files; each read by position."""

from __future__ import annotations

import functools
import gzip
import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from biomedray.errors import UserError
from biomedray.evaluate.sets.image_set import Pixels
from biomedray.pixels import PixelError

IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".gif", ".bmp", ".webp")
DICOM = (".dcm", ".dicom")
MAX_UNPACKED = 1 << 30
"""Most bytes that a packed HDF5 file may take in memory: the paper's test split of PCam takes 0.9 GB."""

_LOCK = threading.Lock()


@dataclass(frozen=True)
class Files:
    """One file a picture; a DICOM file comes as its windowed pixels."""

    root: Path
    names: tuple[str, ...]
    """Paths below the root."""
    sizes: tuple[int, ...]

    @property
    def identity(self) -> str:
        """Hash of names and sizes."""
        return _hash("files", *(f"{name}:{size}" for name, size in zip(self.names, self.sizes, strict=True)))

    def read(self, positions: Sequence[int]) -> list[bytes | Pixels]:
        """See ``Source``."""
        return [self._picture(self.root / self.names[position]) for position in positions]

    def _picture(self, path: Path) -> bytes | Pixels:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: can't be read ({error.strerror}); it was there when the set was opened") from None
        if path.suffix.lower() in DICOM:
            from biomedray.dicom import read_dicom

            try:
                return read_dicom(data)
            except PixelError:
                return data
        return data


def files(root: Path, names: Sequence[str]) -> Files:
    """The source of these files.

    Raises:
        UserError: one is missing; all missing ones are counted in one line.
    """
    sizes, missing = [], []
    for name in names:
        try:
            sizes.append((root / name).stat().st_size)
        except OSError:
            missing.append(name)
    if missing:
        raise UserError(f"{root}: {len(missing)} of {len(names)} pictures are missing, such as {missing[0]}; fetch the whole set")
    return Files(root, tuple(names), tuple(sizes))


@dataclass(frozen=True)
class Hdf5:
    """Rows of one dataset [n, H, W, 3] uint8; a .gz is unpacked into memory, once in a process."""

    path: Path
    key: str

    @property
    def identity(self) -> str:
        """Hash of name and size; a packed file is another one than its unpacked twin."""
        return _hash("hdf5", self.path.name, str(self.path.stat().st_size), self.key)

    def read(self, positions: Sequence[int]) -> list[bytes | Pixels]:
        """See ``Source``."""
        with _LOCK:
            dataset = open_hdf5(self.path)[self.key]
            found: list[bytes | Pixels] = []
            for start, stop in _runs(positions):
                found.extend(np.asarray(dataset[start:stop], np.uint8))
        return found


@functools.lru_cache(maxsize=2)
def open_hdf5(path: Path) -> Any:
    """The opened file, kept open in this process.

    Raises:
        UserError: it is no HDF5, or packed and too large for memory.
    """
    import h5py

    try:
        return h5py.File(_unpacked(path) if path.suffix == ".gz" else path, "r")
    except (OSError, EOFError) as error:
        raise UserError(f"{path}: not a whole HDF5 file ({str(error).splitlines()[0][:120]}); fetch it again") from None


def _unpacked(path: Path) -> io.BytesIO:
    with gzip.open(path) as stream:
        data = stream.read(MAX_UNPACKED + 1)
    if len(data) > MAX_UNPACKED:
        raise UserError(
            f"{path}: takes more than {MAX_UNPACKED >> 30} GiB of memory unpacked; unpack it first: gunzip -k {path.name}"
        )
    return io.BytesIO(data)


@dataclass(frozen=True)
class Npy:
    """Rows of an array [n, H, W] or [n, H, W, 3] uint8 inside an npz, read as a stream: only what is asked for is in memory."""

    path: Path
    member: str
    offset: int
    row: tuple[int, ...]
    """Shape of one picture."""

    @property
    def identity(self) -> str:
        """Hash of name, size and shape."""
        return _hash("npy", self.path.name, str(self.path.stat().st_size), self.member, str(self.row))

    def read(self, positions: Sequence[int]) -> list[bytes | Pixels]:
        """See ``Source``."""
        size = int(np.prod(self.row))
        found: list[bytes | Pixels] = []
        with _LOCK:
            for start, stop in _runs(positions):
                stream = _stream_at(self.path, self.member, self.offset + start * size)
                stream.seek(self.offset + start * size)
                data = stream.read((stop - start) * size)
                found.extend(np.frombuffer(data, np.uint8).reshape(-1, *self.row))
        return found


_STREAMS: dict[tuple[Path, str], list[Any]] = {}
_MOST_STREAMS = 4


def _stream_at(path: Path, member: str, offset: int) -> Any:
    """An opened member that stands at or before the offset: going back in a packed one would unpack it from its beginning.

    Several stretches may be read in turns by threads, so a few streams are kept open, each going on where it ended.
    """
    streams = _STREAMS.setdefault((path, member), [])
    before = [stream for stream in streams if stream.tell() <= offset]
    if before:
        return max(before, key=lambda stream: stream.tell())
    if len(streams) == _MOST_STREAMS:
        streams.remove(max(streams, key=lambda stream: stream.tell()))
    streams.append(zipfile.ZipFile(path).open(member))  # noqa: SIM115  # it stays open for the next stretch
    return streams[-1]


@dataclass(frozen=True)
class TarMembers:
    """Pictures in tar files by their offsets, from one pass over the headers."""

    tars: tuple[Path, ...]
    members: tuple[tuple[int, int, int], ...]
    """Number of the tar, offset and size of the picture's bytes."""

    @property
    def identity(self) -> str:
        """Hash of the tars' names and of the offsets."""
        return _hash("tar", *(path.name for path in self.tars), str(self.members))

    def read(self, positions: Sequence[int]) -> list[bytes | Pixels]:
        """See ``Source``."""
        found: list[bytes | Pixels] = []
        for tar, offset, size in (self.members[position] for position in positions):
            try:
                with self.tars[tar].open("rb") as stream:
                    stream.seek(offset)
                    found.append(stream.read(size))
            except OSError as error:
                raise UserError(f"{self.tars[tar]}: can't be read ({error.strerror})") from None
        return found


def _runs(positions: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Ascending positions as stretches [start, stop)."""
    if not positions:
        return
    start = last = positions[0]
    for position in positions[1:]:
        if position != last + 1:
            yield start, last + 1
            start = position
        last = position
    yield start, last + 1


def _hash(*words: str) -> str:
    return hashlib.sha256("\0".join(words).encode()).hexdigest()
