"""Charts: bars, lines, scatter, boxes, survival curves, heat maps. Drawn at twice the size, then reduced."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from biomedray.corpus.draw.canvas import (
    BLACK,
    COLORS,
    WHITE,
    Array,
    Attributes,
    Color,
    Rng,
    Size,
    font,
    mix,
    ramp,
    row,
    vary,
)

_SCALE = 2
_MEASURES = ("Expression", "Activity (%)", "Concentration", "Relative level", "Score", "Count", "Volume (mm3)")


@dataclass(frozen=True)
class Frame:
    """A plot area in pixels of the doubled canvas; values run from 0 to 1 on both axes."""

    draw: ImageDraw.ImageDraw
    left: float
    top: float
    right: float
    bottom: float
    unit: float
    """Width of a fine line in pixels, in proportion to the picture."""

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Pixel of a point given in 0..1, y upwards."""
        return self.left + x * (self.right - self.left), self.bottom - y * (self.bottom - self.top)

    def path(self, xs: Array, ys: Array, color: Color, width: float = 7) -> None:
        """A line through points given in 0..1."""
        points = [self.at(x, y) for x, y in zip(xs.tolist(), ys.tolist(), strict=True)]
        self.draw.line(points, fill=color, width=max(2, round(width * self.unit)), joint="curve")

    def dot(self, x: float, y: float, color: Color, radius: float) -> None:
        """A filled circle at a point given in 0..1."""
        (px, py), r = self.at(x, y), radius * self.unit
        self.draw.ellipse([px - r, py - r, px + r, py + r], fill=color)


def _open_frame(rng: Rng, size: Size, ylabel: str) -> tuple[Image.Image, Frame]:
    width, height = size[0] * _SCALE, size[1] * _SCALE
    image = Image.new("RGB", (width, height), WHITE)
    draw = ImageDraw.Draw(image)
    frame = Frame(draw, width * 0.13, height * 0.08, width * 0.96, height * 0.86, min(width, height) / 600)
    draw.line([frame.at(0, 1), frame.at(0, 0), frame.at(1, 0)], fill=BLACK, width=5)
    text = font(max(14, height // 20))
    for tick in np.linspace(0, 1, int(rng.integers(4, 7))).tolist():
        x, y = frame.at(0, tick)
        draw.line([(x - 10, y), (x, y)], fill=BLACK, width=4)
        draw.text((x - 16, y), f"{round(tick * 100)}", font=text, fill=BLACK, anchor="rm")
    draw.text((frame.left + 8, frame.top - 4), ylabel, font=text, fill=BLACK, anchor="ls")
    return image, frame


def _close(image: Image.Image) -> Image.Image:
    return image.reduce(_SCALE)


def _levels(trend: str, n: int) -> Array:
    steps = np.linspace(0, 1, n, dtype=np.float32)
    curves: dict[str, Array] = {
        "increase": 0.18 + 0.68 * steps,
        "decrease": 0.86 - 0.68 * steps,
        "peak": 0.2 + 0.66 * np.sin(np.pi * steps),
        "plateau": 0.15 + 0.68 * np.minimum(1, steps * 2.6),
        "no change": np.full(n, 0.55, np.float32),
    }
    return curves[trend]


def bars(rng: Rng, attributes: Attributes, size: Size) -> Image.Image:
    """``groups`` bars of one ``color`` whose heights follow a ``trend``, with error bars."""
    image, frame = _open_frame(rng, size, str(rng.choice(_MEASURES)))
    n, color = attributes["groups"], COLORS[attributes["color"]]
    heights = np.clip(_levels(attributes["trend"], n) + rng.uniform(-0.04, 0.04, n), 0.08, 0.92)
    text = font(max(14, size[1] * _SCALE // 20))
    for i, height in enumerate(heights.tolist()):
        left, right = (i + 0.18) / n, (i + 0.82) / n
        frame.draw.rectangle([frame.at(left, height), frame.at(right, 0)], fill=vary(rng, color, 6), outline=BLACK, width=3)
        middle, error = (left + right) / 2, rng.uniform(0.02, 0.06)
        frame.draw.line([frame.at(middle, height - error), frame.at(middle, height + error)], fill=BLACK, width=4)
        x, y = frame.at(middle, 0)
        frame.draw.text((x, y + 8), "Ctrl" if i == 0 else f"G{i}", font=text, fill=BLACK, anchor="ma")
    return _close(image)


def lines(rng: Rng, attributes: Attributes, size: Size) -> Image.Image:
    """``series`` curves, the first of ``color``, that follow a ``trend`` over time."""
    image, frame = _open_frame(rng, size, str(rng.choice(_MEASURES)))
    color = COLORS[attributes["color"]]
    xs = np.linspace(0.03, 0.97, 9, dtype=np.float32)
    for i in range(attributes["series"]):
        shade = mix(color, WHITE, 0.28 * i)
        ys = np.clip(_levels(attributes["trend"], 9) * (1 - 0.26 * i) + rng.uniform(-0.03, 0.03, 9), 0.03, 0.97)
        frame.path(xs, ys.astype(np.float32), shade, 8)
        for x, y in zip(xs.tolist(), ys.tolist(), strict=True):
            frame.dot(x, y, shade, 10)
    return _close(image)


def scatter(rng: Rng, attributes: Attributes, size: Size) -> Image.Image:
    """Points of one ``color`` with a positive, negative or no ``correlation``; a fitted line where there is one."""
    image, frame = _open_frame(rng, size, str(rng.choice(_MEASURES)))
    color = COLORS[attributes["color"]]
    xs = rng.uniform(0.04, 0.96, 70)
    slope = {"positive": 0.75, "negative": -0.75, "no": 0.0}[attributes["correlation"]]
    spread = 0.075 if slope else 0.26
    ys = np.clip(0.5 + slope * (xs - 0.5) + rng.normal(0, spread, 70), 0.02, 0.98)
    for x, y in zip(xs.tolist(), ys.tolist(), strict=True):
        frame.dot(x, y, color, 9)
    if slope:
        ends = row(0.03, 0.97)
        frame.path(ends, (0.5 + slope * (ends - 0.5)).astype(np.float32), BLACK, 5)
    return _close(image)


def boxes(rng: Rng, attributes: Attributes, size: Size) -> Image.Image:
    """``groups`` box plots in ``color`` whose medians follow a ``trend``."""
    image, frame = _open_frame(rng, size, str(rng.choice(_MEASURES)))
    n, color = attributes["groups"], mix(COLORS[attributes["color"]], WHITE, 0.25)
    medians = np.clip(_levels(attributes["trend"], n) + rng.uniform(-0.03, 0.03, n), 0.2, 0.8)
    for i, median in enumerate(medians.tolist()):
        left, right, middle = (i + 0.25) / n, (i + 0.75) / n, (i + 0.5) / n
        low, high = median - rng.uniform(0.06, 0.1), median + rng.uniform(0.06, 0.1)
        frame.draw.line([frame.at(middle, low - 0.08), frame.at(middle, high + 0.08)], fill=BLACK, width=4)
        for end in (low - 0.08, high + 0.08):
            frame.draw.line([frame.at(left + 0.1 / n, end), frame.at(right - 0.1 / n, end)], fill=BLACK, width=4)
        frame.draw.rectangle([frame.at(left, high), frame.at(right, low)], fill=color, outline=BLACK, width=4)
        frame.draw.line([frame.at(left, median), frame.at(right, median)], fill=BLACK, width=7)
    return _close(image)


def survival(rng: Rng, attributes: Attributes, size: Size) -> Image.Image:
    """Two Kaplan-Meier curves: the ``better`` colour stays above the ``worse`` one, by a ``gap``."""
    image, frame = _open_frame(rng, size, "Survival (%)")
    end = rng.uniform(0.72, 0.84)
    fall = {"wide": 0.6, "narrow": 0.2}[attributes["gap"]]
    xs, drops = np.sort(rng.uniform(0.03, 0.97, 12)), rng.uniform(0.5, 1.5, 12)
    for color, last in ((attributes["better"], end), (attributes["worse"], end - fall)):
        ys = 1 - np.cumsum(drops / drops.sum()) * (1 - last)
        steps_x = np.concatenate([[0], np.repeat(xs, 2), [1]]).astype(np.float32)
        steps_y = np.repeat(np.concatenate([[1.0], ys]), 2).astype(np.float32)
        frame.path(steps_x, steps_y, COLORS[color], 8)
    return _close(image)


_PALETTES: dict[str, tuple[Color, ...]] = {
    "red-blue": ((30, 70, 170), (245, 245, 245), (190, 25, 35)),
    "green-red": ((20, 190, 60), (10, 10, 10), (220, 30, 30)),
    "yellow-purple": ((70, 5, 90), (35, 140, 140), (250, 230, 40)),
    "white-orange": ((255, 250, 240), (250, 170, 70), (180, 60, 0)),
}


def heat_map(rng: Rng, attributes: Attributes, size: Size) -> Image.Image:
    """A matrix of cells in a ``palette``, as two ``clusters``, four, or a gradient."""
    width, height = size
    rows, columns = int(rng.integers(14, 22)), int(rng.integers(12, 20))
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    if attributes["clusters"] == "gradient":
        values = x / (columns - 1) * 0.8 + 0.1
    else:
        parts = int(attributes["clusters"])
        values = np.where((y * parts // rows + x * parts // columns) % 2 == 0, 0.88, 0.12)
    values = np.clip(values + rng.normal(0, 0.1, values.shape), 0, 1).astype(np.float32)
    image = Image.new("RGB", size, WHITE)
    cells = ramp(values, _PALETTES[attributes["palette"]]).resize(
        (round(width * 0.8), round(height * 0.84)), Image.Resampling.NEAREST
    )
    image.paste(cells, (round(width * 0.06), round(height * 0.08)))
    bar = ramp(np.linspace(1, 0, 64, dtype=np.float32)[:, None], _PALETTES[attributes["palette"]])
    image.paste(bar.resize((round(width * 0.04), round(height * 0.5))), (round(width * 0.9), round(height * 0.08)))
    return image
