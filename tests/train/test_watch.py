"""What a run says: lines for every sink, a profile, MFU by the book, zero-shot sets, validation within an epoch, the report."""

from __future__ import annotations

import json
import shutil
import sys
import types

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from biomedray.config import override
from biomedray.errors import UserError
from biomedray.model import catalogue
from biomedray.model.flops import count
from biomedray.report import inspect_table, write_report
from biomedray.train import preset, sinks
from biomedray.train.fit import fit
from biomedray.train.gauge import Gauge, peak_of
from biomedray.train.prepare import check, finish, prepare
from biomedray.train.presets import WatchConfig
from biomedray.train.step import StepResult
from biomedray.train.watch import METRICS, MetricsLog, _note, read_lines

SMALL = ["model.image_size=32", "train.batch_size=40", "train.epochs=2"]


@pytest.fixture(scope="module")
def classes(tmp_path_factory):
    root = tmp_path_factory.mktemp("set")
    for name, colour in (("red_shape", (220, 40, 40)), ("b", (50, 80, 220))):
        (root / name).mkdir()
        for i in range(3):
            Image.new("RGB", (40 + i, 40), colour).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def run(pairs, classes, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "model"
    sets = {"colours": {"folder": str(classes), "classes": {"b": "blue shape"}, "templates": ["a {}"]}}
    more = [f"validation.zeroshot={json.dumps(sets)}", "validation.every=40", "watch.profile_steps=[2,3]", "watch.peak_tflops=1"]
    config = override(preset("smoke"), [*SMALL, *more])
    job = prepare(out, config, check(pairs, out, config))
    fit(job)
    return out, finish(job, 1)


def test_steps_tell_shares(run):
    steps = [line for line in read_lines(run[0] / METRICS) if line["kind"] == "step"]
    for line in steps:
        assert 0 <= line["pad_waste"] < 1
        assert 0 <= line["data_wait_share"] <= 1
        assert 0 < line["mfu"] < 1
    assert "padding" in _note(steps[-1])
    assert "MFU" in _note(steps[-1])


def test_validation_within_an_epoch_and_zero_shot(run):
    lines = read_lines(run[0] / METRICS)
    looks = [line for line in lines if line["kind"] == "validation"]
    assert [line["samples_seen"] for line in looks] == [40, 80, 160, 200]  # 120 and 240 end an epoch
    for line in (*looks, *run[1].details["history"]):
        assert {"val_r1_i2t", "val_zeroshot_colours", "val_zeroshot_colours_auroc"} <= set(line)
        assert line["val_zeroshot_colours"] in [pytest.approx(n / 6) for n in range(7)]
    assert "R@1" in _note(looks[0])


def test_tensorboard_has_the_same_numbers(run):
    board = EventAccumulator(str(run[0] / "logs"))
    board.Reload()
    found = [(event.step, event.value) for event in board.Scalars("step/loss")]
    lines = [line for line in read_lines(run[0] / METRICS) if line["kind"] == "step"]
    assert found == [(line["samples_seen"], pytest.approx(line["loss"], rel=1e-6)) for line in lines]


def test_a_profile_is_left(run):
    trace = json.loads((run[0] / "profile" / "trace.json").read_text())
    assert any("AdamW" in str(event.get("name")) for event in trace["traceEvents"])
    assert "Self CPU" in (run[0] / "profile" / "operators.txt").read_text()


def test_the_page_has_recipe_and_curves(run, tmp_path):
    out, manifest = run
    page = write_report([out], tmp_path / "page.html").read_text()
    for title in (
        "Contrastive loss",
        "Validation R@1, %",
        "Zero-shot accuracy, %",
        "Learning rate",
        "Logit scale",
        "Pairs a second",
    ):
        assert f"<h3>{title}" in page
    assert "train.weight_decay" in page
    assert "GFLOP, picture" in page
    table = inspect_table(out)
    cells = [str(cell) for column in table.columns for cell in column.cells]
    assert f"{manifest.counts['parameters']:,}" in cells
    assert any("Recipe" in cell for cell in cells)
    assert any("R@1 figure" in cell for cell in cells)


def test_work_is_that_of_the_literature():
    work = count(catalogue.read("biomedclip_vitb16_pubmedbert256")["model_cfg"], catalogue.bert_base())
    assert work.image / 1e9 == pytest.approx(35.1, abs=0.1)
    for length, expected in ((64, 11.0), (128, 22.3), (256, 45.9)):
        assert work.text(length) / 1e9 == pytest.approx(expected, abs=0.1)
    assert work.train_pair(256) / 1e9 == pytest.approx(243, abs=0.5)
    half = dict(catalogue.read("biomedclip_vitb16_pubmedbert256")["model_cfg"])
    half["vision_cfg"] = {**half["vision_cfg"], "patch_dropout": 0.5}
    assert count(half, catalogue.bert_base()).image / 1e9 == pytest.approx(17.4, abs=0.2)


def test_peaks_by_name_and_none_where_unknown(monkeypatch):
    assert peak_of("NVIDIA H200") == 989
    assert peak_of("NVIDIA H100 PCIe") == 756
    assert peak_of("NVIDIA A100-SXM4-80GB") == 312
    assert peak_of("Radeon Something") is None
    gauge = Gauge(None, {}, "cpu", 1, None)
    assert gauge.read(StepResult(torch.tensor(1.0), 0.1, tokens=60, padded_tokens=80), 4, 10.0) == {"pad_waste": 0.25}


class Recorder:
    """Stands in for wandb and for MLflow's client."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def __getattr__(self, name):
        def call(*args, **kwargs):
            self.calls.append((name, args, kwargs))
            return self

        return call


def test_wandb_and_mlflow_when_asked_for(tmp_path, monkeypatch):
    wandb, client = Recorder(), Recorder()
    client.experiment_id, client.info = "7", types.SimpleNamespace(run_id="r1")
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "mlflow", types.SimpleNamespace(MlflowClient=lambda **_: client))
    config = WatchConfig(wandb="clip", mlflow="http://here")
    for seen in (0, 10):  # the second time it goes on
        log = MetricsLog(tmp_path / "model", seen, config)
        log.write({"kind": "step", "samples_seen": seen + 10, "loss": 2.0})
        log.note(seen + 10, "a batch was left out")
        log.close()
    inits = [call for call in wandb.calls if call[0] == "init"]
    first, again = [call[2]["id"] for call in inits]
    assert first == again
    assert first.isalnum()
    assert ("log", ({"step/loss": 2.0, "samples_seen": 20},), {"step": 20}) in wandb.calls
    assert [call[0] for call in client.calls].count("create_run") == 1
    assert ("log_metric", ("r1", "step/loss", 2.0), {"step": 20}) in client.calls
    assert ("set_tag", ("r1", "note.20", "a batch was left out"), {}) in client.calls


def test_packages_that_are_missing_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match=r"watch\.wandb: the package wandb is not installed; pip install wandb"):
        sinks.check(WatchConfig(wandb="clip"))


def test_bad_zero_shot_sets_are_refused(pairs, classes, tmp_path):
    shutil.copytree(classes / "b", tmp_path / "one" / "a")
    (tmp_path / "none" / "a").mkdir(parents=True)
    (tmp_path / "none" / "b").mkdir()
    cases = [
        ({"folder": str(tmp_path / "nowhere")}, "no such file or folder"),
        ({"folder": str(tmp_path / "one")}, "1 folders with pictures in them"),
        ({"folder": str(tmp_path / "none")}, "no pictures in"),
        ({"folder": str(classes), "classes": {"zebra": "x"}}, "no class 'zebra'; there are b, red_shape"),
        ({"folder": str(classes), "templates": ["a picture"]}, r"needs \{\} once"),
    ]
    for entry, says in cases:
        config = override(preset("smoke"), [*SMALL, f"validation.zeroshot={json.dumps({'s': entry})}"])
        with pytest.raises(UserError, match=says) as caught:
            check(pairs, tmp_path / "model", config)
        assert "\n" not in str(caught.value)
