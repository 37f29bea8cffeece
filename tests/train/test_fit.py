"""The loop without Ray: it resumes exactly, logs, validates, and refuses what it can't train."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from biomedray.artifacts import read_manifest
from biomedray.config import override
from biomedray.errors import UserError, WorkError
from biomedray.model import load
from biomedray.train import checkpoint, preset
from biomedray.train import fit as fit_module
from biomedray.train.fit import fit
from biomedray.train.loop import train
from biomedray.train.prepare import check, finish, prepare
from biomedray.train.presets import PRESETS, LoopConfig
from biomedray.train.validate import retrieval_scores
from biomedray.train.watch import METRICS, cut_after, read_lines

SMALL = ["model.image_size=32", "train.batch_size=40", "train.epochs=2", "train.checkpoint_every=40"]


def settings(*more):
    return override(preset("smoke"), [*SMALL, *more])


def job_of(pairs, out, config):
    return prepare(out, config, check(pairs, out, config))


def weights_of(folder):
    return checkpoint.latest(folder / "checkpoints") / "state.pt"


@pytest.fixture(scope="module")
def unbroken(pairs, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "model"
    job = job_of(pairs, out, settings())
    fit(job)
    return out, finish(job, 1)


def test_a_finished_run_is_a_model(unbroken):
    out, manifest = unbroken
    assert read_manifest(out, "model") == manifest
    assert manifest.counts["samples_seen"] == 240
    assert manifest.counts["steps"] == 6
    assert manifest.counts["pairs_by_split"] == {"train": 120, "val": 24, "test": 8}
    assert [entry["epoch"] for entry in manifest.details["history"]] == [0, 1]
    wanted = {"epoch", "samples_seen", "train_loss", "val_loss", "val_r1_i2t", "val_r1_t2i", "seconds"}
    assert all(set(entry) == wanted for entry in manifest.details["history"])
    assert not (out / "run.json").exists()
    assert load(out).encode_texts(["red circle"]).shape == (1, 128)


def test_metrics_hold_a_line_a_step(unbroken):
    lines = read_lines(unbroken[0] / METRICS)
    steps = [line for line in lines if line["kind"] == "step"]
    assert [line["samples_seen"] for line in steps] == [40, 80, 120, 160, 200, 240]
    wanted = {
        "kind",
        "samples_seen",
        "step",
        "epoch",
        "loss",
        "pairs",
        "workers",
        "lr",
        "logit_scale",
        "pairs_per_second",
        "data_wait_seconds",
        "data_wait_share",
        "pad_waste",
    }
    assert all(set(line) == wanted for line in steps)
    assert list((unbroken[0] / "logs").glob("events.*"))


class StopError(Exception):
    pass


@pytest.mark.parametrize("steps", [2, 4])
def test_a_broken_run_ends_as_an_unbroken_one(pairs, unbroken, tmp_path, monkeypatch, steps):
    out = tmp_path / "model"
    step, done = fit_module._Loop._step, []

    def break_off(self, batch):
        if len(done) == steps:
            raise StopError
        done.append(batch)
        return step(self, batch)

    monkeypatch.setattr(fit_module._Loop, "_step", break_off)
    with pytest.raises(StopError):
        fit(job_of(pairs, out, settings()))
    monkeypatch.undo()
    job = job_of(pairs, out, settings())
    fit(job)
    again, first = (torch.load(weights_of(folder))["model"] for folder in (out, unbroken[0]))
    for name, value in first.items():
        torch.testing.assert_close(again[name], value, atol=1e-5, rtol=0)
    told = [[line for line in read_lines(folder / METRICS) if line["kind"] != "note"] for folder in (out, unbroken[0])]
    both = [[(line["kind"], line["samples_seen"], line.get("pairs")) for line in lines] for lines in told]
    assert both[0] == both[1]
    notes = [line["text"] for line in read_lines(out / METRICS) if line["kind"] == "note"]
    assert notes == [f"goes on after {40 * steps} pairs with 1 worker"]
    found, expected = ([e["train_loss"] for e in m.details["history"]] for m in (finish(job, 1), unbroken[1]))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_old_checkpoints_go(unbroken):
    found = sorted(path.name for path in (unbroken[0] / "checkpoints").iterdir())
    assert found == ["samples-000000000200", "samples-000000000240", "start"]


def test_a_damaged_checkpoint_is_told(pairs, tmp_path):
    job = job_of(pairs, tmp_path / "model", settings())
    folder = job.checkpoints / "samples-000000000040"
    folder.mkdir()
    (folder / "state.pt").write_bytes(b"torn")
    with pytest.raises(WorkError, match="damaged checkpoint"):
        fit(job)


def test_time_limit_ends_a_run_after_an_epoch(pairs, tmp_path):
    job = job_of(pairs, tmp_path / "model", settings("train.epochs=50", "train.max_seconds=0.001"))
    assert len(fit(job).history) == 1
    assert finish(job, 1).counts["epochs"] == 1


def test_without_val_pairs_there_is_no_validation(make_pairs, tmp_path):
    pairs = make_pairs(tmp_path / "pairs", train=40, val=0)
    job = job_of(pairs, tmp_path / "model", settings("train.epochs=1"))
    fit(job)
    assert set(finish(job, 1).details["history"][0]) == {"epoch", "samples_seen", "train_loss", "seconds"}


def test_retrieval_scores_golden():
    eye = torch.eye(3)
    swapped = eye[[1, 0, 2]]
    one = torch.tensor(1.0)
    assert retrieval_scores(eye, eye, one)["val_r1_i2t"] == 1
    assert retrieval_scores(eye, swapped, one)["val_r1_t2i"] == pytest.approx(1 / 3)
    tied = retrieval_scores(torch.ones(3, 1), torch.ones(3, 1), one)
    assert (tied["val_r1_i2t"], tied["val_r1_t2i"]) == (0, 0)
    assert tied["val_loss"] == pytest.approx(math.log(3))


def test_cutting_metrics_drops_later_and_torn_lines(tmp_path):
    path = tmp_path / METRICS
    path.write_text('{"samples_seen": 10}\n{"samples_seen": 20}\n{"samples_seen": 30}\n{"sampl')
    cut_after(path, 20)
    assert path.read_text() == '{"samples_seen": 10}\n{"samples_seen": 20}\n'


def test_presets_are_what_they_say():
    table = preset("biomedclip").train
    assert (table.lr, table.weight_decay, table.betas, table.eps) == (5e-4, 0.2, (0.9, 0.98), 1e-6)
    assert (table.epochs, table.batch_size, table.warmup_steps, table.seed) == (32, 4096, 2000, 0)
    assert preset("biomedclip").model.name == "biomedclip_vitb16_pubmedbert256"
    for name, make in PRESETS.items():
        assert "biomedray train PAIRS OUT" in (make.__doc__ or ""), name
        assert json.loads(json.dumps(make().resolved())) == make().resolved()
    assert override(preset("small"), ["train.batch_size=64"]).train.batch_size == 64


def refused(says, pairs, out, config, workers=1):
    before = sorted(out.rglob("*")) if out.exists() else None
    with pytest.raises(UserError, match=says) as caught:
        train(pairs, out, config, workers, progress=False)
    assert "\n" not in str(caught.value)
    assert (sorted(out.rglob("*")) if out.exists() else None) == before


def test_bad_input_is_refused_in_one_line_and_leaves_nothing(pairs, unbroken, make_pairs, tmp_path):
    out = tmp_path / "model"
    with pytest.raises(UserError, match="no such preset; there are smoke, demo, small, "):
        preset("huge")
    refused("no such folder", tmp_path / "nowhere", out, settings())
    refused("not a pairs artifact", tmp_path, out, settings())
    refused("a model artifact, but a pairs artifact is wanted", unbroken[0], out, settings())
    refused("larger than the train split", pairs, out, settings("train.batch_size=4096"))
    refused("not a multiple of 3 workers", pairs, out, settings(), workers=3)
    refused("no such configuration", pairs, out, settings("model.name=huge"))
    refused("no such folder", pairs, out, settings("model.text_tower=./nowhere"))
    refused("holds a finished model artifact", pairs, unbroken[0], settings())
    refused("train split is empty", make_pairs(tmp_path / "empty", train=0), out, settings())
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "diary.txt").write_text("mine")
    refused("is not empty", pairs, taken, settings())


def test_other_settings_do_not_go_on_from_an_unfinished_run(pairs, tmp_path):
    job_of(pairs, tmp_path / "model", settings())
    refused("parts of another run", pairs, tmp_path / "model", settings("train.lr=0.1"))


def test_a_tower_that_breaks_on_reading_leaves_nothing_taken(pairs, tmp_path):
    tower = tmp_path / "tower"
    tower.mkdir()
    (tower / "config.json").write_text(json.dumps({"model_type": "bert", "max_position_embeddings": 512}))
    (tower / "tokenizer.json").write_text("{")
    config = settings(f"model.text_tower={tower}")
    out = tmp_path / "model"
    with pytest.raises(UserError, match="its tokenizer cannot be read"):
        prepare(out, config, check(pairs, out, config))
    assert not out.exists() or not any(out.iterdir())


def test_defaults_of_the_loop_need_no_preset():
    assert LoopConfig() == preset("biomedclip").train.model_copy(update={"grad_checkpointing": "auto"})
