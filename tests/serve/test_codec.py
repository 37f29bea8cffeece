"""Large compressed DICOM frames in a process of their own: the same pixels, and no harm by one that hangs or dies."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import pytest
from pydicom.uid import JPEG2000Lossless

from biomedray.dicom import DicomFile, read_dicom
from biomedray.pixels import PixelError
from biomedray.serve import codec, inputs
from biomedray.serve.codec import Codec
from biomedray.serve.inputs import ImageSource, image_bytes
from biomedray.serve.limits import Limits

from .. import dicoms

LARGE = np.add.outer(np.arange(640), np.arange(640)).astype(np.uint16)
FILE = dicoms.compressed(LARGE, JPEG2000Lossless)


@pytest.fixture(scope="module")
def process() -> Iterator[Codec]:
    found = Codec(60)
    yield found
    found._drop()


def test_the_same_pixels_and_the_same_refusals(process: Codec) -> None:
    assert np.array_equal(process.frame(FILE, None, 1_000_000), read_dicom(FILE))
    first = process._process
    for data, number, pixels in ((FILE, 7, 1_000_000), (FILE, None, 1000), (FILE[:-900], None, 1_000_000), (b"junk", None, 9)):
        with pytest.raises(PixelError) as here:
            read_dicom(data, number, pixels)
        with pytest.raises(PixelError) as there:
            process.frame(data, number, pixels)
        assert (str(there.value), there.value.reason) == (str(here.value), here.value.reason)
    assert process._process is first


def test_one_that_dies_is_started_again(process: Codec) -> None:
    process.frame(FILE, None, 1_000_000)
    assert process._process is not None
    process._process.kill()
    process._process.wait()
    assert process.frame(FILE, 0, 1_000_000).shape == LARGE.shape


@pytest.mark.parametrize("script", ["import time; time.sleep(60)", "import os; os.abort()", "print('x' * 3)"])
def test_one_that_hangs_or_crashes_takes_only_its_request_along(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    monkeypatch.setattr(codec, "_COMMAND", (sys.executable, "-c", script))
    broken = Codec(0.5)
    with pytest.raises(PixelError, match="in time"):
        broken.frame(FILE, None, 1_000_000)
    assert broken._process is None


def test_only_slow_files_go_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert DicomFile(FILE).slow
    assert not DicomFile(dicoms.dicom(LARGE)).slow
    assert not DicomFile(dicoms.compressed(LARGE[:99, :99], JPEG2000Lossless)).slow
    asked = []

    class Noted:
        def frame(self, *asks: object) -> np.ndarray:
            asked.append(asks)
            return np.zeros((2, 2), np.uint8)

    monkeypatch.setattr(inputs, "_CODEC", Noted())
    image_bytes(ImageSource(dicoms.dicom(LARGE)), Limits())
    assert asked == []
    image_bytes(ImageSource(FILE, 0), Limits())
    assert asked == [(FILE, 0, Limits().image_pixels)]
