"""The HTTP service without Ray: answers of the right shape, and refusals in JSON for whatever is thrown at it."""

from __future__ import annotations

import base64
import io
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from biomedray.config import override
from biomedray.errors import UserError
from biomedray.serve import canary
from biomedray.serve.engine import Engine
from biomedray.serve.images import ImageStore
from biomedray.serve.limits import Limits
from biomedray.serve.routes import create_app
from biomedray.serve.search import SearchIndex

from .conftest import COLORS, POISON, FakeEncoder, draw
from .pages import serving

LIMITS = Limits(body_bytes=400_000, image_bytes=100_000, image_pixels=1_000_000, items=8, text_chars=100, k=50, prompts=20)
RED = draw(COLORS["red"])


def data_url(data: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


@pytest.fixture(scope="module")
def client(index_folder: Path, encoder: FakeEncoder) -> Iterator[TestClient]:
    index = SearchIndex.open(index_folder, encoder.fingerprint)
    app = create_app(Engine(encoder, index, ImageStore(index.generation), LIMITS))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def bare(encoder: FakeEncoder) -> Iterator[TestClient]:
    """A service without an index."""
    with TestClient(create_app(Engine(encoder)), raise_server_exceptions=False) as client:
        yield client


def refused(response: Any, status: int, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """The error object of a refusal, after checking its shape."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code", "request_id"}
    assert error["request_id"] == response.headers["x-request-id"]
    assert error["message"]
    assert "Traceback" not in response.text
    assert "/secret" not in response.text
    assert code in (None, error["code"]), error
    assert param in (None, error["param"]), error
    return dict(error)


# ---- what works


@pytest.mark.parametrize("path", ["/healthz", "/livez", "/readyz", "/metrics", "/v1/models", "/v1/info", "/openapi.json"])
def test_plain_routes_answer(client: TestClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 200
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("path", ["/livez", "/", "/docs", "/static/app.js", "/v1/info", "/v1/images/PMC0000001.1/fig-1/0", "/no"])
def test_head_is_get_without_a_body(client: TestClient, path: str) -> None:
    head, whole = client.head(path), client.get(path)
    assert (head.status_code, head.content) == (whole.status_code, b"")
    volatile = {"x-request-id", "content-length"} if path == "/no" else {"x-request-id"}
    assert {**head.headers, **dict.fromkeys(volatile)} == {**whole.headers, **dict.fromkeys(volatile)}


def test_a_connection_goes_on_after_head(encoder: FakeEncoder) -> None:
    with serving(Engine(encoder)) as url, httpx.Client(base_url=url) as http:
        head = http.head("/v1/info")
        assert head.headers["content-length"] == str(len(http.get("/v1/info").content))
        assert http.head("/v1/search").status_code == 405
        counted = http.get("/metrics").text
    assert 'biomedray_refused_total{code="method_not_allowed"} 1.0' in counted


def test_info_names_limits_fingerprints_and_facets(client: TestClient, bare: TestClient) -> None:
    info = client.get("/v1/info").json()
    assert info["model"]["fingerprint"] == info["index"]["encoder_fingerprint"] == "fake-0001"
    assert info["limits"]["items"] == 8
    assert info["index"]["rows"] == 24
    assert info["index"]["facets"]["license_group"] == {"comm": 8, "noncomm": 8, "other": 8}
    assert "uri" not in json.dumps(info)
    assert bare.get("/v1/info").json()["index"] is None


def test_the_openai_client_embeds_texts_and_images(client: TestClient, encoder: FakeEncoder) -> None:
    theirs = openai.OpenAI(api_key="unused", base_url="http://testserver/v1", http_client=client)
    answer = theirs.embeddings.create(model="fake", input=["a red field", data_url(RED)])
    vectors = np.array([entry.embedding for entry in answer.data])
    expected = np.concatenate([encoder.encode_texts(["a red field"]), encoder.encode_images([RED])])
    assert np.allclose(vectors, expected, atol=1e-6)
    assert answer.usage.total_tokens == 5
    assert theirs.models.list().data[0].id == "fake"
    with pytest.raises(openai.NotFoundError):
        theirs.embeddings.create(model="other", input="a")
    with pytest.raises(openai.UnprocessableEntityError, match="input\\[1\\]"):
        theirs.embeddings.create(model="fake", input=["a", ""])


@pytest.mark.parametrize(
    "item",
    [
        data_url(RED),
        f" \n{data_url(RED)}",
        {"type": "image", "image": base64.b64encode(RED).decode()},
        {"type": "image", "image": data_url(draw(COLORS["red"], kind="BMP"), "bmp")},
    ],
)
def test_images_come_in_three_forms(client: TestClient, encoder: FakeEncoder, item: Any) -> None:
    answer = client.post("/v1/embeddings", json={"input": item}).json()
    assert np.allclose(answer["data"][0]["embedding"], encoder.encode_images([RED])[0], atol=1e-6)
    assert answer["usage"]["prompt_tokens"] == 0


def test_base64_and_float_are_the_same_numbers(client: TestClient) -> None:
    floats, coded = (
        client.post("/v1/embeddings", json={"input": "a red field", "encoding_format": form}).json()["data"][0]["embedding"]
        for form in ("float", "base64")
    )
    assert np.array_equal(np.float32(floats), np.frombuffer(base64.b64decode(coded), "<f4"))


def test_raw_and_multipart_images(client: TestClient, encoder: FakeEncoder) -> None:
    blue = draw(COLORS["blue"], kind="JPEG")
    raw = client.post("/v1/embeddings/image?format=npy", content=RED, headers={"content-type": "image/png"})
    form = client.post("/v1/embeddings/image", files=[("image", RED), ("image", blue)], headers={"accept": "application/x-npy"})
    assert raw.headers["content-type"] == "application/x-npy"
    assert np.array_equal(np.load(io.BytesIO(raw.content)), encoder.encode_images([RED]))
    assert np.allclose(np.load(io.BytesIO(form.content)), encoder.encode_images([RED, blue]), atol=1e-6)
    as_json = client.post("/v1/embeddings/image", content=RED, headers={"content-type": "application/octet-stream"}).json()
    assert np.allclose(as_json["data"][0]["embedding"], encoder.encode_images([RED])[0])


def test_zero_shot_is_the_softmax_of_scaled_cosines(client: TestClient, encoder: FakeEncoder) -> None:
    labels, templates = ["red", "green", "blue"], ["a {} field", "{} all over"]
    body = {"image": data_url(RED), "labels": labels, "templates": templates}
    answer = client.post("/v1/classify", json=body).json()
    classes = np.stack([encoder.encode_texts([t.replace("{}", label) for t in templates]).mean(axis=0) for label in labels])
    classes /= np.linalg.norm(classes, axis=1, keepdims=True)
    logits = encoder.logit_scale * classes @ encoder.encode_images([RED])[0]
    expected = np.exp(logits) / np.exp(logits).sum()
    found = {entry["label"]: entry["probability"] for entry in answer["predictions"]}
    assert answer["predictions"][0]["label"] == "red"
    assert np.allclose([found[label] for label in labels], expected, atol=1e-5)


@pytest.mark.parametrize("part", [{"text": "a green field"}, {"image": data_url(draw(COLORS["green"]))}])
def test_search_by_text_and_by_image(client: TestClient, part: dict[str, str]) -> None:
    answer = client.post("/v1/search", json={**part, "k": 3, "filters": {"license_group": ["comm"], "year_min": 2011}}).json()
    assert answer["generation"] == "000001"
    assert [hit["rank"] for hit in answer["hits"]] == list(range(1, len(answer["hits"]) + 1))
    first = answer["hits"][0]
    assert "green" in first["caption"]
    assert first["license_group"] == "comm"
    assert first["links"]["pmc"].startswith("https://pmc.ncbi.nlm.nih.gov/articles/PMC")
    assert first["links"]["doi"].startswith("https://doi.org/10.1234/")
    assert "source_uri" not in first
    assert "file" not in first


def test_search_by_vector_is_search_by_its_text(client: TestClient, encoder: FakeEncoder) -> None:
    vector = (3 * encoder.encode_texts(["a blue field"])[0]).tolist()
    by_vector = client.post("/v1/search", json={"vector": vector, "target": "caption"}).json()["hits"]
    by_text = client.post("/v1/search", json={"text": "a blue field", "target": "caption"}).json()["hits"]
    assert [hit["pair_id"] for hit in by_vector] == [hit["pair_id"] for hit in by_text]


def test_a_mixed_query_lies_between_its_parts(client: TestClient) -> None:
    def best(**weights: float) -> str:
        body = {"text": "a red field", "image": data_url(draw(COLORS["blue"])), "weights": weights, "k": 1}
        return str(client.post("/v1/search", json=body).json()["hits"][0]["caption"])

    assert "red" in best(text=1, image=0.1)
    assert "blue" in best(text=0.1, image=1)


def test_more_like_this_leaves_the_figure_out(client: TestClient) -> None:
    hits = client.post("/v1/search", json={"pair_id": "PMC0000001.1/fig-1/0", "k": 4}).json()["hits"]
    assert all("green" in hit["caption"] for hit in hits)
    assert "PMC0000001.1/fig-1/0" not in [hit["pair_id"] for hit in hits]


def test_figures_are_served_whole_and_small(client: TestClient) -> None:
    hit = client.post("/v1/search", json={"text": "red", "k": 1}).json()["hits"][0]
    whole, small = client.get(hit["image"]["url"]), client.get(hit["image"]["thumbnail"])
    assert Image.open(io.BytesIO(whole.content)).size == (hit["image"]["width"], hit["image"]["height"])
    assert whole.headers["content-type"] == "image/png"
    assert max(Image.open(io.BytesIO(small.content)).size) == 320
    assert client.get(hit["image"]["url"], headers={"if-none-match": whole.headers["etag"]}).status_code == 304
    for size in (16, 17, 100, 1024):
        assert max(Image.open(io.BytesIO(client.get(f"{hit['image']['url']}?size={size}").content)).size) == min(size, 400)


def test_metrics_count_routes_not_urls(client: TestClient) -> None:
    client.get("/v1/images/PMC0000001.1/fig-1/0?size=64")
    client.get("/some/probe/of/a/scanner")
    text = client.get("/metrics").text
    assert 'biomedray_requests_total{route="/v1/images/{pair_id:path}",status="200"}' in text
    assert "scanner" not in text
    assert "biomedray_batch_items_bucket" in text


# ---- the page


def test_the_page_is_self_contained_and_strict(client: TestClient) -> None:
    page = client.get("/")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]
    assert not re.search(r"""(?:src|href)\s*=\s*["']\s*(?:https?:)?//""", page.text)
    assert not re.search(r"<script(?![^>]*\bsrc=)|\bstyle=|<style|\bon\w+=", page.text)
    assert "Research use only, not for diagnosis" in page.text
    files = list(re.findall(r'(?:src|href)="(static/[^"]+)"', page.text + client.get("/docs").text))
    assert len(files) >= 5
    for name in files:
        file = client.get(f"/{name}")
        assert file.status_code == 200
        assert "http://" not in file.text.replace("http://www.w3.org/2000/svg", "")
        assert client.get(f"/{name}", headers={"if-none-match": file.headers["etag"]}).status_code == 304
    assert "innerHTML" not in client.get("/static/app.js").text


# ---- what is refused

JSON_ROUTES = ["/v1/embeddings", "/v1/classify", "/v1/search"]


def test_unknown_routes_and_methods(client: TestClient) -> None:
    refused(client.get("/nowhere"), 404, "unknown_route")
    refused(client.get("/v1/search"), 405, "method_not_allowed")
    refused(client.get("/static/../routes.py"), 404)
    refused(client.get("/static/%2e%2e%2froutes.py"), 404)


def test_the_request_id_is_echoed_if_harmless(client: TestClient) -> None:
    assert client.get("/healthz", headers={"x-request-id": "abc-1.2_3"}).headers["x-request-id"] == "abc-1.2_3"
    assert client.get("/healthz", headers={"x-request-id": "<script>"}).headers["x-request-id"] != "<script>"
    assert len(client.get("/healthz", headers={"x-request-id": "a" * 65}).headers["x-request-id"]) == 32


@pytest.mark.parametrize("route", JSON_ROUTES)
@pytest.mark.parametrize("media", ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonx"])
def test_json_routes_want_json(client: TestClient, route: str, media: str) -> None:
    refused(client.post(route, content=b"{}", headers={"content-type": media}), 415, "unsupported_media_type")


@pytest.mark.parametrize("route", JSON_ROUTES)
@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff\xfe", b"null", b"[]", b"[" * 100_000, b'{"input":' * 20_000, b'"x"', b"NaN", b'{"a": 1e999}']
)
def test_broken_json_is_refused(client: TestClient, route: str, body: bytes) -> None:
    response = client.post(route, content=body, headers={"content-type": "application/json"})
    assert response.status_code in (400, 422)
    refused(response, response.status_code)


@pytest.mark.parametrize(
    ("value", "code", "param"),
    [
        ([], "empty_input", "input"),
        ("", "empty_text", "input"),
        (["a", "  "], "empty_text", "input[1]"),
        (None, "invalid_item", "input"),
        (7, "invalid_item", "input"),
        ([1, 2, 3], "invalid_item", "input[0]"),
        ([[1, 2]], "invalid_item", "input[0]"),
        ({"type": "audio", "audio": "x"}, "invalid_item", "input"),
        ({"type": "text"}, "invalid_item", "input"),
        ({"type": "text", "text": 1}, "invalid_value", "input"),
        ({"type": "text", "text": "a", "more": 1}, "invalid_item", "input"),
        ({"type": ["text"], "text": "a"}, "invalid_item", "input"),
        ({"type": "image", "image": "https://example.org/a.png"}, "url_not_allowed", "input"),
        ({"type": "image", "image": "http://169.254.169.254/latest"}, "url_not_allowed", "input"),
        ({"type": "image", "image": "file:///etc/passwd"}, "url_not_allowed", "input"),
        ({"type": "image", "image": "data:text/html;base64,AAAA"}, "invalid_image", "input"),
        ({"type": "image", "image": "*not base64*"}, "invalid_base64", "input"),
        ({"type": "image", "image": ""}, "empty_image", "input"),
        ("data:image/png;base64,", "empty_image", "input"),
        ("data:;base64," + base64.b64encode(RED).decode(), "invalid_image", "input"),
        (" \nDATA:text/plain;base64,AAAA", "invalid_image", "input"),
        (" data:image/png;base64,*", "invalid_base64", "input"),
        ("data:image/png,plain", "invalid_image", "input"),
        (["a", "data:image/svg+xml;base64," + base64.b64encode(b"<svg/>").decode()], "unsupported_format", "input[1]"),
        (["a"] * 9, "too_many_items", "input"),
        ("a" * 101, "text_too_long", "input"),
    ],
)
def test_bad_inputs_name_the_item(client: TestClient, value: Any, code: str, param: str) -> None:
    refused(client.post("/v1/embeddings", json={"input": value}), 422, code, param)


def test_a_lone_surrogate_is_refused(client: TestClient) -> None:
    body = b'{"input": ["fine", "\\ud800"]}'
    response = client.post("/v1/embeddings", content=body, headers={"content-type": "application/json"})
    refused(response, 422, "invalid_unicode", "input[1]")


def png_claiming(width: int, height: int) -> bytes:
    """A PNG whose header says so many pixels and whose data does not."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"GIF89a", None),
        (b"\x89PNG\r\n\x1a\n", None),
        (b"\xff\xd8\xff\xe0" + bytes(100), None),
        (b"%PDF-1.4 ...", "unsupported_format"),
        (b"<html>", "unsupported_format"),
        (bytes(1000), "unsupported_format"),
        (png_claiming(60_000, 60_000), "image_too_large"),
        (png_claiming(2000, 2000), "image_too_large"),
        (png_claiming(0, 10), None),
    ],
)
def test_bad_images_are_refused(client: TestClient, data: bytes, code: str | None) -> None:
    refused(client.post("/v1/embeddings", json={"input": ["fine", data_url(data)]}), 422, code, "input[1]")
    refused(client.post("/v1/embeddings/image", content=data, headers={"content-type": "image/png"}), 422, code, "image")
    refused(client.post("/v1/search", json={"image": data_url(data)}), 422, code, "image")
    refused(client.post("/v1/classify", json={"image": data_url(data), "labels": ["a", "b"]}), 422, code, "image")


def test_sizes_are_capped(client: TestClient) -> None:
    large = bytes(150_000)
    refused(client.post("/v1/embeddings", json={"input": data_url(large)}), 413, "image_too_large", "input")
    refused(client.post("/v1/embeddings/image", content=large, headers={"content-type": "image/png"}), 413, "image_too_large")
    refused(
        client.post("/v1/embeddings/image", content=bytes(400_001), headers={"content-type": "image/png"}), 413, "body_too_large"
    )
    unsized = (bytes(50_000) for _ in range(20))
    refused(client.post("/v1/embeddings/image", content=unsized, headers={"content-type": "image/png"}), 413, "body_too_large")
    files = [("image", RED)] * 9
    refused(client.post("/v1/embeddings/image", files=files), 400, "invalid_form")


def test_bad_forms_and_types(client: TestClient) -> None:
    refused(client.post("/v1/embeddings/image", content=RED, headers={"content-type": "text/html"}), 415)
    refused(client.post("/v1/embeddings/image", content=RED), 415)
    refused(client.post("/v1/embeddings/image", content=b"x", headers={"content-type": "multipart/form-data"}), 400)
    refused(client.post("/v1/embeddings/image", content=b"x", headers={"content-type": "multipart/form-data; boundary=b"}), 400)
    refused(client.post("/v1/embeddings/image", data={"a": "b"}, files={"c": b""}), 422)
    refused(client.post("/v1/embeddings/image?format=xml", content=RED, headers={"content-type": "image/png"}), 422)


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"text": None}, "empty_query", None),
        ({"text": 5}, None, "text"),
        ({"text": "a", "vector": [1.0]}, "wrong_dimension", "vector"),
        ({"vector": []}, "wrong_dimension", "vector"),
        ({"vector": [0.0] * 8}, "invalid_value", "vector"),
        ({"vector": [10**400] * 8}, "invalid_value", "vector"),
        ({"vector": ["1"] * 8}, "invalid_value", "vector"),
        ({"vector": [True] * 8}, "invalid_value", "vector"),
        ({"vector": "1,2"}, "invalid_value", "vector"),
        ({"k": 0}, None, "k"),
        ({"k": 51}, "invalid_value", "k"),
        ({"k": "many"}, None, "k"),
        ({"target": "table"}, None, "target"),
        ({"filters": {"license_group": ["free"]}}, None, None),
        ({"filters": {"license_group": "comm"}}, None, "filters.license_group"),
        ({"filters": {"color": "red"}}, "extra_forbidden", "filters.color"),
        ({"filters": {"journal": ["x"] * 101}}, None, "filters.journal"),
        ({"filters": {"year_min": 1e30}}, None, "filters.year_min"),
        ({"tex": "misspelt"}, "extra_forbidden", "tex"),
        ({"image": "https://example.org/x.png"}, "url_not_allowed", "image"),
        ({"weights": {"image": 2}}, "invalid_value", "weights"),
        ({"weights": {"text": 0}}, "invalid_value", "query"),
        ({"pair_id": 3}, None, "pair_id"),
        ({"k": True}, "number_wanted", "k"),
        ({"filters": {"year_min": True}}, "number_wanted", "filters.year_min"),
        ({"weights": {"text": True}}, "number_wanted", "weights.text"),
    ],
)
def test_bad_searches_are_refused(client: TestClient, change: dict[str, Any], code: str | None, param: str | None) -> None:
    refused(client.post("/v1/search", json={"text": "a", **change}), 422, code, param)


def test_low_limits_hold_for_every_search(index_folder: Path, encoder: FakeEncoder) -> None:
    index = SearchIndex.open(index_folder, encoder.fingerprint)
    engine = Engine(encoder, index, ImageStore(index.generation), Limits(k=3, thumbnail_pixels=200))
    image, raw = {"image": data_url(RED)}, {"content": RED, "headers": {"content-type": "image/png"}}
    with TestClient(create_app(engine)) as low:
        for route, found in (("/v1/search", "hits"), ("/v1/proxy", "proxies")):
            for answer in (low.post(route, json=image), low.post(f"{route}/image", **raw)):
                assert len(answer.json()[found]) == 3  # who names no number gets as many as there may be
            assert low.get(answer.json()[found][0]["image"]["thumbnail"]).status_code == 200
            refused(low.post(route, json={**image, "k": 4}), 422, param="k")
            refused(low.post(f"{route}/image?k=4", **raw), 422, param="k")


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_vectors_must_be_finite(client: TestClient, value: str) -> None:
    body = '{{"vector": [{}]}}'.format(", ".join([value] * 8))
    refused(client.post("/v1/search", content=body, headers={"content-type": "application/json"}), 422, None, "vector")


def test_what_is_not_there_is_404(client: TestClient, bare: TestClient) -> None:
    refused(client.post("/v1/search", json={"pair_id": "PMC9.1/x/0"}), 404, "unknown_pair", "pair_id")
    refused(client.get("/v1/images/PMC9.1/x/0"), 404, "unknown_pair")
    refused(client.get("/v1/images/../../etc/passwd"), 404)
    refused(client.get("/v1/images/%00"), 404, "unknown_pair")
    refused(client.get("/v1/models/other"), 404, "model_not_found")
    refused(client.post("/v1/embeddings", json={"input": "a", "model": "gpt"}), 404, "model_not_found", "model")
    refused(bare.post("/v1/search", json={"text": "a"}), 404, "no_index")
    refused(bare.get("/v1/images/PMC1.1/x/0"), 404, "no_index")


@pytest.mark.parametrize("size", ["0", "-1", "15", "1025", "x", "1e3", "99999999999999999999"])
def test_bad_thumbnail_sizes(client: TestClient, size: str) -> None:
    refused(client.get(f"/v1/images/PMC0000001.1/fig-1/0?size={size}"), 422, None, "size")


@pytest.mark.parametrize(
    "change",
    [
        {"labels": ["one"]},
        {"labels": []},
        {"labels": ["a", ""]},
        {"labels": ["a", 1]},
        {"labels": "ab"},
        {"labels": [str(n) for n in range(21)]},
        {"templates": []},
        {"templates": ["no label"]},
        {"templates": ["{}"] * 11},
        {"image": None},
    ],
)
def test_bad_zero_shot_requests(client: TestClient, change: dict[str, Any]) -> None:
    refused(client.post("/v1/classify", json={"image": data_url(RED), "labels": ["a", "b"], **change}), 422)


def test_prompts_are_bounded_before_they_are_built(client: TestClient) -> None:
    body = {"image": data_url(RED), "labels": ["a", "b" * 60]}
    assert client.post("/v1/classify", json={**body, "templates": ["{}" + 40 * "."]}).status_code == 200
    too_long = {**body, "templates": ["of {}", "{} or {}"]}  # each label and template is within the 100 characters
    error = refused(client.post("/v1/classify", json=too_long), 422, "text_too_long", "templates[1]")
    assert "124 characters" in error["message"]


def test_long_texts_are_not_remembered(encoder: FakeEncoder) -> None:
    engine = Engine(encoder)
    with TestClient(create_app(engine)) as client:
        labels = ["short", "long " * 200]
        assert client.post("/v1/classify", json={"image": data_url(RED), "labels": labels}).status_code == 200
    assert list(engine._cache) == ["this is a photo of short"]


def test_braces_in_labels_are_only_text(client: TestClient) -> None:
    labels = ["{0.__class__}", "{}", "%s"]
    assert client.post("/v1/classify", json={"image": data_url(RED), "labels": labels}).status_code == 200


@pytest.mark.parametrize("name", [name for name in Limits.model_fields if name != "burned_in"])
def test_limits_that_let_nothing_through_are_refused(name: str) -> None:
    for value in (0, -1):
        with pytest.raises(UserError, match=name):
            override(Limits(), [f"{name}={value}"])


def test_null_is_openais_default_form(client: TestClient) -> None:
    answers = [client.post("/v1/embeddings", json={"input": "a", "encoding_format": form}) for form in (None, "float")]
    assert answers[0].json() == answers[1].json()


def test_dimensions_must_be_the_models(client: TestClient) -> None:
    assert client.post("/v1/embeddings", json={"input": "a", "dimensions": 8, "user": "me"}).status_code == 200
    refused(client.post("/v1/embeddings", json={"input": "a", "dimensions": 4}), 422, None, "dimensions")


def test_a_failing_model_says_nothing_of_its_insides(client: TestClient) -> None:
    error = refused(client.post("/v1/embeddings", json={"input": ["fine", POISON]}), 500, "internal_error")
    assert error["type"] == "server_error"
    assert POISON not in error["message"]
    assert client.post("/v1/embeddings", json={"input": "fine"}).status_code == 200


def test_a_changed_model_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    class Drifting(FakeEncoder):
        sign = 1

        def encode_tokens(self, rows: Any) -> np.ndarray:
            return self.sign * super().encode_tokens(rows)

    monkeypatch.setattr(canary, "EVERY_SECONDS", 0.05)
    drifting = Drifting()
    with TestClient(create_app(Engine(drifting))) as client:
        assert client.get("/readyz").status_code == 200
        drifting.sign = -1
        until = time.monotonic() + 30
        while (response := client.get("/readyz")).status_code == 200:
            assert time.monotonic() < until
            time.sleep(0.02)
        assert response.headers["retry-after"] == "5"
        refused(response, 503, "not_ready")


def test_overload_is_503_with_retry_after(encoder: FakeEncoder) -> None:
    limits = Limits(queue_texts=2, queue_images=2, inflight_bytes=2000)
    with TestClient(create_app(Engine(encoder, limits=limits))) as client:
        response = client.post("/v1/embeddings", json={"input": ["a", "b", "c"]})
        refused(response, 503, "overloaded")
        assert int(response.headers["retry-after"]) >= 1
        refused(client.post("/v1/embeddings", json={"input": "a" * 3000}), 503, "overloaded")
        assert client.post("/v1/embeddings", json={"input": ["a", "b"]}).status_code == 200


def test_a_request_that_takes_too_long_is_given_up(encoder: FakeEncoder) -> None:
    import threading

    gate = threading.Event()

    class Stuck(FakeEncoder):
        def encode_texts(self, texts: Any) -> np.ndarray:
            gate.wait(10)
            return super().encode_texts(texts)

    with TestClient(create_app(Engine(Stuck(), limits=Limits(request_seconds=0.05)))) as client:
        refused(client.post("/v1/embeddings", json={"input": "a"}), 503, "timeout")
        gate.set()
