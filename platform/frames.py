"""How many frames a GIF or TIFF has, from its bytes alone.

Pillow counts by visiting each frame, in time that a hostile file can drive to hours (a chain of a million
directories, a GIF of empty frames); this walk decodes nothing, and stops at MAX_FRAMES and MAX_STEPS.
"""

from __future__ import annotations

import struct

MAX_FRAMES = 1_000
MAX_STEPS = 1_000_000


def gif_frames(data: bytes) -> int:
    """Image descriptors in a GIF, counted up to MAX_FRAMES; a cut-off file has those that begin (GIF89a specification)."""
    frames = steps = 0
    at = 13 + _table(data, 10)
    while at < len(data) and frames < MAX_FRAMES and steps < MAX_STEPS:
        if data[at] == 0x2C:
            frames += 1
            at += 11 + _table(data, at + 9)
        elif data[at] == 0x21:
            at += 2
        else:
            break
        at, walked = _skip_blocks(data, at, MAX_STEPS - steps)
        steps += walked + 1
    return max(frames, 1)


def _table(data: bytes, at: int) -> int:
    """Bytes of the colour table that a packed field announces."""
    return 3 << (1 + (data[at] & 7)) if at < len(data) and data[at] & 0x80 else 0


def _skip_blocks(data: bytes, at: int, most: int) -> tuple[int, int]:
    steps = 0
    while at < len(data) and data[at] and steps < most:
        at += 1 + data[at]
        steps += 1
    return at + 1, steps


def tiff_frames(data: bytes) -> int:
    """Directories in the chain of a TIFF or BigTIFF, counted up to MAX_FRAMES; a loop or a damaged link ends it (TIFF 6.0)."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    count_format, link_format, entry = (order + "Q", order + "Q", 20) if big else (order + "H", order + "I", 12)
    seen: set[int] = set()
    at = _number(data, 8 if big else 4, link_format)
    while at and at not in seen and at < len(data) and len(seen) < MAX_FRAMES:
        seen.add(at)
        at = _number(data, at + struct.calcsize(count_format) + entry * _number(data, at, count_format), link_format)
    return max(len(seen), 1)


def _number(data: bytes, at: int, kind: str) -> int:
    """A number at a place; 0 where the file has ended."""
    return int(struct.unpack_from(kind, data, at)[0]) if at + struct.calcsize(kind) <= len(data) else 0
