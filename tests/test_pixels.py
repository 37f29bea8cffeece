"""The image decoder on good, odd and hostile bytes."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from biomedray.pixels import PixelError, decode, read_header
from biomedray.records import Reason


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(width: int = 64, height: int = 48) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"])
def test_every_format_by_its_magic(kind):
    data = encoded(noise(), kind)
    header = read_header(data)
    assert (header.format, header.width, header.height) == (kind, 64, 48)
    image, _ = decode(data)
    assert (image.mode, image.size) == ("RGB", (64, 48))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Reason.EMPTY_IMAGE),
        (b"<html>404 not found</html>", Reason.UNSUPPORTED_FORMAT),
        (b"%PDF-1.4 ...", Reason.UNSUPPORTED_FORMAT),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, Reason.UNDECODABLE),
    ],
)
def test_what_is_no_image_says_so(data, reason):
    with pytest.raises(PixelError) as raised:
        decode(data)
    assert raised.value.reason is reason


def png_that_says(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(60000, 60000), (20000, 6000), (2**31 - 1, 1)])
def test_bombs_are_refused_by_their_header(size):
    with pytest.raises(PixelError) as raised:
        read_header(png_that_says(*size))
    assert raised.value.reason is Reason.IMAGE_TOO_LARGE


def test_a_cut_off_jpeg_is_kept_and_flagged_and_pillows_switch_is_put_back():
    data = encoded(noise(200, 200), "JPEG")
    image, flags = decode(data[: len(data) // 2])
    assert image.size == (200, 200)
    assert flags == ["truncated"]
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_sixteen_bits_are_windowed_not_clipped():
    ramp = (np.arange(64 * 64).reshape(64, 64) * 8 + 20000).astype(np.uint16)
    image, flags = decode(encoded(Image.fromarray(ramp), "PNG"))
    grey = np.asarray(image)[:, :, 0]
    assert flags == ["high_depth"]
    assert (grey.min(), grey.max()) == (0, 255)
    assert (np.diff(grey.reshape(-1).astype(int)) >= 0).all()


def test_transparency_lies_on_white():
    layer = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image, flags = decode(encoded(layer, "PNG"))
    assert image.getpixel((4, 4)) == (255, 255, 255)
    assert flags == ["alpha"]


def test_exif_turns_and_cmyk_are_flagged():
    exif = Image.Exif()
    exif[0x0112] = 6
    image, flags = decode(encoded(noise(), "JPEG", exif=exif))
    assert (image.size, flags) == ((48, 64), ["exif_rotated"])
    assert decode(encoded(noise().convert("CMYK"), "JPEG"))[1] == ["cmyk"]


def test_first_frame_of_several():
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "blue")]
    image, flags = decode(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert image.getpixel((3, 3)) == (255, 0, 0)
    assert "multi_frame" in flags


def test_a_scaled_decode_never_falls_below_the_asked_side():
    data = encoded(noise(1600, 1200), "JPEG")
    image, _ = decode(data, short_side=200)
    assert 200 <= min(image.size) < 1200


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "GIF", "TIFF", "WEBP"]), st.data())
def test_fuzzed_bytes_become_pixels_or_one_reason(kind, data):
    whole = bytearray(encoded(noise(32, 32), kind))
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    outcome = outcome_of(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
    assert outcome == "RGB" or outcome in set(Reason)


def outcome_of(data: bytes) -> str:
    try:
        return decode(data, max_pixels=1_000_000)[0].mode
    except PixelError as error:
        return error.reason
