"""Sweeps through Ray Tune: kills, early stops that leak nothing, failures that end nothing, every variant of every ablation."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from biomedray.errors import UserError
from biomedray.model import catalogue
from biomedray.train import train_alone
from biomedray.train.look import look
from biomedray.tune import ablate, search
from biomedray.tune.ablation import Ablation, Variant
from biomedray.tune.presets import ABLATIONS, ablation
from biomedray.tune.run import Options, Study
from biomedray.tune.trial import read_outcome

pytestmark = pytest.mark.heavy


def resources() -> dict[str, float]:
    import ray

    return {name: value for name, value in ray.available_resources().items() if name in ("CPU", "GPU")}


def settled(wanted: dict[str, float], seconds: float = 60, steady: float = 10) -> bool:
    """Whether that is free within ``seconds`` and stays so: a controller that lives on takes its workers' places again."""
    end, since = time.monotonic() + seconds, None
    while time.monotonic() < end:
        if resources() != wanted:
            since = None
        elif since is None:
            since = time.monotonic()
        elif time.monotonic() - since > steady:
            return True
        time.sleep(0.2)
    return False


@pytest.fixture(scope="module")
def general(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model to go on from."""
    out = tmp_path_factory.mktemp("general") / "model"
    [trial] = Study(ablation("loss"), "smoke", (7,), extra=("train.epochs=1",), only=("infonce",)).trials()
    train_alone(toy, out, trial.config, progress=False)
    return str(out)


@pytest.fixture(scope="module")
def image_weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Weights in timm's layout, as ImageNet's would come."""
    import timm
    from safetensors.torch import save_file

    path = tmp_path_factory.mktemp("weights") / "trunk.safetensors"
    config = Study(ablation("init"), "smoke", (0,), {"image_weights": "x"}).trials()[0].config
    name = catalogue.read(config.model.name)["model_cfg"]["vision_cfg"]["timm_model_name"]
    save_file(timm.create_model(name, pretrained=False).state_dict(), path)
    return str(path)


@pytest.mark.parametrize("name", [name for name in ABLATIONS if name != "panels"])
def test_every_variant_trains_at_smoke_scale(name: str, toy: Path, tmp_path: Path, general: str, image_weights: str) -> None:
    given = {"general": general, "image_weights": image_weights}
    for trial in Study(ablation(name), "smoke", (0,), given).trials():
        if not trial.trains:
            assert 0 <= look(toy, tmp_path / trial.name, trial.config)["val_r1_i2t"] <= 1
            continue
        manifest = train_alone(toy, tmp_path / trial.name, trial.config, progress=False)
        assert manifest is not None
        assert manifest.details["history"][-1]["val_loss"] > 0


def test_killed_in_the_middle_it_goes_on_with_what_is_open(toy: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "biomedray.cli", "tune", str(toy), str(out), "--ablation", "loss", "--scale", "smoke"]
    command += ["--seeds", "2", "-q"]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    end = time.monotonic() + 300
    while time.monotonic() < end and not list(out.glob("trials/*/outcome.json")):
        assert process.poll() is None, process.stdout and process.stdout.read()
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    first = {path: path.stat().st_mtime_ns for path in out.glob("trials/*/outcome.json")}
    assert first
    assert not (out / "manifest.json").exists()
    again = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert again.returncode == 0, again.stdout + again.stderr
    assert {path: path.stat().st_mtime_ns for path in first} == first
    assert "| InfoNCE |" in (out / "table.md").read_text()
    outcomes = [read_outcome(path.parent) for path in sorted(out.glob("trials/*/outcome.json"))]
    assert [o and (o.variant, o.seed, o.state) for o in outcomes] == [
        (variant, seed, "finished") for variant in ("infonce", "siglip") for seed in (0, 1)
    ]
    assert {o.pairs_seen for o in outcomes if o} == {96}


@pytest.mark.usefixtures("ray_cluster")
def test_early_stops_leak_nothing_and_are_in_the_table(toy: Path, tmp_path: Path, monkeypatch: Any) -> None:
    before = resources()
    # The second trial learns nothing and stands below the first at every rung.
    rows = (("good", "train.lr=0.002"), ("bad", "train.lr=1e-9"))
    base = ablation("loss")
    arm = base.variants[0].arms["smoke"]
    two = Ablation(
        **{
            **vars(base),
            "variants": tuple(Variant(name, {"smoke": type(arm)((name,), (setting,))}) for name, setting in rows),
        }
    )
    monkeypatch.setitem(ABLATIONS, "loss", lambda: two)
    options = Options(early_stop=True, side_by_side=1)
    manifest = ablate(toy, tmp_path / "out", "loss", "smoke", options=options, settings=["train.epochs=9"])
    assert manifest.counts["trials"] == 2
    assert manifest.counts["stopped"] == 1
    assert "stopped: by the scheduler" in (tmp_path / "out" / "table.md").read_text()
    bad = read_outcome(tmp_path / "out" / "trials" / "bad-seed0")
    assert bad is not None
    assert 0 < bad.pairs_seen < 9 * 48
    assert settled(before), f"{resources()} of {before}"


@pytest.mark.usefixtures("ray_cluster")
def test_a_trial_that_fails_ends_nothing(toy: Path, tmp_path: Path) -> None:
    before = resources()
    out = tmp_path / "out"
    space = ["train.batch_size=grid(16, 4096, 24)"]  # the driver of the one that fails takes the next
    manifest = search(toy, out, "smoke", space, how="grid", settings=["model.vocab_size=512"])
    assert manifest.counts == {"trials": 3, "finished": 2, "stopped": 0, "failed": 1, "pairs_seen": 192}
    assert "larger than the train split" in (out / "table.md").read_text()
    assert settled(before), f"{resources()} of {before}"


@pytest.mark.usefixtures("ray_cluster")
def test_optuna_draws_and_goes_on(toy: Path, tmp_path: Path) -> None:
    out, space = tmp_path / "out", ["train.lr=loguniform(1e-4, 1e-2)", "train.loss=choice(infonce, siglip)"]
    manifest = search(toy, out, "smoke", space, 2, "optuna")
    drawn = [o.settings for path in sorted(out.glob("trials/*")) if (o := read_outcome(path))]
    assert manifest.counts["finished"] == 2
    assert all(1e-4 <= settings["train.lr"] <= 1e-2 for settings in drawn)
    with pytest.raises(UserError, match="finished"):
        search(toy, out, "smoke", space, 2, "optuna")
