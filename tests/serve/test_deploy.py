"""A config file on a cluster that runs: 'serve deploy', an index in shards, and another model by deploying again."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from biomedray.model.encoder import Encoder
from biomedray.model.settings import ModelConfig
from biomedray.model.towers import initialise
from biomedray.serve.client import Client

from ..clusters import BIN, free_port, head, status, wait
from .conftest import COLORS, pair_row, write_index, write_pairs

pytestmark = [pytest.mark.ray, pytest.mark.heavy, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    """As the file's head says; the package is on every node."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTEST_"))}
    paths = {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT / ".link")}
    return kept | paths | {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_AUTH_MODE": "disabled"}


@pytest.fixture(scope="module")
def dashboard(environment: dict[str, str]) -> Iterator[str]:
    """Address of the dashboard of a fresh cluster, which takes the file."""
    with head(environment, 8, "/api/serve/applications/") as address:
        yield address


def test_a_written_file_is_deployed_and_deployed_again(
    dashboard: str, environment: dict[str, str], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    captions = [f"A {color} field, number {n}." for color in COLORS for n in range(50)]
    pairs = write_pairs(tmp_path / "pairs", [pair_row(number) for number in range(24)])
    models = [tmp_path / name for name in ("first", "second")]
    for seed, model in enumerate(models):
        initialise(ModelConfig(name="tiny"), captions, model, seed=seed)
    indexes = [write_index(model.with_name(f"index-{model.name}"), pairs, Encoder.load(model), shards=2) for model in models]
    port, file = free_port(), tmp_path / "serve.yaml"
    words = ["serve", str(models[0]), "--index", str(indexes[0]), "--port", str(port), "--set", "shards=2", "--set", "cpus=1"]
    run([str(BIN / "biomedray"), *words, "--write-config", str(file)], environment)
    run([str(BIN / "serve"), "deploy", str(file), "-a", dashboard], environment)
    url = f"http://127.0.0.1:{port}"
    wait(lambda: status(f"{url}/readyz") == 200, 240)
    with Client(url) as client:
        assert client.info()["index"]["shards"] == 2
        first = check(client, models[0])

    content = yaml.safe_load(file.read_text())
    content["applications"][0]["deployments"][0]["user_config"] |= {"model": str(models[1]), "index": str(indexes[1])}
    file.write_text(yaml.safe_dump(content))
    run([str(BIN / "serve"), "deploy", str(file), "-a", dashboard], environment)
    with Client(url) as client:
        wait(lambda: client.info()["model"]["fingerprint"] != first, 120)
        check(client, models[1])


def check(client: Client, model: Path) -> str:
    """The model's own vectors, and the search that they give; the model's fingerprint."""
    encoder = Encoder.load(model)
    vectors = encoder.encode_texts(["a red field", "a blue field"])
    assert (client.embed_texts(["a red field", "a blue field"]) * vectors).sum(axis=1).min() >= 0.999
    hits = client.search(text="a red field", k=24)
    assert len({hit["pair_id"] for hit in hits}) == 24
    scores = [hit["score"] for hit in hits]
    assert scores == sorted(scores, reverse=True)
    assert np.isfinite(scores).all()
    return encoder.fingerprint


def run(command: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
