"""The DICOM reader: golden pixels of every kind, frames, bounds on hostile files, and no patient in sight."""

from __future__ import annotations

import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, JPEGLosslessSV1, RLELossless

from biomedray.dicom import DicomFile, is_dicom, read_dicom
from biomedray.headers import codestream_size
from biomedray.pixels import PixelError
from biomedray.records import Reason

from . import dicoms

RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)
GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)
COLOR = np.random.default_rng(1).integers(0, 255, (20, 30, 3), dtype=np.uint8)


def line(center: float, width: float, values: np.ndarray) -> np.ndarray:
    """PS3.3 C.11.2.1.2.1."""
    return ((values.astype(float) - (center - 0.5)) / (width - 1) + 0.5).clip(0, 1) * 255


def refusal(data: bytes, **options: int) -> PixelError:
    with pytest.raises(PixelError) as raised:
        read_dicom(data, **options)
    assert "DICOM" in str(raised.value)
    return raised.value


def test_ct_is_rescaled_then_windowed_and_monochrome1_inverted():
    hounsfield = np.linspace(-1000, 3000, 4096).astype(np.int16).reshape(64, 64)
    window = {"RescaleSlope": 1, "RescaleIntercept": -24, "WindowCenter": 40, "WindowWidth": 400}
    wanted = line(40, 400, hounsfield - 24)
    assert np.abs(read_dicom(dicoms.dicom(hounsfield, **window)) - wanted).max() <= 0.51
    inverted = read_dicom(dicoms.dicom(hounsfield, "MONOCHROME1", **window))
    assert np.abs(inverted - (255 - wanted)).max() <= 0.51


def test_the_first_of_several_windows_and_none_of_width_zero():
    several = dicoms.dicom(RAMP, WindowCenter=[1000, 3000], WindowWidth=[500, 100])
    assert np.abs(read_dicom(several) - line(1000, 500, RAMP)).max() <= 0.51
    assert np.array_equal(read_dicom(dicoms.dicom(RAMP, WindowCenter=0, WindowWidth=0)), read_dicom(dicoms.dicom(RAMP)))


def test_without_a_window_the_percentiles_leave_padding_out():
    values = 1000 + RAMP % 512
    padded = values.copy()
    padded[:16] = 60000
    found = read_dicom(dicoms.dicom(padded, PixelPaddingValue=60000))
    assert np.array_equal(found[16:], read_dicom(dicoms.dicom(values))[16:])
    assert read_dicom(dicoms.dicom(padded))[16:].max() < 10


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_fewer_than_eight_bits_reach_white(photometric):
    mask = (GREY > 100).astype(np.uint8)
    packed = np.packbits(mask, axis=1, bitorder="little")
    black, white = (255, 0) if photometric == "MONOCHROME1" else (0, 255)
    one = dicoms.dicom(packed, photometric, Rows=16, Columns=16, BitsAllocated=1, BitsStored=1, HighBit=0)
    assert np.array_equal(read_dicom(one), np.where(mask, white, black))
    four = dicoms.dicom(GREY % 16, photometric, BitsStored=4, HighBit=3)
    assert np.array_equal(read_dicom(four), np.abs(black - GREY.astype(int) % 16 * 17))


@pytest.mark.parametrize("number", [0, 1, 2, None])
def test_a_frame_is_asked_for_or_the_middle_one(number):
    frames = np.stack([np.full((8, 8), value, np.uint8) for value in (10, 20, 30)])
    assert read_dicom(dicoms.dicom(frames, frames=3), number)[0, 0] == (20 if number is None else 10 * (number + 1))


@pytest.mark.parametrize("number", [-1, 3, 2**40])
def test_a_frame_that_is_not_there(number):
    assert "3" in str(refusal(dicoms.dicom(np.zeros((3, 8, 8), np.uint8), frames=3), frame=number))


def test_each_frame_of_an_enhanced_file_has_its_window():
    values = np.stack([RAMP, RAMP])
    data = dicoms.enhanced(values, [(1000, 500), (3000, 100)])
    for number, (center, width) in enumerate([(1000, 500), (3000, 100)]):
        assert np.abs(read_dicom(data, number) - line(center, width, 2.0 * RAMP - 1000)).max() <= 0.51


def test_colour_and_palette():
    assert np.array_equal(read_dicom(dicoms.dicom(COLOR, "RGB")), COLOR)
    assert np.array_equal(read_dicom(dicoms.compressed(COLOR, RLELossless, "RGB")), COLOR)
    found = read_dicom(dicoms.coded([dicoms.jpeg(COLOR)], COLOR, photometric="YBR_FULL_422"))
    assert found.shape == COLOR.shape
    tables = {
        f"{name}PaletteColorLookupTable{part}": value
        for shift, name in enumerate(("Red", "Green", "Blue"))
        for part, value in (
            ("Descriptor", [256, 0, 16]),
            ("Data", (np.roll(np.arange(256), shift) * 257).astype("<u2").tobytes()),
        )
    }
    found = read_dicom(dicoms.dicom(GREY, "PALETTE COLOR", **tables))
    assert np.array_equal(found, np.stack([np.roll(np.arange(256, dtype=np.uint8), s)[GREY] for s in range(3)], axis=-1))


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_lossless_compression_gives_the_same_pixels(syntax):
    assert np.array_equal(read_dicom(dicoms.compressed(RAMP, syntax)), read_dicom(dicoms.dicom(RAMP)))


@pytest.mark.parametrize("values", [GREY, RAMP * 16])
def test_lossless_jpeg_as_scanners_write_it(values):
    smooth = np.sort(values, axis=1)
    data = dicoms.coded([dicoms.jpeg_lossless(smooth)], smooth, syntax=JPEGLosslessSV1)
    assert np.array_equal(read_dicom(data), read_dicom(dicoms.dicom(smooth)))


def test_every_value_by_table_is_as_without():
    values = np.random.default_rng(0).integers(-2000, 3000, (40, 50)).astype(np.int16)
    wide = dicoms.dicom(values.astype(np.int32), WindowCenter=100, WindowWidth=900, RescaleSlope="0.5", RescaleIntercept=3)
    assert np.array_equal(
        read_dicom(dicoms.dicom(values, WindowCenter=100, WindowWidth=900, RescaleSlope="0.5", RescaleIntercept=3)),
        read_dicom(wide),
    )


def test_patients_are_not_read_and_burned_in_text_is_told():
    file = DicomFile(dicoms.dicom(GREY, BurnedInAnnotation="YES"))
    assert file.header.burned_in
    assert not any("Secret" in str(element.value) for element in file._dataset)
    assert not DicomFile(dicoms.dicom(GREY, BurnedInAnnotation="NO")).header.burned_in


# ---- hostile


def with_us(data: bytes, element: int, value: int) -> bytes:
    """The file with one unsigned short of group 0028 replaced."""
    head = struct.pack("<HH2sH", 0x28, element, b"US", 2)
    at = data.index(head) + len(head)
    return data[:at] + struct.pack("<H", value) + data[at + 2 :]


def test_bombs_are_refused_by_their_header():
    data = dicoms.dicom(GREY)
    large = with_us(with_us(data, 0x10, 60_000), 0x11, 60_000)
    assert refusal(large).reason is Reason.IMAGE_TOO_LARGE
    assert refusal(data, max_pixels=255).reason is Reason.IMAGE_TOO_LARGE
    assert refusal(with_us(data, 0x10, 0)).reason is Reason.EMPTY_IMAGE
    assert refusal(dicoms.dicom(GREY, NumberOfFrames=2_000_000_000)).reason is Reason.IMAGE_TOO_LARGE
    assert refusal(with_us(data, 0x10, 64)).reason is Reason.UNDECODABLE
    assert refusal(with_us(data, 0x02, 200)).reason is Reason.UNSUPPORTED_FORMAT


def test_a_codestream_of_another_size_than_the_file_says_is_not_decoded(monkeypatch):
    def never(*args: object, **options: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("pydicom.pixels.utils.pixel_array", never)
    other = dicoms.jpeg(np.zeros((300, 400), np.uint8))
    assert refusal(dicoms.coded([other], GREY)).reason is Reason.UNDECODABLE
    assert refusal(dicoms.coded([b"\xff\xd8junk"], GREY)).reason is Reason.UNDECODABLE
    assert refusal(dicoms.coded([dicoms.jpeg(GREY) + bytes(200_000)], GREY)).reason is Reason.IMAGE_TOO_LARGE
    scans = dicoms.jpeg(GREY) + b"\xff\xda" * 200
    assert refusal(dicoms.coded([scans], GREY)).reason is Reason.IMAGE_TOO_LARGE


def test_millions_of_elements_are_given_up():
    empty = struct.pack("<HH2sH", 0x29, 0x1001, b"LO", 0)
    data = dicoms.dicom(GREY)
    at = data.index(struct.pack("<HH2s", 0x7FE0, 0x10, b"OB"))
    assert refusal(data[:at] + empty * 400_000 + data[at:]).reason is Reason.IMAGE_TOO_LARGE


def test_a_deflated_file_is_not_inflated():
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    data = dicoms._saved(dicoms._dataset(GREY, "MONOCHROME2", 1, {}), GREY.tobytes(), DeflatedExplicitVRLittleEndian)
    assert "uncompressed" in str(refusal(data))


def test_an_absent_decoder_is_named_with_its_remedy(monkeypatch):
    class Absent:
        is_available = False

    monkeypatch.setattr("pydicom.pixels.decoders.base.get_decoder", lambda _: Absent())
    error = refusal(dicoms.coded([dicoms.jpeg(GREY)], GREY, syntax=JPEGLosslessSV1))
    assert error.reason is Reason.UNSUPPORTED_FORMAT
    assert "biomedray[dicom]" in str(error)


def test_a_tiff_that_is_also_dicom_is_dicom():
    data = b"II*\0" + dicoms.dicom(GREY)[4:]
    assert is_dicom(data)
    assert np.array_equal(read_dicom(data), GREY)
    assert not is_dicom(b"DICM")


def test_every_cut_file_is_refused():
    for whole in (dicoms.dicom(GREY), dicoms.compressed(RAMP, RLELossless), dicoms.coded([dicoms.jpeg(GREY)], GREY)):
        for end in range(0, len(whole) - 8, 41):
            try:
                read_dicom(whole[:end])
            except PixelError:
                continue
            assert end > len(whole) - 200  # a JPEG without its last bytes decodes as far as it goes


WHOLE = [
    dicoms.dicom(RAMP, WindowCenter=5, WindowWidth=9),
    dicoms.compressed(GREY, RLELossless),
    dicoms.enhanced(RAMP[None], [(1, 2)]),
]


@settings(max_examples=120)
@given(st.sampled_from(WHOLE), st.data())
def test_fuzzed_files_become_pixels_or_one_reason(whole, data):
    broken = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 6))):
        broken[data.draw(st.integers(128, len(broken) - 1))] = data.draw(st.integers(0, 255))
    with suppress(PixelError):
        assert read_dicom(bytes(broken), max_pixels=100_000).dtype == np.uint8


def test_sizes_of_codestreams():
    assert codestream_size(dicoms.jpeg(COLOR)) == (30, 20, 3)
    siz = b"\xff\x4f\xff\x51" + struct.pack(">HH8IH", 47, 0, 110, 220, 10, 20, 99, 99, 0, 0, 3)
    assert codestream_size(siz) == (100, 200, 3)
    assert codestream_size(siz[:41]) is None
    wrapped = b"\0\0\0\x0cjP  \r\n\x87\n" + struct.pack(">I4s", 9, b"ftyp") + b"x" + struct.pack(">I4sQ", 1, b"jp2c", 99) + siz
    assert codestream_size(wrapped) == (100, 200, 3)
    assert codestream_size(wrapped[:12] + bytes(99)) is None
    for junk in (b"", b"\xff\xd8", b"\xff\xd8\xff\xff\xff\xff", b"\xff\xd8" + b"\xff" * 50, b"GIF89a"):
        assert codestream_size(junk) is None


def test_a_jpeg_in_dicom_is_the_jpeg():
    smooth = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (64, 1))
    found = read_dicom(dicoms.coded([dicoms.jpeg(smooth)], smooth, syntax=JPEGBaseline8Bit))
    assert np.abs(found.astype(int) - smooth).mean() < 2


_TOGETHER = """
import sys, threading, time
from biomedray.dicom import read_dicom
class Slow:  # each module takes a while to be found, so that the threads stand in different ones
    def find_spec(self, name, path=None, target=None):
        if name.startswith("pydicom"):
            time.sleep(0.01 * (1 + threading.get_ident() // 4096 % 7))
sys.meta_path.insert(0, Slow())
data, found, line = open(sys.argv[1], "rb").read(), [], threading.Barrier(8)
def read():
    line.wait()
    try:
        found.append(str(read_dicom(data).shape))
    except Exception as error:
        found.append(str(error))
threads = [threading.Thread(target=read) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(*set(found))
"""


def test_threads_that_need_pydicom_for_the_first_time_together(tmp_path: Path) -> None:
    (tmp_path / "grey.dcm").write_bytes(dicoms.dicom(GREY))
    command = [sys.executable, "-c", _TOGETHER, str(tmp_path / "grey.dcm")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == str(read_dicom((tmp_path / "grey.dcm").read_bytes()).shape)


def test_a_library_that_cannot_be_loaded_names_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_data: bytes) -> None:
        raise ImportError("cannot import name 'x' from 'pydicom' (/opt/service/lib/pydicom/__init__.py)")

    monkeypatch.setattr("biomedray.dicom._read", broken)
    with pytest.raises(PixelError, match="can't be loaded here") as caught:
        read_dicom(dicoms.dicom(GREY))
    assert "/opt" not in str(caught.value)
