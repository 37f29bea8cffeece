"""What one request, one queue and one answer may hold at most; shown at /v1/info."""

from __future__ import annotations

from biomedray.config import Config

MIB = 1024 * 1024

LONG_BODY = 128 * 1024
"""Bytes of a body that is too long for a text."""
QUEUE_HEADER = "x-biomedray-queue"
"""Seconds of work in the queue that refuses a request by its route and its body's length; HAProxy reads and removes it."""


class Limits(Config):
    """Bounds of the HTTP service. A request beyond them is refused with 413, 422 or 503."""

    body_bytes: int = 32 * MIB
    """Bytes of one request body."""
    inflight_bytes: int = 512 * MIB
    """Bytes of all request bodies held at a time; beyond it 503."""
    request_seconds: float = 60.0
    """Seconds from the first byte of a request to its answer; beyond it 503."""
    read_seconds: float = 10.0
    """Seconds that a body may take to arrive, whatever its size; beyond it, 408 to who sends slower than ``read_rate``."""
    read_rate: int = 64 * 1024
    """Bytes a second at which a body must arrive after that."""
    json_marks: int = 500_000
    """Commas, colons and brackets of one JSON body: they cost more to read than bytes do."""
    headers: int = 100
    """Header fields of one request; beyond it 431."""
    header_bytes: int = 16 * 1024
    """Bytes of all header fields of one request; beyond it 431."""
    url_bytes: int = 8 * 1024
    """Bytes of path and query; beyond it 414."""
    image_bytes: int = 20 * MIB
    """Bytes of one image file."""
    image_pixels: int = 50_000_000
    """Width times height of one image, checked before anything is decoded."""
    burned_in: bool = False
    """Whether DICOM files are taken that say of themselves that text is burned into their pixels."""
    items: int = 256
    """Texts and images of one request."""
    text_chars: int = 8192
    """Characters of one text or prompt; the encoder reads the first ``context_length`` tokens of it."""
    labels: int = 1000
    """Labels of one zero-shot request."""
    templates: int = 100
    """Templates of one zero-shot request."""
    prompts: int = 2000
    """Labels times templates of one zero-shot request."""
    k: int = 1000
    """Hits of one search."""
    thumbnail_pixels: int = 1024
    """Longest side of a thumbnail."""
    queue_texts: int = 2048
    """Texts that wait or run at a time; beyond it 503."""
    queue_images: int = 512
    """Images that wait or run at a time; beyond it 503."""
    queue_seconds: float = 10.0
    """Seconds that a text or image would wait by the speed measured lately; beyond it 503."""
    prepare_threads: int | None = None
    """Threads that decode images; None: half as many as the model has, on a GPU as many as there are cores, two at least."""
    batch_texts: int = 64
    """Texts that the encoder takes at once."""
    batch_tokens: int | None = None
    """Tokens of them, padding included; None: 2,048 on a CPU, where more together are no faster, else 4,096."""
    batch_images: int = 16
    """Images that the encoder takes at once."""
    batch_pixels: int = 1 << 20
    """Pixels of them as the encoder sees them: 20 images of 224 x 224."""
