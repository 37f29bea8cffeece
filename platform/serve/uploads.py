"""Images sent as they are, as the body or in a form, and what goes with them in the address."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from biomedray.serve.filters import Filters
from biomedray.serve.inputs import ImageSource, too_large
from biomedray.serve.limits import Limits
from biomedray.serve.problems import Problem, bad_value
from biomedray.serve.schemas import Finite

_RAW_TYPES = ("image/", "application/octet-stream", "application/dicom")


class ImageSearch(Filters):
    """What may stand in the address of a search by an image file, beside the filters."""

    k: int = Field(default=10, ge=1)
    text: str | None = None
    """Added to the image."""
    minus: str | None = None
    """A text whose embedding is taken away."""
    target: Literal["figure", "caption"] = "figure"
    collapse_duplicates: bool = True
    frame: int | None = Field(default=None, ge=0)
    """Of a DICOM file, counted from 0; the middle one unless told."""

    def filters(self) -> Filters:
        """The filters among it."""
        return Filters(**{name: getattr(self, name) for name in Filters.model_fields})


class ImageProxy(Filters):
    """What may stand in the address of a proxy search by an image file, beside the filters."""

    k: int = Field(default=5, ge=1, le=100)
    min_score: Finite | None = None
    """Cosine similarity that a proxy must reach."""
    frame: int | None = Field(default=None, ge=0)
    """Of a DICOM file, counted from 0; the middle one unless told."""

    def filters(self) -> Filters:
        """The filters among it."""
        return Filters(**{name: getattr(self, name) for name in Filters.model_fields})


async def sent_images(request: Request, limits: Limits, frame: int | None = None) -> list[ImageSource]:
    """The image file that is the body, or all files of a form; ``frame`` is one of a DICOM file.

    Raises:
        Problem: 415, neither; 400, the form is broken; 413, a file is too large.
    """
    media = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if media == "multipart/form-data":
        files = await _form_files(request, limits.items, limits.body_bytes)
    elif media.startswith(_RAW_TYPES):
        files = [await request.body()]
    else:
        line = (
            "send an image file (content-type: image/..., application/dicom or application/octet-stream) or multipart/form-data"
        )
        raise Problem(415, line, "unsupported_media_type")
    if any(len(data) > limits.image_bytes for data in files):
        raise too_large("image", limits)
    return [ImageSource(data, frame) for data in files]


async def sent_image(request: Request, limits: Limits, frame: int | None = None) -> ImageSource:
    """As ``sent_images``, where one is wanted.

    Raises:
        Problem: as there; 422, there are several.
    """
    images = await sent_images(request, limits, frame)
    if len(images) > 1:
        raise bad_value(f"image: {len(images)} files, one is wanted", "image", "too_many_items")
    return images[0]


async def _form_files(request: Request, most: int, size: int) -> list[bytes]:
    """All files of a form, kept in memory: a query image is never written to disk."""
    parser = MultiPartParser(request.headers, request.stream(), max_files=most, max_fields=most)
    parser.spool_max_size = size
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, UnicodeDecodeError):
        raise Problem(400, "the form can't be read, or holds too many parts", "invalid_form") from None
    files = [await value.read() for _, value in form.multi_items() if not isinstance(value, str)]
    await form.close()
    if not files:
        raise bad_value("the form holds no file", "image", "empty_input")
    return files
