"""Damage to one image file, always that of the first figure; some of it only looks like damage."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

from biomedray.corpus.damage import Catalogue
from biomedray.corpus.layouts import Bundle
from biomedray.corpus.render import JPEG_QUALITY
from biomedray.corpus.truth import Expected
from biomedray.records import Reason, Stage

damage = Catalogue()


def _image_name(found: Bundle) -> str:
    name = found.article.figures[0].graphics[0].file
    assert name is not None
    return name


def _picture(found: Bundle) -> Image.Image:
    return Image.open(io.BytesIO(found.media[_image_name(found)])).convert("RGB")


def _put(
    found: Bundle,
    data: bytes,
    reason: Reason | None = None,
    *,
    flags: tuple[str, ...] = (),
    also: tuple[Reason, ...] = (),
    **graphic: object,
) -> Expected:
    """Put other bytes under the name of the first figure's image."""
    found.media[_image_name(found)] = data
    return Expected("figure", Stage.IMAGE if reason else None, reason, flags, also, graphic=dict(graphic))


def _swap(found: Bundle, data: bytes, suffix: str, flags: tuple[str, ...], format_name: str) -> Expected:
    """Replace the first figure's image by a file of another format, named as it should be."""
    old = _image_name(found)
    new = f"{old.removesuffix('.jpg')}.{suffix}"
    href = found.article.figures[0].graphics[0].href
    found.media.pop(f"{old.removesuffix('.jpg')}.gif", None)
    del found.media[old]
    found.media[new] = data
    if href == old and found.xml is not None:
        found.xml = found.xml.replace(f'href="{old}"'.encode(), f'href="{new}"'.encode())
    return Expected("figure", flags=flags, graphic={"file": new, "href": new if href == old else href, "format": format_name})


def _saved(image: Image.Image, format_name: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def _remove(found: Bundle) -> None:
    name = _image_name(found)
    del found.media[name]


@damage.on()
def _image_missing(found: Bundle) -> Expected:
    _remove(found)
    found.media.pop(f"{_image_name(found).removesuffix('.jpg')}.gif", None)
    return Expected("figure", Stage.IMAGE, Reason.FILE_MISSING, graphic={"file": None})


@damage.on("package")
def _image_thumbnail_only(found: Bundle) -> Expected:
    _remove(found)
    return Expected(
        "figure",
        Stage.IMAGE,
        Reason.THUMBNAIL_ONLY,
        graphic={"file": f"{_image_name(found).removesuffix('.jpg')}.gif", "format": "GIF"},
    )


@damage.on()
def _image_zero_bytes(found: Bundle) -> Expected:
    return _put(found, b"", Reason.EMPTY_IMAGE)


@damage.on()
def _image_truncated_jpeg(found: Bundle) -> Expected:
    whole = found.media[_image_name(found)]
    return _put(found, whole[: len(whole) * 7 // 10], flags=("truncated",))


@damage.on()
def _image_garbage(found: Bundle) -> Expected:
    return _put(found, b"\x00\x01" + np.random.default_rng(0).bytes(4000), Reason.UNSUPPORTED_FORMAT, also=(Reason.UNDECODABLE,))


@damage.on()
def _image_html_page(found: Bundle) -> Expected:
    return _put(
        found,
        b"<!DOCTYPE html><html><head><title>403 Forbidden</title></head><body>Checking your browser</body></html>",
        Reason.UNSUPPORTED_FORMAT,
    )


@damage.on()
def _image_undecodable(found: Bundle) -> Expected:
    """A JPEG that ends where its picture would begin."""
    whole = found.media[_image_name(found)]
    return _put(found, whole[: whole.index(b"\xff\xda")], Reason.UNDECODABLE)


@damage.on()
def _image_png_named_jpg(found: Bundle) -> Expected:
    return _put(found, _saved(_picture(found).quantize(64).convert("RGB"), "PNG"), format="PNG")


@damage.on()
def _image_cmyk(found: Bundle) -> Expected:
    return _put(found, _saved(_picture(found).convert("CMYK"), "JPEG", quality=JPEG_QUALITY), flags=("cmyk",))


@damage.on()
def _image_exif_rotated(found: Bundle) -> Expected:
    exif = Image.Exif()
    exif[0x0112] = 6
    return _put(found, _saved(_picture(found), "JPEG", quality=JPEG_QUALITY, exif=exif), flags=("exif_rotated",))


@damage.on()
def _image_16_bit_png(found: Bundle) -> Expected:
    deep = np.asarray(_picture(found).convert("L"), dtype=np.uint16) * 180 + 900
    return _swap(found, _saved(Image.fromarray(deep), "PNG"), "png", ("high_depth",), "PNG")


@damage.on()
def _image_palette_alpha_png(found: Bundle) -> Expected:
    indexed = _picture(found).quantize(64)
    palette = np.asarray(indexed.getpalette()).reshape(-1, 3)
    # The rarest colour but white is see-through: who drops transparency sees another picture, and it isn't blank.
    counts = np.bincount(np.asarray(indexed).ravel(), minlength=len(palette))
    seen = np.flatnonzero((counts[: len(palette)] > 0) & (palette.min(axis=1) < 250))
    data = _saved(indexed, "PNG", transparency=int(seen[counts[seen].argmin()]))
    return _swap(found, data, "png", ("alpha", "palette", "transparent"), "PNG")


@damage.on()
def _image_animated_gif(found: Bundle) -> Expected:
    first = _picture(found).quantize(64)
    frames = [first.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    return _swap(
        found, _saved(first, "GIF", save_all=True, append_images=frames, duration=200), "gif", ("multi_frame", "palette"), "GIF"
    )


@damage.on()
def _image_one_pixel(found: Bundle) -> Expected:
    return _put(found, _saved(Image.new("RGB", (1, 1), "red"), "JPEG"), Reason.BLANK_IMAGE, width=1, height=1)


@damage.on()
def _image_blank(found: Bundle) -> Expected:
    return _put(found, _saved(Image.new("RGB", (320, 240), "white"), "JPEG"), Reason.BLANK_IMAGE, width=320, height=240)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@damage.on()
def _image_png_bomb(found: Bundle) -> Expected:
    """A header that promises 60,000 x 60,000 pixels in a few hundred bytes."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(bytes(60_001))) + _chunk(b"IEND", b"")
    return _put(found, bomb, Reason.IMAGE_TOO_LARGE, width=60_000, height=60_000, format="PNG")
