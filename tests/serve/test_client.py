"""The clients: arrays out in order, runs within the limits, patience with a busy service, one clear line when it refuses."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from biomedray.errors import WorkError
from biomedray.serve import calls
from biomedray.serve.client import AsyncClient, Client, RefusedError, shrink_image
from biomedray.serve.engine import Engine
from biomedray.serve.images import ImageStore
from biomedray.serve.limits import Limits
from biomedray.serve.routes import create_app
from biomedray.serve.search import SearchIndex

from .conftest import COLORS, FakeEncoder, draw

pytestmark = pytest.mark.filterwarnings("ignore:You should not use the 'timeout' argument with the TestClient")
LIMITS = Limits(items=7, image_bytes=50_000, body_bytes=80_000)
TEXTS = [f"text {number}" for number in range(50)] + ["a red field"]
IMAGES = [draw(color, (20, 20 + number)) for number in range(5) for color in COLORS.values()]


@pytest.fixture(scope="module")
def app(index_folder: Path, encoder: FakeEncoder) -> FastAPI:
    index = SearchIndex.open(index_folder, encoder.fingerprint)
    return create_app(Engine(encoder, index, ImageStore(index.generation), LIMITS))


@pytest.fixture(scope="module")
def client(app: FastAPI) -> Iterator[Client]:
    with TestClient(app) as http, Client("http://testserver") as ours:
        ours._http = http  # httpx itself can wait only on a socket
        yield ours


def awaited(app: FastAPI, work: Callable[[AsyncClient], Coroutine[Any, Any, Any]], **options: Any) -> Any:
    async def run() -> Any:
        async with AsyncClient("http://testserver", transport=httpx.ASGITransport(app), **options) as ours:
            return await work(ours)

    return asyncio.run(run())


def test_embeddings_are_the_encoders(client: Client, encoder: FakeEncoder) -> None:
    assert np.array_equal(client.embed_texts(TEXTS), encoder.encode_texts(TEXTS))
    assert np.allclose(client.embed_images(IMAGES), encoder.encode_images(IMAGES), atol=1e-6)
    assert client.embed_texts([]).shape == client.embed_images([]).shape == (0, 8)


def test_the_awaited_client_gives_the_same_in_order(index_folder: Path, encoder: FakeEncoder) -> None:
    index = SearchIndex.open(index_folder, encoder.fingerprint)
    app = create_app(Engine(encoder, index, ImageStore(index.generation), LIMITS))

    async def work(ours: AsyncClient) -> tuple[Any, ...]:
        texts, images = await asyncio.gather(ours.embed_texts(TEXTS), ours.embed_images(IMAGES))
        hits = await ours.search("a red field", k=1)
        labels = await ours.classify(draw(COLORS["blue"]), ["red", "blue"])
        return texts, images, hits, labels, await ours.figure(hits[0]["pair_id"], 32)

    texts, images, hits, labels, figure = awaited(app, work)
    assert np.array_equal(texts, encoder.encode_texts(TEXTS))
    assert np.allclose(images, encoder.encode_images(IMAGES), atol=1e-6)
    assert "red" in hits[0]["caption"]
    assert next(iter(labels)) == "blue"
    assert max(Image.open(io.BytesIO(figure)).size) == 32


def test_both_clients_have_the_same_methods() -> None:
    public = [{name for name in vars(kind) if not name.startswith("_")} for kind in (Client, AsyncClient)]
    assert public[0] == public[1] == {"close", "info", "embed_texts", "embed_images", "classify", "search", "proxy", "figure"}


def test_search_classify_and_figures(client: Client, encoder: FakeEncoder) -> None:
    vector = encoder.encode_texts(["a red field"])[0]
    for query in (
        {"text": "a red field"},
        {"vector": vector},
        {"image": draw(COLORS["red"])},
        {"pair_id": "PMC0000004.1/fig-4/0"},
    ):
        hits = client.search(**query, k=2, filters={"license_group": ["comm", "noncomm"]})
        assert "red" in hits[0]["caption"]
    blue = client.search("a red field", vector=encoder.encode_texts(["a blue field"])[0], weights={"text": 0.1}, k=1)
    assert "blue" in blue[0]["caption"]
    assert next(iter(client.classify(draw(COLORS["blue"]), ["red", "blue"], ["a {} field"]))) == "blue"
    whole = client.figure("PMC0000001.1/fig-1/0")
    assert Image.open(io.BytesIO(whole)).size == (401, 300)


def test_a_refusal_is_one_line_and_names_the_item_of_the_callers_list(client: Client, app: FastAPI) -> None:
    texts = [*TEXTS[:20], " ", *TEXTS]
    with pytest.raises(RefusedError, match=r"^/v1/embeddings: 422: input\[20\]: an empty text$") as found:
        client.embed_texts(texts)
    assert (found.value.status, found.value.code, found.value.item) == (422, "empty_text", 20)
    with pytest.raises(RefusedError) as found:
        client.embed_images([*IMAGES[:10], b"<html>", *IMAGES])
    assert found.value.item == 10
    with pytest.raises(RefusedError, match=r"^image\[1\]: 50,001 bytes, the service takes 50,000$") as found:
        client.embed_images([IMAGES[0], bytes(50_001)])
    assert found.value.item == 1
    with pytest.raises(RefusedError) as found:
        client.embed_images([*IMAGES[:7], b"alone"])
    assert found.value.item == 7


@given(
    st.lists(st.integers(0, 500), max_size=40),
    st.integers(1, 100),
    st.integers(1, 2000),
)
def test_runs_hold_everything_once_in_order_and_within_bounds(sizes: list[int], items: int, body: int) -> None:
    runs = list(calls._runs(sizes, {"items": items, "body_bytes": body}))
    assert [number for first, end in runs for number in range(first, end)] == list(range(len(sizes)))
    for first, end in runs:
        assert end - first <= items
        assert end - first == 1 or sum(sizes[first:end]) <= 0.9 * body


# ---- patience


class Script:
    """A service that answers as told, one after another, and then the last again."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[httpx.Request] = []
        self.pauses: list[float] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)


@pytest.fixture(params=["waiting", "asyncio"])
def ask(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Ask a scripted service for /v1/info, with either client; pauses are noted, not made."""

    def run(script: Script, **options: Any) -> Any:
        monkeypatch.setattr(time, "sleep", script.pauses.append)
        if request.param == "waiting":
            with Client("http://service", transport=httpx.MockTransport(script), **options) as client:
                return client.info()

        async def nap(seconds: float) -> None:
            script.pauses.append(seconds)

        async def work() -> Any:
            async with AsyncClient("http://service", transport=httpx.MockTransport(script), **options) as client:
                with pytest.MonkeyPatch.context() as patched:
                    patched.setattr("biomedray.serve.client.asyncio.sleep", nap)
                    return await client.info()

        return asyncio.run(work())

    return run


GOOD = httpx.Response(200, json={"ok": True})


def test_a_busy_service_is_asked_again_as_it_says_and_a_little_later(ask: Callable[..., Any]) -> None:
    script = Script(httpx.Response(503, headers={"retry-after": "3"}), httpx.Response(429), httpx.Response(408), GOOD)
    assert ask(script) == {"ok": True}
    assert len(script.asked) == 4
    assert 3.25 <= script.pauses[0] <= 3.5
    assert 0.5 <= script.pauses[1] <= 1.0
    assert 1.0 <= script.pauses[2] <= 2.0


def test_retry_after_may_be_a_date(ask: Callable[..., Any]) -> None:
    script = Script(httpx.Response(503, headers={"retry-after": formatdate(time.time() + 20, usegmt=True)}), GOOD)
    ask(script)
    assert 18 <= script.pauses[0] <= 21
    script = Script(httpx.Response(503, headers={"retry-after": "soon"}), GOOD)
    ask(script)
    assert script.pauses[0] <= 0.5


@pytest.mark.parametrize("error", [httpx.ConnectError("x"), httpx.RemoteProtocolError("x"), httpx.ReadTimeout("x")])
def test_lost_connections_are_tried_again(ask: Callable[..., Any], error: Exception) -> None:
    assert ask(Script(error, error, GOOD)) == {"ok": True}
    with pytest.raises(WorkError, match=rf"^/v1/info: no answer from the service \({type(error).__name__}\)$"):
        ask(script := Script(error), retries=2)
    assert len(script.asked) == 3


def test_patience_ends(ask: Callable[..., Any]) -> None:
    with pytest.raises(RefusedError, match="503"):
        ask(script := Script(httpx.Response(503)), retries=2)
    assert len(script.asked) == 3
    with pytest.raises(RefusedError, match="429"):
        ask(script := Script(httpx.Response(429, headers={"retry-after": "9"})), deadline=5)
    assert len(script.asked) == 1


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422, 500])
def test_what_would_not_change_is_not_asked_again(ask: Callable[..., Any], status: int) -> None:
    error = {"error": {"message": "no", "type": "x", "param": None, "code": "c", "request_id": "r"}}
    with pytest.raises(RefusedError, match=f"^/v1/info: {status}: no$"):
        ask(script := Script(httpx.Response(status, json=error)))
    assert len(script.asked) == 1


@pytest.mark.parametrize(
    "answer", [httpx.Response(200, text="<html>"), httpx.Response(200, json=[1]), httpx.Response(500, text="oh")]
)
def test_another_kind_of_server_is_one_line(ask: Callable[..., Any], answer: httpx.Response) -> None:
    with pytest.raises(WorkError) as found:
        ask(Script(answer))
    assert "\n" not in str(found.value)


def test_vectors_of_another_length_are_not_taken() -> None:
    about = {"model": {"embed_dim": 8}, "limits": Limits().resolved()}
    script = Script(httpx.Response(200, json=about), httpx.Response(200, content=bytes(40), headers={"content-type": calls.RAW}))
    with (
        Client("http://service", transport=httpx.MockTransport(script)) as client,
        pytest.raises(WorkError, match="another model"),
    ):
        client.embed_texts(["a"])


def test_the_key_is_sent_and_never_shown() -> None:
    script = Script(GOOD)
    with Client("http://service", key="s3cret", transport=httpx.MockTransport(script)) as client:
        client.info()
        assert "s3cret" not in repr(client)
    assert script.asked[0].headers["authorization"] == "Bearer s3cret"


def test_an_address_is_wanted() -> None:
    with pytest.raises(WorkError, match="the address of a service is wanted"):
        Client("localhost:8000")


def test_a_proxy_search_sends_the_image_and_gives_the_answer_back() -> None:
    script = Script(httpx.Response(200, json={"proxies": [], "note": "none"}))
    with Client("http://service", transport=httpx.MockTransport(script)) as client:
        assert client.proxy(image=b"image", k=3, min_score=0.5)["note"] == "none"
    body = json.loads(script.asked[0].content)
    assert script.asked[0].url.path == "/v1/proxy"
    assert (body["k"], body["min_score"], body["image"]) == (3, 0.5, "aW1hZ2U=")


def test_requests_under_way_are_bounded() -> None:
    under_way, most = 0, 0
    about = {"model": {"embed_dim": 8}, "limits": Limits(items=1).resolved()}

    async def answer(request: httpx.Request) -> httpx.Response:
        nonlocal under_way, most
        if request.url.path == "/v1/info":
            return httpx.Response(200, json=about)
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.001 * (int(request.content.split(b'"')[3]) % 3))
        under_way -= 1
        row = np.full(8, int(request.content.split(b'"')[3]), "<f4")
        return httpx.Response(200, content=row.tobytes(), headers={"content-type": calls.RAW})

    async def work() -> Any:
        async with AsyncClient("http://service", in_flight=3, transport=httpx.MockTransport(answer)) as client:
            return await client.embed_texts([str(number) for number in range(20)])

    assert asyncio.run(work())[:, 0].tolist() == list(range(20))
    assert most == 3


def test_pictures_are_made_smaller_only_when_asked(client: Client) -> None:
    large = draw(COLORS["red"], (800, 600))
    small = shrink_image(large, 100)
    assert Image.open(io.BytesIO(small)).size == (133, 100)
    assert Image.open(io.BytesIO(small)).format == "JPEG"
    assert shrink_image(large, 600) is large
    assert shrink_image(b"no image", 100) == b"no image"
    assert Client("http://service")._ready([large])[0] is large
    assert Client("http://service", shrink=100)._ready([large])[0] == small


def test_over_a_socket(app: FastAPI, encoder: FakeEncoder) -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(create_app(Engine(encoder, limits=LIMITS)), log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            with Client(f"http://127.0.0.1:{listening.getsockname()[1]}/") as client:
                assert np.array_equal(client.embed_texts(TEXTS), encoder.encode_texts(TEXTS))
                assert np.allclose(client.embed_images(IMAGES), encoder.encode_images(IMAGES), atol=1e-6)
        finally:
            server.should_exit = True
            thread.join()
