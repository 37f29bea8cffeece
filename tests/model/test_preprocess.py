"""Random crops are decided by their seed, stay inside the picture, and reduction keeps what they need."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from biomedray.model.preprocess import Crop, crop_box, normalise, random_crop, reduce
from biomedray.pixels import PixelError


@settings(max_examples=100, deadline=None)
@given(width=st.integers(1, 300), height=st.integers(1, 300), low=st.floats(0.05, 1), seed=st.integers(0, 2**32))
def test_boxes_lie_inside(width, height, low, seed):
    left, top, right, bottom = crop_box(width, height, Crop(16, (low, 1.0)), np.random.default_rng(seed))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


def test_areas_and_ratios_are_as_asked():
    boxes = [crop_box(400, 400, Crop(16, (0.3, 0.5)), np.random.default_rng(seed)) for seed in range(200)]
    areas = np.array([(r - x) * (b - y) / 160_000 for x, y, r, b in boxes])
    ratios = np.array([(r - x) / (b - y) for x, y, r, b in boxes])
    assert areas.min() > 0.29
    assert areas.max() < 0.51
    assert ratios.min() > 0.74
    assert ratios.max() < 1.35


def test_a_crop_is_a_function_of_its_seed():
    image = np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8)
    first, again, other = (random_crop(image, Crop(32), np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.shape == (32, 32, 3)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("size", [(100, 60), (60, 100), (20, 20), (3000, 50), (1, 7)])
@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_reduction_bounds_the_sides_and_never_enlarges(size, form):
    buffer = io.BytesIO()
    Image.new("RGB", size, "navy").save(buffer, form)
    height, width, _ = reduce(buffer.getvalue(), 40).shape
    assert min(*size, 40) <= min(width, height) < 80
    assert max(width, height) <= 320
    assert width <= size[0]
    assert height <= size[1]


def test_reduction_refuses_what_is_no_image():
    with pytest.raises(PixelError):
        reduce(b"none", 40)


def test_normalise_is_per_channel():
    batch = torch.tensor([0, 128, 255], dtype=torch.uint8).expand(2, 4, 4, 3)
    found = normalise(batch, torch.tensor([0.0, 0.5, 0.5]), torch.tensor([1.0, 0.5, 0.25]))
    assert found.shape == (2, 3, 4, 4)
    torch.testing.assert_close(found[0, :, 0, 0], torch.tensor([0.0, (128 / 255 - 0.5) / 0.5, 2.0]))


@pytest.mark.parametrize("size", [(900, 100), (100, 900), (300, 300)])
def test_relative_crops_keep_the_pictures_own_shape(size):
    width, height = size
    crop = Crop(16, (0.85, 1.0), (0.87, 1.15), relative=True)
    for seed in range(50):
        left, top, right, bottom = crop_box(width, height, crop, np.random.default_rng(seed))
        ratio = (right - left) / (bottom - top) / (width / height)
        assert 0.83 < ratio < 1.2
        assert (right - left) * (bottom - top) > 0.8 * width * height  # no outer panel of a wide figure is cut off
