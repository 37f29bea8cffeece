"""DICOM to 8 bits: windows and tables against pydicom's own, MONOCHROME1, JPEG inside, broken files."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biomedray.dicom import read_dicom
from biomedray.pixels import PixelError

RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)


def test_eight_bits_stay_as_they_are_and_monochrome1_is_inverted(mini):
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(read_dicom(mini.dicom(values)), values)
    assert np.array_equal(read_dicom(mini.dicom(values, inverted=True)), 255 - values)


def test_jpeg_inside_as_rsna_has_it(mini):
    values = mini.pixels(1, 3, 64, grey=True)
    found = read_dicom(mini.dicom(values, jpeg=True))
    assert np.abs(found.astype(int) - values).mean() < 3


@settings(max_examples=25)
@given(st.integers(200, 3800), st.integers(2, 3000))
def test_a_window_is_the_standards_line(mini, center, width):
    """PS3.3 C.11.2.1.2.1: below c - 0.5 - (w-1)/2 black, above c - 0.5 + (w-1)/2 white, between a line."""
    found = read_dicom(mini.dicom(RAMP, window=(center, width))).ravel()
    line = ((np.arange(4096) - (center - 0.5)) / (width - 1) + 0.5).clip(0, 1) * 255
    assert np.abs(found - line).max() <= 0.51


def test_rescale_comes_before_the_window(mini):
    fields = {"RescaleSlope": 2, "RescaleIntercept": -1000}
    found = read_dicom(mini.dicom(RAMP, window=(0, 2001), **fields)).ravel()
    assert found[0] == 0
    assert found[500] == pytest.approx(128, abs=1)
    assert found[1001:].min() == 255


def test_a_lut_is_applied(mini):
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    item = Dataset()
    item.LUTDescriptor = [256, 0, 8]
    item.LUTData = list(range(255, -1, -1))
    item["LUTData"].VR = "US"
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(read_dicom(mini.dicom(values, VOILUTSequence=Sequence([item]))), 255 - values)


def test_deep_values_without_a_window_use_the_whole_range(mini):
    found = read_dicom(mini.dicom(RAMP))
    assert (found.min(), found.max()) == (0, 255)
    assert np.all(np.diff(found.ravel().astype(int)) >= 0)


@pytest.mark.parametrize("data", [b"", b"junk", b"\0" * 128 + b"DICM", b"\0" * 128 + b"DICM" + b"\x02\0\x10\0UI"])
def test_junk_is_a_pixel_error(data):
    with pytest.raises(PixelError, match="DICOM"):
        read_dicom(data)


def test_every_cut_file_is_a_pixel_error(mini):
    whole = mini.dicom(mini.pixels(0, 0, 16, grey=True))
    for end in range(0, len(whole) - 1, 17):
        with pytest.raises(PixelError):
            read_dicom(whole[:end])
