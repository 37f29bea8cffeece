r"""From a graphic's href to its file, and from the file's bytes to what the pairs table says of an image.

href -> candidates: exact name, stem + raster suffix (jpg > png > tif > gif > webp), case ignored
     -> first that is an image, no thumbnail, not blank --> Figure file, or why not
"""

from __future__ import annotations

import hashlib
import posixpath
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import unquote

from PIL import Image

from biomedray.ingest.copies import Looked, decodable_copy
from biomedray.ingest.quality import Quality, measure, shrink
from biomedray.ingest.settings import IngestConfig
from biomedray.pixels import Header, PixelError, examine, read_header
from biomedray.records import Reason

# In order of preference where a figure's file is there in several formats.
RASTER_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".gif", ".webp", ".bmp")
_RANK = {suffix: rank for rank, suffix in enumerate(RASTER_SUFFIXES)}
# PMC's thumbnails are GIF of at most 100 pixels; figures that small are not drawn.
_THUMBNAIL_SIDE = 120
_SCALED_SIDE = 128
_BLANK_RANGE = 2


@dataclass(frozen=True)
class FigureImage:
    """A figure's file: its bytes as they were, and what was found on looking at it once."""

    name: str
    data: bytes
    format: str
    width: int
    height: int
    mode: str
    frames: int
    sha256: str
    flags: tuple[str, ...]
    quality: Quality
    copy: bytes | None
    """The picture as PNG or JPEG where other programs can't read the original; see copies.py."""


class ImageError(ValueError):
    """A graphic has no usable file; ``reason`` is from the closed list."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class Media:
    """The files beside an article: names relative to the root of its tree, and how to read one."""

    names: frozenset[str]
    read: Callable[[str], bytes]
    base: str = ""
    """Folder of the XML, which relative hrefs start from."""
    unsafe: frozenset[str] = frozenset()
    """Links and names that lead out of the tree: never read."""
    large: frozenset[str] = frozenset()
    _by_stem: dict[str, list[str]] = field(init=False, repr=False, default_factory=lambda: defaultdict(list))
    _asked: dict[str, list[str]] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Index the names by lower-case basename and raster stem."""
        for name in self.names | self.unsafe:
            for key in _keys(posixpath.basename(name)):
                self._by_stem[key].append(name)

    def candidates(self, href: str) -> list[str]:
        """Files that an href may mean, best first; a path that leads out of the tree is taken by its last part."""
        if (known := self._asked.get(href)) is None:
            paths = dict.fromkeys(_paths(href))
            known = self._asked[href] = list(dict.fromkeys(name for path in paths for name in self._files(path)))
        return known

    def _files(self, path: str) -> list[str]:
        wanted = posixpath.normpath(posixpath.join(self.base, path))
        basename = posixpath.basename(wanted)
        found = {name for key in _keys(basename) for name in self._by_stem.get(key, ())}
        return sorted(found, key=lambda name: self._order(name, wanted, basename)) if len(found) > 1 else list(found)

    def _order(self, name: str, wanted: str, basename: str) -> tuple[bool, bool, bool, int, int, str]:
        own = posixpath.basename(name)
        same_name = own == basename
        same_case = raster_stem(own) == raster_stem(basename)
        return (name != wanted, not same_name, not same_case, format_rank(own), name.count("/"), name)


def raster_stem(name: str) -> str:
    """The name without a known raster suffix; ``JCB9806103.f1`` and ``pone.0038869.g001`` stay whole."""
    root, dot, suffix = name.rpartition(".")
    known = dot + suffix.lower() in _RANK and root.rpartition("/")[2].strip(".")
    return root if known else name


def format_rank(name: str) -> int:
    """Preference by suffix, 0 for the best; names without a known raster suffix come last."""
    return _RANK.get(posixpath.splitext(name)[1].lower(), len(_RANK))


def is_raster_name(name: str) -> bool:
    """Whether the name ends in a raster image's suffix."""
    return name.lower().endswith(RASTER_SUFFIXES)


def has_file(media: Media, href: str) -> bool:
    """Whether any file could be meant by the href."""
    return bool(media.candidates(href))


def load(media: Media, href: str, config: IngestConfig) -> FigureImage:
    """The best usable file that an href means.

    Raises:
        ImageError: there is none; the reason is that of the most promising candidate.
    """
    first: ImageError | None = None
    for name in media.candidates(href):
        try:
            return _load_one(media, name, config)
        except ImageError as error:
            # Not the exception itself: with its frames it would keep the pixels of this attempt in memory.
            first = first or ImageError(error.reason, str(error))
    raise first or ImageError(Reason.FILE_MISSING, f"no file for {href}")


def _keys(basename: str) -> set[str]:
    """What a file is found by: its name and its stem, in lower case, accents in one form (a Mac's archive has two characters)."""
    lowered = basename.lower() if basename.isascii() else unicodedata.normalize("NFC", basename).lower()
    return {lowered, raster_stem(lowered)}


def _paths(href: str) -> Iterator[str]:
    """The href as it stands, then without percent signs: a file may be called ``a%20b.png``."""
    for text in (href.strip(), unquote(href.strip())):
        path = text.replace("\\", "/")
        yield posixpath.basename(path) if "://" in path else path.removeprefix("file:").lstrip("/")


def _load_one(media: Media, name: str, config: IngestConfig) -> FigureImage:
    if name in media.unsafe:
        raise ImageError(Reason.UNSAFE_MEMBER, f"{name}: a link or a name that leads out of the article")
    if name in media.large:
        raise ImageError(Reason.IMAGE_TOO_LARGE, f"{name}: more than {config.max_image_bytes} bytes")
    try:
        data = media.read(name)
    except KeyError:
        raise ImageError(Reason.UNSUPPORTED_FORMAT, f"{name}: not a raster image by its name") from None
    except OSError as error:
        raise ImageError(Reason.UNDECODABLE, f"{name}: cannot be read: {error.strerror}") from None
    try:
        return inspect_image(name, data, config)
    except PixelError as error:
        raise ImageError(error.reason, f"{name}: {error}") from None


def inspect_image(name: str, data: bytes, config: IngestConfig) -> FigureImage:
    """Header, checks, one scaled decode, hashes.

    Flags: those of ``pixels.decode``, and format_mismatch where the name says another format.

    Raises:
        PixelError: not an image, too large, a thumbnail, undecodable or blank.
    """
    looked, quality = _look(data, config) if config.verify_decode else (None, Quality())
    header, flags = (looked.header, looked.flags) if looked else (_glance(data, config), ())
    return FigureImage(
        name=name,
        data=data,
        format=header.format.lower(),
        width=header.width,
        height=header.height,
        mode=header.mode,
        frames=header.frames,
        sha256=hashlib.sha256(data).hexdigest(),
        flags=(*(("format_mismatch",) if _lies(name, header.format) else ()), *flags),
        quality=quality,
        copy=decodable_copy(data, looked, config.max_pixels) if looked else None,
    )


def _glance(data: bytes, config: IngestConfig) -> Header:
    """The header alone."""
    header = read_header(data, config.max_pixels)
    _check_size(header)
    return header


def _look(data: bytes, config: IngestConfig) -> tuple[Looked, Quality]:
    """The one decode of an image: scaled, strict first."""
    header, pixels, flags = examine(data, _SCALED_SIDE, config.max_pixels)
    _check_size(header)
    small = shrink(pixels)
    grey = small.convert("L")
    if _is_blank(small, grey):
        size = f"{header.width} x {header.height} pixels"
        if "truncated" in flags:
            raise PixelError(Reason.UNDECODABLE, f"cut off or damaged before the first of {size}")
        raise PixelError(Reason.BLANK_IMAGE, f"one colour on all of {size}")
    return Looked(header, pixels, flags), measure(small, grey)


def _check_size(header: Header) -> None:
    if min(header.width, header.height) <= 1:
        raise PixelError(Reason.BLANK_IMAGE, f"{header.width} x {header.height} pixels")
    if header.format == "GIF" and max(header.width, header.height) <= _THUMBNAIL_SIDE:
        raise PixelError(Reason.THUMBNAIL_ONLY, f"a GIF of {header.width} x {header.height} pixels, and nothing better beside it")


def _is_blank(pixels: Image.Image, grey: Image.Image) -> bool:
    """Whether no colour band spans more than _BLANK_RANGE; grey, their mean, is looked at first, for speed."""
    (low, high), *_ = _spans(grey)
    return high - low <= _BLANK_RANGE + 1 and all(high - low <= _BLANK_RANGE for low, high in _spans(pixels))


def _spans(pixels: Image.Image) -> list[tuple[int, int]]:
    """Lowest and highest value of each band."""
    bands = [pixels] if pixels.mode == "L" else pixels.split()
    return [cast("tuple[int, int]", band.getextrema()) for band in bands]


def _lies(name: str, format_: str) -> bool:
    suffix = posixpath.splitext(name)[1].lower().removeprefix(".")
    return suffix not in {"jpg": ("jpg", "jpeg"), "jpeg": ("jpg", "jpeg"), "tiff": ("tif", "tiff")}.get(
        format_.lower(), (format_.lower(),)
    )
