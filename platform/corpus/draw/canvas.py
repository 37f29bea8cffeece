"""What the drawing functions share: noise fields, colour ramps, soft masks, blobs and letters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Rng = np.random.Generator
Size = tuple[int, int]
Color = tuple[int, int, int]
Attributes = Mapping[str, Any]
Array = npt.NDArray[np.float32]

# The colour words that captions use, as they are drawn.
COLORS: dict[str, Color] = {
    "blue": (38, 92, 190),
    "red": (205, 40, 40),
    "green": (40, 150, 70),
    "orange": (240, 140, 25),
    "purple": (125, 60, 165),
    "grey": (130, 130, 130),
    "black": (25, 25, 25),
}
WHITE: Color = (255, 255, 255)
BLACK: Color = (20, 20, 20)


def field(rng: Rng, size: Size, cell: float) -> Array:
    """Smooth noise in 0..1 of shape (height, width); ``cell`` is the size of its features in pixels."""
    width, height = size
    coarse = rng.random((max(2, round(height / cell)), max(2, round(width / cell))), dtype=np.float32)
    return np.clip(_stretch(coarse, size), 0, 1)


def texture(rng: Rng, size: Size, cell: float) -> Array:
    """Noise of two scales in 0..1: features of ``cell`` pixels with finer ones in them."""
    mixed: Array = 0.65 * field(rng, size, cell) + 0.35 * field(rng, size, max(2.0, cell / 4))
    return mixed


def _stretch(coarse: Array, size: Size) -> Array:
    return np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC), dtype=np.float32)


def ramp(values: Array, stops: Sequence[Color]) -> Image.Image:
    """Values in 0..1 as colours that run through ``stops``."""
    at = np.linspace(0, 1, len(stops))
    table = np.stack([np.interp(np.linspace(0, 1, 256), at, [stop[c] for stop in stops]) for c in range(3)], axis=1)
    index = np.clip(values * 255, 0, 255).astype(np.uint8)
    return Image.fromarray(table.astype(np.uint8)[index])


def grey(values: Array) -> Image.Image:
    """Values in 0..1 as a grey RGB image."""
    return Image.fromarray(np.clip(values * 255, 0, 255).astype(np.uint8)).convert("RGB")


def grain(rng: Rng, image: Image.Image, strength: int) -> Image.Image:
    """The image with film grain of up to ``strength`` grey levels, the same on all channels."""
    width, height = image.size
    noise = np.frombuffer(rng.bytes(width * height), dtype=np.uint8).reshape(height, width).astype(np.int16)
    shift = (noise - 128) * strength // 128
    pixels = np.asarray(image, dtype=np.int16) + shift[:, :, None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


@lru_cache(maxsize=64)
def grid(size: Size) -> tuple[Array, Array]:
    """Coordinates in -1..1, as a row of x and a column of y."""
    width, height = size
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    return x, y


def oval(size: Size, center: tuple[float, float], radii: tuple[float, float], turn: float = 0.0, soft: float = 0.08) -> Array:
    """A soft-edged mask in 0..1 of an ellipse, in coordinates from -1 to 1; ``turn`` in radians."""
    x, y = grid(size)
    dx, dy = x - center[0], y - center[1]
    u, v = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
    distance = np.sqrt((u / radii[0]) ** 2 + (v / radii[1]) ** 2)
    mask: Array = np.clip((1 - distance) / soft + 0.5, 0, 1).astype(np.float32)
    return mask


def paint(canvas: Array, mask: Array, value: float | npt.NDArray[np.floating[Any]]) -> None:
    """Lay ``value`` on ``canvas`` where ``mask`` is 1, in place."""
    canvas += mask * (value - canvas)


def scatter_points(rng: Rng, size: Size, spacing: float, keep: float = 1.0) -> Array:
    """Positions (n, 2) in pixels that fill the area evenly, about ``spacing`` apart; a share ``keep`` of them."""
    width, height = size
    xs, ys = np.meshgrid(np.arange(spacing / 2, width, spacing), np.arange(spacing / 2, height, spacing))
    points = np.stack([xs.ravel(), ys.ravel()], axis=1)
    points = points + rng.uniform(-0.42, 0.42, points.shape) * spacing
    kept: Array = points[rng.random(len(points)) < keep].astype(np.float32)
    return kept


def blobs(rng: Rng, points: Array, radius: float, stretch: float = 1.4, wobble: float = 0.15) -> list[list[tuple[float, float]]]:
    """Polygons of irregular ovals around ``points`` (n, 2), turned at random."""
    n = len(points)
    corners = 11
    angles = np.linspace(0, 2 * np.pi, corners, endpoint=False)[None, :]
    radii = radius * rng.uniform(0.75, 1.25, (n, 1)) * (1 + wobble * rng.uniform(-1, 1, (n, corners)))
    turn = rng.uniform(0, np.pi, (n, 1))
    u, v = radii * np.cos(angles) * stretch, radii * np.sin(angles)
    x = points[:, :1] + u * np.cos(turn) - v * np.sin(turn)
    y = points[:, 1:] + u * np.sin(turn) + v * np.cos(turn)
    return [list(zip(row_x, row_y, strict=True)) for row_x, row_y in zip(x.tolist(), y.tolist(), strict=True)]


def row(*values: float) -> Array:
    """A float array of the values."""
    return np.array(values, dtype=np.float32)


def fill(
    draw: ImageDraw.ImageDraw, polygons: Iterable[list[tuple[float, float]]], color: Color, rim: Color | None = None
) -> None:
    """Draw filled polygons, with an outline if ``rim`` is given."""
    for polygon in polygons:
        draw.polygon(polygon, fill=color, outline=rim)


def vary(rng: Rng, color: Color, by: int) -> Color:
    """A colour near ``color``: every channel moves by up to ``by``."""
    red, green, blue = (int(np.clip(c + rng.integers(-by, by + 1), 0, 255)) for c in color)
    return red, green, blue


def mix(first: Color, second: Color, share: float) -> Color:
    """The colour at ``share`` of the way from ``first`` to ``second``."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


@lru_cache(maxsize=32)
def font(height: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's built-in face, so that the bytes don't depend on the fonts of the machine."""
    return ImageFont.load_default(size=height)


def crop_points(points: Array, center: tuple[float, float], radius: float, inside: bool = True) -> Array:
    """Those of ``points`` (n, 2) within ``radius`` pixels of ``center``, or those beyond."""
    distance = np.hypot(points[:, 0] - center[0], points[:, 1] - center[1])
    chosen: Array = points[distance < radius] if inside else points[distance >= radius]
    return chosen
