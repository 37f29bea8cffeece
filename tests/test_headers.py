"""Headers by their segments are Pillow's, or none; what may turn a PNG is found."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from biomedray.headers import plain_jpeg, png_may_turn, png_may_turn_late
from biomedray.pixels import PixelError, decode, read_header


def picture(mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def jpeg(mode: str = "RGB", size: tuple[int, int] = (40, 30), **options: object) -> bytes:
    buffer = io.BytesIO()
    picture(mode, size).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(*chunks: bytes, last: tuple[bytes, ...] = ()) -> bytes:
    buffer = io.BytesIO()
    picture().save(buffer, "PNG")
    data = buffer.getvalue()
    end = data.index(b"IEND") - 4
    return data[:33] + b"".join(chunks) + data[33:end] + b"".join(last) + data[end:]


@given(st.sampled_from(["RGB", "L"]), st.integers(1, 300), st.integers(1, 300), st.booleans(), st.integers(0, 2))
@settings(max_examples=40, deadline=None)
def test_plain_jpeg_is_what_pillow_says(mode: str, width: int, height: int, progressive: bool, subsampling: int) -> None:
    options = {"subsampling": subsampling} if mode == "RGB" else {}
    data = jpeg(mode, (width, height), progressive=progressive, comment=b"x" * 50, icc_profile=b"\xff\xda" * 40, **options)
    assert plain_jpeg(data) == (width, height, mode, not progressive)


def test_what_may_turn_or_holds_several_pictures_is_left_to_pillow() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert plain_jpeg(jpeg(exif=exif)) is None
    assert read_header(jpeg(exif=exif)).orientation == 6
    assert plain_jpeg(jpeg(xmp=b'<x tiff:Orientation="3"/>')) is None
    assert plain_jpeg(jpeg("CMYK")) is None
    buffer = io.BytesIO()
    picture().save(buffer, "MPO", save_all=True, append_images=[picture()])
    assert plain_jpeg(buffer.getvalue()) is None
    assert read_header(buffer.getvalue()).frames == 2


@given(st.binary(max_size=200), st.integers(3, 400))
def test_damage_gives_none_or_the_same_as_pillow(noise: bytes, at: int) -> None:
    data = jpeg()
    damaged = data[:at] + noise + data[at + len(noise) :]
    found = plain_jpeg(damaged)
    try:
        with Image.open(io.BytesIO(damaged), formats=("JPEG",)) as image:
            assert found is None or found[:3] == (*image.size, image.mode)
    except OSError:  # a damaged table, which nothing is decoded by here
        assert found is None or found[:3] == (40, 30, "RGB")


@pytest.mark.parametrize("cut", [2, 3, 5, 21, 100])
def test_a_jpeg_that_ends_in_its_header_is_none(cut: int) -> None:
    assert plain_jpeg(jpeg()[:cut]) is None


def test_bombs_are_refused_without_pillow_too() -> None:
    with pytest.raises(PixelError, match="the limit is 100"):
        read_header(jpeg(), max_pixels=100)


def test_one_scan_is_all_that_is_read_of_a_sequential_jpeg() -> None:
    data = jpeg()
    scan = data[data.rindex(b"\xff\xda") : -2]
    repeated = data[:-2] + scan * 300 + b"\xff\xd9"
    assert plain_jpeg(repeated) == plain_jpeg(data) == (40, 30, "RGB", True)
    pixels, flags = decode(repeated)
    assert pixels.size == (40, 30)
    assert flags == ["truncated"]  # libjpeg minds what comes after it


def test_an_orientation_before_the_pixels_is_read_without_decoding_them() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turn = chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    whole, late = png(turn), png(last=(turn,))
    raw = exif.tobytes().hex().encode()
    profile = chunk(
        b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"\nexif\n" + b"%8d" % (len(raw) // 2) + b"\n" + raw + b"\n")
    )
    assert [png_may_turn_late(data) for data in (whole, late, png(profile))] == [False, True, False]
    assert [read_header(data).orientation for data in (whole, late, png(profile))] == [6, 6, 6]
    cut = whole[: whole.index(b"IDAT") + 20]
    assert read_header(cut).orientation == 6


def test_orientation_in_a_png() -> None:
    xmp = b"XML:com.adobe.xmp\0\0\0\0\0"
    assert not png_may_turn(png())
    assert not png_may_turn(png(chunk(b"iTXt", xmp + b"<x:xmpmeta/>"), chunk(b"tEXt", b"Comment\0Orientation eXIf")))
    assert png_may_turn(png(chunk(b"iTXt", xmp + b'<x tiff:Orientation="6"/>')))
    assert png_may_turn(png(chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"..."))))
    assert png_may_turn(png(last=(chunk(b"eXIf", b"MM\0*"),)))
    assert png_may_turn(png(chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(b"..."))))
    assert not png_may_turn(png()[:40])
