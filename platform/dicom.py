"""DICOM files to 8-bit pixels as a reader of films sees them: bright bone, dark air; one reader for evaluation and serving.

file -> technical tags only (bounded walk) -> caps -> one frame -> modality LUT -> VOI LUT or window -> MONOCHROME1 inverted

Elements that name a patient, a visit or an institution are skipped over, never kept: only the tags of ``_TAGS`` are read.
"""

from __future__ import annotations

import importlib
import io
import logging
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biomedray.headers import codestream_size
from biomedray.pixels import MAX_PIXELS, PixelError
from biomedray.records import Reason

Pixels = NDArray[np.uint8]

_FAR = 1e9
_SAMPLE_PIXELS = 1_000_000
_STRIP_PIXELS = 4_000_000
_WIDEST_TABLE = 16
_QUICK_PIXELS = 400_000
# Bounds of hostile files: element headers read, frames, fragments, bytes of one macro sequence, scans of a JPEG.
_MAX_READS = 300_000
_MAX_FRAMES = 100_000
_MAX_FRAGMENTS = 200_000
_MAX_GROUPS = 2 * 1024 * 1024
_MAX_SCANS = 100
_CODED_SLACK = 65_536
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_FRAGMENT = b"\xfe\xff\x00\xe0"
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_MACROS = ("PixelValueTransformationSequence", "FrameVOILUTSequence")
_PALETTE = [f"{color}PaletteColorLookupTable{part}" for color in ("Red", "Green", "Blue") for part in ("Descriptor", "Data")]
_TAGS = (
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "BurnedInAnnotation"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "VOILUTSequence"),
    *("WindowCenter", "WindowWidth", "VOILUTFunction", *_PALETTE, *_GROUPS),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths", "PixelData"),
)


@dataclass(frozen=True)
class DicomHeader:
    """What the file says of its pixels; ``burned_in``: it says that text which may name the patient is part of the picture."""

    width: int
    height: int
    frames: int
    bits: int
    samples: int
    photometric: str
    transfer_syntax: str
    burned_in: bool

    @property
    def frame_bytes(self) -> int:
        """Bytes of one uncompressed frame."""
        return self.width * self.height * self.samples * max(1, self.bits // 8)


def is_dicom(data: bytes) -> bool:
    """Whether the file carries DICOM's mark behind its preamble (PS3.10 7.1), whatever the preamble pretends to be."""
    return data[128:132] == b"DICM"


class DicomFile:
    """A DICOM file whose technical tags are read and within bounds; no pixel is decoded before ``frame`` asks for it."""

    def __init__(self, data: bytes, max_pixels: int = MAX_PIXELS) -> None:
        """Read the tags.

        Raises:
            PixelError: no DICOM, no pixels in it, damaged, or larger than ``max_pixels`` (or twice as many bytes).
        """
        _load_pydicom()
        self._dataset = _guarded(lambda: _read(data))
        self.header = _guarded(lambda: _header(self._dataset))
        _check_size(self.header, max_pixels)

    @property
    def slow(self) -> bool:
        """Whether decoding holds Python's lock for long: large frames in JPEG 2000, lossless JPEG or JPEG-LS."""
        from pydicom.uid import UID, JPEGBaseline8Bit, RLELossless

        syntax = UID(self.header.transfer_syntax)
        quick = not syntax.is_transfer_syntax or not syntax.is_encapsulated or syntax in (JPEGBaseline8Bit, RLELossless)
        return not quick and self.header.width * self.header.height > _QUICK_PIXELS

    def frame(self, number: int | None = None) -> Pixels:
        """One frame, [H, W] or [H, W, 3] uint8 (PS3.3 C.7.6.3, C.11.1, C.11.2; PS3.5 8.2); the middle one unless told.

        Without window and LUT eight-bit values stay as they are and fewer bits are scaled to eight; deeper ones are
        windowed between their 0.5th and 99.5th percentile, as pixels.decode does with other deep images. Enhanced
        multi-frame files may carry the window of each frame in their functional groups.

        Raises:
            PixelError: no such frame, it is damaged, or no decoder for its compression is installed.
        """
        number = self.header.frames // 2 if number is None else number
        if not 0 <= number < self.header.frames:
            raise PixelError(Reason.UNDECODABLE, f"DICOM: no frame {number}; the file has {self.header.frames}, counted from 0")
        picture: Pixels = _guarded(lambda: _picture(self._dataset, self.header, number))
        return picture


def read_dicom(data: bytes, frame: int | None = None, max_pixels: int = MAX_PIXELS) -> Pixels:
    """One frame of a DICOM file as ``DicomFile.frame`` gives it.

    Raises:
        PixelError: as ``DicomFile``.
    """
    return DicomFile(data, max_pixels).frame(frame)


# ---- tags


class _Metered(io.BytesIO):
    """Bytes that may be read so many times: a file of millions of tiny elements would take pydicom minutes."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._left = _MAX_READS

    def read(self, size: int | None = -1, /) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise PixelError(Reason.IMAGE_TOO_LARGE, "DICOM: more elements than a picture has")
        return super().read(size)


_log = logging.getLogger(__name__)
_LOADING = threading.Lock()
_PARTS = ("datadict", "filereader", "uid", "encaps", "pixels.processing", "pixels.utils", "pixels.decoders.base")


def _load_pydicom() -> None:
    """Its modules import each other in a circle, so that two threads which begin it together both fail."""
    with _LOADING:
        for part in _PARTS:
            importlib.import_module(f"pydicom.{part}")


def _read(data: bytes) -> Any:
    from pydicom.datadict import tag_for_keyword
    from pydicom.filereader import read_partial

    _hush()
    if not is_dicom(data):
        raise PixelError(Reason.UNSUPPORTED_FORMAT, "DICOM: the mark DICM is not at byte 128")
    if _DEFLATED in data:  # pydicom would inflate it whole
        raise PixelError(Reason.UNSUPPORTED_FORMAT, "DICOM: deflated files are not read; save it uncompressed")
    tags: list[Any] = [tag_for_keyword(name) for name in _TAGS]
    return read_partial(_Metered(data), specific_tags=tags)


def _hush() -> None:
    """Warnings of pydicom may quote values of the file, which belong in no log."""
    warnings.filterwarnings("ignore", module="pydicom")
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)


def _header(dataset: Any) -> DicomHeader:
    syntax = str(dataset.file_meta.get("TransferSyntaxUID", ""))
    if "PixelData" not in dataset:
        raise PixelError(Reason.EMPTY_IMAGE, "DICOM: no pixels in it")
    return DicomHeader(
        width=int(dataset.Columns),
        height=int(dataset.Rows),
        frames=int(dataset.get("NumberOfFrames") or 1),
        bits=int(dataset.BitsAllocated),
        samples=int(dataset.get("SamplesPerPixel") or 1),
        photometric=str(dataset.get("PhotometricInterpretation", "")),
        transfer_syntax=syntax,
        burned_in=str(dataset.get("BurnedInAnnotation", "")).strip().upper() == "YES",
    )


def _check_size(header: DicomHeader, max_pixels: int) -> None:
    if header.width < 1 or header.height < 1 or header.frames < 1:
        raise PixelError(Reason.EMPTY_IMAGE, f"DICOM: {header.width} x {header.height} pixels, {header.frames} frames")
    if header.width * header.height > max_pixels or header.frame_bytes > 2 * max_pixels or header.frames > _MAX_FRAMES:
        size = f"{header.width} x {header.height} pixels of {header.samples} x {header.bits} bits, {header.frames} frames"
        raise PixelError(Reason.IMAGE_TOO_LARGE, f"DICOM: {size}; the limit is {max_pixels} pixels")
    if header.samples not in (1, 3) or header.bits not in (1, 8, 16, 32):
        raise PixelError(Reason.UNSUPPORTED_FORMAT, f"DICOM: {header.samples} samples of {header.bits} bits")


# ---- pixels


def _picture(dataset: Any, header: DicomHeader, number: int) -> Pixels:
    from pydicom.pixels.processing import apply_color_lut
    from pydicom.pixels.utils import pixel_array

    _check_coded(dataset, header, number)
    stored = pixel_array(dataset, index=number)
    if stored.ndim == 3:
        return stored if stored.dtype == np.uint8 else _scaled(stored, 0, 2 ** int(dataset.BitsStored) - 1)
    if header.photometric == "PALETTE COLOR":
        bits = int(dataset.RedPaletteColorLookupTableDescriptor[2])
        return _scaled(apply_color_lut(stored, dataset), 0, 2**bits - 1)
    _take_functional_groups(dataset, number)
    grey = _grey(stored, dataset)
    return 255 - grey if header.photometric == "MONOCHROME1" else grey


def _check_coded(dataset: Any, header: DicomHeader, number: int) -> None:
    """A compressed frame must hold the picture that the tags speak of: its decoder goes by what the frame says."""
    from pydicom.encaps import get_frame
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID, RLELossless

    syntax = UID(header.transfer_syntax)
    if not syntax.is_transfer_syntax or not syntax.is_encapsulated:
        return
    if not get_decoder(syntax).is_available:
        line = f"DICOM: no decoder for {syntax.name} here; install biomedray[dicom] or send the file uncompressed"
        raise PixelError(Reason.UNSUPPORTED_FORMAT, line)
    if dataset.PixelData.count(_FRAGMENT) > _MAX_FRAGMENTS:
        raise PixelError(Reason.IMAGE_TOO_LARGE, "DICOM: more fragments than a picture has")
    coded = get_frame(dataset.PixelData, number, number_of_frames=header.frames)
    if len(coded) > 2 * header.frame_bytes + _CODED_SLACK or coded.count(b"\xff\xda") > max(_MAX_SCANS, len(coded) >> 12):
        raise PixelError(Reason.IMAGE_TOO_LARGE, "DICOM: the compressed frame is larger than its picture")
    if syntax != RLELossless and codestream_size(coded) != (header.width, header.height, header.samples):
        raise PixelError(Reason.UNDECODABLE, "DICOM: the compressed frame is damaged or of another size than the file says")


def _take_functional_groups(dataset: Any, number: int) -> None:
    """Rescale and window of an enhanced multi-frame file, to where single-frame files have them (PS3.3 C.7.6.16)."""
    for name in _GROUPS:
        if name not in dataset or _is_long(dataset.get_item(name)):
            continue
        items: Any = dataset[name].value
        group: Any = items[number if name == _GROUPS[1] else 0] if len(items) else {}
        for macro in _MACROS:
            if group.get(macro):
                dataset.update(group.get(macro)[0])


def _is_long(element: Any) -> bool:
    return isinstance(getattr(element, "value", None), bytes) and len(element.value) > _MAX_GROUPS


def _grey(stored: NDArray[Any], dataset: Any) -> Pixels:
    """Stored values to 8 bits; by a table of all values where there are at most 2**16 of them."""
    window = _window_of(stored, dataset)
    bits = 8 * stored.dtype.itemsize
    if bits > _WIDEST_TABLE or stored.dtype.kind not in "iu":
        return window(stored)
    unsigned = np.dtype(f"u{stored.dtype.itemsize}")
    table = window(np.arange(2**bits, dtype=unsigned).view(stored.dtype))
    places = np.ascontiguousarray(stored).view(unsigned)
    grey = np.empty(stored.shape, np.uint8)
    rows = max(1, _STRIP_PIXELS // stored.shape[1])
    for top in range(0, stored.shape[0], rows):
        grey[top : top + rows] = table[places[top : top + rows]]
    return grey


def _window_of(stored: NDArray[Any], dataset: Any) -> Callable[[NDArray[Any]], Pixels]:
    """What makes grey values of stored ones: a LUT, a window, nothing, or the range of this frame."""
    from pydicom.pixels.processing import apply_modality_lut, apply_voi, apply_windowing

    if dataset.get("VOILUTSequence"):
        bits = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
        return lambda values: _scaled(apply_voi(apply_modality_lut(values, dataset), dataset), 0, 2**bits - 1)
    if _has_window(dataset):
        low, high = apply_windowing(np.array([-_FAR, _FAR]), dataset)
        return lambda values: _scaled(apply_windowing(apply_modality_lut(values, dataset).astype(np.float64), dataset), low, high)
    sample = stored.reshape(-1)[:: max(1, stored.size // _SAMPLE_PIXELS)]
    if (padding := dataset.get("PixelPaddingValue")) is not None and (sample != padding).any():
        sample = sample[sample != padding]
    seen = apply_modality_lut(sample, dataset)
    if seen.dtype == np.uint8:
        white = 2 ** min(int(dataset.BitsStored), 8) - 1  # of one bit, as segmentations have them: 1
        if white < np.iinfo(np.uint8).max:
            return lambda values: _scaled(apply_modality_lut(values, dataset), 0, white)
        return lambda values: apply_modality_lut(values, dataset).astype(np.uint8)
    start, end = np.percentile(seen, (0.5, 99.5))
    return lambda values: _scaled(apply_modality_lut(values, dataset), start, end)


def _has_window(dataset: Any) -> bool:
    """Whether there is a centre and a width that is one: files without a window of use write a width of 0."""
    center, width = dataset.get("WindowCenter"), dataset.get("WindowWidth")
    if center is None or width is None:
        return False
    return float(width[0] if hasattr(width, "__getitem__") else width) >= 1


def _scaled(values: NDArray[Any], low: float, high: float) -> Pixels:
    share = (values.astype(np.float64) - low) / max(float(high) - float(low), 1e-9)
    return np.rint(255 * np.clip(share, 0, 1)).astype(np.uint8)


def _guarded(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except PixelError:
        raise
    except ImportError as error:  # its text names a file of this machine
        _log.warning("a decoder of DICOM can't be loaded: %s", error)
        raise PixelError(Reason.UNDECODABLE, "DICOM: the decoder of this file's compression can't be loaded here") from None
    except Exception as error:  # noqa: BLE001  # whatever a decoder raises on untrusted bytes is the file's fault
        raise PixelError(Reason.UNDECODABLE, f"DICOM: {(str(error) or type(error).__name__).splitlines()[0][:160]}") from None
