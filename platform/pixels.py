r"""Untrusted image bytes to RGB pixels: one decoder for ingest, training, evaluation and serving.

bytes -> magic -> header (area bound, nothing decoded) -> strict decode -> EXIF turn -> 8-bit RGB
                                              \-> cut-off file: tolerant retry, flag "truncated"
"""

from __future__ import annotations

import io
import struct
import threading
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from biomedray.records import Reason

MAX_PIXELS = 100_000_000
FORMATS = ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP")

_TOLERANT_LOCK = threading.Lock()
_HIGH_DEPTH = {"I", "F", "I;16", "I;16B", "I;16L", "I;16N"}
# What Pillow's decoders raise on damaged input, as far as fuzzing has shown.
_DECODE_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    EOFError,
    struct.error,
    MemoryError,
)


class PixelError(ValueError):
    """The bytes can't become pixels; ``reason`` is from the closed list of reject reasons."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class Header:
    """What the file says of itself before any pixel is decoded."""

    format: str
    width: int
    height: int
    mode: str
    frames: int


def read_header(data: bytes, max_pixels: int = MAX_PIXELS) -> Header:
    """The header of an image, found by its magic bytes whatever its name says.

    Raises:
        PixelError: empty, not one of FORMATS, or larger than ``max_pixels``.
    """
    with _open(data, max_pixels) as image:
        return _header(image)


def decode(data: bytes, short_side: int | None = None, max_pixels: int = MAX_PIXELS) -> tuple[Image.Image, list[str]]:
    """Pixels as an 8-bit RGB image, and flags for what had to be done to get them.

    ``short_side`` allows a JPEG to be decoded at a fraction of its size, never smaller than this
    many pixels on its short side. High-depth images are windowed between their 0.5th and 99.5th
    percentile, transparency is laid on white, the first frame of several is taken.

    Flags: truncated, exif_rotated, cmyk, high_depth, alpha, palette, multi_frame.

    Raises:
        PixelError: as ``read_header``, or nothing can be decoded.
    """
    flags: list[str] = []
    try:
        image = _load(data, short_side, max_pixels)
    except PixelError as error:
        if error.reason is not Reason.UNDECODABLE:
            raise
        image = _load_tolerant(data, short_side, max_pixels)
        flags.append("truncated")
    with image:
        return _to_rgb(image, flags), flags


def _open(data: bytes, max_pixels: int) -> Image.Image:
    if not data:
        raise PixelError(Reason.EMPTY_IMAGE, "0 bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise PixelError(Reason.IMAGE_TOO_LARGE, str(error)) from None
    except UnidentifiedImageError:
        raise PixelError(Reason.UNSUPPORTED_FORMAT, f"not one of {', '.join(FORMATS)}: starts with {data[:8]!r}") from None
    except _DECODE_ERRORS as error:
        raise PixelError(Reason.UNDECODABLE, _line(error)) from None
    if image.width * image.height > max_pixels:
        image.close()
        raise PixelError(Reason.IMAGE_TOO_LARGE, f"{image.width} x {image.height} pixels, the limit is {max_pixels}")
    return image


def _header(image: Image.Image) -> Header:
    try:
        frames = int(getattr(image, "n_frames", 1))
    except _DECODE_ERRORS:
        frames = 1
    return Header(str(image.format), image.width, image.height, image.mode, frames)


def _load(data: bytes, short_side: int | None, max_pixels: int) -> Image.Image:
    image = _open(data, max_pixels)
    try:
        if short_side is not None and image.format == "JPEG" and image.mode in ("RGB", "L"):
            scale = max(1.0, min(image.width, image.height) / short_side)
            image.draft(image.mode, (int(image.width / scale), int(image.height / scale)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.load()
    except _DECODE_ERRORS as error:
        image.close()
        raise PixelError(Reason.UNDECODABLE, _line(error)) from None
    return image


def _load_tolerant(data: bytes, short_side: int | None, max_pixels: int) -> Image.Image:
    """Decode a cut-off file as far as it goes. Pillow's switch is global, so it is put back, one thread at a time."""
    with _TOLERANT_LOCK:
        before = ImageFile.LOAD_TRUNCATED_IMAGES
        ImageFile.LOAD_TRUNCATED_IMAGES = True
        try:
            return _load(data, short_side, max_pixels)
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before


def _to_rgb(image: Image.Image, flags: list[str]) -> Image.Image:
    if _header(image).frames > 1:
        flags.append("multi_frame")
    if image.getexif().get(0x0112, 1) not in (0, 1):
        flags.append("exif_rotated")
        image = ImageOps.exif_transpose(image)
    if image.mode in _HIGH_DEPTH:
        flags.append("high_depth")
        return _window(image)
    if image.mode in ("CMYK", "LAB", "YCbCr", "HSV"):
        flags.append(image.mode.lower())
    elif image.mode in ("P", "PA"):
        flags.append("palette")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        flags.append("alpha")
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")


def _window(image: Image.Image) -> Image.Image:
    values = np.asarray(image, dtype=np.float32)
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, (0.5, 99.5)) if finite.size else (0.0, 1.0)
    scaled = np.clip((values - low) / max(float(high - low), 1e-6), 0, 1)
    grey = np.nan_to_num(scaled * 255).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def _line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
