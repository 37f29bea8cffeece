"""The image decoder on good, odd and hostile bytes."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, ImageOps

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


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
def test_a_tiff_may_say_that_zero_is_white(kind, compression):
    ramp = np.linspace(0, 200, 64 * 64).reshape(64, 64).astype(kind)
    data = encoded(Image.fromarray(ramp), "TIFF", compression=compression)
    entry = struct.pack("<HHI", 262, 3, 1)
    assert data.count(entry + b"\1") == 1
    plain, inverted = (np.asarray(decode(each)[0]) for each in (data, data.replace(entry + b"\1", entry + b"\0")))
    assert plain[0, 0, 0] < 5 < 190 < plain[-1, -1, 0]
    assert np.array_equal(inverted, 255 - plain)


def test_thirty_two_bits_without_a_sign_are_never_negative():
    ramp = np.linspace(0, 4e9, 64 * 64).reshape(64, 64).astype(np.uint32)
    data = encoded(Image.fromarray(ramp.view(np.int32)), "TIFF")
    entry = struct.pack("<HHI", 339, 3, 1)
    assert data.count(entry + b"\2") == 1
    grey = np.asarray(decode(data.replace(entry + b"\2", entry + b"\1"))[0])[:, :, 0].reshape(-1)
    assert (grey[0], grey[-1]) == (0, 255)
    assert (np.diff(grey.astype(int)) >= 0).all()


def test_transparency_lies_on_white():
    layer = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    image, flags = decode(encoded(layer, "PNG"))
    assert image.getpixel((4, 4)) == (255, 255, 255)
    assert flags == ["alpha", "transparent"]


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


# ---- odd kinds of file that real figures come in


def gradient(mode: str = "RGB", size: tuple[int, int] = (64, 48)) -> Image.Image:
    across, down = np.meshgrid(np.arange(size[0]) * 4 % 256, np.arange(size[1]) * 4 % 256)
    return Image.fromarray(np.stack([across, down, across // 2 + down // 2], axis=-1).astype(np.uint8)).convert(mode)


def tiff_bytes(entries: dict[int, tuple[int, list[int]]], data: bytes) -> bytes:
    """A little-endian TIFF: data after its header, then its directory, then values that don't fit in it."""
    at = 8 + len(data)
    spilled = at + 2 + 12 * len(entries) + 4
    directory, tail = struct.pack("<H", len(entries)), b""
    for tag, (kind, values) in sorted(entries.items()):
        packed = struct.pack(f"<{len(values)}{'H' if kind == 3 else 'I'}", *values)
        value = packed.ljust(4, b"\0") if len(packed) <= 4 else struct.pack("<I", spilled + len(tail))
        tail += packed if len(packed) > 4 else b""
        directory += struct.pack("<HHI", tag, kind, len(values)) + value
    return b"II*\0" + struct.pack("<I", at) + data + directory + struct.pack("<I", 0) + tail


def test_planar_and_tiled_tiff():
    image = gradient()
    array = np.asarray(image)
    size = {256: (3, [64]), 257: (3, [48]), 258: (3, [8, 8, 8]), 259: (3, [1]), 262: (3, [2]), 277: (3, [3])}
    plane = 64 * 48
    strips = {273: (4, [8, 8 + plane, 8 + 2 * plane]), 278: (3, [48]), 279: (4, [plane] * 3), 284: (3, [2])}
    planar = tiff_bytes(size | strips, array.transpose(2, 0, 1).tobytes())
    blocks = [array[y : y + 16, x : x + 32].tobytes() for y in range(0, 48, 16) for x in range(0, 64, 32)]
    offsets = [8 + i * len(blocks[0]) for i in range(len(blocks))]
    tiles = {322: (3, [32]), 323: (3, [16]), 324: (4, offsets), 325: (4, [len(block) for block in blocks])}
    for data in (planar, tiff_bytes(size | tiles, b"".join(blocks))):
        pixels, flags = decode(data)
        assert flags == []
        assert np.array_equal(np.asarray(pixels), array)


@pytest.mark.parametrize(
    "options",
    [{"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}, {"compression": "packbits"}, {"big_tiff": True}],
)
def test_lossless_tiff(options):
    assert np.array_equal(np.asarray(decode(encoded(gradient(), "TIFF", **options))[0]), np.asarray(gradient()))


def test_fax_jpeg_and_float_tiff():
    assert decode(encoded(gradient("1"), "TIFF", compression="group4"))[0].mode == "RGB"
    pixels = np.asarray(decode(encoded(gradient(), "TIFF", compression="jpeg"))[0]).astype(int)
    assert np.abs(pixels - np.asarray(gradient())).mean() < 8
    values = np.linspace(-3, 5, 64 * 48, dtype=np.float32).reshape(48, 64)
    values[0, :2] = np.nan, np.inf
    floating, flags = decode(encoded(Image.fromarray(values), "TIFF"))
    assert flags == ["high_depth"]
    assert np.asarray(floating)[1:, :, 0].std() > 60


def test_cmyk_of_adobe_is_inverted_back():
    """Pillow writes CMYK as Adobe does, inverted and with its marker: white paper must be white again."""
    paper = Image.new("CMYK", (64, 64), (0, 0, 0, 0))
    paper.paste((0, 255, 255, 0), (0, 0, 32, 64))
    pixels, flags = decode(encoded(paper, "JPEG", quality=95))
    assert flags == ["cmyk"]
    assert np.abs(np.array(pixels.getpixel((50, 32))) - 255).max() < 6
    assert np.abs(np.array(pixels.getpixel((10, 32))) - (255, 0, 0)).max() < 12


def interlaced(array: np.ndarray) -> bytes:
    """An Adam7 PNG of an RGB picture."""
    rows = b""
    for x0, y0, dx, dy in ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)):
        rows += b"".join(b"\0" + row.tobytes() for row in array[y0::dy, x0::dx] if row.size)
    plain = png_that_says(array.shape[1], array.shape[0])
    header = plain[8:33][8:21][:-1] + b"\1"

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    return plain[:8] + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_interlaced_png_and_progressive_jpeg():
    array = np.asarray(gradient())
    assert np.array_equal(np.asarray(decode(interlaced(array))[0]), array)
    assert decode(encoded(gradient(), "JPEG", progressive=True))[1] == []


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "MPO"])
def test_animations_and_stereo_pairs_give_their_first_frame(kind):
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue", "lime")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **({"lossless": True} if kind == "WEBP" else {}))
    header = read_header(data)
    image, flags = decode(data)
    assert (header.frames, header.format) == (3, "JPEG" if kind == "MPO" else kind)
    assert "multi_frame" in flags
    assert np.abs(np.array(image.getpixel((9, 9))) - (255, 0, 0)).max() < 6


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"])
def test_garbage_after_the_end_is_no_damage(kind):
    assert set(decode(encoded(gradient(), kind) + b"\xff\xd8garbage" * 99)[1]) <= {"palette"}


def test_wrong_checksums_in_png():
    data = encoded(gradient(), "PNG", dpi=(72, 72))
    for kind in (b"pHYs", b"IDAT"):
        at = data.index(kind) + 4 + struct.unpack(">I", data[data.index(kind) - 4 : data.index(kind)])[0]
        pixels, _ = decode(data[:at] + b"\0\0\0\0" + data[at + 4 :])
        assert np.array_equal(np.asarray(pixels), np.asarray(gradient()))


def test_damage_inside_a_jpeg_is_seen():
    data = bytearray(encoded(noise(200, 200), "JPEG"))
    data[len(data) // 2 : len(data) // 2 + 8] = b"\xff\xd9\0\0\0\0\0\0"
    assert {"truncated", "damaged"} & set(decode(bytes(data))[1])


def test_profiles_and_broken_exif_are_no_obstacle():
    assert decode(encoded(gradient(), "PNG", icc_profile=b"no profile"))[1] == []
    for exif in (b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*" + b"\xff" * 50):
        assert decode(encoded(gradient(), "JPEG", exif=exif))[0].size == (64, 48)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "PNG", "WEBP"])
def test_all_eight_orientations(kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(gradient(), kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    pixels, flags = decode(data)
    assert flags == (["exif_rotated"] if orientation > 1 else [])
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB")).astype(int)
    assert np.abs(np.asarray(pixels).astype(int) - expected).max() <= 1


def test_jpeg_is_pillows_to_the_bit_at_full_size():
    for image in (gradient(), noise(), gradient("L")):
        for options in ({}, {"progressive": True}, {"subsampling": 0}, {"quality": 30}):
            if image.mode == "L" and "subsampling" in options:
                continue
            data = encoded(image, "JPEG", **options)
            with Image.open(io.BytesIO(data)) as opened:
                assert np.array_equal(np.asarray(decode(data)[0]), np.asarray(opened.convert("RGB")))


def test_deep_colour_is_flagged():
    samples = (np.asarray(gradient()).astype(">u2") * 257).tobytes()
    rows = b"".join(b"\0" + samples[i : i + 64 * 6] for i in range(0, len(samples), 64 * 6))
    plain = png_that_says(64, 48)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 48, 16, 2, 0, 0, 0))
    pixels, flags = decode(plain[:8] + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    assert flags == ["high_depth"]
    assert np.array_equal(np.asarray(pixels), np.asarray(gradient()))


def test_transparent_is_what_looks_different_without_its_alpha_channel():
    layer = Image.new("RGBA", (30, 20), (10, 20, 30, 255))
    assert decode(encoded(layer, "PNG"))[1] == ["alpha"]
    layer.putpixel((3, 3), (255, 255, 255, 0))
    assert decode(encoded(layer, "PNG"))[1] == ["alpha"]
    layer.putpixel((4, 4), (0, 0, 0, 0))
    image, flags = decode(encoded(layer, "PNG"))
    assert flags == ["alpha", "transparent"]
    assert image.getpixel((4, 4)) == (255, 255, 255)
    half = Image.new("RGBA", (2, 1), (0, 0, 0, 128))
    assert decode(encoded(half, "PNG"))[0].getpixel((0, 0)) == (127, 127, 127)
