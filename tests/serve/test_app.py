"""The whole room on a real (tiny, untrained) model: index by Ray Data, HTTP by Ray Serve, and a replica that is killed."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from biomedray import cluster
from biomedray import serve as room
from biomedray.artifacts import read_manifest
from biomedray.errors import UserError
from biomedray.model.encoder import Encoder
from biomedray.model.settings import ModelConfig
from biomedray.model.towers import initialise
from biomedray.serve.client import Client

from ..clusters import free_port
from .conftest import COLORS, draw, pair_row, write_pairs

pytestmark = [pytest.mark.ray, pytest.mark.heavy]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    initialise(ModelConfig(name="tiny"), [f"A {color} field, number {n}." for color in COLORS for n in range(50)], folder, seed=1)
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "pairs", [pair_row(number) for number in range(24)])


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, ray_cluster: None, pairs: Path, model: Path) -> Path:
    """An index whose build was interrupted after the embedding and then started again."""
    from biomedray.serve import index as index_module

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    folder = tmp_path_factory.mktemp("index") / "index"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_module, "set_current", interrupt)
        with pytest.raises(KeyboardInterrupt):
            room.build_index(pairs, model, folder, progress=False)
    with pytest.raises(UserError, match="another run"):
        room.build_index(pairs, model, folder, splits=("test",), progress=False)
    room.build_index(pairs, model, folder, progress=False)
    return folder


@pytest.fixture(scope="module")
def url(index: Path, model: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    try:
        yield room.serve(model, index, port=port, block=False, settings=["precision=float32"])
    finally:
        room.stop()


def test_the_index_artifact_is_whole(index: Path, pairs: Path, model: Path) -> None:
    manifest = read_manifest(index, "index")
    assert manifest.counts == {
        "rows": 24,
        "embed_dim": Encoder.load(model).embed_dim,
        "splits": {"test": 8, "train": 8, "val": 8},
    }
    assert {entry["name"]: entry["fingerprint"] for entry in manifest.inputs}["model"] == Encoder.load(model).fingerprint
    assert sorted(path.name for path in index.iterdir()) == ["CURRENT", "generations", "manifest.json"]
    with pytest.raises(UserError, match="finished index"):
        room.build_index(pairs, model, index, progress=False)


def test_served_embeddings_are_the_models_own(url: str, model: Path) -> None:
    encoder = Encoder.load(model)
    texts, images = ["a red field", "something else"], [draw(COLORS["red"]), draw(COLORS["blue"], (9, 70), "JPEG")]
    with Client(url) as client:
        assert np.allclose(client.embed_texts(texts), encoder.encode_texts(texts), atol=1e-5)
        assert np.allclose(client.embed_images(images), encoder.encode_images(images), atol=1e-5)


def test_a_figure_finds_itself_and_is_served(url: str) -> None:
    with Client(url) as client:
        hits = client.search(image=pair_row(5)["image"], k=3, filters={"license_group": ["other"]})
    assert hits[0]["pair_id"] == "PMC0000005.1/fig-5/0"
    assert hits[0]["score"] == pytest.approx(1.0, abs=1e-4)
    figure = httpx.get(url + hits[0]["image"]["url"])
    assert figure.content == pair_row(5)["image"]
    assert httpx.get(url + hits[0]["image"]["thumbnail"]).headers["content-type"] == "image/jpeg"


def test_refusals_through_the_proxy_keep_their_shape(url: str) -> None:
    missing = httpx.get(f"{url}/nowhere", headers={"x-request-id": "my-id"})
    assert missing.status_code == 404
    assert missing.json()["error"]["request_id"] == "my-id"
    assert missing.headers.get_list("x-request-id") == ["my-id"]
    wrong = httpx.post(f"{url}/v1/search", json={"vector": [1.0, 2.0]})
    assert wrong.status_code == 422
    assert wrong.json()["error"]["code"] == "wrong_dimension"
    large = httpx.post(f"{url}/v1/embeddings/image", content=b"x" * (33 << 20), headers={"content-type": "image/png"})
    assert large.status_code == 413
    assert large.json()["error"]["type"] == "invalid_request_error"


def test_a_killed_replica_comes_back(url: str) -> None:
    import psutil

    mine = psutil.Process().children(recursive=True)
    replicas = [process for process in mine if "ServeReplica:biomedray:Service" in "".join(process.cmdline())]
    if "RAY_ADDRESS" in os.environ:
        pytest.skip("the cluster is not this session's own")
    assert replicas
    replicas[0].kill()
    deadline = time.monotonic() + 300
    while not _answers(url):
        assert time.monotonic() < deadline, "the replica did not come back"
        time.sleep(0.5)
    with Client(url) as client:
        assert client.search(text="a red field", k=1)


def test_what_cannot_be_served_is_said_before_serving(tmp_path: Path, index: Path, ray_cluster: None) -> None:
    other = tmp_path / "other"
    initialise(ModelConfig(name="tiny"), ["another model"] * 20, other, seed=2)
    with pytest.raises(UserError, match="another encoder"):
        room.serve(other, index, block=False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match="can't listen"):
            room.serve(other, port=taken.getsockname()[1], block=False)


def test_what_is_not_there_is_said_before_ray_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "start", lambda: pytest.fail("Ray was started"))
    for model, index in ((tmp_path / "nowhere", None), (tmp_path, tmp_path / "nowhere")):
        with pytest.raises(UserError, match="nowhere: no such"):
            room.serve(model, index, port=free_port(), block=False)


def _answers(url: str) -> bool:
    try:
        return httpx.post(f"{url}/v1/embeddings", json={"input": "a"}, timeout=5).is_success
    except httpx.TransportError:
        return False
