"""OpenAI's own client, waiting and asyncio, against the service: what it sends, what it makes of answers and refusals."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from fastapi.testclient import TestClient

from biomedray.serve.access import Access
from biomedray.serve.engine import Engine
from biomedray.serve.keys import add_key
from biomedray.serve.limits import Limits
from biomedray.serve.routes import create_app

from .conftest import COLORS, FakeEncoder, draw
from .pages import serving

RED = draw(COLORS["red"])
RED_URL = "data:image/png;base64," + base64.b64encode(RED).decode()
LIMITS = Limits(items=8, text_chars=100)


@pytest.fixture(scope="module")
def engine(encoder: FakeEncoder) -> Engine:
    return Engine(encoder, limits=LIMITS)


@pytest.fixture(scope="module")
def url(engine: Engine) -> Iterator[str]:
    with serving(engine) as url:
        yield f"{url}/v1"


@pytest.fixture(scope="module")
def theirs(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key="any", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def http(encoder: FakeEncoder) -> Iterator[TestClient]:
    with TestClient(create_app(Engine(encoder, limits=LIMITS))) as client:
        yield client


def test_a_text_a_list_and_images(theirs: openai.OpenAI, encoder: FakeEncoder) -> None:
    one = theirs.embeddings.create(model="fake", input="a red field")
    assert np.allclose(one.data[0].embedding, encoder.encode_texts(["a red field"])[0], atol=1e-6)
    assert (one.object, one.model, one.data[0].object, one.data[0].index) == ("list", "fake", "embedding", 0)
    assert one.usage.prompt_tokens == one.usage.total_tokens == 5
    mixed = theirs.embeddings.create(model="fake", input=["a red field", RED_URL, "a"])
    expected = [encoder.encode_texts(["a red field"]), encoder.encode_images([RED]), encoder.encode_texts(["a"])]
    assert np.allclose([entry.embedding for entry in mixed.data], np.concatenate(expected), atol=1e-6)
    assert [entry.index for entry in mixed.data] == [0, 1, 2]
    assert mixed.usage.total_tokens == 8


@pytest.mark.parametrize("form", ["float", "base64"])
def test_both_forms_on_request(theirs: openai.OpenAI, encoder: FakeEncoder, form: Any) -> None:
    answer = theirs.embeddings.create(model="fake", input=["a"], encoding_format=form).data[0].embedding
    vector = answer if form == "float" else np.frombuffer(base64.b64decode(str(answer)), "<f4")
    assert np.array_equal(np.float32(vector), encoder.encode_texts(["a"])[0])


def test_asyncio(url: str, encoder: FakeEncoder) -> None:
    async def work() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=url, api_key="any", max_retries=0) as client:
            return await asyncio.gather(*(client.embeddings.create(model="fake", input=[f"text {n}", RED_URL]) for n in range(9)))

    for number, answer in enumerate(asyncio.run(work())):
        assert np.allclose(answer.data[0].embedding, encoder.encode_texts([f"text {number}"])[0], atol=1e-6)


def test_models_by_name_and_by_alias(theirs: openai.OpenAI) -> None:
    assert [model.id for model in theirs.models.list()] == ["fake", "biomedray"]
    assert theirs.models.retrieve("fake").id == "fake"
    assert theirs.models.retrieve("biomedray").to_dict()["root"] == "fake"
    assert theirs.embeddings.create(model="biomedray", input="a").model == "fake"
    for call in (lambda: theirs.models.retrieve("gpt"), lambda: theirs.embeddings.create(model="gpt", input="a")):
        with pytest.raises(openai.NotFoundError, match="this service has fake"):
            call()


def test_dimensions_and_user(theirs: openai.OpenAI) -> None:
    assert len(theirs.embeddings.create(model="fake", input="a", dimensions=8, user="me").data[0].embedding) == 8
    with pytest.raises(openai.UnprocessableEntityError, match="embeddings have 8") as found:
        theirs.embeddings.create(model="fake", input="a", dimensions=4)
    assert found.value.param == "dimensions"


@pytest.mark.parametrize("tokens", [[1, 2, 3], [[1, 2], [3]]])
def test_arrays_of_tokens_are_refused_in_words(theirs: openai.OpenAI, tokens: Any) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="arrays of tokens are not taken; send the text itself") as found:
        theirs.embeddings.create(model="fake", input=tokens)
    assert found.value.param == "input[0]"


@pytest.mark.parametrize(
    ("value", "code", "param"),
    [
        (["a", ""], "empty_text", "input[1]"),
        ("x" * 101, "text_too_long", "input"),
        (["a"] * 9, "too_many_items", "input"),
        ("data:image/png;base64,AAAA", "unsupported_format", "input"),
    ],
)
def test_refusals_carry_code_and_param(theirs: openai.OpenAI, value: Any, code: str, param: str) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as found:
        theirs.embeddings.create(model="fake", input=value)
    assert (found.value.code, found.value.param) == (code, param)
    assert found.value.type == "invalid_request_error"
    assert found.value.request_id


def test_bodies_that_are_no_json_are_bad_requests(theirs: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        theirs.post("/embeddings", cast_to=object, content=b"{", options={"headers": {"content-type": "application/json"}})


def test_keys_and_rates_are_their_kinds_of_error(encoder: FakeEncoder, tmp_path: Path) -> None:
    key = add_key(tmp_path / "keys", "tests")
    app = create_app(Engine(encoder), access=Access(keys=tmp_path / "keys", rate=3))
    with TestClient(app) as http:
        options: dict[str, Any] = {"base_url": "http://testserver/v1", "http_client": http, "max_retries": 0}
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(api_key="wrong", **options).embeddings.create(model="fake", input="a")
        good = openai.OpenAI(api_key=key, **options)
        assert good.embeddings.create(model="fake", input="a").data
        with pytest.raises(openai.RateLimitError) as found:
            [good.embeddings.create(model="fake", input=["a", "b"]) for _ in range(20)]
        assert int(found.value.response.headers["retry-after"]) >= 1


# ---- forms that OpenAI has not


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/embeddings/image"])
def test_bytes_on_request(http: TestClient, encoder: FakeEncoder, path: str) -> None:
    if path.endswith("image"):
        sent: dict[str, Any] = {"files": [("image", RED), ("image", draw(COLORS["blue"]))]}
        expected = encoder.encode_images([RED, draw(COLORS["blue"])])
    else:
        sent, expected = {"json": {"input": ["a red field", "else"]}}, encoder.encode_texts(["a red field", "else"])
    raw = http.post(path, headers={"accept": "application/octet-stream"}, **sent)
    assert raw.headers["content-type"] == "application/octet-stream"
    assert raw.headers["x-embedding-shape"] == "2,8"
    assert np.allclose(np.frombuffer(raw.content, "<f4").reshape(2, 8), expected, atol=1e-6)
    npy = http.post(path, headers={"accept": "text/plain, application/x-npy;q=0.9"}, **sent)
    assert np.allclose(np.load(io.BytesIO(npy.content)), expected, atol=1e-6)
    for accept in ("*/*", "application/json", "application/*", "", "application/x-npy;q=0, application/octet-stream; Q=0.00"):
        assert http.post(path, headers={"accept": accept}, **sent).headers["content-type"] == "application/json"


def test_numbers_are_short_and_exact(http: TestClient, encoder: FakeEncoder) -> None:
    text = http.post("/v1/embeddings", json={"input": "something"}).text
    numbers = http.post("/v1/embeddings", json={"input": "something"}).json()["data"][0]["embedding"]
    assert np.array_equal(np.float32(numbers), encoder.encode_texts(["something"])[0])
    assert len(text) < 8 * 14 + 160
