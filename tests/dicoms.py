"""DICOM files for tests, made by pydicom: any photometric interpretation, depth, frames, window and compression."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, SecondaryCaptureImageStorage, generate_uid

PATIENT = "Secret^Patient"


def dicom(values: np.ndarray, photometric: str = "MONOCHROME2", frames: int = 1, **fields: Any) -> bytes:
    """A file of ``values``, [H, W], [F, H, W] or [H, W, 3]; its patient must show up nowhere."""
    return _saved(_dataset(values, photometric, frames, fields), values.tobytes(), ExplicitVRLittleEndian)


def compressed(values: np.ndarray, syntax: str, photometric: str = "MONOCHROME2", **fields: Any) -> bytes:
    """The same, compressed by one of pydicom's encoders."""
    dataset = _dataset(values, photometric, 1, fields)
    dataset.PixelData = values.tobytes()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.compress(syntax, generate_instance_uid=False)
    return _bytes(dataset)


def coded(
    frames: Sequence[bytes], like: np.ndarray, syntax: str = JPEGBaseline8Bit, photometric: str = "MONOCHROME2", **fields: Any
) -> bytes:
    """The same around frames that somebody else compressed, true or not."""
    return _saved(_dataset(like, photometric, len(frames), fields), encapsulate(list(frames)), syntax)


def jpeg(values: np.ndarray) -> bytes:
    """A JPEG of [H, W] or [H, W, 3] uint8."""
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def jpeg_lossless(values: np.ndarray) -> bytes:
    """A lossless JPEG (ITU T.81, annex H) of [H, W] uint8 or uint16: each value by the one to its left, five bits a category."""
    depth = 8 * values.dtype.itemsize
    known = values.astype(np.int64)
    before = np.roll(known, 1, axis=1)
    before[1:, 0], before[0, 0] = known[:-1, 0], 1 << (depth - 1)
    bits = []
    for difference in (known - before).ravel().tolist():
        size = abs(difference).bit_length()
        extra = difference if difference >= 0 else difference + (1 << size) - 1
        bits.append(f"{size:05b}" + (f"{extra:0{size}b}" if 0 < size < 16 else ""))
    text = "".join(bits)
    text += "1" * (-len(text) % 8)
    coded = int(text, 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\0")
    height, width = values.shape
    frame = struct.pack(">HBHHB3B", 11, depth, height, width, 1, 1, 0x11, 0)
    table = struct.pack(">HB16B", 19 + 17, 0, *[17 if length == 5 else 0 for length in range(1, 17)]) + bytes(range(17))
    scan = struct.pack(">HB2B3B", 8, 1, 1, 0, 1, 0, 0)
    return b"\xff\xd8\xff\xc3" + frame + b"\xff\xc4" + table + b"\xff\xda" + scan + coded + b"\xff\xd9"


def enhanced(values: np.ndarray, windows: Sequence[tuple[float, float]]) -> bytes:
    """A multi-frame file [F, H, W] whose functional groups give each frame its window, and all of them a rescale."""
    shared, rescale = Dataset(), Dataset()
    rescale.RescaleSlope, rescale.RescaleIntercept = 2, -1000
    shared.PixelValueTransformationSequence = Items([rescale])
    groups = []
    for center, width in windows:
        group, window = Dataset(), Dataset()
        window.WindowCenter, window.WindowWidth = center, width
        group.FrameVOILUTSequence = Items([window])
        groups.append(group)
    own = {"SharedFunctionalGroupsSequence": Items([shared]), "PerFrameFunctionalGroupsSequence": Items(groups)}
    return dicom(values, frames=len(values), **own)


def _dataset(values: np.ndarray, photometric: str, frames: int, fields: dict[str, Any]) -> Dataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["biomedray"])
    found = Dataset()
    found.file_meta = meta
    found.PatientName, found.PatientID, found.InstitutionName = PATIENT, "secret-id", "Secret Hospital"
    color = values.shape[-1] == 3 and photometric not in ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
    found.Rows, found.Columns = values.shape[-3:-1] if color else values.shape[-2:]
    found.SamplesPerPixel = 3 if color else 1
    found.PlanarConfiguration = 0
    found.PhotometricInterpretation = photometric
    found.PixelRepresentation = int(values.dtype.kind == "i")
    found.BitsAllocated = found.BitsStored = 8 * values.dtype.itemsize
    found.HighBit = found.BitsStored - 1
    if frames > 1:
        found.NumberOfFrames = frames
    for name, value in fields.items():
        setattr(found, name, value)
    return found


def _saved(dataset: Dataset, pixels: bytes, syntax: str) -> bytes:
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = pixels + b"\0" * (len(pixels) % 2)
    dataset["PixelData"].VR = "OB" if dataset.BitsAllocated == 8 else "OW"
    return _bytes(dataset)


def _bytes(dataset: Dataset) -> bytes:
    target = io.BytesIO()
    dataset.save_as(target, enforce_file_format=True)
    return target.getvalue()
