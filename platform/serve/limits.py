"""What one request, one queue and one answer may hold at most; shown at /v1/info."""

from __future__ import annotations

from pydantic import Field

from biomedray.config import Config

MIB = 1024 * 1024

LONG_BODY = 128 * 1024
"""Bytes of a body that is too long for a text."""
QUEUE_HEADER = "x-biomedray-queue"
"""Seconds of work in the queue that refuses a request by its route and its body's length; HAProxy reads and removes it."""


class Limits(Config):
    """Bounds of the HTTP service. A request beyond them is refused with 413, 422 or 503."""

    body_bytes: int = Field(default=32 * MIB, ge=1)
    """Bytes of one request body."""
    inflight_bytes: int = Field(default=512 * MIB, ge=1)
    """Bytes of all request bodies held at a time; beyond it 503."""
    request_seconds: float = Field(default=60.0, gt=0)
    """Seconds from the first byte of a request to its answer; beyond it 503."""
    read_seconds: float = Field(default=10.0, gt=0)
    """Seconds that a body may take to arrive, whatever its size; beyond it, 408 to who sends slower than ``read_rate``."""
    read_rate: int = Field(default=64 * 1024, ge=1)
    """Bytes a second at which a body must arrive after that."""
    json_marks: int = Field(default=500_000, ge=1)
    """Commas, colons and brackets of one JSON body: they cost more to read than bytes do."""
    headers: int = Field(default=100, ge=1)
    """Header fields of one request; beyond it 431."""
    header_bytes: int = Field(default=16 * 1024, ge=1)
    """Bytes of all header fields of one request; beyond it 431."""
    url_bytes: int = Field(default=8 * 1024, ge=1)
    """Bytes of path and query; beyond it 414."""
    image_bytes: int = Field(default=20 * MIB, ge=1)
    """Bytes of one image file."""
    image_pixels: int = Field(default=50_000_000, ge=1)
    """Width times height of one image, checked before anything is decoded."""
    burned_in: bool = False
    """Whether DICOM files are taken that say of themselves that text is burned into their pixels."""
    items: int = Field(default=256, ge=1)
    """Texts and images of one request."""
    text_chars: int = Field(default=8192, ge=1)
    """Characters of one text or prompt; the encoder reads the first ``context_length`` tokens of it."""
    labels: int = Field(default=1000, ge=2)
    """Labels of one zero-shot request."""
    templates: int = Field(default=100, ge=1)
    """Templates of one zero-shot request."""
    prompts: int = Field(default=2000, ge=2)
    """Labels times templates of one zero-shot request."""
    k: int = Field(default=1000, ge=1)
    """Hits of one search."""
    thumbnail_pixels: int = Field(default=1024, ge=128)
    """Longest side of a thumbnail; the page shows some of 128."""
    queue_texts: int = Field(default=2048, ge=1)
    """Texts that wait or run at a time; beyond it 503."""
    queue_images: int = Field(default=512, ge=1)
    """Images that wait or run at a time; beyond it 503."""
    queue_seconds: float = Field(default=10.0, gt=0)
    """Seconds that a text or image would wait by the speed measured lately; beyond it 503."""
    prepare_threads: int | None = Field(default=None, ge=1)
    """Threads that decode images; None: half as many as the model has, on a GPU as many as there are cores, two at least."""
    batch_texts: int = Field(default=64, ge=1)
    """Texts that the encoder takes at once."""
    batch_tokens: int | None = Field(default=None, ge=1)
    """Tokens of them, padding included; None: 2,048 on a CPU, where more together are no faster, else 4,096."""
    batch_images: int = Field(default=16, ge=1)
    """Images that the encoder takes at once."""
    batch_pixels: int = Field(default=1 << 20, ge=1)
    """Pixels of them as the encoder sees them: 20 images of 224 x 224."""
