"""A radiograph in DICOM to 8-bit pixels as a reader of films sees it: bright bone, dark air.

file -> stored values -> modality LUT -> VOI LUT or window -> MONOCHROME1 inverted -> [H, W] uint8
"""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biomedray.pixels import PixelError
from biomedray.records import Reason

_FAR = 1e9


def read_dicom(data: bytes) -> NDArray[np.uint8]:
    """The first frame of a DICOM file, [H, W] or [H, W, 3] uint8 (DICOM PS3.3 C.11.1, C.11.2; PS3.5 8.2).

    Eight-bit values without window and LUT stay as they are; deeper ones are windowed between their 0.5th and 99.5th
    percentile, as pixels.decode does with other deep images.

    Raises:
        PixelError: no DICOM, no pixels in it, or damaged.
    """
    import pydicom
    from pydicom.pixels.processing import apply_modality_lut
    from pydicom.pixels.utils import pixel_array

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(io.BytesIO(data))
            stored = pixel_array(dataset, index=0)
            if stored.ndim == 3:
                return stored if stored.dtype == np.uint8 else _scaled(stored, 0, 2 ** int(dataset.BitsStored) - 1)
            grey = _window(apply_modality_lut(stored, dataset), dataset)
    except Exception as error:  # noqa: BLE001  # whatever a decoder raises on untrusted bytes is the file's fault
        raise PixelError(Reason.UNDECODABLE, f"DICOM: {(str(error) or type(error).__name__).splitlines()[0][:160]}") from None
    return 255 - grey if dataset.get("PhotometricInterpretation") == "MONOCHROME1" else grey


def _window(values: NDArray[Any], dataset: Any) -> NDArray[np.uint8]:
    from pydicom.pixels.processing import apply_voi, apply_windowing

    if dataset.get("VOILUTSequence"):
        bits = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
        return _scaled(apply_voi(values, dataset), 0, 2**bits - 1)
    if dataset.get("WindowCenter") is not None and dataset.get("WindowWidth") is not None:
        low, high = apply_windowing(np.array([-_FAR, _FAR]), dataset)
        return _scaled(apply_windowing(values.astype(np.float64), dataset), low, high)
    if values.dtype == np.uint8:
        return values
    return _scaled(values, *np.percentile(values, (0.5, 99.5)))


def _scaled(values: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    share = (values.astype(np.float64) - low) / max(float(high) - float(low), 1e-9)
    return np.rint(255 * np.clip(share, 0, 1)).astype(np.uint8)
