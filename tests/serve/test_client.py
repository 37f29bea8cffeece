"""The client: arrays out, patience while the service is busy, one clear line when it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi.testclient import TestClient

from biomedray.errors import WorkError
from biomedray.serve import client as client_module
from biomedray.serve.client import Client
from biomedray.serve.engine import Engine
from biomedray.serve.images import ImageStore
from biomedray.serve.routes import create_app
from biomedray.serve.search import SearchIndex

from .conftest import COLORS, FakeEncoder, draw


@pytest.fixture(scope="module")
def client(index_folder: Path, encoder: FakeEncoder) -> Iterator[Client]:
    index = SearchIndex.open(index_folder, encoder.fingerprint)
    with TestClient(create_app(Engine(encoder, index, ImageStore(index.generation)))) as http:
        ours = Client("http://testserver")
        ours._http = http
        yield ours


def test_embeddings_are_the_encoders(client: Client, encoder: FakeEncoder) -> None:
    texts = [f"text {number}" for number in range(150)]
    assert np.array_equal(client.embed_texts(texts), encoder.encode_texts(texts))
    images = [draw(color, (20, 20 + number)) for number in range(20) for color in COLORS.values()]
    assert np.allclose(client.embed_images(images), encoder.encode_images(images), atol=1e-6)
    assert client.embed_texts([]).shape == (0, 8)


def test_search_and_classify(client: Client, encoder: FakeEncoder) -> None:
    vector = encoder.encode_texts(["a red field"])[0]
    for query in ({"text": "a red field"}, {"vector": vector}, {"image": draw(COLORS["red"])}):
        assert "red" in client.search(**query, k=2)[0]["caption"]
    assert next(iter(client.classify(draw(COLORS["blue"]), ["red", "blue"], ["a {} field"]))) == "blue"


def test_a_refusal_is_one_line(client: Client) -> None:
    with pytest.raises(WorkError, match=r"^/v1/embeddings: 422: input\[1\]: an empty text$"):
        client.embed_texts(["fine", ""])


def scripted(answers: list[httpx.Response], asked: list[httpx.Request]) -> Client:
    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return answers.pop(0)

    return Client("http://service", retries=2, transport=httpx.MockTransport(answer))


def test_a_busy_service_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(client_module.time, "sleep", pauses.append)
    asked: list[httpx.Request] = []
    answers = [httpx.Response(503, headers={"retry-after": "3"}), httpx.Response(429), httpx.Response(200, json={"ok": True})]
    assert scripted(answers, asked).info() == {"ok": True}
    assert pauses == [3.0, 1.0]
    assert len(asked) == 3


def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module.time, "sleep", lambda _: None)
    with pytest.raises(WorkError, match="503"):
        scripted([httpx.Response(503)] * 3, []).info()


def test_no_service_at_all() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    with pytest.raises(WorkError, match="no answer from the service"):
        Client("http://service", transport=httpx.MockTransport(refuse)).info()
