"""Whether a request would find room in the queues, told by its route and the length of its body alone.

Routes that take only images, or only bodies too long for a text, wait for the image lane; what may be either is refused
when both lanes are full. Short bodies are let in: reading them costs little, and the queue itself refuses them.
"""

from __future__ import annotations

from biomedray.serve.limits import LONG_BODY
from biomedray.serve.slot import Slot

_IMAGE_ROUTES = ("/v1/embeddings/image", "/v1/search/image", "/v1/proxy/image", "/v1/classify")
_ANY_ROUTES = ("/v1/embeddings", "/v1/search", "/v1/proxy")


def busy(slot: Slot, path: str, length: int) -> float | None:
    """Seconds after which to come again, if this request would be refused once it was read."""
    engine = slot.engine
    if engine is None or not path.startswith("/v1/"):
        return None
    if path in _IMAGE_ROUTES or (path in _ANY_ROUTES and length > LONG_BODY):
        return engine.lanes.wait("image")
    if path == "/v1/embeddings":
        waits = engine.lanes.wait("image"), engine.lanes.wait("text")
        return None if None in waits else max(seconds for seconds in waits if seconds is not None)
    return None
