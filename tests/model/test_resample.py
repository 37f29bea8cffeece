"""Crops computed for many pictures at once are Pillow's, to the bit, whoever else is computed with them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from biomedray.model import resample
from biomedray.model.preprocess import Crop, crop_box, cut, random_crop

SIDES = st.integers(1, 90)


def pictures(shapes, seed=0):
    random = np.random.default_rng(seed)
    return [random.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]


def together(images, crop):
    """All of them by torch; picture i is cropped by seed i."""
    boxes = [crop_box(image.shape[1], image.shape[0], crop, np.random.default_rng(i)) for i, image in enumerate(images)]
    regions = [cut(image, box, crop.size) for image, box in zip(images, boxes, strict=True)]
    return resample.resample(resample.pack(regions, crop.size))


@settings(max_examples=60)
@given(st.lists(st.tuples(SIDES, SIDES), min_size=1, max_size=5), st.integers(1, 40), st.floats(0.05, 1), st.integers(0, 99))
@example([(1, 90), (90, 1), (1, 1)], 7, 0.5, 0)
def test_each_is_pillows_crop(shapes, size, least, seed):
    crop = Crop(size, (least, 1.0), (0.7, 1.4), relative=bool(seed % 2))
    images = pictures(shapes, seed)
    expected = np.stack([random_crop(image, crop, np.random.default_rng(i)) for i, image in enumerate(images)])
    np.testing.assert_array_equal(together(images, crop).numpy(), expected)


@pytest.mark.parametrize("shape", [(60, 80), (80, 60), (33, 33)])
def test_the_crop_is_a_resize_of_its_box(shape):
    """One call of Pillow's resize rounds between its passes, in an order that is its own; so one level apart at most here."""
    (image,) = pictures([shape])
    smooth = np.asarray(Image.fromarray(image).resize((9, 9)).resize(shape[::-1], Image.Resampling.BICUBIC))
    crop = Crop(24, (0.3, 0.8))
    box = crop_box(shape[1], shape[0], crop, np.random.default_rng(0))
    expected = np.asarray(Image.fromarray(smooth).resize((24, 24), Image.Resampling.BICUBIC, box=box), dtype=int)
    assert np.abs(together([smooth], crop)[0].numpy() - expected).max() <= 1


def test_lots_change_nothing(monkeypatch):
    images = pictures([(20 + 3 * i, 50 - 4 * i) for i in range(8)])
    whole = together(images, Crop(16, (0.2, 1.0)))
    monkeypatch.setattr(resample, "_AT_ONCE", 16 * 30)
    assert torch.equal(together(images, Crop(16, (0.2, 1.0))), whole)
    assert together([], Crop(16)).shape == (0, 16, 16, 3)


def test_only_what_the_crop_reaches_is_sent():
    (image,) = pictures([(400, 300)])
    region = cut(image, (100, 200, 148, 248), 24)
    assert region.pixels.shape[:2] == (54, 54), "two output pixels on each side, of which one lies within"
    packed = resample.pack([region], 24)
    assert packed.nbytes == 54 * 54 * 3 + 2 * 8 + 4 * 8
