"""The whole road as a user walks it: a demo that is killed while it trains, started again, and looked at afterwards."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest

from biomedray.artifacts import read_manifest

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(2400)]

DEMO = [sys.executable, "-m", "biomedray.cli", "demo", "--generate", "240", "--epochs", "9", "--minutes", "30"]


def start(out: Path, log: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "COLUMNS": "160"}
    with log.open("wb") as stream:
        return subprocess.Popen(
            [*DEMO, "--out", str(out)], stdout=stream, stderr=subprocess.STDOUT, env=environment, start_new_session=True
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
