"""Pictures that few can read get a copy that shows the same; others get none."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from biomedray.ingest.images import inspect_image
from biomedray.ingest.settings import IngestConfig
from biomedray.pixels import decode


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)  # type: ignore[arg-type]  # each format has its own
    return out.getvalue()


def _drawing(mode: str = "RGB") -> Image.Image:
    picture = Image.new("RGB", (300, 200), "white")
    picture.paste("navy", (30, 40, 200, 90))
    return picture.convert(mode)


def _photo() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8))


def _copy(data: bytes) -> Image.Image | None:
    copy = inspect_image("f", data, IngestConfig()).copy
    return Image.open(io.BytesIO(copy)) if copy else None


def _clear() -> Image.Image:
    layer = Image.new("RGBA", (300, 200), (0, 0, 0, 0))
    layer.paste((0, 0, 0, 255), (30, 40, 200, 90))
    return layer


@pytest.mark.parametrize(
    "data",
    [
        _encoded(_drawing(), "TIFF"),
        _encoded(_drawing(), "TIFF", compression="tiff_lzw"),
        _encoded(_drawing("1"), "TIFF", compression="group4"),
        _encoded(_drawing("CMYK"), "TIFF"),
        _encoded(_drawing(), "BMP"),
        _encoded(Image.fromarray((np.arange(60_000).reshape(200, 300) % 5_000).astype(np.uint16)), "PNG"),
        _encoded(_clear(), "PNG"),
    ],
    ids=["tiff", "lzw", "fax", "cmyk-tiff", "bmp", "sixteen-bits", "transparent"],
)
def test_a_copy_shows_what_the_decoder_shows(data: bytes) -> None:
    copy = _copy(data)
    assert copy is not None
    assert copy.format == "PNG"
    assert np.array_equal(np.asarray(copy.convert("RGB")), np.asarray(decode(data)[0]))


def test_cmyk_jpeg_is_copied_as_jpeg_at_full_size() -> None:
    data = _encoded(_photo().resize((900, 600)).convert("CMYK"), "JPEG")
    copy = _copy(data)
    assert copy is not None
    assert (copy.format, copy.mode, copy.size) == ("JPEG", "RGB", (900, 600))
    difference = np.asarray(copy).astype(int) - np.asarray(decode(data)[0])
    assert np.abs(difference).mean() < 3


def test_a_photograph_in_tiff_becomes_jpeg() -> None:
    copy = _copy(_encoded(_photo(), "TIFF"))
    assert copy is not None
    assert copy.format == "JPEG"


@pytest.mark.parametrize(
    "data",
    [
        _encoded(_photo(), "JPEG"),
        _encoded(_photo().convert("L"), "JPEG"),
        _encoded(_photo(), "PNG"),
        _encoded(_drawing("P"), "PNG"),
        _encoded(_photo().convert("RGBA"), "PNG"),
        _encoded(_photo(), "WEBP"),
        _encoded(_drawing("P"), "GIF"),
    ],
    ids=["jpeg", "grey", "png", "palette", "opaque", "webp", "gif"],
)
def test_what_all_can_read_is_not_copied(data: bytes) -> None:
    assert _copy(data) is None


def test_same_bytes_same_copy_and_turned_as_shown() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = _encoded(_drawing(), "TIFF", exif=exif)
    one, two = (inspect_image("f.tif", data, IngestConfig()) for _ in range(2))
    assert one.copy == two.copy
    assert "exif_rotated" in one.flags
    assert Image.open(io.BytesIO(one.copy or b"")).size == (200, 300)


def test_no_copy_without_decoding() -> None:
    assert inspect_image("f.tif", _encoded(_drawing(), "TIFF"), IngestConfig(verify_decode=False)).copy is None


def test_large_drawings_become_jpeg() -> None:
    copy = _copy(_encoded(_drawing().resize((2500, 2000)), "TIFF", compression="tiff_lzw"))
    assert copy is not None
    assert (copy.format, copy.size) == ("JPEG", (2500, 2000))
