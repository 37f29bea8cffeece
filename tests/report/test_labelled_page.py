"""The commands and pages of zero-shot and probe, on miniatures with a model from a user's file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from biomedray.artifacts import read_manifest
from biomedray.cli import app
from biomedray.errors import UserError
from biomedray.report import inspect_table, write_report

MODEL = """
import torch

WORDS = {"normal lung": 60 / 255, "pneumonia": 120 / 255, "lymph node metastasis": 120 / 255, "lymph node": 60 / 255}


class Brightness:
    logit_scale = 20.0

    def preprocess(self, image):
        grey = image.convert("L").resize((8, 8)).tobytes()
        return (torch.tensor(list(grey)).float() / 255).reshape(1, 8, 8).repeat(3, 1, 1)

    def encode_images(self, batch):
        return self._circle(batch.mean(dim=(1, 2, 3)))

    def encode_texts(self, texts):
        return self._circle(torch.tensor([next((v for k, v in WORDS.items() if k in text), 0.5) for text in texts]))

    def _circle(self, bright):
        angle = bright * torch.pi / 2
        return torch.stack([angle.cos(), angle.sin()], dim=1)


def make(device):
    return Brightness()
"""


@pytest.fixture(scope="module")
def place(load_module, tmp_path_factory):
    """Miniatures, and a model that tells them apart."""
    mini = load_module(Path(__file__).parents[1] / "evaluate" / "miniatures.py")
    root = tmp_path_factory.mktemp("page")
    (root / "mine.py").write_text(MODEL)
    mini.medmnist(root / "pneumoniamnist.npz", n=24)
    mini.pcam(root / "pcam")
    return root


def run(place, *words):
    return CliRunner().invoke(app, ["evaluate", *map(str, words), "--quiet", "--resamples", "100"], env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def scored(place):
    model = f"python:{place / 'mine.py'}:make"
    done = [
        run(place, "zeroshot", place / "pneumoniamnist.npz", model, "--out", place / "zs"),
        run(place, "probe", place / "pneumoniamnist.npz", model, "--out", place / "probe", "--floor", "--seeds", 2),
        run(place, "zeroshot", place / "pcam", place / "pneumoniamnist.npz", model, "--out", place / "table"),
    ]
    assert [one.exit_code for one in done] == [0, 0, 0], [one.output for one in done]
    return place, [one.output for one in done]


def test_the_commands_print_their_tables(scored):
    _, (zero_shot, probe, table) = scored
    for word in ("accuracy", "100.0", "calibration error", "Always saying"):
        assert word in zero_shot
    for word in ("100 % (24)", "0 (zero-shot)", "raw 28 px pixels", "± over seeds"):
        assert word in probe
    for word in ("PCam", "6 slides", "paper, other weights, 224 px", "73.4", "No mean"):
        assert word in table


def test_the_page_shows_numbers_and_plots(scored, tmp_path):
    place, _ = scored
    folders = [place / name for name in ("zs", "probe", "table", "table/pcam")]
    page = write_report(folders, tmp_path / "page.html").read_text()
    for title in (
        "Zero-shot: pneumoniamnist",
        "Linear probe: pneumoniamnist",
        "the paper&#39;s table",
        "Confusion",
        "Reliability",
    ):
        assert title in page
    assert "paper, other weights" in page
    assert page.count("<svg") == 2 + 3 + 0 + 2
    assert write_report(folders, tmp_path / "again.html").read_text() == page
    for folder in folders:
        inspect_table(folder)


def test_scores_on_disk_are_the_manifests(scored):
    place, _ = scored
    for name, task in (("zs", "zeroshot"), ("probe", "probe"), ("table", "table")):
        manifest = read_manifest(place / name, "scores")
        assert manifest.config["task"] == task
        assert json.loads((place / name / "scores.json").read_text()) == manifest.details


def test_a_users_mistakes_are_one_line(place):
    model, out = f"python:{place / 'mine.py'}:make", place / "never"
    for words, says in (
        (["zeroshot", place / "pcam", "--out", out], "name a set of labelled images and a model"),
        (["zeroshot", place / "pcam", model, "--out", out, "--class", "x"], "--class x: write NAME=VALUE"),
        (["zeroshot", place / "pcam", model, "--out", out, "--layout", "rsna"], "no folder stage_2_train_images"),
        (["probe", place / "pcam", model, "--out", out, "--fraction", "2"], "fractions 2.0: each above 0"),
        (["probe", place / "nowhere", model, "--out", out], "no such file or folder"),
    ):
        found = run(place, *words)
        assert isinstance(found.exception, UserError), found.output
        assert says in str(found.exception)
        assert not out.exists()
