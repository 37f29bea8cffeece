"""The description of the API: every route is in it with examples that work, and the answers fit their schemas."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from fastapi.testclient import TestClient

from biomedray.serve.engine import Engine
from biomedray.serve.examples import ROUTES
from biomedray.serve.images import ImageStore
from biomedray.serve.routes import create_app
from biomedray.serve.search import SearchIndex

from .conftest import COLORS, FakeEncoder, draw

EXAMPLES = [(path, name) for (_, path), route in ROUTES.items() for name in route.examples]
PAIR = "PMC0000001.1/fig-1/0"


@pytest.fixture(scope="module")
def client(index_folder: Path, encoder: FakeEncoder) -> Iterator[TestClient]:
    index = SearchIndex.open(index_folder, encoder.fingerprint)
    with TestClient(create_app(Engine(encoder, index, ImageStore(index.generation)))) as client:
        yield client


@pytest.fixture(scope="module")
def api(client: TestClient) -> dict[str, Any]:
    return dict(client.get("/openapi.json").json())


def fits(api: dict[str, Any], operation: dict[str, Any], response: Any) -> None:
    """The answer is described: its status, its media type and, of JSON, its shape."""
    described = operation["responses"][str(response.status_code)]["content"]
    media = response.headers["content-type"].split(";")[0]
    assert media in described
    if media == "application/json":
        schema = {**described[media]["schema"], "components": api["components"]}
        jsonschema.Draft202012Validator(schema).validate(response.json())


def test_every_route_is_described_and_nothing_else(api: dict[str, Any]) -> None:
    found = {(method, path): operation for path, methods in api["paths"].items() for method, operation in methods.items()}
    assert set(found) == set(ROUTES)
    for operation in found.values():
        assert operation["summary"]
        assert operation["description"]
        assert {"200", "500", "503", "default"} <= set(operation["responses"])
        assert operation["responses"]["200"]["content"]
        for status, answer in operation["responses"].items():
            assert status == "200" or answer["content"]["application/json"]["schema"]["$ref"].endswith("/Refusal")
    assert "ValidationError" not in str(api)


def test_every_reference_leads_somewhere(api: dict[str, Any]) -> None:
    def references(part: Any) -> Iterator[str]:
        if isinstance(part, dict):
            if isinstance(part.get("$ref"), str):
                yield part["$ref"]
            part = list(part.values())
        if isinstance(part, list):
            for entry in part:
                yield from references(entry)

    names = {reference.removeprefix("#/components/schemas/") for reference in references(api)}
    assert names <= set(api["components"]["schemas"])


@pytest.mark.parametrize(("path", "name"), EXAMPLES)
def test_every_example_works(client: TestClient, api: dict[str, Any], path: str, name: str) -> None:
    operation = api["paths"][path]["post"]
    shown = {
        entry["summary"]: entry["value"] for entry in operation["requestBody"]["content"]["application/json"]["examples"].values()
    }
    response = client.post(path, json=shown[name])
    assert response.status_code == 200, response.text
    fits(api, operation, response)


@pytest.mark.parametrize("path", [path for (_, path), route in ROUTES.items() if route.takes_images])
def test_image_routes_take_files(client: TestClient, api: dict[str, Any], path: str) -> None:
    operation, red = api["paths"][path]["post"], draw(COLORS["red"])
    assert "image/*" in operation["requestBody"]["content"]
    fits(api, operation, client.post(path, content=red, headers={"content-type": "image/png"}))
    fits(api, operation, client.post(path, files={"image": red}))


@pytest.mark.parametrize("path", [path for method, path in ROUTES if method == "get"])
def test_routes_that_are_got(client: TestClient, api: dict[str, Any], path: str) -> None:
    response = client.get(path.replace("{name}", "biomedray").replace("{pair_id}", PAIR))
    assert response.status_code == 200
    fits(api, api["paths"][path]["get"], response)


@pytest.mark.parametrize("accept", ["application/octet-stream", "application/x-npy"])
def test_binary_answers_are_described(client: TestClient, api: dict[str, Any], accept: str) -> None:
    response = client.post("/v1/embeddings", json={"input": "a"}, headers={"accept": accept})
    fits(api, api["paths"]["/v1/embeddings"]["post"], response)


@pytest.mark.parametrize(
    ("path", "body"), [("/v1/embeddings", {}), ("/v1/embeddings", {"input": "a", "model": "x"}), ("/v1/search", {"text": ""})]
)
def test_refusals_fit_too(client: TestClient, api: dict[str, Any], path: str, body: dict[str, Any]) -> None:
    fits(api, api["paths"][path]["post"], client.post(path, json=body))


def test_python_samples_are_python(api: dict[str, Any]) -> None:
    operations = [operation for methods in api["paths"].values() for operation in methods.values()]
    samples = [code["source"] for operation in operations for code in operation["x-codeSamples"]]
    assert len(samples) >= 7
    for source in samples:
        compile(source, "sample", "exec")
