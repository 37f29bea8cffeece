"""Retrieval through the real road: a set of captions, a model that reads them, embeddings made once, what cannot be done."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from biomedray.artifacts import read_manifest
from biomedray.errors import UserError
from biomedray.evaluate import retrieval

MODEL = '''
import numpy as np, torch

class Reader:
    """Sees the number in a picture's grey value and reads it in a caption: always right, but for odd captions if half."""
    name, fingerprint = "reader", "reader"
    def __init__(self, half): self.half = half; self.fingerprint += str(half)
    def preprocess(self, image): return torch.from_numpy(np.asarray(image.resize((4, 4)), np.float32)).permute(2, 0, 1)
    def encode_images(self, batch): return torch.eye(64)[(batch.mean(dim=(1, 2, 3)) / 4).round().long()]
    def encode_texts(self, texts):
        numbers = [int(text.split()[-1]) if text[-1].isdigit() else 63 for text in texts]
        return torch.eye(64)[[63 if self.half and n % 2 else n for n in numbers]]

def load(device): return Reader(False)
def load_half(device): return Reader(True)
'''


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "reader.py"
    path.write_text(MODEL)
    return f"python:{path}:load"


@pytest.fixture(scope="module")
def captioned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("set") / "numbers"
    folder.mkdir()
    lines = []
    for number in range(40):
        Image.fromarray(np.full((8, 8, 3), 4 * number, np.uint8)).save(folder / f"{number}.png")
        lines.append({"file": f"{number}.png", "caption": f"a picture of {number}", "split": "test", "group": f"g{number // 4}"})
    (folder / "bad.png").write_bytes(b"no picture")
    lines.append({"file": "bad.png", "caption": "a picture of 50", "split": "test", "group": "g0"})
    (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_a_model_that_reads_finds_everything(captioned, model, tmp_path):
    manifest = retrieval(captioned, model, tmp_path / "out", ann="auto", resamples=100, progress=False)
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert scores == manifest.details == read_manifest(tmp_path / "out", "scores").details
    assert (scores["set"], scores["n"], scores["model"]) == ("numbers", 40, "reader")
    assert sum(scores["rejects"].values()) == 1
    for way in ("image_to_text", "text_to_image"):
        assert scores[way]["R@1"] == scores[way]["mrr"] == scores["ann"][way]["R@1"] == 1
        assert scores[way]["interval_95"]["R@1"] == pytest.approx([0.025 ** (1 / 10), 1])  # ten groups, no miss
        assert scores[way]["times_chance_R@1"] == pytest.approx(40)
    assert list(scores["breakdown"]) == ["caption length, words"]
    assert "10 groups" in scores["notes"][0]


def test_what_it_cannot_read_is_missed_and_ties_are_told(captioned, model, tmp_path):
    half = model.replace(":load", ":load_half")
    scores = retrieval(captioned, half, tmp_path / "out", resamples=100, progress=False).details
    # Odd captions all lie at one point: each odd figure's own caption scores 0, as do all others.
    assert scores["image_to_text"]["R@1"] == 0.5
    assert scores["image_to_text"]["tied_queries"] == 20
    assert scores["image_to_text"]["ties_in_favour"]["R@1"] == 1
    assert scores["image_to_text"]["ties_at_random"]["R@1"] == pytest.approx((20 + 20 / 40) / 40)


def test_embeddings_are_made_once_and_shared(captioned, model, tmp_path):
    store = tmp_path / "vectors"
    retrieval(captioned, model, tmp_path / "one", embeddings=store, resamples=100, progress=False)
    [made] = store.iterdir()
    before = (made / "manifest.json").stat().st_mtime_ns
    retrieval(captioned, model, tmp_path / "two", embeddings=store, resamples=100, progress=False)
    assert [(path, (path / "manifest.json").stat().st_mtime_ns) for path in store.iterdir()] == [(made, before)]
    one, two = (json.loads((tmp_path / name / "scores.json").read_text()) for name in ("one", "two"))
    assert one == two
    assert (tmp_path / "one" / "queries.parquet").read_bytes() == (tmp_path / "two" / "queries.parquet").read_bytes()


def test_a_limit_is_noted(captioned, model, tmp_path):
    scores = retrieval(captioned, model, tmp_path / "out", limit=12, resamples=100, progress=False).details
    assert scores["n"] == 12
    assert "fewer candidates" in scores["notes"][0]


def test_what_cannot_be_ranked_is_said_before_anything_is_written(captioned, model, tmp_path):
    for options, says in (
        ({"split": "val"}, "0 pairs in split val"),
        ({"by": "figure"}, "--by figure"),
        ({"limit": 1}, "--limit 1"),
    ):
        with pytest.raises(UserError, match=says):
            retrieval(captioned, model, tmp_path / "out", progress=False, **options)
    assert not (tmp_path / "out").exists()
