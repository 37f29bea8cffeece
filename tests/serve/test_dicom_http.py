"""DICOM over HTTP: in every place where an image may be sent, frames, refusals, and no word of the patient."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from biomedray.serve.engine import Engine
from biomedray.serve.images import ImageStore
from biomedray.serve.limits import Limits
from biomedray.serve.routes import create_app
from biomedray.serve.search import SearchIndex

from .. import dicoms
from .conftest import COLORS, FakeEncoder, draw
from .test_routes import refused

RED = np.tile(np.array(COLORS["red"], np.uint8), (12, 10, 1))
FILE = dicoms.dicom(RED, "RGB")
FRAMES = np.stack([np.full((8, 8), value, np.uint8) for value in (0, 100, 200)])
SERIES = dicoms.dicom(FRAMES, frames=3)
RAW = {"content-type": "application/dicom"}
LIMITS = Limits(image_pixels=10_000)


@pytest.fixture(scope="module")
def client(index_folder: Path, encoder: FakeEncoder) -> Iterator[TestClient]:
    index = SearchIndex.open(index_folder, encoder.fingerprint)
    app = create_app(Engine(encoder, index, ImageStore(index.generation), LIMITS))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def url(data: bytes, kind: str = "application/dicom", extra: str = "") -> str:
    return f"data:{kind}{extra};base64,{base64.b64encode(data).decode()}"


def wanted(encoder: FakeEncoder, array: np.ndarray) -> np.ndarray:
    return np.asarray(encoder.encode_images([array])[0])  # type: ignore[list-item]  # pixels are taken like files


@pytest.mark.parametrize("media", ["application/dicom", "application/octet-stream", "image/png"])
def test_as_the_body_whatever_it_is_called(client: TestClient, encoder: FakeEncoder, media: str) -> None:
    answer = client.post("/v1/embeddings/image", content=FILE, headers={"content-type": media}).json()
    assert np.allclose(answer["data"][0]["embedding"], wanted(encoder, RED), atol=1e-6)


def test_in_a_form_beside_others(client: TestClient, encoder: FakeEncoder) -> None:
    files = [("a", ("x.dcm", FILE, "application/dicom")), ("b", ("y.png", draw(COLORS["red"]), "image/png"))]
    first, second = client.post("/v1/embeddings/image", files=files).json()["data"]
    assert np.allclose(first["embedding"], second["embedding"], atol=1e-6)


@pytest.mark.parametrize(
    "item",
    [
        url(FILE),
        url(FILE, "application/octet-stream"),
        {"type": "image", "image": url(FILE)},
        {"type": "image", "image": base64.b64encode(FILE).decode()},
    ],
)
def test_as_an_input(client: TestClient, encoder: FakeEncoder, item: Any) -> None:
    answer = client.post("/v1/embeddings", json={"input": item}).json()
    assert np.allclose(answer["data"][0]["embedding"], wanted(encoder, RED), atol=1e-6)


def test_from_dicom_to_hits_in_one_request(client: TestClient) -> None:
    """The guide's curl: curl --data-binary @chest.dcm -H 'content-type: application/dicom' URL/v1/search/image?k=3"""
    raw = client.post("/v1/search/image?k=3&license_group=comm&license_group=other", content=FILE, headers=RAW)
    by_json = client.post("/v1/search", json={"image": url(FILE), "k": 3, "filters": {"license_group": ["comm", "other"]}})
    assert raw.status_code == 200, raw.text
    hits = raw.json()["hits"]
    assert "red" in hits[0]["caption"]
    assert [hit["pair_id"] for hit in hits] == [hit["pair_id"] for hit in by_json.json()["hits"]]
    assert "Secret" not in raw.text
    proxies = client.post("/v1/proxy/image?k=2", content=FILE, headers=RAW)
    assert len(proxies.json()["proxies"]) == 2
    assert proxies.headers["cache-control"] == "no-store"
    assert client.post("/v1/proxy", json={"image": url(FILE), "k": 2}).json()["proxies"] == proxies.json()["proxies"]


def test_words_go_with_the_file(client: TestClient) -> None:
    plain = client.post("/v1/search/image?k=1", content=FILE, headers=RAW).json()["hits"][0]
    mixed = client.post("/v1/search/image?k=1&text=a+blue+field&minus=a+red+field&year_min=2010", content=FILE, headers=RAW)
    assert mixed.status_code == 200
    assert mixed.json()["hits"][0]["pair_id"] != plain["pair_id"]


@pytest.mark.parametrize(
    "query", ["k=0", "k=many", "k=1001", "target=table", "year_min=x", "colour=red", "frame=-1", "license_group=x", "text="]
)
def test_bad_addresses(client: TestClient, query: str) -> None:
    refused(client.post(f"/v1/search/image?{query}", content=FILE, headers=RAW), 422)


def test_zero_shot(client: TestClient) -> None:
    body = {"image": url(FILE), "labels": ["green", "red", "blue"]}
    assert client.post("/v1/classify", json=body).json()["predictions"][0]["label"] == "red"


@pytest.mark.parametrize("number", [0, 1, 2])
def test_frames(client: TestClient, encoder: FakeEncoder, number: int) -> None:
    expected = wanted(encoder, FRAMES[number])
    for answer in (
        client.post(f"/v1/embeddings/image?frame={number}", content=SERIES, headers=RAW),
        client.post("/v1/embeddings", json={"input": url(SERIES, extra=f";frame={number}")}),
    ):
        assert np.allclose(answer.json()["data"][0]["embedding"], expected, atol=1e-6)


def test_the_middle_frame_unless_told_and_none_beyond(client: TestClient, encoder: FakeEncoder) -> None:
    answer = client.post("/v1/embeddings/image", content=SERIES, headers=RAW).json()
    assert np.allclose(answer["data"][0]["embedding"], wanted(encoder, FRAMES[1]), atol=1e-6)
    refused(client.post("/v1/embeddings/image?frame=3", content=SERIES, headers=RAW), 422, "invalid_frame", "image")
    png = draw(COLORS["red"])
    refused(client.post("/v1/embeddings/image?frame=0", content=png, headers={"content-type": "image/png"}), 422, "invalid_frame")
    refused(client.post("/v1/embeddings", json={"input": url(SERIES, extra=";frame=x")}), 422, "invalid_image")


def test_text_in_the_pixels_is_refused_unless_the_operator_takes_it(client: TestClient, encoder: FakeEncoder) -> None:
    burned = dicoms.dicom(RED, "RGB", BurnedInAnnotation="YES")
    refused(client.post("/v1/embeddings/image", content=burned, headers=RAW), 422, "burned_in_annotation", "image")
    refused(client.post("/v1/embeddings", json={"input": ["a", url(burned)]}), 422, "burned_in_annotation", "input[1]")
    with TestClient(create_app(Engine(encoder, limits=Limits(burned_in=True)))) as lenient:
        assert lenient.post("/v1/embeddings/image", content=burned, headers=RAW).status_code == 200


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (dicoms.dicom(np.zeros((200, 200), np.uint8)), "image_too_large"),
        (dicoms.coded([dicoms.jpeg(np.zeros((90, 90), np.uint8))], np.zeros((9, 9), np.uint8)), "undecodable"),
        (FILE[:-50], "undecodable"),
        (FILE[:132], None),
        (FILE[:128] + b"DICM" + bytes(500), None),
        (FILE[128:], "unsupported_format"),
    ],
)
def test_bad_files(client: TestClient, data: bytes, code: str | None) -> None:
    error = refused(client.post("/v1/embeddings/image", content=data, headers=RAW), 422, code, "image")
    assert "Secret" not in str(error)


def test_patients_are_neither_logged_nor_echoed(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    broken = FILE.replace(b"RGB ", b"XYZ ")
    with caplog.at_level(0):
        for data in (FILE, broken, FILE[:300]):
            assert "Secret" not in client.post("/v1/embeddings/image", content=data, headers=RAW).text
    assert "Secret" not in caplog.text
    assert "secret-id" not in caplog.text


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF"])
def test_other_files_beside_it(client: TestClient, encoder: FakeEncoder, kind: str) -> None:
    answer = client.post("/v1/embeddings/image", content=draw(COLORS["grey"], kind=kind), headers={"content-type": "image/x"})
    assert np.allclose(answer.json()["data"][0]["embedding"], wanted(encoder, np.full((9, 9, 3), 128, np.uint8)), atol=1e-2)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_by_their_range(client: TestClient, encoder: FakeEncoder, kind: str) -> None:
    import io

    ramp = (np.arange(4096).reshape(64, 64) + 30_000).astype(np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(ramp).save(buffer, kind)
    deep = client.post("/v1/embeddings/image", content=buffer.getvalue(), headers={"content-type": "image/x"}).json()
    same = client.post("/v1/embeddings/image", content=dicoms.dicom(ramp), headers=RAW).json()
    assert np.allclose(deep["data"][0]["embedding"], same["data"][0]["embedding"], atol=5e-3)
