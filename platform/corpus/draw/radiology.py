"""Radiology and the eye: CT, MR, chest radiograph, ultrasound, fundus photograph.

Sides are the patient's: in CT, MR and radiographs the patient's left is at the picture's right.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from biomedray.corpus.draw.canvas import Array, Attributes, Rng, Size, field, grain, grey, grid, oval, paint, texture


def _sign(side: str) -> int:
    return {"left": 1, "right": -1}[side]


def _coarse(size: Size) -> Size:
    """The size that masks are computed at: scanners see less detail than their pictures have pixels."""
    return max(64, round(size[0] * 0.6)), max(64, round(size[1] * 0.6))


def _film(rng: Rng, canvas: Array, size: Size, strength: int) -> Image.Image:
    return grain(rng, grey(canvas).resize(size, Image.Resampling.BICUBIC), strength)


def ct(rng: Rng, attributes: Attributes, size: Size) -> Image.Image:
    """An axial slice of a ``region`` (head, chest, abdomen) with a dark or bright ``lesion`` on a ``side``, or none."""
    inner = _coarse(size)
    canvas = np.zeros((inner[1], inner[0]), np.float32)
    spot = _REGIONS[attributes["region"]](rng, canvas, inner)
    if attributes["lesion"] != "none":
        center = (spot[0] * _sign(attributes["side"]), spot[1])
        mask = oval(inner, center, (rng.uniform(0.15, 0.19), rng.uniform(0.15, 0.2)), soft=0.25)
        paint(canvas, mask, 0.95 if attributes["lesion"] == "hyperdense" else 0.14)
    return _film(rng, canvas, size, 16)


def _head(rng: Rng, canvas: Array, size: Size) -> tuple[float, float]:
    paint(canvas, oval(size, (0, 0), (0.78, 0.92), soft=0.03), 0.98)
    paint(canvas, oval(size, (0, 0), (0.69, 0.83), soft=0.03), 0.42 + 0.1 * field(rng, size, 12))
    for sign in (-1, 1):
        paint(canvas, oval(size, (0.13 * sign, -0.05), (0.07, 0.3), 0.25 * sign, 0.2), 0.12)
    paint(canvas, oval(size, (0, 0.0), (0.012, 0.8), soft=0.5), 0.6)
    return 0.42, rng.uniform(-0.35, 0.3)


def _body(rng: Rng, canvas: Array, size: Size, flesh: float) -> None:
    paint(canvas, oval(size, (0, 0), (0.95, 0.76), soft=0.03), 0.3)
    paint(canvas, oval(size, (0, 0), (0.88, 0.69), soft=0.04), flesh + 0.06 * field(rng, size, 9))
    paint(canvas, oval(size, (0, 0.47), (0.13, 0.13), soft=0.2), 0.97)
    paint(canvas, oval(size, (0, 0.58), (0.04, 0.16), soft=0.3), 0.95)


def _chest(rng: Rng, canvas: Array, size: Size) -> tuple[float, float]:
    _body(rng, canvas, size, 0.52)
    for sign in (-1, 1):
        paint(canvas, oval(size, (0.47 * sign, -0.02), (0.35, 0.5), -0.12 * sign, 0.06), 0.05 + 0.12 * field(rng, size, 6))
    paint(canvas, oval(size, (0.12, -0.12), (0.24, 0.28), 0.3, 0.1), 0.62)
    return 0.5, rng.uniform(-0.25, 0.3)


def _abdomen(rng: Rng, canvas: Array, size: Size) -> tuple[float, float]:
    _body(rng, canvas, size, 0.4)
    paint(canvas, oval(size, (-0.4, -0.12), (0.42, 0.44), 0.3, 0.06), 0.62 + 0.06 * field(rng, size, 8))
    paint(canvas, oval(size, (0.42, -0.25), (0.28, 0.22), -0.4, 0.08), 0.5)
    paint(canvas, oval(size, (0.65, 0.12), (0.15, 0.26), 0.2, 0.1), 0.62)
    for sign in (-1, 1):
        paint(canvas, oval(size, (0.38 * sign, 0.38), (0.14, 0.17), soft=0.15), 0.8)
    return 0.42, rng.uniform(-0.2, 0.0)


_REGIONS: dict[str, Callable[[Rng, Array, Size], tuple[float, float]]] = {"head": _head, "chest": _chest, "abdomen": _abdomen}

# Grey of scalp, brain, cortex, fluid and lesion by sequence.
_SEQUENCES = {
    "T1": (0.9, 0.62, 0.42, 0.08, 0.2),
    "T2": (0.55, 0.38, 0.55, 1.0, 0.95),
    "FLAIR": (0.4, 0.42, 0.55, 0.06, 1.0),
    "contrast": (0.9, 0.42, 0.36, 0.1, 1.0),
}


def mr(rng: Rng, attributes: Attributes, size: Size) -> Image.Image:
    """A brain in a ``sequence`` and ``plane`` with a tumour of an ``extent`` on a ``side``."""
    scalp, white, cortex, fluid, lesion = _SEQUENCES[attributes["sequence"]]
    coarse = _coarse(size)
    canvas = np.zeros((coarse[1], coarse[0]), np.float32)
    radii = {"axial": (0.7, 0.9), "coronal": (0.82, 0.74)}[attributes["plane"]]
    paint(canvas, oval(coarse, (0, 0), radii, soft=0.03), scalp)
    paint(canvas, oval(coarse, (0, 0), (radii[0] * 0.92, radii[1] * 0.93), soft=0.03), 0.05)
    inner = oval(coarse, (0, 0), (radii[0] * 0.85, radii[1] * 0.87), soft=0.03)
    folds = np.abs(np.sin(9 * field(rng, coarse, 26)))
    paint(canvas, inner, cortex + 0.15 * (folds - 0.5))
    paint(canvas, oval(coarse, (0, 0), (radii[0] * 0.66, radii[1] * 0.68), soft=0.35), white + 0.06 * field(rng, coarse, 10))
    _ventricles(canvas, coarse, attributes["plane"], fluid)
    radius = {"small": 0.13, "large": 0.3}[attributes["extent"]]
    center = (0.36 * _sign(attributes["side"]), rng.uniform(-0.3, 0.25))
    mask = oval(coarse, center, (radius, radius * rng.uniform(0.9, 1.15)), soft=0.22)
    paint(canvas, mask * inner, lesion)
    if attributes["sequence"] == "contrast":
        paint(canvas, oval(coarse, center, (radius * 0.62, radius * 0.62), soft=0.3) * inner, 0.1)
    return _film(rng, canvas, size, 12)


def _ventricles(canvas: Array, size: Size, plane: str, fluid: float) -> None:
    if plane == "axial":
        for sign in (-1, 1):
            paint(canvas, oval(size, (0.12 * sign, -0.12), (0.07, 0.24), 0.3 * sign, 0.2), fluid)
            paint(canvas, oval(size, (0.15 * sign, 0.28), (0.06, 0.2), -0.4 * sign, 0.2), fluid)
        return
    for sign in (-1, 1):
        paint(canvas, oval(size, (0.17 * sign, -0.1), (0.18, 0.07), 0.5 * sign, 0.2), fluid)
    paint(canvas, oval(size, (0, 0.14), (0.035, 0.18), soft=0.3), fluid)
    paint(canvas, oval(size, (0, 0.55), (0.16, 0.25), soft=0.2), 0.5)


def radiograph(rng: Rng, attributes: Attributes, size: Size) -> Image.Image:
    """A frontal chest film with a ``finding`` on a ``side``, or a wide heart, or nothing."""
    finding, sign = attributes["finding"], _sign(attributes.get("side", "left"))
    coarse = _coarse(size)
    canvas = 0.55 + 0.12 * field(rng, coarse, 60)
    paint(canvas, oval(coarse, (0, 0.35), (0.97, 1.35), soft=0.08), 0.66)
    for lung in (-1, 1):
        paint(canvas, oval(coarse, (0.46 * lung, -0.02), (0.33, 0.75), -0.1 * lung, 0.15), 0.12 + 0.1 * field(rng, coarse, 8))
    _ribs(canvas, coarse)
    heart = 0.52 if finding == "cardiomegaly" else 0.26
    paint(canvas, oval(coarse, (0.1, 0.42), (heart, 0.36), 0.5, 0.12), 0.8)
    paint(canvas, oval(coarse, (0, -0.1), (0.1, 1.0), soft=0.4), 0.78)
    for lung in (-1, 1):
        paint(canvas, oval(coarse, (0.45 * lung, 0.98), (0.5, 0.36), soft=0.1), 0.85)
    _chest_finding(rng, canvas, coarse, finding, sign)
    return _film(rng, canvas, size, 10)


def _chest_finding(rng: Rng, canvas: Array, size: Size, finding: str, sign: int) -> None:
    if finding == "consolidation":
        mask = oval(size, (0.47 * sign, rng.uniform(-0.1, 0.2)), (0.28, 0.34), soft=0.6)
        paint(canvas, mask * (0.75 + 0.25 * field(rng, size, 14)), 0.93)
    elif finding == "nodule":
        paint(canvas, oval(size, (0.46 * sign, rng.uniform(-0.35, 0.1)), (0.12, 0.12), soft=0.2), 0.97)
    elif finding == "effusion":
        _, y = grid(size)
        level = np.clip((y - 0.12) / 0.06, 0, 1)
        paint(canvas, oval(size, (0.5 * sign, 0.1), (0.45, 0.9), soft=0.1) * level, 0.9)
    elif finding == "pneumothorax":
        paint(canvas, oval(size, (0.52 * sign, -0.1), (0.36, 0.72), -0.1 * sign, 0.08), 0.0)
        paint(canvas, oval(size, (0.3 * sign, 0.18), (0.13, 0.28), soft=0.15), 0.6)


def _ribs(canvas: Array, size: Size) -> None:
    x, y = grid(size)
    for lung in (-1, 1):
        bow = y + 0.5 * (np.abs(x) - 0.4) ** 2 * 2 - 0.25 * np.abs(x)
        stripes = np.clip(np.cos(bow * 20) - 0.55, 0, 1)
        canvas += 0.3 * stripes * oval(size, (0.46 * lung, -0.02), (0.37, 0.8), -0.1 * lung, 0.1)


def ultrasound(rng: Rng, attributes: Attributes, size: Size) -> Image.Image:
    """A fan of speckle with a ``finding`` (cyst, solid mass, stone, none) at a ``position`` of the picture."""
    x, y = grid(size)
    depth = np.sqrt((x * 0.9) ** 2 + (y + 1.25) ** 2)
    angle = np.arctan2(x * 0.9, y + 1.25)
    inside = ((depth > 0.3) & (depth < 2.15) & (np.abs(angle) < 0.62)).astype(np.float32)
    layers = 0.1 * np.sin(depth * 14 + 3 * field(rng, size, 60))
    canvas = 0.36 + layers + 0.35 * (field(rng, size, 3.5) - 0.5) + 0.15 * (texture(rng, size, 40) - 0.5)
    center = ({"left": -0.3, "centre": 0.0, "right": 0.3}[attributes.get("position", "centre")], rng.uniform(0.0, 0.2))
    _echo(canvas, size, attributes["finding"], center)
    return grey(np.clip(canvas, 0.02, 1) * inside)


def _echo(canvas: Array, size: Size, finding: str, center: tuple[float, float]) -> None:
    below = (center[0] * 1.25, center[1] + 0.55)
    if finding == "cyst":
        paint(canvas, oval(size, below, (0.16, 0.4), soft=0.5) * 0.7, 0.85)
        paint(canvas, oval(size, center, (0.26, 0.28), soft=0.1), 0.0)
    elif finding == "solid mass":
        paint(canvas, oval(size, center, (0.32, 0.27), soft=0.12), 0.9)
        paint(canvas, oval(size, center, (0.26, 0.21), soft=0.2), 0.6)
    elif finding == "stone":
        paint(canvas, oval(size, below, (0.15, 0.6), soft=0.2), 0.0)
        paint(canvas, oval(size, center, (0.2, 0.1), soft=0.15), 1.0)


def fundus(rng: Rng, attributes: Attributes, size: Size) -> Image.Image:
    """An orange retina on black; the disc is at the left in a left eye, at the right in a right eye (``eye``)."""
    width, height = size
    side = min(size)
    image = Image.new("RGB", size, (6, 4, 4))
    left, top = (width - side) // 2, (height - side) // 2
    retina = Image.fromarray(_retina(rng, side))
    draw = ImageDraw.Draw(retina)
    sign = -1 if attributes["eye"] == "left" else 1
    disc = (side * (0.5 + 0.25 * sign), side * 0.5)
    _vessels(rng, draw, disc, side, -sign)
    _lesions(rng, draw, attributes["finding"], side)
    _disc(draw, disc, side, 0.105 if attributes["finding"] == "cupping" else 0.075, attributes["finding"] == "cupping")
    mask = Image.new("L", (side, side), 0)
    ImageDraw.Draw(mask).ellipse([3, 3, side - 4, side - 4], fill=255)
    image.paste(retina.filter(ImageFilter.GaussianBlur(1.0)), (left, top), mask)
    return grain(rng, image, 8)


def _retina(rng: Rng, side: int) -> npt.NDArray[np.uint8]:
    x, y = grid((side, side))
    glow = np.clip(1.05 - 0.35 * (x**2 + y**2), 0, 1) * (0.9 + 0.2 * field(rng, (side, side), 40))
    tint = rng.uniform(0.9, 1.1)
    channels = np.stack([205 * glow, 96 * glow * tint, 38 * glow * tint], axis=2)
    pixels: npt.NDArray[np.uint8] = np.clip(channels, 0, 255).astype(np.uint8)
    return pixels


def _vessels(rng: Rng, draw: ImageDraw.ImageDraw, disc: tuple[float, float], side: int, direction: int) -> None:
    for bow in (-0.42, -0.25, 0.25, 0.42):
        steps = np.linspace(0, 1, 14)
        xs = disc[0] + direction * side * 0.72 * steps
        ys = disc[1] + side * bow * np.sin(steps * 2.2) + rng.normal(0, 1.4, 14)
        draw.line(list(zip(xs.tolist(), ys.tolist(), strict=True)), fill=(118, 22, 18), width=max(2, side // 75))
        back = [(disc[0] - direction * side * 0.2 * s, disc[1] + side * bow * s) for s in steps.tolist()]
        draw.line(back, fill=(118, 22, 18), width=max(2, side // 90))


def _lesions(rng: Rng, draw: ImageDraw.ImageDraw, finding: str, side: int) -> None:
    color = {"haemorrhages": (92, 4, 8), "exudates": (250, 232, 120), "scars": (30, 18, 20)}.get(finding)
    if color is None:
        return
    for x, y in (side * (0.5 + 0.17 * rng.normal(0, 1, (26, 2)))).tolist():
        radius = side * rng.uniform(0.014, 0.034)
        draw.ellipse([x - radius, y - radius * 0.8, x + radius, y + radius * 0.8], fill=color)


def _disc(draw: ImageDraw.ImageDraw, disc: tuple[float, float], side: int, size: float, cupped: bool) -> None:
    x, y = disc
    for radius, color in ((size * side, (246, 190, 110)), (size * side * (0.78 if cupped else 0.4), (255, 246, 225))):
        draw.ellipse([x - radius, y - radius * 1.1, x + radius, y + radius * 1.1], fill=color)
