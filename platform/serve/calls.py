"""What both clients share: the requests that a method makes, what it reads from the answers, and how patient it is.

    method -> Plan(calls, read) --Client, AsyncClient send each call--> Tries (pause, again?) -> read -> arrays, hits

Nothing here waits or opens a connection. Texts and images travel in runs that stay within the limits of /v1/info;
vectors come back as bytes, never as lists of numbers. A refusal names the item of the caller's own list.
"""

from __future__ import annotations

import base64
import email.utils
import json
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypedDict, TypeVar
from urllib.parse import quote

import httpx
import numpy as np
from numpy.typing import NDArray

from biomedray.errors import WorkError

Vectors = NDArray[np.float32]
Target = Literal["figure", "caption"]
T = TypeVar("T")

# Gateways answer 502 and 504 for a replica that went away. Every route may be asked twice: none changes anything.
BUSY = frozenset({408, 429, 502, 503, 504})
RAW = "application/octet-stream"
_ITEMS = 64
_BYTES = 16 * 1024 * 1024
_PART_BYTES = 256  # what a form adds to each file
_SHARE_OF_BODY = 0.9
_LONGEST_PAUSE = 30.0
_ITEM = re.compile(r"(?:input|image)\[(\d+)\]")


class RefusedError(WorkError):
    """The service refused; ``status`` of HTTP (None: it was not asked), and which ``item`` of the caller's list was at fault."""

    def __init__(self, message: str, status: int | None = None, code: str | None = None, item: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.item = item
        self.detail = message
        """What the service said of the item itself."""


@dataclass(frozen=True)
class Call:
    """One request; ``first`` is the place of its first item in the caller's list, ``count`` how many it holds."""

    method: str
    path: str
    options: dict[str, Any] = field(default_factory=dict, repr=False)
    first: int = 0
    count: int = 1


@dataclass(frozen=True)
class Plan(Generic[T]):
    """The calls of one method, made while they are sent, and how their answers become its result."""

    calls: Iterable[Call]
    read: Callable[[list[httpx.Response]], T]


@dataclass(frozen=True)
class Patience:
    """How often and how long a busy or silent service is asked again: ``deadline`` in seconds from the first try."""

    retries: int = 5
    deadline: float = 300.0
    first_pause: float = 0.5


class Tries:
    """The tries of one call."""

    def __init__(self, call: Call, patience: Patience) -> None:
        self._call = call
        self._patience = patience
        self._started = time.monotonic()
        self._tried = 0

    def left(self) -> float:
        """Seconds until the deadline."""
        return max(0.001, self._patience.deadline - (time.monotonic() - self._started))

    def pause(self, outcome: httpx.Response | httpx.RequestError) -> float | None:
        """Seconds to wait before the next try; None when the answer is good.

        Raises:
            RefusedError: the service refuses, or has been asked often or long enough.
        """
        if not isinstance(outcome, httpx.RequestError) and outcome.is_success:
            return None
        self._tried += 1
        if isinstance(outcome, httpx.RequestError):
            again, asked = True, ""
        else:
            again, asked = outcome.status_code in BUSY, outcome.headers.get("retry-after", "")
        wait = min(_LONGEST_PAUSE, _seconds(asked) + self._jitter())
        if again and self._tried <= self._patience.retries and wait < self.left():
            return wait
        raise refusal(self._call, outcome) from (outcome if isinstance(outcome, httpx.RequestError) else None)

    def _jitter(self) -> float:
        """Up to twice as long each time, drawn at random: clients that were refused together don't come back together."""
        longest: float = self._patience.first_pause * 2.0 ** (self._tried - 1)
        return random.uniform(0.5, 1.0) * longest


def refusal(call: Call, outcome: httpx.Response | httpx.RequestError) -> RefusedError:
    """One line on what went wrong; it names the item by its place in the caller's list, and never holds its content."""
    if isinstance(outcome, httpx.RequestError):
        return RefusedError(f"{call.path}: no answer from the service ({type(outcome).__name__})")
    try:
        error = outcome.json()["error"]
        message, code, param = str(error["message"]), str(error["code"]), str(error["param"])
    except (ValueError, KeyError, TypeError):
        text = f"{call.path}: the service answered with status {outcome.status_code}"
        return RefusedError(text, outcome.status_code)
    detail = message.removeprefix(f"{param}: ")
    found = _ITEM.match(param)
    item = call.first + int(found[1]) if found else call.first if param in ("input", "image") and call.count == 1 else None
    if found:
        message = message.replace(found[0], found[0].replace(found[1], str(item)), 1)
    refused = RefusedError(f"{call.path}: {outcome.status_code}: {message}", outcome.status_code, code, item)
    refused.detail = detail
    return refused


def info() -> Plan[dict[str, Any]]:
    """Model, index and limits of the service."""
    return Plan([Call("GET", "/v1/info")], _json)


def embed_texts(texts: Sequence[str], about: Mapping[str, Any]) -> Plan[Vectors]:
    """Texts -> [n, d] float32 unit vectors; ``about`` is what /v1/info said."""
    coded = [json.dumps(text).encode() for text in texts]

    def calls() -> Iterator[Call]:
        for first, end in _runs([len(text) + 1 for text in coded], about["limits"]):
            body = b'{"input":[' + b",".join(coded[first:end]) + b'],"encoding_format":"base64"}'
            headers = {"content-type": "application/json", "accept": RAW}
            yield Call("POST", "/v1/embeddings", {"content": body, "headers": headers}, first, end - first)

    return Plan(calls(), lambda answers: _vectors(answers, about))


def embed_images(images: Sequence[bytes], about: Mapping[str, Any]) -> Plan[Vectors]:
    """Bytes of image files -> [n, d] float32 unit vectors; sent as they are, without base64.

    Raises:
        RefusedError: an image is larger than the service takes.
    """
    limit = about["limits"]["image_bytes"]
    for number, data in enumerate(images):
        if len(data) > limit:
            message = f"image[{number}]: {len(data):,} bytes, the service takes {limit:,}"
            raise RefusedError(message, None, "image_too_large", number)

    def calls() -> Iterator[Call]:
        for first, end in _runs([len(data) + _PART_BYTES for data in images], about["limits"]):
            yield Call("POST", "/v1/embeddings/image", _files(images[first:end]), first, end - first)

    return Plan(calls(), lambda answers: _vectors(answers, about))


def classify(image: bytes, labels: Sequence[str], templates: Sequence[str] | None) -> Plan[dict[str, float]]:
    """Zero-shot: label -> probability, likeliest first."""
    body = _given(image=_base64(image), labels=list(labels), templates=None if templates is None else list(templates))
    return Plan(
        [_post("/v1/classify", body)],
        lambda answers: {entry["label"]: entry["probability"] for entry in _json(answers)["predictions"]},
    )


@dataclass(frozen=True)
class Query:
    """What is searched for: one part, or several that are added up by ``weights``; ``minus`` is a text to take away."""

    text: str | None = None
    image: bytes | None = field(default=None, repr=False)
    vector: Vectors | None = None
    pair_id: str | None = None
    minus: str | None = None
    weights: Mapping[str, float] | None = None

    def body(self) -> dict[str, Any]:
        """As the service reads it; a vector as base64 of little-endian float32."""
        vector = None if self.vector is None else _base64(np.asarray(self.vector).astype("<f4").tobytes())
        image = None if self.image is None else _base64(self.image)
        weights = None if self.weights is None else dict(self.weights)
        return _given(text=self.text, image=image, vector=vector, pair_id=self.pair_id, minus=self.minus, weights=weights)


class Parts(TypedDict, total=False):
    """More of a query, by name."""

    vector: Vectors | None
    pair_id: str | None
    minus: str | None
    weights: Mapping[str, float] | None


def search(query: Query, k: int, target: Target, filters: Mapping[str, Any] | None, collapse: bool) -> Plan[list[dict[str, Any]]]:
    """Hits, best first."""
    body = {**query.body(), "k": k, "target": target, "filters": dict(filters or {}), "collapse_duplicates": collapse}
    return Plan([_post("/v1/search", body)], lambda answers: list(_json(answers)["hits"]))


def proxy(query: Query, k: int, min_score: float | None, filters: Mapping[str, Any] | None) -> Plan[dict[str, Any]]:
    """Public figures that may stand in for a private one."""
    body = {**query.body(), **_given(k=k, min_score=min_score, filters=dict(filters or {}))}
    return Plan([_post("/v1/proxy", body)], _json)


def figure(pair_id: str, size: int | None) -> Plan[bytes]:
    """The file of a figure, or a JPEG thumbnail of at most ``size`` pixels a side."""
    options = {} if size is None else {"params": {"size": size}}
    return Plan([Call("GET", f"/v1/images/{quote(pair_id)}", options)], lambda answers: answers[0].content)


def _json(answers: Sequence[httpx.Response]) -> dict[str, Any]:
    try:
        found = answers[0].json()
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise RefusedError(f"{answers[0].url.path}: no JSON came back; is this a biomedray service?", answers[0].status_code)
    return found


def _vectors(answers: Sequence[httpx.Response], about: Mapping[str, Any]) -> Vectors:
    """Rows of all answers [n, d], in the order of the calls."""
    dim = int(about["model"]["embed_dim"])
    if any(answer.headers.get("content-type") != RAW or len(answer.content) % (4 * dim) for answer in answers):
        raise RefusedError(f"no vectors of {dim} numbers came back; has the service another model now?")
    return np.frombuffer(b"".join(answer.content for answer in answers), "<f4").astype(np.float32).reshape(-1, dim)


def _runs(sizes: Sequence[int], limits: Mapping[str, int]) -> Iterator[tuple[int, int]]:
    """Places (first, end) of runs within the service's bounds of items and bytes; what is too large alone goes alone."""
    items = min(_ITEMS, limits["items"])
    room = min(_BYTES, int(_SHARE_OF_BODY * limits["body_bytes"]))
    first = held = 0
    for number, size in enumerate(sizes):
        if number > first and (number - first == items or held + size > room):
            yield first, number
            first, held = number, 0
        held += size
    if len(sizes) > first:
        yield first, len(sizes)


def _files(images: Sequence[bytes]) -> dict[str, Any]:
    """One file as the body itself, several as a form."""
    if len(images) == 1:
        return {"content": images[0], "headers": {"content-type": RAW, "accept": RAW}}
    files = [("image", (str(number), data, RAW)) for number, data in enumerate(images)]
    return {"files": files, "headers": {"accept": RAW}}


def _post(path: str, body: Mapping[str, Any]) -> Call:
    return Call("POST", path, {"json": body})


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _seconds(retry_after: str) -> float:
    """Seconds that a Retry-After header asks for: a number, or a date (RFC 9110, 10.2.3)."""
    if retry_after.isdigit():
        return float(retry_after)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return 0.0
