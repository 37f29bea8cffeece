"""Schemes: flow charts and phylogenetic trees."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from biomedray.corpus.draw.canvas import BLACK, COLORS, WHITE, Attributes, Color, Rng, Size, font, mix

Place = Callable[[float, float], tuple[float, float]]

_STEPS = ("Screened", "Excluded", "Eligible", "Enrolled", "Randomized", "Allocated", "Follow-up", "Analysed", "Reported")


def flow_chart(rng: Rng, attributes: Attributes, size: Size) -> Image.Image:
    """``boxes`` boxes joined by arrows in a ``direction`` (vertical, horizontal), filled with ``color``."""
    width, height = size[0] * 2, size[1] * 2
    image = Image.new("RGB", (width, height), WHITE)
    draw = ImageDraw.Draw(image)
    n, vertical = attributes["boxes"], attributes["direction"] == "vertical"
    shade = mix(COLORS[attributes["color"]], WHITE, 0.25)
    pitch = (height if vertical else width) / n
    for i in range(n):
        middle = pitch * (i + 0.5)
        half = pitch * 0.31
        box = (
            [width * 0.2, middle - half, width * 0.8, middle + half]
            if vertical
            else [middle - half, height * 0.3, middle + half, height * 0.7]
        )
        draw.rounded_rectangle(box, radius=10, fill=shade, outline=BLACK, width=5)
        _label(rng, draw, box, _STEPS[i])
        if i < n - 1:
            _arrow(draw, width, height, middle + half, pitch - 2 * half, vertical)
    return image.reduce(2)


def _label(rng: Rng, draw: ImageDraw.ImageDraw, box: list[float], word: str) -> None:
    middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    face = font(int(max(8, min(30, (box[2] - box[0]) / 6, (box[3] - box[1]) / 2.6))))
    draw.text(middle, f"{word}\nn = {rng.integers(20, 900)}", font=face, fill=BLACK, anchor="mm", align="center")


def _arrow(draw: ImageDraw.ImageDraw, width: int, height: int, start: float, length: float, vertical: bool) -> None:
    tip, head = start + length, max(5.0, min(14.0, length / 2))
    if vertical:
        x = width / 2
        draw.line([(x, start), (x, tip - 6)], fill=BLACK, width=6)
        draw.polygon([(x - head, tip - head * 1.4), (x + head, tip - head * 1.4), (x, tip)], fill=BLACK)
        return
    y = height / 2
    draw.line([(start, y), (tip - 6, y)], fill=BLACK, width=6)
    draw.polygon([(tip - head * 1.4, y - head), (tip - head * 1.4, y + head), (tip, y)], fill=BLACK)


def tree(rng: Rng, attributes: Attributes, size: Size) -> Image.Image:
    """A phylogeny of ``leaves`` tips, ``shape`` rectangular or circular, one clade in ``color``."""
    width, height = size[0] * 2, size[1] * 2
    image = Image.new("RGB", (width, height), WHITE)
    draw = ImageDraw.Draw(image)
    branches = _grow(rng, attributes["leaves"])
    color = COLORS[attributes["color"]]
    place = _radial(width, height) if attributes["shape"] == "circular" else _flat(width, height)
    unit = min(width, height) / 600
    stroke = max(2, round((9 if attributes["leaves"] < 12 else 6) * unit))
    for depth, parent_depth, spot, low, high, marked in branches:
        tone: Color = color if marked else BLACK
        draw.line([place(parent_depth, spot), place(depth, spot)], fill=tone, width=stroke)
        arc = [place(depth, s) for s in np.linspace(low, high, 14).tolist()]
        draw.line(arc, fill=tone, width=stroke)
        if low == high:
            x, y = place(depth, spot)
            draw.ellipse([x - 9 * unit, y - 9 * unit, x + 9 * unit, y + 9 * unit], fill=tone)
    return image.reduce(2)


def _grow(rng: Rng, leaves: int) -> list[tuple[float, float, float, float, float, bool]]:
    """Join neighbours until one is left: (depth, parent depth, position, lowest and highest child, in the marked clade)."""
    nodes = [(1.0, (i + 0.5) / leaves, (i + 0.5) / leaves, (i + 0.5) / leaves, i < leaves // 2) for i in range(leaves)]
    branches = []
    while len(nodes) > 1:
        pairs = [i for i in range(len(nodes) - 1) if nodes[i][4] == nodes[i + 1][4]] or [0]
        i = int(rng.choice(pairs))
        left, right = nodes[i], nodes[i + 1]
        depth = max(0.04, min(left[0], right[0]) - rng.uniform(0.5, 1.0) * 2.4 / leaves)
        spot = (left[1] + right[1]) / 2
        branches += [(child[0], depth, *child[1:]) for child in (left, right)]
        nodes[i : i + 2] = [(depth, spot, left[1], right[1], left[4] and right[4])]
    root = nodes[0]
    return [*branches, (root[0], 0.0, *root[1:])]


def _flat(width: int, height: int) -> Place:
    return lambda depth, spot: (width * (0.06 + 0.86 * depth), height * (0.04 + 0.92 * spot))


def _radial(width: int, height: int) -> Place:
    radius = min(width, height) * 0.46
    return lambda depth, spot: (
        width / 2 + radius * depth * np.cos(2 * np.pi * spot),
        height / 2 + radius * depth * np.sin(2 * np.pi * spot),
    )
