"""What a caller may send in place of a text or an image, and how it becomes one.

    "a caption"                                       text
    "data:image/png;base64,..."                       image
    {"type": "text", "text": "..."}                   text
    {"type": "image", "image": base64 or data URL}    image
    "data:application/dicom;frame=3;base64,..."       image: a frame of a DICOM file, the middle one unless told
    raw bytes of a body                               image

The bytes say what kind of file it is, whatever a data URL or a content type calls it. URLs are never
fetched: they are refused with a line that says so.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biomedray import dicom, pixels
from biomedray.serve.codec import Codec
from biomedray.serve.limits import Limits
from biomedray.serve.problems import Problem, bad_value

_KINDS = r"data:(?:image/[a-z0-9.+-]{1,40}|application/(?:dicom|octet-stream))"
_IMAGE_URL = re.compile(_KINDS + r"[;,]", re.IGNORECASE)
_DATA_URL = re.compile(_KINDS + r"(?:;frame=(\d{1,9}))?;base64,", re.IGNORECASE)
_CODED_URL = re.compile(r"data:[^,]{0,80};base64,", re.IGNORECASE)
_REMOTE_URL = re.compile(r"[a-z][a-z0-9+.-]{1,20}://", re.IGNORECASE)
_LONGEST_PREFIX = 100
_CODEC = Codec(seconds=20)


@dataclass(frozen=True)
class Text:
    """A text to embed."""

    value: str


@dataclass(frozen=True)
class ImageSource:
    """An image file: its bytes, or base64 of them that is decoded off the event loop; ``frame`` is one of a DICOM file."""

    data: bytes | str
    frame: int | None = None


Item = Text | ImageSource


def read_items(value: Any, limits: Limits) -> list[Item]:
    """The ``input`` of an embeddings request: one item or a list of them.

    Raises:
        Problem: it is neither, is empty, or holds too many items.
    """
    if not isinstance(value, list):
        return [read_item(value, "input", limits)]
    if not value:
        raise bad_value("input: an empty list; send at least one text or image", "input", "empty_input")
    if len(value) > limits.items:
        raise bad_value(f"input: {len(value)} items, the limit is {limits.items}", "input", "too_many_items")
    return [read_item(item, f"input[{number}]", limits) for number, item in enumerate(value)]


def read_item(value: Any, param: str, limits: Limits) -> Item:
    """One text or image of a request; ``param`` names it in refusals."""
    if isinstance(value, str):
        return read_image(value, param, limits) if _is_file(value) else read_text(value, param, limits)
    if isinstance(value, dict):
        kind = value.get("type")
        if kind in ("text", "image") and set(value) == {"type", kind}:
            return read_text(value["text"], param, limits) if kind == "text" else read_image(value["image"], param, limits)
    if isinstance(value, int | list):
        raise bad_value(f"{param}: arrays of tokens are not taken; send the text itself", param, "invalid_item")
    raise bad_value(
        f'{param}: neither a text nor {{"type": "text", "text": ...}} nor {{"type": "image", "image": ...}}',
        param,
        "invalid_item",
    )


def _is_file(text: str) -> bool:
    """Whether a string can only be meant as a file; one that is no image is refused then, not embedded as words."""
    start = text.lstrip()[:_LONGEST_PREFIX]
    return bool(_IMAGE_URL.match(start) or _CODED_URL.match(start))


def read_text(value: Any, param: str, limits: Limits) -> Text:
    """A text within its limits."""
    if not isinstance(value, str):
        raise bad_value(f"{param}: a text is wanted", param)
    if not value.strip():
        raise bad_value(f"{param}: an empty text", param, "empty_text")
    if len(value) > limits.text_chars:
        raise bad_value(f"{param}: {len(value)} characters, the limit is {limits.text_chars}", param, "text_too_long")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise bad_value(f"{param}: not valid Unicode (a lone surrogate)", param, "invalid_unicode") from None
    return Text(value)


def read_image(value: Any, param: str, limits: Limits) -> ImageSource:
    """An image given as base64 or as a data URL; nothing is decoded yet."""
    if not isinstance(value, str):
        raise bad_value(f"{param}: base64 or a data URL of an image is wanted", param, "invalid_image")
    frame, value = None, value.lstrip()
    if prefix := _DATA_URL.match(value[:_LONGEST_PREFIX]):
        value, frame = value[prefix.end() :], int(prefix[1]) if prefix[1] else None
    elif value[:5].lower() == "data:":
        line = f"{param}: a data URL must begin data:image/...;base64, or data:application/dicom;base64,"
        raise bad_value(line, param, "invalid_image")
    elif _REMOTE_URL.match(value[:_LONGEST_PREFIX]):
        raise bad_value(f"{param}: URLs are not fetched; send the image itself as a data URL", param, "url_not_allowed")
    if not value:
        raise bad_value(f"{param}: an empty image", param, "empty_image")
    if len(value) > limits.image_bytes * 4 // 3 + 4:
        raise too_large(param, limits)
    return ImageSource(value, frame)


def image_bytes(source: ImageSource, limits: Limits) -> bytes | NDArray[np.uint8]:
    """The file's bytes, checked against what its header says, or the pixels of a DICOM frame; run it in a thread.

    Raises:
        Problem: not base64, too large, or not an image that can be served; its param is for the caller to fill.
    """
    data = source.data if isinstance(source.data, bytes) else _from_base64(source.data)
    if len(data) > limits.image_bytes:
        raise too_large("image", limits)
    if dicom.is_dicom(data):
        return _dicom_frame(data, source.frame, limits)
    if source.frame is not None:
        raise bad_value("image: only DICOM files have frames to choose from", "image", "invalid_frame")
    pixels.read_header(data, limits.image_pixels)
    return data


def _dicom_frame(data: bytes, number: int | None, limits: Limits) -> NDArray[np.uint8]:
    file = dicom.DicomFile(data, limits.image_pixels)
    if file.header.burned_in and not limits.burned_in:
        line = "image: the DICOM file says that text is burned into its pixels, which may name the patient; it is not taken"
        raise bad_value(line, "image", "burned_in_annotation")
    if number is not None and number >= file.header.frames:
        raise bad_value(f"image: no frame {number}; the file has {file.header.frames}", "image", "invalid_frame")
    return _CODEC.frame(data, number, limits.image_pixels) if file.slow else file.frame(number)


def too_large(param: str, limits: Limits) -> Problem:
    """413: the image file has too many bytes."""
    return Problem(413, f"{param}: the image is larger than {limits.image_bytes} bytes", "image_too_large", param)


def item_problem(error: BaseException, param: str) -> BaseException:
    """An item's failure as a refusal that names the item; other errors stay as they are."""
    if isinstance(error, pixels.PixelError):
        return bad_value(f"{param}: {error}", param, error.reason.value)
    if isinstance(error, Problem) and error.param == "image":
        return Problem(error.status_code, str(error.detail).replace("image:", f"{param}:", 1), error.code, param)
    return error


def texts_of(items: Sequence[Item]) -> list[str]:
    """The texts among the items."""
    return [item.value for item in items if isinstance(item, Text)]


def vector_of(text: str) -> list[float]:
    """A vector given as base64 of little-endian float32, a third of the size of numbers."""
    try:
        values: list[float] = np.frombuffer(base64.b64decode(text, validate=True), "<f4").tolist()
    except ValueError:
        raise bad_value("vector: a list of numbers, or base64 of little-endian float32, is wanted", "vector") from None
    return values


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise bad_value("image: not valid base64", "image", "invalid_base64") from None
