"""Frames of GIF and TIFF: as Pillow counts them, bounded where Pillow is not."""

from __future__ import annotations

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from biomedray.frames import MAX_FRAMES, gif_frames, tiff_frames


def _frames(kind: str, number: int, **options: object) -> bytes:
    pictures = [Image.new("RGB", (20, 20), (i * 9 % 256, 40, 90)) for i in range(number)]
    out = io.BytesIO()
    pictures[0].save(out, kind, save_all=True, append_images=pictures[1:], **options)  # type: ignore[arg-type]  # each format has its own
    return out.getvalue()


@pytest.mark.parametrize("number", [1, 2, 25])
def test_as_many_as_pillow_sees(number: int) -> None:
    for count, data in (
        (gif_frames, _frames("GIF", number)),
        (tiff_frames, _frames("TIFF", number)),
        (tiff_frames, _frames("TIFF", number, big_tiff=True)),
    ):
        with Image.open(io.BytesIO(data)) as image:
            assert count(data) == getattr(image, "n_frames", 1) == number


def test_loops_and_long_chains_end() -> None:
    loop = b"II*\0" + struct.pack("<IHI", 8, 0, 8)
    assert tiff_frames(loop) == 1
    chain = b"MM\0*" + struct.pack(">I", 8) + b"".join(struct.pack(">HI", 0, 14 + 6 * i) for i in range(5_000))
    assert tiff_frames(chain) == MAX_FRAMES
    assert gif_frames(b"GIF89a" + bytes(7) + (b"\x2c" + bytes(10) + b"\0") * 5_000) == MAX_FRAMES


@given(st.binary(max_size=200), st.sampled_from([b"GIF89a", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"]))
def test_any_bytes_have_at_least_one(junk: bytes, magic: bytes) -> None:
    assert gif_frames(magic + junk) >= 1
    assert tiff_frames(magic + junk) >= 1
