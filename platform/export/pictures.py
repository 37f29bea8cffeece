"""Bytes of a picture as plain loaders read them: the original where they can, a copy where they can't."""

from __future__ import annotations

import io
from typing import Any

from biomedray.pixels import PixelError, decode

# Formats that Pillow, browsers and open_clip's loader read alike, with their usual suffix.
SUFFIX = {"jpeg": "jpg", "png": "png", "webp": "webp"}
ALL_SUFFIXES = {**SUFFIX, "gif": "gif", "tiff": "tif", "bmp": "bmp"}
COLUMNS = ("image", "image_format", "image_copy", "flags")


def loadable(row: dict[str, Any]) -> tuple[bytes, str] | None:
    """Bytes and suffix of a picture that a strict loader reads; None where nothing can be decoded.

    The original bytes, except for TIFF, GIF, BMP, high depth, CMYK and files that are cut off: these
    give the artifact's own copy, else a PNG made here.
    """
    if copy := row["image_copy"]:
        return copy, "png" if copy.startswith(b"\x89PNG") else "jpg"
    suffix = SUFFIX.get(row["image_format"])
    if suffix is not None and "truncated" not in row["flags"]:
        return row["image"], suffix
    png = as_png(row["image"])
    return None if png is None else (png, "png")


def as_png(image: bytes) -> bytes | None:
    """As an RGB PNG, a file that is cut off as far as it goes; None where nothing can be decoded."""
    try:
        pixels, _ = decode(image)
    except PixelError:
        return None
    buffer = io.BytesIO()
    with pixels:
        pixels.save(buffer, "PNG")
    return buffer.getvalue()
