"""Hostile pictures: fuzzed in every format, bombs, polyglots, things that are no pictures."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

Bytes = Callable[[], bytes]

LARGE = 4_999
"""Side of pictures just within the bound of area; the test of memory takes the default bound's, 9,999."""

_FORMATS: dict[str, tuple[str, str, dict[str, object]]] = {
    "jpeg": ("JPEG", "RGB", {}),
    "progressive": ("JPEG", "RGB", {"progressive": True}),
    "cmyk": ("JPEG", "CMYK", {}),
    "png": ("PNG", "RGB", {}),
    "palette": ("PNG", "P", {}),
    "gif": ("GIF", "P", {}),
    "tiff": ("TIFF", "RGB", {}),
    "lzw": ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    "jpeg-in-tiff": ("TIFF", "RGB", {"compression": "jpeg"}),
    "fax": ("TIFF", "1", {"compression": "group4"}),
    "webp": ("WEBP", "RGB", {}),
    "bmp": ("BMP", "RGB", {}),
}


def encoded(kind: str, side: int = 160) -> bytes:
    """A picture with structure, in one of the formats."""
    container, mode, options = _FORMATS[kind]
    across, down = np.meshgrid(np.arange(side), np.arange(side))
    pixels = np.stack([across, down, (across * down) % 251], axis=-1).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, container, **options)
    return out.getvalue()


def _flipped(kind: str, seed: int) -> bytes:
    rng, data = random.Random(f"{kind}{seed}"), bytearray(encoded(kind))
    for _ in range(1 + 3 * seed):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


def cases() -> Iterator[tuple[str, Bytes, str]]:
    """Name, how to make the bytes, and what must become of a figure with them: reject, pair or any."""
    for kind in _FORMATS:
        for seed in range(5):
            yield f"{kind}-flipped-{seed}", lambda kind=kind, seed=seed: _flipped(kind, seed), "any"
        for part in (1, 5, 9):
            yield f"{kind}-cut-{part}", lambda kind=kind, part=part: encoded(kind)[: len(encoded(kind)) * part // 10], "any"
        yield f"{kind}-and-garbage", lambda kind=kind: encoded(kind) + b"\0garbage" * 500, "pair"
    yield from _no_pictures()
    yield from bombs()


def _no_pictures() -> Iterator[tuple[str, Bytes, str]]:
    for name, data in {
        "empty": b"",
        "one-byte": b"\xff",
        "html": b"<!DOCTYPE html><html>404</html>",
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "pdf": b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n",
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n(/etc/passwd) (r) file",
        "zip": b"PK\x03\x04" + bytes(200),
        "text-in-gif": b"GIF89a<script>alert(1)</script>",
        "pdf-in-jpeg": b"\xff\xd8\xff\xe0%PDF-1.4 ",
        "soi-only": b"\xff\xd8\xff\xd9",
        "xpm": b'/* XPM */\nstatic char *x[] = {"1 1 1 1"};',
        "fli": b"\x00\x00\x00\x00\x11\xaf" + bytes(200),
        "psd": b"8BPS\x00\x01" + bytes(100),
        "jpeg-2000": b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(100),
        "avif": b"\x00\x00\x00\x20ftypavif" + bytes(100),
        "random": random.Random(2).randbytes(30_000),
        "zeros": bytes(100_000),
    }.items():
        yield f"no-picture-{name}", lambda data=data: data, "reject"


# ---- bombs: little data that claims or unpacks to much


def chunk(kind: bytes, body: bytes) -> bytes:
    """A PNG chunk."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, body: bytes = b"", *, depth: int = 8, colour: int = 2, extra: bytes = b"") -> bytes:
    """A PNG whose header says this size."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def tiff(entries: list[tuple[int, int, int, int]], tail: bytes = b"", following: int = 0) -> bytes:
    """A little-endian TIFF with one directory of (tag, type, count, value)."""
    body = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + body + struct.pack("<I", following) + tail


def _tiff_of(width: int, height: int, *more: tuple[int, int, int, int], following: int = 0) -> bytes:
    known = {256: (256, 4, 1, width), 257: (257, 4, 1, height), 258: (258, 3, 1, 8), 259: (259, 3, 1, 1), 262: (262, 3, 1, 1)}
    known |= {273: (273, 4, 1, 8), 277: (277, 3, 1, 1), 278: (278, 4, 1, height), 279: (279, 4, 1, width * height % 2**32)}
    known |= {entry[0]: entry for entry in more}
    return tiff(list(known.values()), bytes(64), following)


def _long_chain(length: int) -> bytes:
    """A TIFF whose directories, empty but for the first, form a long chain."""
    first = encoded("tiff", 16)
    start = len(first) + len(first) % 2
    at = struct.unpack_from("<I", first, 4)[0]
    link = at + 2 + 12 * struct.unpack_from("<H", first, at)[0]
    data = bytearray(first.ljust(start, b"\0"))
    struct.pack_into("<I", data, link, start)
    for number in range(length):
        data += struct.pack("<HI", 0, start + 6 * (number + 1) if number + 1 < length else 0)
    return bytes(data)


def _gif(width: int, height: int, frames: int = 1) -> bytes:
    frame = b"\x2c" + struct.pack("<HHHH", 0, 0, 1, 1) + b"\0" + b"\x02\x02\x44\x01\0"
    return b"GIF89a" + struct.pack("<HH", width, height) + b"\xf0\0\0" + b"\0\0\0\xff\xff\xff" + frame * frames + b";"


def _webp(width: int, height: int) -> bytes:
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + size + b"ANIM" + struct.pack("<I", 6) + bytes(6)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _scans(count: int, side: int) -> bytes:
    """A progressive JPEG of a large area with its last scan repeated."""
    data = bytearray(encoded("progressive", 32))
    frame = data.index(b"\xff\xc2")
    struct.pack_into(">HH", data, frame + 5, side, side)
    scan = bytes(data[data.rindex(b"\xff\xda") : -2])
    return bytes(data[:-2]) + scan * count + b"\xff\xd9"


def _bmp(width: int, height: int, bits: int = 24, compression: int = 0) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 1024, 0, 0, 54 + 1024) + header + bytes(1024 + 64)


def _jpeg_with(marker: int, body: bytes, times: int = 1) -> bytes:
    data = encoded("jpeg")
    segment = struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body
    return data[:2] + segment * times + data[2:]


def _exif(orientation: bytes) -> bytes:
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + orientation + struct.pack("<I", 0)


def bombs() -> Iterator[tuple[str, Bytes, str]]:
    """Those whose memory is measured."""
    zeros = zlib.compress(bytes(50_000_000), 9)
    yield "png-giant", lambda: png(2**31 - 1, 2**31 - 1), "reject"
    yield "png-large", lambda: png(LARGE, LARGE, zlib.compress(b"\0")), "reject"
    yield "png-16-large", lambda: png(LARGE, LARGE, zlib.compress(b"\0"), depth=16, colour=0), "reject"
    yield "png-rgba-large", lambda: png(LARGE, LARGE, zlib.compress(b"\0"), colour=6), "reject"
    yield "png-zero-wide", lambda: png(0, 10), "reject"
    yield "png-overflow", lambda: png(64, 64, zeros), "any"
    yield "png-profile-bomb", lambda: png(9, 9, zlib.compress(bytes(300)), extra=chunk(b"iCCP", b"x\0\0" + zeros)), "reject"
    yield "png-text-bomb", lambda: png(9, 9, zlib.compress(bytes(300)), extra=chunk(b"zTXt", b"x\0\0" + zeros) * 40), "reject"
    yield "png-many-chunks", lambda: png(9, 9, zlib.compress(bytes(300)), extra=chunk(b"tEXt", b"a\0b") * 200_000), "any"
    yield "gif-giant", lambda: _gif(65_535, 65_535), "reject"
    yield "gif-large", lambda: _gif(LARGE, LARGE), "any"
    yield "gif-many-frames", lambda: _gif(200, 200, 400_000), "any"
    yield "webp-giant", lambda: _webp(16_384, 16_384), "reject"
    yield "webp-wider", lambda: _webp(2**24, 2**24), "reject"
    yield "bmp-giant", lambda: _bmp(2**31 - 1, 2**31 - 1), "reject"
    yield "bmp-large", lambda: _bmp(LARGE, LARGE), "reject"
    yield "bmp-negative", lambda: _bmp(-5, -(2**31)), "reject"
    yield "bmp-run-length", lambda: _bmp(LARGE, LARGE, 8, 1), "any"
    yield "tiff-giant", lambda: _tiff_of(2**32 - 1, 2**32 - 1), "reject"
    yield "tiff-large", lambda: _tiff_of(LARGE, LARGE), "reject"
    yield "tiff-large-float", lambda: _tiff_of(LARGE, LARGE, (258, 3, 1, 32), (339, 3, 1, 3)), "reject"
    yield "tiff-fax-large", lambda: _tiff_of(LARGE, LARGE, (258, 3, 1, 1), (259, 3, 1, 4)), "reject"
    yield (
        "tiff-giant-tile",
        lambda: _tiff_of(64, 64, (322, 4, 1, 2**20), (323, 4, 1, 2**20), (324, 4, 1, 8), (259, 3, 1, 5)),
        "reject",
    )
    yield "tiff-giant-strip", lambda: _tiff_of(64, 64, (278, 4, 1, 2**32 - 1), (259, 3, 1, 5), (279, 4, 1, 2**32 - 1)), "reject"
    yield "tiff-many-samples", lambda: _tiff_of(64, 64, (277, 3, 1, 65_535), (258, 3, 65_535, 8)), "reject"
    yield "tiff-giant-tag", lambda: _tiff_of(64, 64, (270, 2, 2**32 - 1, 8)), "any"
    yield "tiff-loop", lambda: _tiff_of(64, 64, following=8), "any"
    yield "tiff-long-chain", lambda: _long_chain(200_000), "any"
    yield "tiff-chain-off-the-end", lambda: _tiff_of(64, 64, following=2**31), "any"
    yield "big-tiff-lies", lambda: b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, 2**60) + bytes(100), "reject"
    yield "jpeg-many-scans", lambda: _scans(20_000, LARGE), "reject"
    yield "jpeg-large", lambda: _scans(0, LARGE), "any"
    yield "jpeg-no-height", lambda: _scans(0, 0), "reject"
    yield "jpeg-bad-tables", lambda: _jpeg_with(0xC4, b"\x00" + b"\xff" * 16 + bytes(200)), "any"
    yield "jpeg-bad-quantisation", lambda: _jpeg_with(0xDB, bytes([0xF7]) + bytes(200)), "any"
    yield "jpeg-many-comments", lambda: _jpeg_with(0xFE, b"x" * 60_000, 300), "pair"
    yield "jpeg-short-profile", lambda: _jpeg_with(0xE2, b"ICC_PROFILE\0\x01\xff"), "pair"
    yield "jpeg-wild-orientation", lambda: _jpeg_with(0xE1, _exif(struct.pack("<HHII", 0x112, 3, 1, 77))), "pair"
    yield "jpeg-text-orientation", lambda: _jpeg_with(0xE1, _exif(struct.pack("<HHII", 0x112, 2, 2**31, 9))), "pair"
    yield "jpeg-broken-exif", lambda: _jpeg_with(0xE1, b"Exif\0\0XX" + b"\xff" * 40), "pair"
    yield "jpeg-looping-exif", lambda: _jpeg_with(0xE1, _exif(struct.pack("<HHII", 0x8769, 4, 1, 8))), "pair"
    yield "jpeg-many-pictures", lambda: _jpeg_with(0xE2, b"MPF\0II*\0" + struct.pack("<IHHHII", 8, 1, 0xB001, 4, 1, 99)), "pair"
