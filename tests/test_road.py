"""The whole road as a user walks it: a demo that is killed while it trains, started again, and looked at afterwards."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import openai
import pyarrow.dataset as ds
import pytest

from biomedray.artifacts import read_manifest
from biomedray.serve.client import Client

from . import dicoms
from .serve.pages import NEEDS_CHROMIUM, browsing, new_page, watched

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(2400)]

BIOMEDRAY = [sys.executable, "-m", "biomedray.cli"]
DEMO = ["demo", "--generate", "240", "--epochs", "9", "--minutes", "30"]
QUERY = "bar chart of gene expression"


def start(out: Path, log: Path) -> subprocess.Popen[bytes]:
    return run([*DEMO, "--out", str(out)], log)


def run(words: list[str], log: Path, **variables: str) -> subprocess.Popen[bytes]:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "160"} | variables
    with log.open("wb") as stream:
        return subprocess.Popen(
            [*BIOMEDRAY, *words], stdout=stream, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )


def wait_for(process: subprocess.Popen[bytes], ready, log: Path, seconds: float = 1000) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert process.poll() is None, log.read_text()[-4000:]
        assert time.monotonic() < end, log.read_text()[-4000:]
        time.sleep(0.5)


@pytest.fixture(scope="module")
def road(tmp_path_factory) -> Path:
    """A finished demo folder whose first run was killed after its first checkpoint."""
    out = tmp_path_factory.mktemp("road") / "demo"
    log = out.parent / "first.log"
    first = start(out, log)
    wait_for(first, lambda: any((out / "model" / "checkpoints").glob("samples-*/state.pt")), log)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert not (out / "model" / "manifest.json").exists()
    second = start(out, out.parent / "second.log")
    assert second.wait(1200) == 0, (out.parent / "second.log").read_text()[-4000:]
    return out


def test_the_second_run_reused_what_was_finished_and_went_on_where_training_stood(road):
    text = (road.parent / "second.log").read_text()
    assert re.search(r"pairs: found, reused", text.replace("\n", ""))
    seen = [
        json.loads(line)["samples_seen"]
        for line in (road / "model" / "metrics.jsonl").read_text().splitlines()
        if '"loss"' in line
    ]
    assert seen == sorted(set(seen))
    epochs = [epoch["epoch"] for epoch in read_manifest(road / "model", "model").details["history"]]
    assert epochs == list(range(epochs[0], epochs[0] + len(epochs)))


def test_the_ledger_balances_from_files(road):
    ledger = ds.dataset(sorted((road / "pairs" / "ledger").glob("*.parquet"))).to_table().to_pylist()
    pairs = ds.dataset(sorted((road / "pairs" / "data").rglob("*.parquet"))).to_table(columns=["pair_id"])
    assert all(r["graphics"] + r["figures_without_graphic"] == r["pairs"] + r["rejects"] for r in ledger)
    assert sum(r["pairs"] for r in ledger) == pairs.num_rows == read_manifest(road / "pairs").counts["pairs"]
    assert len(set(pairs["pair_id"].to_pylist())) == pairs.num_rows


def test_held_out_retrieval_is_at_least_ten_times_chance_both_ways(road):
    scores = json.loads((road / "scores" / "scores.json").read_text())
    assert scores["candidates"] >= 60
    assert scores["image_to_text"]["times_chance_R@1"] >= 10
    assert scores["text_to_image"]["times_chance_R@1"] >= 10


PLAIN_OPEN_CLIP = """
import io, json, sys
import numpy as np, open_clip, pyarrow.dataset as ds, torch
from PIL import Image
model, _, preprocess = open_clip.create_model_and_transforms("local-dir:" + sys.argv[1])
tokenizer = open_clip.get_tokenizer("local-dir:" + sys.argv[1])
model.eval()
rows = ds.dataset(sys.argv[2], format="parquet").head(8, columns=["image", "caption"]).to_pylist()
with torch.no_grad():
    pixels = torch.stack([preprocess(Image.open(io.BytesIO(row["image"])).convert("RGB")) for row in rows])
    images = model.encode_image(pixels, normalize=True)
    texts = model.encode_text(tokenizer([row["caption"] for row in rows]), normalize=True)
assert not [m for m in sys.modules if m.startswith(("biomedray", "ray"))]
np.savez(sys.argv[3], images=images.numpy(), texts=texts.numpy())
"""


def test_plain_open_clip_loads_the_export_offline_and_gives_the_same_embeddings(road, tmp_path):
    from biomedray.model.encoder import Encoder

    held_out = road / "pairs" / "data" / "split=test"
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", PLAIN_OPEN_CLIP, str(road / "model"), str(held_out), str(tmp_path / "plain.npz")]
    subprocess.run(command, check=True, env=environment, cwd=tmp_path)
    plain = np.load(tmp_path / "plain.npz")
    rows = ds.dataset(held_out, format="parquet").head(8, columns=["image", "caption"]).to_pylist()
    encoder = Encoder.load(road / "model")
    assert np.abs(encoder.encode_images([row["image"] for row in rows]) - plain["images"]).max() <= 1e-5
    assert np.abs(encoder.encode_texts([row["caption"] for row in rows]) - plain["texts"]).max() <= 1e-5


def test_http_answers_are_the_models_own_and_search_finds(road):
    answers = json.loads((road / "http.json").read_text())
    assert answers["text_least_cosine"] >= 0.999
    assert answers["image_least_cosine"] >= 0.999
    assert len(answers["hits"]) == 4


def test_the_report_is_whole_and_needs_no_network(road):
    page = (road / "report.html").read_text()
    for heading in ("Pairs", "Model", "Retrieval: model", "Index", "Served"):
        assert f"<h2>{heading}</h2>" in page
    assert page.count("data:image/jpeg;base64,") >= 12
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", page.replace("xlink:href", "xlink"))


def test_a_third_run_reuses_everything(road):
    before = (road / "model" / "manifest.json").read_bytes()
    third = start(road, road.parent / "third.log")
    assert third.wait(900) == 0
    assert (road / "model" / "manifest.json").read_bytes() == before
    assert (road.parent / "third.log").read_text().count("reused") >= 5


# ---- 'biomedray serve' of what the road made, and whoever asks it


@pytest.fixture(scope="module")
def sessions() -> Iterator[Path]:
    """Where Ray keeps its logs. A short path: it puts sockets below it, whose names may have 107 characters at most."""
    folder = tempfile.mkdtemp(prefix="road", dir="/tmp")
    yield Path(folder)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def url(road: Path, sessions: Path) -> Iterator[str]:
    """The address of a service of the road's model and index, its proxy in front."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = road.parent / "serve.log"
    words = ["serve", str(road / "model"), "--index", str(road / "index"), "--port", str(port), "--access-log"]
    process = run(words, log, RAY_TMPDIR=str(sessions))
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(process, lambda: answers(f"{address}/readyz"), log, 300)
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(120)


def answers(address: str) -> bool:
    try:
        return httpx.get(address, timeout=5).is_success
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def picture(road: Path) -> bytes:
    """A figure of the index."""
    first = ds.dataset(sorted((road / "pairs" / "data" / "split=test").glob("*.parquet"))).head(1).to_pylist()[0]
    return bytes(first["image"])


def test_the_official_openai_client(road, url):
    from biomedray.model.encoder import Encoder

    with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as theirs:
        name = theirs.models.list().data[0].id
        found = [entry.embedding for entry in theirs.embeddings.create(model=name, input=[QUERY, "a liver"]).data]
    own = Encoder.load(road / "model").encode_texts([QUERY, "a liver"])
    assert (np.array(found) * own).sum(axis=1).min() >= 0.999


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_and_from_dicom_to_hits_in_one(url, tmp_path, picture):
    def curl(*words: str) -> dict:
        done = subprocess.run(["curl", "-sS", "--fail-with-body", *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    asked = curl(f"{url}/v1/search", "-H", "content-type: application/json", "-d", json.dumps({"text": QUERY}))
    assert len(asked["hits"]) == 10
    shades = np.linspace(0, 255, 64 * 64).reshape(64, 64).astype(np.uint8)
    (tmp_path / "chest.dcm").write_bytes(dicoms.dicom(shades))
    sent = ["--data-binary", f"@{tmp_path / 'chest.dcm'}", "-H", "content-type: application/dicom"]
    hits = curl(*sent, f"{url}/v1/search/image?k=5")["hits"]
    assert len(hits) == 5
    assert hits[0]["score"] == max(hit["score"] for hit in hits)
    (tmp_path / "figure.jpg").write_bytes(picture)
    sent = ["--data-binary", f"@{tmp_path / 'figure.jpg'}", "-H", "content-type: image/jpeg"]
    assert curl(*sent, f"{url}/v1/search/image?k=5")["hits"][0]["score"] >= 0.99


def test_our_client_and_the_command_give_the_same_vectors(url, tmp_path):
    (tmp_path / "texts.txt").write_text(f"{QUERY}\na liver\n")
    with Client(url) as client:
        wanted = client.embed_texts([QUERY, "a liver"])
        assert len(client.search(text=QUERY, k=3)) == 3
    words = ["embed", str(tmp_path / "texts.txt"), "--url", url, "--out", str(tmp_path / "vectors.npy")]
    assert run(words, tmp_path / "log").wait(120) == 0, (tmp_path / "log").read_text()
    np.testing.assert_allclose(np.load(tmp_path / "vectors.npy"), wanted, atol=1e-3)


@pytest.mark.browser
@NEEDS_CHROMIUM
def test_the_page(url):
    with browsing() as browser, new_page(browser, url) as page, watched(page, url):
        page.goto("/")
        page.fill("#q", QUERY)
        page.press("#q", "Enter")
        page.wait_for_selector(".plate img")
        page.wait_for_function(
            "() => [...document.querySelectorAll('.plate img')].slice(0, 4).every(img => img.naturalWidth > 0)"
        )


def test_the_access_log_tells_nothing_of_what_was_asked(sessions, url):
    text = "".join(path.read_text() for path in sessions.rglob("worker-*.err"))
    assert '"route": "/v1/search/image", "status": 200' in text
    assert "gene expression" not in text
