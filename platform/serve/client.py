"""A small client: texts and images to arrays, searches to hits, with patience while the service is busy."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import httpx
import numpy as np
from numpy.typing import NDArray

from biomedray.errors import WorkError

Vectors = NDArray[np.float32]

_BUSY = frozenset({408, 429, 503})
_CHUNK_ITEMS = 64
_CHUNK_BYTES = 16 * 1024 * 1024
_LONGEST_PAUSE = 30.0


class Client:
    """Talks to one service; use it as a context manager or call ``close``."""

    def __init__(
        self,
        url: str,
        timeout: float = 120.0,
        retries: int = 5,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """``timeout`` in seconds for one request; ``retries`` while the service says that it is busy."""
        self._http = httpx.Client(base_url=url, timeout=timeout, transport=transport)
        self._retries = retries

    def __enter__(self) -> Client:
        """Use in a with statement."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def info(self) -> dict[str, Any]:
        """Model, index and limits of the service."""
        return self._json("GET", "/v1/info")

    def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """Texts -> [n, d] float32 unit vectors.

        Raises:
            WorkError: the service refuses a text or stays busy.
        """
        return self._stack(
            [self._embed(list(texts[start : start + _CHUNK_ITEMS])) for start in range(0, len(texts), _CHUNK_ITEMS)]
        )

    def embed_images(self, images: Sequence[bytes]) -> Vectors:
        """Bytes of image files -> [n, d] float32 unit vectors; sent as they are, without base64.

        Raises:
            WorkError: the service refuses an image or stays busy.
        """
        return self._stack([self._embed_files(chunk) for chunk in _chunks(images)])

    def classify(self, image: bytes, labels: Sequence[str], templates: Sequence[str] | None = None) -> dict[str, float]:
        """Zero-shot: label -> probability, likeliest first."""
        body: dict[str, Any] = {"image": _base64(image), "labels": list(labels)}
        if templates is not None:
            body["templates"] = list(templates)
        predictions = self._json("POST", "/v1/classify", json=body)["predictions"]
        return {entry["label"]: entry["probability"] for entry in predictions}

    def search(
        self,
        text: str | None = None,
        image: bytes | None = None,
        vector: Vectors | None = None,
        pair_id: str | None = None,
        k: int = 10,
        target: Literal["figure", "caption"] = "figure",
        filters: Mapping[str, Any] | None = None,
    ) -> list[dict[str, Any]]:
        """Hits, best first, as docs/reference/http.md describes them."""
        parts = {
            "text": text,
            "image": None if image is None else _base64(image),
            "vector": None if vector is None else np.asarray(vector, dtype=float).tolist(),
            "pair_id": pair_id,
        }
        body = {name: part for name, part in parts.items() if part is not None}
        hits: list[dict[str, Any]] = self._json(
            "POST", "/v1/search", json={**body, "k": k, "target": target, "filters": dict(filters or {})}
        )["hits"]
        return hits

    def _embed(self, items: list[Any]) -> Vectors:
        answer = self._json("POST", "/v1/embeddings", json={"input": items, "encoding_format": "base64"})
        return np.stack([np.frombuffer(base64.b64decode(entry["embedding"]), "<f4") for entry in answer["data"]])

    def _embed_files(self, images: Sequence[bytes]) -> Vectors:
        files = [("image", (f"{number}", data, "application/octet-stream")) for number, data in enumerate(images)]
        response = self._send("POST", "/v1/embeddings/image", params={"format": "npy"}, files=files)
        vectors: Vectors = np.load(io.BytesIO(response.content), allow_pickle=False)
        return vectors

    def _stack(self, parts: list[Vectors]) -> Vectors:
        if not parts:
            return np.empty((0, self.info()["model"]["embed_dim"]), np.float32)
        return np.concatenate(parts)

    def _json(self, method: str, path: str, **content: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._send(method, path, **content).json()
        return answer

    def _send(self, method: str, path: str, **content: Any) -> httpx.Response:
        for attempt in range(self._retries + 1):
            try:
                response = self._http.request(method, path, **content)
            except httpx.TransportError as error:
                raise WorkError(f"{self._http.base_url}: no answer from the service ({type(error).__name__})") from error
            if response.is_success:
                return response
            if response.status_code not in _BUSY or attempt == self._retries:
                break
            time.sleep(_pause(response, attempt))
        raise WorkError(f"{path}: {_reason(response)}")


def _pause(response: httpx.Response, attempt: int) -> float:
    """Seconds to wait: what the service asks for, else twice as long each time."""
    asked = response.headers.get("retry-after", "")
    return min(_LONGEST_PAUSE, float(asked) if asked.isdigit() else 0.5 * 2**attempt)


def _reason(response: httpx.Response) -> str:
    try:
        return f"{response.status_code}: {response.json()['error']['message']}"
    except (ValueError, KeyError, TypeError):
        return f"the service answered with status {response.status_code}"


def _chunks(images: Sequence[bytes]) -> list[list[bytes]]:
    """Images in runs that stay within the service's bounds of items and bytes."""
    chunks: list[list[bytes]] = []
    size = 0
    for data in images:
        if not chunks or len(chunks[-1]) == _CHUNK_ITEMS or size + len(data) > _CHUNK_BYTES:
            chunks.append([])
            size = 0
        chunks[-1].append(data)
        size += len(data)
    return chunks


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
