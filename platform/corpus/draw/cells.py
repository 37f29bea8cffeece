"""Cells: fluorescence and electron microscopy, and the blood smear."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from biomedray.corpus.draw.canvas import (
    Array,
    Attributes,
    Color,
    Rng,
    Size,
    blobs,
    fill,
    grain,
    grey,
    mix,
    ramp,
    row,
    scatter_points,
    texture,
    vary,
)

CHANNELS: dict[str, Color] = {
    "green": (40, 225, 60),
    "red": (235, 40, 40),
    "magenta": (225, 50, 225),
    "yellow": (235, 215, 40),
    "cyan": (40, 215, 225),
}
_DAPI: Color = (60, 80, 235)


def fluorescence(rng: Rng, attributes: Attributes, size: Size) -> Image.Image:
    """Blue nuclei and a marker of ``color`` in a ``pattern``, in few or many cells (``density``)."""
    unit = min(size)
    spacing, radius = {"few": (0.31 * unit, 0.058 * unit), "many": (0.125 * unit, 0.027 * unit)}[attributes["density"]]
    points = scatter_points(rng, size, spacing, 0.9)
    marker = Image.new("RGB", size, (4, 4, 6))
    _PATTERNS[attributes["pattern"]](rng, marker, points, radius, CHANNELS[attributes["color"]])
    nuclei = Image.new("RGB", size)
    fill(ImageDraw.Draw(nuclei), blobs(rng, points, radius, 1.25), _DAPI)
    image = ImageChops.lighter(marker.filter(ImageFilter.GaussianBlur(1.6)), nuclei.filter(ImageFilter.GaussianBlur(1.5)))
    return grain(rng, image, 12)


def _filaments(rng: Rng, image: Image.Image, points: Array, radius: float, color: Color) -> None:
    draw = ImageDraw.Draw(image)
    for x, y in points.tolist():
        for angle in rng.uniform(0, 2 * np.pi, 16).tolist():
            reach = radius * rng.uniform(1.7, 2.8)
            bend = angle + rng.uniform(-0.5, 0.5)
            middle = (x + 0.6 * reach * np.cos(angle), y + 0.6 * reach * np.sin(angle))
            draw.line([(x, y), middle, (x + reach * np.cos(bend), y + reach * np.sin(bend))], fill=color, width=2)


def _puncta(rng: Rng, image: Image.Image, points: Array, radius: float, color: Color) -> None:
    draw = ImageDraw.Draw(image)
    for _ in range(9):
        around = points + rng.normal(0, radius * 1.25, points.shape).astype(np.float32)
        fill(draw, blobs(rng, around, max(2.2, radius * 0.2), 1.0), color)


def _cytoplasm(rng: Rng, image: Image.Image, points: Array, radius: float, color: Color) -> None:
    fill(ImageDraw.Draw(image), blobs(rng, points, radius * 2, 1.3, 0.25), mix((0, 0, 0), color, 0.8))


def _membrane(rng: Rng, image: Image.Image, points: Array, radius: float, color: Color) -> None:
    draw = ImageDraw.Draw(image)
    for polygon in blobs(rng, points, radius * 1.9, 1.2):
        draw.line([*polygon, polygon[0]], fill=color, width=3)


_PATTERNS = {"filamentous": _filaments, "punctate": _puncta, "cytoplasmic": _cytoplasm, "membranous": _membrane}


def electron(rng: Rng, attributes: Attributes, size: Size) -> Image.Image:
    """A transmission electron micrograph in greys of few or many (``density``) of one ``object``."""
    image = grey(0.5 + 0.25 * texture(rng, size, 30))
    spacing = min(size) * {"few": 0.4, "many": 0.2}[attributes["density"]]
    points = scatter_points(rng, size, spacing, 0.95)
    _OBJECTS[attributes["object"]](rng, ImageDraw.Draw(image), points, spacing * 0.3)
    return grain(rng, image.filter(ImageFilter.GaussianBlur(0.9)), 34)


def _mitochondria(rng: Rng, draw: ImageDraw.ImageDraw, points: Array, radius: float) -> None:
    """Dark ovals with pale cristae across."""
    for x, y in points.tolist():
        turn = rng.uniform(0, np.pi)
        ux, uy = np.cos(turn), np.sin(turn)
        steps = np.linspace(-1.15, 1.15, 9).tolist()
        outline = [
            (
                x + 1.5 * radius * np.cos(t) * ux - 0.8 * radius * np.sin(t) * uy,
                y + 1.5 * radius * np.cos(t) * uy + 0.8 * radius * np.sin(t) * ux,
            )
            for t in np.linspace(0, 6.1, 18).tolist()
        ]
        draw.polygon(outline, fill=(78, 78, 78), outline=(25, 25, 25), width=3)
        for step in steps:
            half = 0.62 * radius * np.sqrt(max(0.0, 1 - (step / 1.5) ** 2))
            px, py = x + step * radius * ux, y + step * radius * uy
            draw.line([(px - half * uy, py + half * ux), (px + half * uy, py - half * ux)], fill=(190, 190, 190), width=2)


def _virions(rng: Rng, draw: ImageDraw.ImageDraw, points: Array, radius: float) -> None:
    """Dark discs with a crown of spikes on a pale halo."""
    core = radius * 0.72
    for x, y in points.tolist():
        draw.ellipse([x - core * 1.6, y - core * 1.6, x + core * 1.6, y + core * 1.6], fill=(205, 205, 205))
        for angle in (np.arange(16) * np.pi / 8 + rng.uniform(0, 1)).tolist():
            tip = (x + 1.5 * core * np.cos(angle), y + 1.5 * core * np.sin(angle))
            draw.line([(x, y), tip], fill=(45, 45, 45), width=3)
        draw.ellipse([x - core, y - core, x + core, y + core], fill=(55, 55, 55))


def _vesicles(rng: Rng, draw: ImageDraw.ImageDraw, points: Array, radius: float) -> None:
    """Clusters of bright little rings."""
    for _ in range(5):
        for x, y in (points + rng.normal(0, radius * 0.75, points.shape)).tolist():
            r = radius * 0.36
            draw.ellipse([x - r, y - r, x + r, y + r], fill=(225, 225, 225), outline=(40, 40, 40), width=2)


def _bacteria(rng: Rng, draw: ImageDraw.ImageDraw, points: Array, radius: float) -> None:
    """Long dark rods with round ends."""
    for x, y in points.tolist():
        turn = rng.uniform(0, np.pi)
        dx, dy = 1.3 * radius * np.cos(turn), 1.3 * radius * np.sin(turn)
        for r, tone in ((0.62 * radius, (230, 230, 230)), (0.45 * radius, (38, 38, 38))):
            draw.line([(x - dx, y - dy), (x + dx, y + dy)], fill=tone, width=round(2 * r))
            for sx, sy in ((x - dx, y - dy), (x + dx, y + dy)):
                draw.ellipse([sx - r, sy - r, sx + r, sy + r], fill=tone)


_OBJECTS = {"mitochondria": _mitochondria, "virus particles": _virions, "vesicles": _vesicles, "bacteria": _bacteria}


def blood_smear(rng: Rng, attributes: Attributes, size: Size) -> Image.Image:
    """Red cells on a pale ground, changed by a ``finding``: parasites, blasts, sickle cells, pallor or none."""
    finding, unit = attributes["finding"], min(size) / 280
    ground = ramp(texture(rng, size, 60), ((238, 226, 222), (250, 242, 236)))
    draw = ImageDraw.Draw(ground)
    cell, pallor = vary(rng, (214, 124, 118), 9), (240, 198, 190)
    points = scatter_points(rng, size, 34 * unit, 0.5 if finding in ("blasts", "sickle cells") else 0.82)
    fill(draw, blobs(rng, points, 14 * unit, 1.03, 0.04), cell, mix(cell, (120, 40, 40), 0.3))
    fill(
        draw,
        blobs(rng, points, (10.5 if finding == "pallor" else 4.5) * unit, 1.0, 0.04),
        (250, 240, 235) if finding == "pallor" else pallor,
    )
    if finding == "parasites":
        inside = points[rng.random(len(points)) < 0.5]
        for polygon in blobs(rng, inside + unit * row(3, -2), 5.2 * unit, 1.1):
            draw.line([*polygon, polygon[0]], fill=(84, 20, 120), width=4)
    elif finding == "blasts":
        _blasts(rng, draw, scatter_points(rng, size, 74 * unit, 0.95), unit)
    elif finding == "sickle cells":
        _sickles(rng, draw, scatter_points(rng, size, 48 * unit, 0.8), unit, mix(cell, (140, 20, 30), 0.55))
    return grain(rng, ground.filter(ImageFilter.GaussianBlur(0.8)), 10)


def _blasts(rng: Rng, draw: ImageDraw.ImageDraw, points: Array, unit: float) -> None:
    fill(draw, blobs(rng, points, 27 * unit, 1.05, 0.06), (182, 164, 214))
    fill(draw, blobs(rng, points, 22 * unit, 1.05, 0.08), (88, 40, 132))


def _sickles(rng: Rng, draw: ImageDraw.ImageDraw, points: Array, unit: float, color: Color) -> None:
    for x, y in points.tolist():
        turn = rng.uniform(0, 2 * np.pi)
        radius = 21 * unit
        arc = np.linspace(-1.25, 1.25, 9)
        outer = [(radius * np.cos(t), radius * np.sin(t)) for t in arc.tolist()]
        inner = [(radius * (np.cos(t) - 0.48 * np.cos(t) ** 2), radius * np.sin(t)) for t in arc[::-1].tolist()]
        turned = [(x + a * np.cos(turn) - b * np.sin(turn), y + a * np.sin(turn) + b * np.cos(turn)) for a, b in outer + inner]
        draw.polygon(turned, fill=color)
