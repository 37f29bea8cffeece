"""Columns of one scaled decode against imagehash, formulas and pictures whose answer is plain."""

from __future__ import annotations

import io

import imagehash
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from biomedray.ingest.images import inspect_image
from biomedray.ingest.quality import Quality, colourfulness, entropy, perceptual_hashes, shrink
from biomedray.ingest.quality import measure as measure_small
from biomedray.ingest.settings import IngestConfig


def measure(picture: Image.Image) -> Quality:
    small = shrink(picture)
    return measure_small(small, small.convert("L"))


def _noise(size: tuple[int, int], seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1] // 8 + 1, size[0] // 8 + 1, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def _plot(size: tuple[int, int] = (400, 300)) -> Image.Image:
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    draw.line([(40, 10), (40, 270), (390, 270)], fill="black", width=2)
    draw.line([(40 + x, 260 - x // 2 - (x * x) % 17) for x in range(0, 340, 10)], fill="blue", width=2)
    return picture


def _panels(*pictures: Image.Image, gap: int = 12) -> Image.Image:
    width = sum(p.width + gap for p in pictures) - gap
    sheet = Image.new("RGB", (width, max(p.height for p in pictures)), "white")
    left = 0
    for picture in pictures:
        sheet.paste(picture, (left, 0))
        left += picture.width + gap
    return sheet


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 1000), st.sampled_from(["noise", "flat", "plot"]))
def test_hash_is_that_of_imagehash(width: int, height: int, seed: int, kind: str) -> None:
    make = {"noise": lambda: _noise((width, height), seed), "flat": lambda: Image.new("RGB", (width, height), (seed % 256, 9, 9))}
    picture = make.get(kind, lambda: _plot((width, height)))()
    expected = str(imagehash.phash(picture, 8, highfreq_factor=8)), str(imagehash.phash(picture, 16))
    assert perceptual_hashes(picture) == expected
    assert perceptual_hashes(picture.convert("L")) == expected


def test_columns_are_of_the_shrunken_picture() -> None:
    picture = _noise((1300, 900))
    assert shrink(picture).size == (186, 129)
    assert measure(picture).phash == str(imagehash.phash(shrink(picture).convert("L").reduce(2), 8, highfreq_factor=8))


def test_entropy_of_known_histograms() -> None:
    assert entropy(Image.new("L", (9, 9), 7)) == 0
    assert entropy(Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))) == pytest.approx(8)
    assert entropy(Image.fromarray(np.array([[0, 255]], dtype=np.uint8))) == pytest.approx(1)


@given(st.integers(0, 100))
def test_colourfulness_is_the_formula(seed: int) -> None:
    planes = np.random.default_rng(seed).integers(0, 256, (3, 500)).astype(np.uint8)
    red, green, blue = planes.astype(float)
    rg, yb = red - green, (red + green) / 2 - blue
    expected = np.hypot(rg.std(), yb.std()) + 0.3 * np.hypot(rg.mean(), yb.mean())
    assert colourfulness(planes) == pytest.approx(expected, rel=1e-4)


def test_grey_has_no_colour_and_colour_has() -> None:
    assert measure(_noise((200, 200)).convert("L").convert("RGB")).colourfulness == pytest.approx(0, abs=0.01)
    assert (measure(_noise((200, 200))).colourfulness or 0) > 40


def test_blankness_is_the_share_of_the_ground() -> None:
    picture = Image.new("RGB", (300, 300), (250, 250, 245))
    picture.paste((20, 90, 160), (0, 0, 300, 75))
    assert measure(picture).blankness == pytest.approx(0.75, abs=0.02)


def test_panels_look_compound_and_single_pictures_do_not() -> None:
    a, b, c, d = (_noise((200, 200), seed) for seed in range(4))
    row, single = _panels(a, b, c), _noise((400, 300), 9)
    grid = Image.new("RGB", (412, 412), "white")
    for index, picture in enumerate((a, b, c, d)):
        grid.paste(picture, (212 * (index % 2), 212 * (index // 2)))
    thin = _panels(a, b, gap=4)
    for sheet in (row, grid, thin):
        assert (measure(sheet).compound_hint or 0) > 0.3 > (measure(single).compound_hint or 0) + 0.1


def test_plots_look_like_charts_and_pictures_do_not() -> None:
    assert (measure(_plot()).chart_hint or 0) > 0.6
    assert (measure(_noise((400, 300))).chart_hint or 1) < 0.2


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 50))
def test_any_size_gives_values_in_range(width: int, height: int, seed: int) -> None:
    found = measure(_noise((width, height), seed))
    assert 0 <= (found.entropy or 0) <= 8
    for value in (found.blankness, found.compound_hint, found.chart_hint):
        assert value is not None
        assert 0 <= value <= 1
    assert len(found.phash or "") == 16


def test_null_without_decoding() -> None:
    out = io.BytesIO()
    _plot().save(out, "PNG")
    assert inspect_image("f.png", out.getvalue(), IngestConfig(verify_decode=False)).quality == Quality()
    assert None not in vars(inspect_image("f.png", out.getvalue(), IngestConfig()).quality).values()
