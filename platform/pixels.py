r"""Untrusted image bytes to RGB pixels: one decoder for ingest, training, evaluation and serving.

bytes -> magic -> header (area bound, nothing decoded) -> strict decode -> EXIF turn -> 8-bit RGB
                                             \-> damaged file: tolerant retry, flag "truncated" or "damaged"

JPEG goes through simplejpeg: it reports every warning of libjpeg (Pillow is silent about damage inside a scan)
and decodes at any eighth of the size. Everything else, and the JPEG that simplejpeg refuses, goes through Pillow.
"""

from __future__ import annotations

import io
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFile, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from biomedray.frames import gif_frames, tiff_frames
from biomedray.headers import plain_jpeg, png_may_turn, png_may_turn_late
from biomedray.records import Reason

MAX_PIXELS = 100_000_000
FORMATS = ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP")

_MAGIC = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"BM", "BMP"),
)
_HIGH_DEPTH = {"I", "F", "I;16", "I;16B", "I;16L", "I;16N"}
_ALPHA = {"RGBA", "LA", "PA", "RGBa", "La"}
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112
# Of a TIFF: which end of the values is black, and whether they have a sign.
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0
_SAMPLE_FORMAT, _UNSIGNED = 339, 1
# A progressive JPEG has about ten scans, each a pass over the whole area; hostile ones have thousands.
_MAX_SCANS = 100
_MAX_SCANNED = 4_000_000_000
_SCAN_BYTES = 10
_STRIP_PIXELS = 4_000_000
_SAMPLE_PIXELS = 1_000_000
_TOLERANT_LOCK = threading.Lock()


class PixelError(ValueError):
    """The bytes can't become pixels; ``reason`` is from the closed list of reject reasons."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class Header:
    """What the file says of itself before any pixel is decoded; ``high_depth``: more than 8 bits a sample."""

    format: str
    width: int
    height: int
    mode: str
    frames: int
    orientation: int = 1
    high_depth: bool = False
    alpha: bool = False


def sniff(data: bytes) -> str | None:
    """The one of FORMATS that the magic bytes name, whatever the file's name says."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    return next((name for magic, name in _MAGIC if data.startswith(magic)), None)


def read_header(data: bytes, max_pixels: int = MAX_PIXELS) -> Header:
    """The header of an image, found by its magic bytes whatever its name says.

    Raises:
        PixelError: empty, not one of FORMATS, damaged, or larger than ``max_pixels``.
    """
    if header := _plain_header(data, max_pixels):
        return header
    image, header, _ = _open_leniently(data, max_pixels)
    image.close()
    return header


def decode(data: bytes, short_side: int | None = None, max_pixels: int = MAX_PIXELS) -> tuple[Image.Image, list[str]]:
    """Pixels as an 8-bit RGB image, and flags for what had to be done to get them; as ``examine``."""
    _, image, flags = examine(data, short_side, max_pixels)
    return image, flags


def picture(source: bytes | NDArray[np.uint8]) -> Image.Image:
    """The bytes of an image file, or pixels that some sets come as ([H, W] or [H, W, 3] uint8), as an 8-bit RGB image.

    Raises:
        PixelError: as ``decode``, or an array of another shape or type.
    """
    if isinstance(source, bytes):
        return decode(source)[0]
    if source.dtype != np.uint8 or source.ndim not in (2, 3) or source.shape[2:] not in ((), (1,), (3,)):
        raise PixelError(Reason.UNSUPPORTED_FORMAT, f"an array {source.shape} of {source.dtype}; [H, W, 3] uint8 is wanted")
    if not source.size:
        raise PixelError(Reason.EMPTY_IMAGE, f"an array of shape {source.shape}")
    grey = source.ndim == 2 or source.shape[2] == 1
    image = Image.fromarray(np.ascontiguousarray(source.reshape(source.shape[:2]) if grey else source))
    return image.convert("RGB") if grey else image


def examine(data: bytes, short_side: int | None = None, max_pixels: int = MAX_PIXELS) -> tuple[Header, Image.Image, list[str]]:
    """Header, pixels as an 8-bit RGB image, and flags for what had to be done to get them.

    ``short_side`` allows a JPEG to be decoded at a fraction of its size, never smaller than this
    many pixels on its short side. Grey images of high depth are windowed between their 0.5th and 99.5th
    percentile (of every n-th pixel, about a million of them), colour ones give their high byte; transparency
    is laid on white, the first frame of several is taken.

    Flags: truncated (cut off or damaged, decoded as far as it goes), damaged (a JPEG with errors inside
    that decodes to its end), exif_rotated, cmyk, lab, ycbcr, hsv, high_depth, alpha, transparent (who drops
    the alpha channel sees another picture), palette, multi_frame.

    Raises:
        PixelError: as ``read_header``, or nothing can be decoded.
    """
    if (plain := _plain_header(data, max_pixels)) and (fast := _fast_jpeg(data, plain, short_side)):
        return plain, _to_rgb(fast, plain, []), []
    image, header, tolerant = _open_leniently(data, max_pixels)
    flags: list[str] = []
    try:
        pixels = _fast_jpeg(data, header, short_side) if header.format == "JPEG" else None
        if pixels is None:
            image, truncated = _load_leniently(data, image, header, short_side, tolerant)
            damaged = header.format == "JPEG" and header.mode in ("RGB", "L")
            flags += ["truncated"] if truncated else ["damaged"] if damaged else []
            pixels = image
        return header, _to_rgb(pixels, header, flags), flags
    except PixelError:
        raise
    except Exception as error:  # noqa: BLE001  # whatever a decoder raises on untrusted bytes is the file's fault
        raise PixelError(Reason.UNDECODABLE, _line(error)) from None
    finally:
        image.close()


# ---- header


def _plain_header(data: bytes, max_pixels: int) -> Header | None:
    """The header of a JPEG that needs no Pillow: most figures are one."""
    if not data.startswith(b"\xff\xd8\xff") or (plain := plain_jpeg(data)) is None:
        return None
    if problem := _too_large(b"" if plain.one_scan else data, "JPEG", (plain.width, plain.height), max_pixels):
        raise PixelError(Reason.IMAGE_TOO_LARGE, problem)
    return Header("JPEG", plain.width, plain.height, plain.mode, 1)


def _open_leniently(data: bytes, max_pixels: int) -> tuple[Image.Image, Header, bool]:
    """The opened image, its header, and whether it could only be opened tolerantly (a bad checksum, an oversized text chunk)."""
    try:
        image, tolerant = _open(data, max_pixels), False
    except PixelError as error:
        if error.reason is not Reason.UNDECODABLE:
            raise
        with _tolerance():
            image, tolerant = _open(data, max_pixels), True
    return image, _header(data, image), tolerant


def _open(data: bytes, max_pixels: int) -> Image.Image:
    kind = sniff(data)
    if not data:
        raise PixelError(Reason.EMPTY_IMAGE, "0 bytes")
    if kind is None:
        raise PixelError(Reason.UNSUPPORTED_FORMAT, f"not one of {', '.join(FORMATS)}: starts with {data[:8]!r}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=(kind,))
    except Image.DecompressionBombError as error:
        raise PixelError(Reason.IMAGE_TOO_LARGE, str(error)) from None
    except UnidentifiedImageError:
        raise PixelError(Reason.UNDECODABLE, f"the header of this {kind} is damaged or of a kind that can't be read") from None
    except Exception as error:  # noqa: BLE001  # as in examine
        raise PixelError(Reason.UNDECODABLE, _line(error)) from None
    problem = _too_large(data, str(image.format), image.size, max_pixels)
    if problem:
        image.close()
        raise PixelError(Reason.IMAGE_TOO_LARGE, problem)
    return image


def _too_large(data: bytes, kind: str, size: tuple[int, int], max_pixels: int) -> str | None:
    width, height = size
    area = width * height
    if area > max_pixels:
        return f"{width} x {height} pixels, the limit is {max_pixels}"
    if kind in ("JPEG", "MPO") and area * len(data) > _MAX_SCANNED * _SCAN_BYTES:
        scans = data.count(b"\xff\xda")
        if scans > _MAX_SCANS and scans * area > _MAX_SCANNED:
            return f"{scans} scans of {width} x {height} pixels"
    return None


def _header(data: bytes, image: Image.Image) -> Header:
    kind = "JPEG" if image.format == "MPO" else str(image.format)
    alpha = image.mode in _ALPHA or "transparency" in image.info
    deep, turn = _is_deep(data, image), _orientation(data, image)
    return Header(kind, image.width, image.height, image.mode, _frames(data, image), turn, deep, alpha)


def _frames(data: bytes, image: Image.Image) -> int:
    if image.format == "GIF":
        return gif_frames(data)
    if image.format == "TIFF":
        return tiff_frames(data)
    return int(getattr(image, "n_frames", 1))


def _orientation(data: bytes, image: Image.Image) -> int:
    """The EXIF orientation, 1 where there is none or it can't be read."""
    read = image.getexif
    if image.format == "PNG":
        if not png_may_turn(data):
            return 1
        if not png_may_turn_late(data):  # Pillow decodes the whole picture to see whether something follows it
            read = partial(Image.Image.getexif, image)
    value: object = 1
    with suppress(Exception):
        value = read().get(_ORIENTATION, 1)
    return value if isinstance(value, int) and value in _TURNS else 1


def _is_deep(data: bytes, image: Image.Image) -> bool:
    """Pillow reads 16-bit colour as its high byte and says nothing."""
    if image.mode in _HIGH_DEPTH:
        return True
    if image.format == "PNG":
        return data[24:25] == b"\x10"
    bits = getattr(image, "tag_v2", {}).get(258, ()) if image.format == "TIFF" else ()
    return any(isinstance(number, int) and number > 8 for number in (bits if isinstance(bits, tuple) else (bits,)))


# ---- pixels


def _fast_jpeg(data: bytes, header: Header, short_side: int | None) -> Image.Image | None:
    """A grey or RGB JPEG without a single complaint of libjpeg; None where Pillow has to look at it."""
    if header.mode not in ("RGB", "L"):
        return None
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        if (width, height) != (header.width, header.height):
            return None
        side = short_side or 0
        space = "GRAY" if header.mode == "L" else "RGB"
        array = simplejpeg.decode_jpeg(data, space, min_height=side, min_width=side)
    except (ValueError, MemoryError):
        return None
    return Image.fromarray(array[:, :, 0] if space == "GRAY" else array)


def _load_leniently(
    data: bytes, image: Image.Image, header: Header, short_side: int | None, tolerant: bool
) -> tuple[Image.Image, bool]:
    """The image with its pixels loaded, and whether that needed tolerance."""
    if not tolerant:
        try:
            _load(image, header, short_side)
            return image, False
        except Exception:  # noqa: BLE001, S110  # as in examine: damaged, so once more, tolerantly
            pass
    image.close()
    with _tolerance():
        again = _open(data, header.width * header.height)
        _load(again, header, short_side)
    return again, True


def _load(image: Image.Image, header: Header, short_side: int | None) -> None:
    if short_side and header.format == "JPEG":
        scale = max(1.0, min(image.size) / short_side)
        image.draft(image.mode, (int(image.width / scale), int(image.height / scale)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image.load()


@contextmanager
def _tolerance() -> Iterator[None]:
    """Pillow decodes a cut-off file as far as it goes. Its switch is global, so it is put back, one thread at a time."""
    with _TOLERANT_LOCK:
        before = ImageFile.LOAD_TRUNCATED_IMAGES
        ImageFile.LOAD_TRUNCATED_IMAGES = True
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before


def _to_rgb(image: Image.Image, header: Header, flags: list[str]) -> Image.Image:
    if header.frames > 1:
        flags.append("multi_frame")
    if header.orientation != 1:
        flags.append("exif_rotated")
        if header.format != "TIFF":  # Pillow has turned a TIFF already
            image = image.transpose(_TURNS[header.orientation])
    if header.high_depth:
        flags.append("high_depth")
    if image.mode in _HIGH_DEPTH:
        return _window(image)
    if image.mode in ("CMYK", "LAB", "YCbCr", "HSV"):
        flags.append(image.mode.lower())
    elif image.mode in ("P", "PA"):
        flags.append("palette")
    if image.mode in _ALPHA or "transparency" in image.info:
        flags.append("alpha")
        picture, transparent = _on_white(image)
        flags += ["transparent"] if transparent else []
        return picture
    return image if image.mode == "RGB" and type(image) is Image.Image else image.convert("RGB")


def _strips(size: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    """Boxes that cover the picture from top to bottom: whole copies of a large one would add up."""
    width, height = size
    rows = max(1, _STRIP_PIXELS // max(width, 1))
    return ((0, top, width, min(top + rows, height)) for top in range(0, height, rows))


def _on_white(image: Image.Image) -> tuple[Image.Image, bool]:
    """The picture on white, and whether that is another one than its colours alone."""
    result, differs = Image.new("RGB", image.size, "white"), False
    for box in _strips(image.size):
        layer = image.crop(box)
        layer = layer if layer.mode == "RGBA" else layer.convert("RGBA")
        result.paste(layer, box, layer)
        opaque = layer.getchannel("A").getextrema() == (255, 255)
        if not differs and not opaque:
            differs = ImageChops.difference(layer.convert("RGB"), result.crop(box)).getbbox() is not None
    return result, differs


def _window(image: Image.Image) -> Image.Image:
    values, inverted = _deep_values(image)
    sample = values.reshape(-1)[:: max(1, values.size // _SAMPLE_PIXELS)].astype(np.float32)
    finite = sample[np.isfinite(sample)]
    low, high = np.percentile(finite, (0.5, 99.5)) if finite.size else (0.0, 1.0)
    grey = np.empty(values.shape, np.uint8)
    for _, top, _, bottom in _strips(image.size):
        scaled = (values[top:bottom].astype(np.float32) - low) / max(float(high - low), 1e-6)
        grey[top:bottom] = np.nan_to_num(np.clip(scaled, 0, 1) * 255).astype(np.uint8)
    if inverted:
        np.subtract(255, grey, out=grey)
    return Image.fromarray(grey).convert("RGB")


def _deep_values(image: Image.Image) -> tuple[NDArray[Any], bool]:
    """Values of more than 8 bits, and whether the least of them is white: Pillow inverts such a TIFF only up to 8 bits."""
    values: NDArray[Any] = np.asarray(image)
    if not isinstance(image, TiffImageFile):
        return values, False
    tags: Any = image.tag_v2
    signs = tags.get(_SAMPLE_FORMAT, _UNSIGNED)
    if image.mode == "I" and signs in (_UNSIGNED, (_UNSIGNED,)):
        values = values.view(np.uint32)  # Pillow has no such mode, and half of the values would be negative
    return values, tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO


def _line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
