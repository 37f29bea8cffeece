"""Tissue sections: the architecture of an organ, stained with H&E or by immunohistochemistry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from biomedray.corpus.draw.canvas import (
    Array,
    Attributes,
    Color,
    Rng,
    Size,
    blobs,
    crop_points,
    fill,
    grain,
    mix,
    ramp,
    row,
    scatter_points,
    texture,
    vary,
)


@dataclass(frozen=True)
class Stain:
    """Colours of a stained section."""

    pale: Color
    deep: Color
    nucleus: Color
    lumen: Color


HE = Stain(pale=(243, 205, 222), deep=(214, 120, 166), nucleus=(92, 44, 128), lumen=(250, 246, 248))
BLUE = Stain(pale=(232, 236, 242), deep=(190, 203, 222), nucleus=(105, 125, 170), lumen=(250, 250, 250))
ORGANS = ("liver", "kidney", "lung", "colon", "skin", "brain", "heart")

_BROWN: Color = (120, 66, 24)
_NECROSIS: Color = (246, 224, 196)
_BLOOD: Color = (190, 22, 30)


def histology(rng: Rng, attributes: Attributes, size: Size) -> Image.Image:
    """An H&E section of ``organ`` with a ``finding`` that covers a good part of it."""
    image = _section(rng, attributes["organ"], size, HE)
    _FINDINGS[attributes["finding"]](rng, image, size)
    return grain(rng, image.filter(ImageFilter.GaussianBlur(0.7)), 14)


def immunohistochemistry(rng: Rng, attributes: Attributes, size: Size) -> Image.Image:
    """A pale blue section of ``organ`` with brown ``staining`` (strong, weak, negative) at a ``site``."""
    image = _section(rng, attributes["organ"], size, BLUE)
    share = {"strong": 0.85, "weak": 0.3, "negative": 0.0}[attributes["staining"]]
    color = vary(rng, _BROWN if attributes["staining"] == "strong" else (168, 118, 70), 8)
    draw = ImageDraw.Draw(image)
    site = attributes.get("site", "nuclear")
    points = scatter_points(rng, size, 17, share)
    if site == "nuclear":
        fill(draw, blobs(rng, points, 4.6), color)
    elif site == "cytoplasmic":
        fill(draw, blobs(rng, points, 8.2, wobble=0.3), mix(color, (255, 240, 220), 0.15))
        fill(draw, blobs(rng, points, 3.2), BLUE.nucleus)
    else:
        for polygon in blobs(rng, points, 7.6, stretch=1.15):
            draw.line([*polygon, polygon[0]], fill=color, width=3)
    return grain(rng, image.filter(ImageFilter.GaussianBlur(0.7)), 12)


def _section(rng: Rng, organ: str, size: Size, stain: Stain) -> Image.Image:
    pale, deep = vary(rng, stain.pale, 7), vary(rng, stain.deep, 9)
    image = ramp(texture(rng, size, 26), (deep, pale, pale))
    _ARCHITECTURES[organ](rng, image, size, stain)
    return image


def _nuclei(rng: Rng, image: Image.Image, points: Array, radius: float, color: Color, stretch: float = 1.4) -> None:
    fill(ImageDraw.Draw(image), blobs(rng, points, radius, stretch), vary(rng, color, 10))


def _liver(rng: Rng, image: Image.Image, size: Size, stain: Stain) -> None:
    """Cords of hepatocytes that run like rays from a central vein."""
    draw = ImageDraw.Draw(image)
    width, height = size
    cx, cy = width * rng.uniform(0.35, 0.65), height * rng.uniform(0.35, 0.65)
    for angle in np.linspace(0, 2 * np.pi, 40, endpoint=False) + rng.uniform(0, 0.1, 40):
        radius = 30.0
        while radius < max(size):
            length = rng.uniform(18, 42)
            bend = angle + rng.uniform(-0.05, 0.05)
            start = (cx + radius * np.cos(bend), cy + radius * np.sin(bend))
            end = (cx + (radius + length) * np.cos(angle), cy + (radius + length) * np.sin(angle))
            draw.line([start, end], fill=stain.lumen, width=3)
            radius += length + 8
    _nuclei(rng, image, scatter_points(rng, size, 15, 0.75), 3.2, stain.nucleus, 1.1)
    draw.ellipse([cx - 24, cy - 22, cx + 24, cy + 22], fill=stain.lumen, outline=stain.deep, width=3)


def _kidney(rng: Rng, image: Image.Image, size: Size, stain: Stain) -> None:
    """Tubules in rings, and two or three round glomeruli."""
    draw = ImageDraw.Draw(image)
    for polygon in blobs(rng, scatter_points(rng, size, 38, 0.95), 14, 1.2):
        draw.polygon(polygon, fill=mix(stain.deep, stain.pale, 0.3), outline=stain.lumen)
    fill(draw, blobs(rng, scatter_points(rng, size, 38, 0.9), 5, 1.3), stain.lumen)
    _nuclei(rng, image, scatter_points(rng, size, 15, 0.7), 2.8, stain.nucleus)
    for x, y in scatter_points(rng, size, min(size) * 0.62, 0.9):
        radius = min(size) * rng.uniform(0.13, 0.17)
        draw.ellipse(
            [x - radius - 7, y - radius - 7, x + radius + 7, y + radius + 7], fill=stain.lumen, outline=stain.deep, width=2
        )
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=stain.deep)
        tuft = crop_points(scatter_points(rng, size, 8), (x, y), radius - 2)
        _nuclei(rng, image, tuft, 3, stain.nucleus, 1.2)


def _lung(rng: Rng, image: Image.Image, size: Size, stain: Stain) -> None:
    """Large empty alveoli between thin walls."""
    draw = ImageDraw.Draw(image)
    _nuclei(rng, image, scatter_points(rng, size, 11, 0.9), 2.8, stain.nucleus)
    for polygon in blobs(rng, scatter_points(rng, size, 46), 22, 1.25, 0.25):
        draw.polygon(polygon, fill=stain.lumen)


def _colon(rng: Rng, image: Image.Image, size: Size, stain: Stain) -> None:
    """Rows of crypts: rings of nuclei around a pale mouth."""
    draw = ImageDraw.Draw(image)
    _nuclei(rng, image, scatter_points(rng, size, 14, 0.4), 2.2, stain.nucleus)
    for x, y in scatter_points(rng, size, 56):
        angles = np.linspace(0, 2 * np.pi, 18, endpoint=False)
        draw.ellipse([x - 24, y - 24, x + 24, y + 24], fill=mix(stain.pale, stain.lumen, 0.5))
        ring = np.stack([x + 20 * np.cos(angles), y + 20 * np.sin(angles)], axis=1).astype(np.float32)
        _nuclei(rng, image, ring, 3.8, stain.nucleus, 1.5)
        draw.ellipse([x - 9, y - 9, x + 9, y + 9], fill=stain.lumen)


def _skin(rng: Rng, image: Image.Image, size: Size, stain: Stain) -> None:
    """A dark epidermis with rete ridges above a pale dermis, empty space above both."""
    draw = ImageDraw.Draw(image)
    width, height = size
    x = np.arange(0.0, width + 8, 8)
    phase = rng.uniform(0, 6)
    top = height * 0.16 + 5 * np.sin(x / 37 + phase)
    bottom = height * 0.4 + height * 0.07 * np.sin(x / 11 + phase)
    roof = list(zip(x.tolist(), top.tolist(), strict=True))
    floor = list(zip(x.tolist(), bottom.tolist(), strict=True))
    draw.polygon([(0, 0), *roof, (width, 0)], fill=stain.lumen)
    draw.polygon([*roof, *floor[::-1]], fill=mix(stain.deep, stain.nucleus, 0.25))
    points = scatter_points(rng, size, 9)
    limit = np.interp(points[:, 0], x, bottom)
    start = np.interp(points[:, 0], x, top)
    _nuclei(rng, image, points[(points[:, 1] < limit) & (points[:, 1] > start + 6)], 3, stain.nucleus)
    _nuclei(rng, image, scatter_points(rng, (width, height), 30, 0.5) + row(0, height * 0.45), 2.2, stain.nucleus, 2.2)


def _brain(rng: Rng, image: Image.Image, size: Size, stain: Stain) -> None:
    """A pale neuropil with single nuclei, each in a halo."""
    pale = Image.new("RGB", size, mix(stain.pale, (206, 190, 226), 0.6))
    image.paste(Image.blend(image, pale, 0.7))
    draw = ImageDraw.Draw(image)
    points = scatter_points(rng, size, 38, 0.8)
    fill(draw, blobs(rng, points, 9, 1.1), stain.lumen)
    fill(draw, blobs(rng, points, 4.4, 1.1), stain.nucleus)


def _heart(rng: Rng, image: Image.Image, size: Size, stain: Stain) -> None:
    """Parallel muscle fibres that run across the picture."""
    draw = ImageDraw.Draw(image)
    width, height = size
    slope = rng.uniform(-0.35, 0.35)
    for y in np.arange(-height * 0.4, height * 1.4, 15):
        wave = [(x, y + slope * x + 3 * np.sin(x / 30 + y)) for x in range(0, width + 12, 12)]
        draw.line(wave, fill=stain.deep, width=10)
        draw.line([(a, b + 7) for a, b in wave], fill=stain.lumen, width=2)
    points = scatter_points(rng, size, 30, 0.8)
    for x, y in points:
        draw.line([(x - 6, y - 6 * slope), (x + 6, y + 6 * slope)], fill=stain.nucleus, width=4)


_ARCHITECTURES: dict[str, Callable[[Rng, Image.Image, Size, Stain], None]] = {
    "liver": _liver,
    "kidney": _kidney,
    "lung": _lung,
    "colon": _colon,
    "skin": _skin,
    "brain": _brain,
    "heart": _heart,
}


def _somewhere(rng: Rng, size: Size) -> tuple[tuple[float, float], float]:
    width, height = size
    center = (width * rng.uniform(0.3, 0.7), height * rng.uniform(0.3, 0.7))
    return center, min(size) * rng.uniform(0.34, 0.44)


def _patch(rng: Rng, image: Image.Image, size: Size, color: Color, share: float) -> tuple[tuple[float, float], float]:
    """Lay an irregular soft patch of ``color`` on the section; its centre and radius."""
    center, radius = _somewhere(rng, size)
    mask = Image.new("L", size, 0)
    fill_points = blobs(rng, row(*center)[None], radius, 1.1, 0.2)
    ImageDraw.Draw(mask).polygon(fill_points[0], fill=round(255 * share))
    image.paste(Image.new("RGB", size, color), mask=mask.filter(ImageFilter.GaussianBlur(6)))
    return center, radius


def _normal(_rng: Rng, _image: Image.Image, _size: Size) -> None:
    """Nothing is added."""


def _tumour(rng: Rng, image: Image.Image, size: Size) -> None:
    center, radius = _patch(rng, image, size, (172, 110, 180), 0.9)
    points = crop_points(scatter_points(rng, size, 8.5), center, radius * 0.95)
    fill(ImageDraw.Draw(image), blobs(rng, points, 4.3, 1.2, 0.3), (62, 22, 98))


def _inflammation(rng: Rng, image: Image.Image, size: Size) -> None:
    draw = ImageDraw.Draw(image)
    for _ in range(5):
        center, radius = _somewhere(rng, (size[0], size[1]))
        shift = (center[0] * 2 - size[0] / 2, center[1] * 2 - size[1] / 2)
        fill(draw, blobs(rng, crop_points(scatter_points(rng, size, 6.5), shift, radius * 0.42), 2.7, 1.0), (36, 26, 110))


def _fibrosis(rng: Rng, image: Image.Image, size: Size) -> None:
    """Broad wavy bands of collagen in a bluish pink."""
    draw = ImageDraw.Draw(image)
    width, height = size
    for start in np.arange(0.12, 1.0, 0.3) * height:
        phase, slope = rng.uniform(0, 6), rng.uniform(-0.3, 0.3)
        for strand in range(-9, 10, 3):
            wave = [(x, start + strand + slope * x + 9 * np.sin(x / 26 + phase)) for x in range(0, width + 10, 10)]
            draw.line(wave, fill=vary(rng, (168, 196, 236), 12), width=3)


def _necrosis(rng: Rng, image: Image.Image, size: Size) -> None:
    _patch(rng, image, size, _NECROSIS, 0.88)


def _haemorrhage(rng: Rng, image: Image.Image, size: Size) -> None:
    center, radius = _patch(rng, image, size, (216, 66, 66), 0.75)
    fill(ImageDraw.Draw(image), blobs(rng, crop_points(scatter_points(rng, size, 8), center, radius), 3, 1.1), _BLOOD)


_FINDINGS: dict[str, Callable[[Rng, Image.Image, Size], None]] = {
    "normal": _normal,
    "tumour": _tumour,
    "inflammation": _inflammation,
    "fibrosis": _fibrosis,
    "necrosis": _necrosis,
    "haemorrhage": _haemorrhage,
}
