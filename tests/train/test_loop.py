"""Training in Ray's workers: a killed worker and a killed run both end as a run that nothing happened to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import ray.train
import torch
from pyarrow import fs

from biomedray.artifacts import read_manifest
from biomedray.config import override
from biomedray.errors import UserError, WorkError
from biomedray.train import checkpoint, loop, preset, train
from biomedray.train.fit import Notice, fit
from biomedray.train.prepare import check, finish, prepare
from biomedray.train.source import open_filesystem
from biomedray.train.watch import METRICS, read_lines

pytestmark = pytest.mark.ray

CONFIG = override(preset("smoke"), ["model.image_size=32", "train.batch_size=24", "train.epochs=8", "train.checkpoint_every=24"])
SCRIPT = """
import sys
from pathlib import Path
from biomedray.config import override
from biomedray.train import TrainConfig, train
if __name__ == "__main__":
    train(Path(sys.argv[1]), Path(sys.argv[2]), TrainConfig.model_validate_json(sys.argv[3]), progress=False)
"""


@pytest.fixture(scope="module")
def expected(pairs, tmp_path_factory):
    """The weights and history of an unbroken run without Ray."""
    out = tmp_path_factory.mktemp("unbroken") / "model"
    before = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)  # as the workers do
    job = prepare(out, CONFIG, check(pairs, out, CONFIG))
    fit(job)
    torch.set_num_threads(before)
    return weights(out), finish(job, 1), curve(out)


def weights(out: Path) -> dict[str, torch.Tensor]:
    found = checkpoint.latest(out / "checkpoints")
    assert found is not None
    return torch.load(found / "state.pt")["model"]


def wait_for_checkpoint(out: Path) -> None:
    """Until the run has left a checkpoint behind it, well before its end."""
    deadline = time.monotonic() + 900
    while checkpoint.latest(out / "checkpoints") is None:
        assert time.monotonic() < deadline, "no checkpoint appeared"
        time.sleep(0.02)


def train_workers() -> list[psutil.Process]:
    """Train workers of this process' own cluster."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "TrainWorker" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def curve(out: Path) -> dict[int, float]:
    return {line["samples_seen"]: line["loss"] for line in read_lines(out / METRICS) if line["kind"] == "step"}


def assert_whole(out: Path, manifest) -> None:
    assert read_manifest(out, "model") == manifest
    steps = [line["samples_seen"] for line in read_lines(out / METRICS) if line["kind"] == "step"]
    assert steps == list(range(24, 961, 24))
    assert [entry["epoch"] for entry in manifest.details["history"]] == list(range(8))
    assert not (out / "run.json").exists()
    assert not (out / "checkpoints" / "ray").exists()


@pytest.mark.heavy
@pytest.mark.parametrize("workers", ["2", "1-2"])
def test_a_killed_worker_is_replaced(ray_cluster, pairs, expected, tmp_path, workers):
    """kill -9 in the middle of an epoch: what was done since the last checkpoint is done again, and nothing else."""
    out = tmp_path / "model"
    killed = []

    def kill() -> None:
        wait_for_checkpoint(out)
        worker = train_workers()[-1]
        worker.kill()
        killed.append((worker.pid, (out / "manifest.json").exists()))

    killer = threading.Thread(target=kill)
    killer.start()
    manifest = train(pairs, out, CONFIG, workers=workers, progress=False)
    killer.join()
    assert killed
    assert not killed[0][1], "the run was over before the kill"
    assert_whole(out, manifest)
    found = curve(out)
    # Each step is there once, although metrics of steps after the checkpoint were cut and written again; two workers add
    # up in another order than one (gradients agree to 1e-5, test_gradients), so losses part only slowly.
    assert found.keys() == expected[2].keys()
    early = [seen for seen in found if seen <= 240]
    assert [found[seen] for seen in early] == pytest.approx([expected[2][seen] for seen in early], rel=1e-3)
    losses = ([entry["train_loss"] for entry in found.details["history"]] for found in (manifest, expected[1]))
    assert list(next(losses)) == pytest.approx(list(next(losses)), abs=0.05)


@pytest.mark.heavy
def test_a_killed_run_goes_on_when_started_again(ray_cluster, pairs, expected, tmp_path):
    out = tmp_path / "model"
    command = [sys.executable, "-c", SCRIPT, str(pairs), str(out), CONFIG.model_dump_json()]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_ADDRESS")}
    run = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for_checkpoint(out)
    run.send_signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    assert not (out / "manifest.json").exists()
    with pytest.raises(UserError, match="parts of another run"):
        train(pairs, out, override(CONFIG, ["train.lr=0.5"]), progress=False)
    manifest = train(pairs, out, CONFIG, progress=False)
    assert_whole(out, manifest)
    for name, value in weights(out).items():
        torch.testing.assert_close(value, expected[0][name], atol=1e-5, rtol=0)


@pytest.mark.heavy
def test_pairs_and_checkpoints_in_a_store(ray_cluster, pairs, s3, tmp_path):
    """Workers that share nothing but the store; Ray's own notes lie there while it runs, and go."""

    def address(key: str) -> str:
        return s3(key).replace("s3://", "s3://test:test@")  # this cluster's workers started without the keys

    out = tmp_path / "model"
    config = override(CONFIG, ["train.epochs=1"])
    manifest = train(address(pairs.name), out, config, workers="1-2", progress=False, storage=address("runs/ray"))
    assert manifest.counts["samples_seen"] == 120
    assert manifest.details["workers"] == "1-2"
    filesystem, base = open_filesystem(address("runs/ray"))
    names = {entry.base_name for entry in filesystem.get_file_info(fs.FileSelector(base))}
    assert names == {"run.json", "start", "samples-000000000096", "samples-000000000120"}
    again = train(address(pairs.name), tmp_path / "again", config, progress=False, storage=address("runs/ray"))
    assert again.counts["samples_seen"] == 120


def test_what_ray_says_of_leaving_machines(monkeypatch):
    said = [None, None, object()]
    monkeypatch.setattr(ray.train, "get_preemption_info", lambda: said.pop(0))
    ask = loop._Watch(world=2)
    assert [ask(), ask(), ask()] == [Notice.NONE, Notice.NONE, Notice.LEAVING]
    said.append(object())
    alone = loop._Watch(world=1)
    assert [alone(), alone()] == [Notice.LEAVING, Notice.NONE], "a lone worker asks once a second"


def test_more_workers_than_the_cluster_holds_are_refused(ray_cluster, pairs, tmp_path):
    with pytest.raises(UserError, match=r"--workers 24: the cluster has .*; ask for"):
        train(pairs, tmp_path / "model", CONFIG, workers=24, progress=False)
    assert not (tmp_path / "model").exists()


@pytest.mark.heavy
def test_a_broken_image_ends_the_run_with_its_pair(ray_cluster, break_image, tmp_path):
    broken = break_image(tmp_path / "broken")
    with pytest.raises(WorkError, match=r"training failed: .*pair PMC\d+\.1/F1/0: its image cannot be decoded"):
        train(broken, tmp_path / "model", CONFIG, progress=False)
