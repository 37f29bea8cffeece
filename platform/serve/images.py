"""The figures behind the hits: bytes read by reference from the pairs artifact, and thumbnails of them."""

from __future__ import annotations

import hashlib
import io
import logging
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from PIL import Image

from biomedray import pixels
from biomedray.artifacts import MANIFEST, manifest_fingerprint, read_manifest
from biomedray.errors import UserError
from biomedray.serve.generation import Generation, Source

_LOG = logging.getLogger(__name__)
_CACHE_BYTES = 64 * 1024 * 1024
_QUALITY = 85
_MEDIA = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "GIF": "image/gif",
    "WEBP": "image/webp",
    "TIFF": "image/tiff",
    "BMP": "image/bmp",
}


class ImageUnavailableError(Exception):
    """The pairs artifact is not where the index says, is another one, or its bytes don't decode."""


@dataclass(frozen=True)
class Picture:
    """Image bytes ready to send."""

    data: bytes
    media_type: str
    etag: str


class ImageStore:
    """Reads images by (file, row group, row) of a pairs artifact; thread-safe."""

    def __init__(self, generation: Generation, pairs: Path | None = None) -> None:
        """Images of a generation, from where it says or from ``pairs`` if the artifact has moved.

        Raises:
            UserError: ``pairs`` is given and is not the artifact that the index was made of.
        """
        if pairs is not None:
            read_manifest(pairs, "pairs")
            if manifest_fingerprint(pairs) not in {source.fingerprint for source in generation.sources}:
                raise UserError(f"{pairs}: not the pairs artifact that the index was made of; name that one")
        self._places = [_Place(_moved(source, pairs)) for source in generation.sources]
        self._cache = _ByteCache(_CACHE_BYTES)
        self.available = any(place.available for place in self._places)
        for place in self._places:
            if not place.available:
                _LOG.warning(
                    "%s: the index's pairs are not there; their figures are not served (name it with --pairs)", place.uri
                )

    def original(self, record: dict[str, Any]) -> Picture:
        """The image file of a metadata record as the article has it.

        Raises:
            ImageUnavailableError: it can't be read.
        """
        data = self._read(record)
        try:
            header = pixels.read_header(data)
        except pixels.PixelError as error:
            raise ImageUnavailableError(str(error)) from None
        return _picture(data, _MEDIA[header.format])

    def thumbnail(self, record: dict[str, Any], size: int) -> Picture:
        """A JPEG whose longest side is ``size`` pixels, or the image's own size if that is smaller.

        Raises:
            ImageUnavailableError: it can't be read or decoded.
        """
        key = (str(record["pair_id"]), size)
        if (cached := self._cache.get(key)) is not None:
            return _picture(cached, "image/jpeg")
        data = _shrink(self._read(record), size)
        self._cache.put(key, data)
        return _picture(data, "image/jpeg")

    def _read(self, record: dict[str, Any]) -> bytes:
        place = self._places[record["source"]]
        if not place.available:
            raise ImageUnavailableError("the pairs artifact of this index is not at hand")
        try:
            with pq.ParquetFile(f"{place.root}/{record['file']}", filesystem=place.files, memory_map=True) as file:
                table = file.read_row_group(record["row_group"], columns=["pair_id", "image"])
        except (OSError, pa.ArrowException):
            raise ImageUnavailableError("the figure can't be read from the pairs artifact") from None
        row = record["row"]
        if table["pair_id"][row].as_py() != record["pair_id"]:
            raise ImageUnavailableError("the pairs artifact has changed since the index was made")
        return bytes(table["image"][row].as_py())


class _Place:
    """A pairs artifact that figures are read from."""

    def __init__(self, source: Source) -> None:
        self.uri = source.uri
        self.files, self.root = pafs.FileSystem.from_uri(source.uri)
        self.available = self._matches(source.fingerprint)

    def _matches(self, fingerprint: str) -> bool:
        try:
            with self.files.open_input_stream(f"{self.root}/{MANIFEST}") as stream:
                return hashlib.sha256(stream.read()).hexdigest()[:16] == fingerprint
        except (OSError, pa.ArrowException):
            return False


def _moved(source: Source, pairs: Path | None) -> Source:
    """The source, at ``pairs`` if it is that artifact."""
    if pairs is None or manifest_fingerprint(pairs) != source.fingerprint:
        return source
    return Source(uri=pairs.resolve().as_uri(), fingerprint=source.fingerprint)


class _ByteCache:
    """Least recently used thumbnails, bounded by their bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._items: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[str, int]) -> bytes | None:
        with self._lock:
            if key not in self._items:
                return None
            self._items.move_to_end(key)
            return self._items[key]

    def put(self, key: tuple[str, int], data: bytes) -> None:
        with self._lock:
            self._size += len(data) - len(self._items.pop(key, b""))
            self._items[key] = data
            while self._size > self._limit:
                self._size -= len(self._items.popitem(last=False)[1])


def _shrink(data: bytes, size: int) -> bytes:
    try:
        image, _ = pixels.decode(data, short_side=size)
    except pixels.PixelError as error:
        raise ImageUnavailableError(str(error)) from None
    image.thumbnail((size, size), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return buffer.getvalue()


def _picture(data: bytes, media_type: str) -> Picture:
    return Picture(data, media_type, f'"{hashlib.sha256(data).hexdigest()[:24]}"')
