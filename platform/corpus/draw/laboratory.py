"""The bench: Western blot, agarose gel, electrocardiogram and structural formula."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from biomedray.corpus.draw.canvas import (
    BLACK,
    WHITE,
    Array,
    Attributes,
    Color,
    Rng,
    Size,
    field,
    font,
    grain,
    grey,
)


def _strengths(trend: str, lanes: int) -> Array:
    steps = np.linspace(0, 1, lanes, dtype=np.float32)
    curves = {
        "increasing": 0.12 + 0.88 * steps,
        "decreasing": 1.0 - 0.88 * steps,
        "equal": np.full(lanes, 0.85, np.float32),
        "first only": np.where(steps == 0, 1.0, 0.04).astype(np.float32),
    }
    return curves[trend].astype(np.float32)


def western_blot(rng: Rng, attributes: Attributes, size: Size) -> Image.Image:
    """Dark bands in ``lanes`` on strips of pale film: the target follows a ``trend``, the loading control is even."""
    width, height = size
    image = Image.new("RGB", size, WHITE)
    lanes, rows = attributes["lanes"], attributes["proteins"]
    names = rng.permutation(np.array(["p53", "AKT", "ERK", "STAT3", "LC3", "BAX", "MYC"]))[: rows - 1]
    strip = int(height * 0.86 / rows)
    for row in range(rows):
        trend = attributes["trend"] if row < rows - 1 else "equal"
        panel = _strip(rng, (int(width * 0.78), strip - 10), _strengths(trend, lanes))
        top = int(height * 0.07) + row * strip
        image.paste(panel, (int(width * 0.03), top))
        name = "actin" if row == rows - 1 else str(names[row])
        ImageDraw.Draw(image).text(
            (width * 0.83, top + strip / 2 - 5), name, font=font(max(10, height // 18)), fill=BLACK, anchor="lm"
        )
    return grain(rng, image, 6)


def _strip(rng: Rng, size: Size, strengths: Array) -> Image.Image:
    width, height = size
    film = grey(0.78 + 0.12 * field(rng, size, 50))
    draw = ImageDraw.Draw(film)
    step = width / len(strengths)
    for i, strength in enumerate(strengths.tolist()):
        tone = round(200 - 185 * strength)
        half = height * (0.1 + 0.14 * strength)
        middle = height / 2 + rng.uniform(-2, 2)
        draw.rounded_rectangle(
            [step * (i + 0.12), middle - half, step * (i + 0.88), middle + half], radius=half * 0.9, fill=(tone,) * 3
        )
    film = film.filter(ImageFilter.GaussianBlur(1.8))
    ImageDraw.Draw(film).rectangle([0, 0, width - 1, height - 1], outline=BLACK)
    return film


def gel(rng: Rng, attributes: Attributes, size: Size) -> Image.Image:
    """Bright bands on a dark agarose gel: a ladder, then ``lanes``, of which ``positive`` show the product."""
    width, height = size
    image = grey(0.1 + 0.1 * field(rng, size, 80))
    draw = ImageDraw.Draw(image)
    lanes = attributes["lanes"]
    step = width / (lanes + 1.5)
    for y in np.linspace(0.12, 0.9, 9).tolist():
        draw.rectangle([step * 0.25, height * y, step * 0.85, height * y + 4], fill=(200, 200, 200))
    shown = {"all": range(lanes), "first half": range(lanes // 2), "second half": range(lanes // 2, lanes)}[
        attributes["positive"]
    ]
    for lane in range(lanes):
        left = step * (lane + 1.3)
        draw.rectangle([left, height * 0.06, left + step * 0.7, height * 0.09], fill=(8, 8, 8))
        if lane in shown:
            y = height * 0.45 + rng.uniform(-2, 2)
            draw.rectangle([left, y - 6, left + step * 0.7, y + 6], fill=(250, 250, 250))
    return grain(rng, image.filter(ImageFilter.GaussianBlur(1.6)), 10)


_PAPERS: dict[str, tuple[Color, Color]] = {
    "pink": ((255, 232, 232), (242, 170, 170)),
    "green": ((228, 246, 228), (160, 212, 160)),
    "white": ((255, 255, 255), (222, 222, 222)),
}
_RATES = {"bradycardia": 3, "sinus rhythm": 6, "tachycardia": 12, "atrial fibrillation": 8, "ST elevation": 6}


def ecg(rng: Rng, attributes: Attributes, size: Size) -> Image.Image:
    """``leads`` traces of a ``rhythm`` on ``paper`` of a colour."""
    width, height = size
    paper, ruling = _PAPERS[attributes["paper"]]
    image = Image.new("RGB", size, paper)
    draw = ImageDraw.Draw(image)
    for x in range(0, width, 16):
        draw.line([(x, 0), (x, height)], fill=ruling)
    for y in range(0, height, 16):
        draw.line([(0, y), (width, y)], fill=ruling)
    leads = attributes["leads"]
    beats = _beats(rng, attributes["rhythm"])
    for lead in range(leads):
        middle = height * (lead + 0.6) / leads
        trace = _trace(rng, width, beats, attributes["rhythm"])
        points = list(zip(range(width), (middle - trace * height * 0.42 / leads).tolist(), strict=True))
        draw.line(points, fill=BLACK, width=2)
    return image


def _beats(rng: Rng, rhythm: str) -> Array:
    n = _RATES[rhythm]
    times = (np.arange(n) + 0.5) / n
    if rhythm == "atrial fibrillation":
        times = np.sort(np.clip(times + rng.uniform(-0.055, 0.055, n), 0.02, 0.98))
    shifted: Array = (times + rng.uniform(-0.02, 0.02)).astype(np.float32)
    return shifted


def _trace(rng: Rng, width: int, beats: Array, rhythm: str) -> Array:
    t: Array = np.linspace(0, 1, width, dtype=np.float32)[:, None]
    distance = t - beats[None, :]

    def bump(at: float, spread: float, height: float) -> Array:
        wave: Array = height * np.exp(-(((distance - at) / spread) ** 2)).sum(axis=1)
        return wave

    trace = bump(0, 0.0055, 1.1) + bump(0.012, 0.005, -0.3) + bump(0.05, 0.016, 0.28)
    if rhythm == "atrial fibrillation":
        flutter: Array = 0.09 * np.sin(t[:, 0] * 260 + 3 * np.sin(t[:, 0] * 41)) + rng.normal(0, 0.02, width)
        return trace + flutter
    if rhythm == "ST elevation":
        trace = trace + bump(0.035, 0.022, 0.65)
    return trace + bump(-0.028, 0.009, 0.16)


_ATOMS: dict[str, tuple[str, Color]] = {
    "oxygen": ("O", (215, 30, 30)),
    "nitrogen": ("N", (35, 70, 215)),
    "sulfur": ("S", (205, 165, 0)),
    "chlorine": ("Cl", (30, 160, 60)),
}


def molecule(rng: Rng, attributes: Attributes, size: Size) -> Image.Image:
    """A structural formula of ``rings`` fused six-membered rings with substituents of an ``atom``."""
    width, height = size[0] * 2, size[1] * 2
    image = Image.new("RGB", (width, height), WHITE)
    draw = ImageDraw.Draw(image)
    rings = attributes["rings"]
    radius = min(height * 0.2, width * 0.78 / (rings * 1.732 + 1.4))
    step = radius * 1.732
    start = width / 2 - step * (rings - 1) / 2
    stroke = max(4, int(radius / 14))
    for i in range(rings):
        _ring(draw, (start + step * i, height / 2), radius, stroke)
    symbol, color = _ATOMS[attributes["atom"]]
    for ring in sorted({0, rings - 1, int(rng.integers(0, rings))}):
        up = -1 if rng.random() < 0.5 else 1
        x = start + step * ring
        draw.line([(x, height / 2 + up * radius), (x, height / 2 + up * radius * 1.55)], fill=BLACK, width=stroke)
        draw.text(
            (x, height / 2 + up * radius * 1.85), symbol, font=font(int(radius * 0.75)), fill=color, anchor="mm", stroke_width=2
        )
    return image.reduce(2)


def _ring(draw: ImageDraw.ImageDraw, center: tuple[float, float], radius: float, stroke: int) -> None:
    angles = [np.pi / 2 + k * np.pi / 3 for k in range(6)]
    corners = [(center[0] + radius * np.cos(a), center[1] + radius * np.sin(a)) for a in angles]
    draw.line([*corners, corners[0], corners[1]], fill=BLACK, width=stroke, joint="curve")
    for k in (0, 2, 4):
        inner = [
            (center[0] + 0.78 * (x - center[0]), center[1] + 0.78 * (y - center[1]))
            for x, y in (corners[k], corners[(k + 1) % 6])
        ]
        draw.line(inner, fill=BLACK, width=stroke)
