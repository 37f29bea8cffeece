"""A run goes on from where it was, with other workers, on another machine, after any end; and never from another run."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pytest
import torch

from biomedray.artifacts import read_manifest
from biomedray.config import override
from biomedray.errors import UserError, WorkError
from biomedray.train import alone, checkpoint, preset, train_alone
from biomedray.train.feed import BROKEN, Feed, FeedSettings
from biomedray.train.fit import Notice, StoppedError, fit
from biomedray.train.mirror import Mirror
from biomedray.train.plan import Plan, Workers
from biomedray.train.prepare import check, finish, prepare
from biomedray.train.presets import DataConfig, LoopConfig
from biomedray.train.rows import index_rows
from biomedray.train.source import Source
from biomedray.train.watch import METRICS, read_lines

SMALL = ["model.image_size=32", "train.batch_size=24", "train.epochs=2", "train.checkpoint_every=24"]
STEPS = 10


def settings(*more):
    return override(preset("smoke"), [*SMALL, *more])


def job_of(pairs, out, config, storage=None):
    return prepare(out, config, check(pairs, out, config), storage)


def losses(out):
    return {line["samples_seen"]: line["loss"] for line in read_lines(out / METRICS) if line["kind"] == "step"}


def stop_after(steps, notice=Notice.STOP):
    """A notice that comes after so many steps."""
    asked = []
    return lambda: notice if asked.append(1) or len(asked) == steps else Notice.NONE


@pytest.fixture(scope="module")
def unbroken(pairs, tmp_path_factory):
    """The output folder of a run that nothing happened to, in one process."""
    out = tmp_path_factory.mktemp("unbroken") / "model"
    train_alone(pairs, out, settings(), progress=False)
    assert len(losses(out)) == STEPS
    return out


@pytest.mark.parametrize("seed", range(6))
def test_the_next_batches_are_the_same_with_other_workers_from_any_step(pairs, seed):
    """Ids, texts, pixels of all that follows, from a random step on, at a random number of workers."""
    chance = random.Random(seed)
    data = DataConfig(window_row_groups=chance.randint(1, 5), text="citance_after", cache_mb=0)
    source = Source.of(pairs)
    index = index_rows(source, "train", ("citances",))
    plan = Plan(index.rows, LoopConfig(epochs=2, batch_size=24, batch_schedule=((1, 48),)))

    def rest(seen, world):
        shares = []
        for rank in range(world):
            with Feed(source, index, FeedSettings(data, 32, seed, rank, world)) as feed:
                shares.append([(b.pair_ids, b.captions, b.pixels) for b in feed.batches(plan.batches(seen))])
        found = []
        for parts in zip(*shares, strict=True):
            ids = [pair_id for part in parts for pair_id in part[0]]
            texts = [text for part in parts for text in part[1]]
            found.append((ids, texts, torch.cat([part[2] for part in parts]).numpy().tobytes()))
        return found

    whole = rest(0, 1)
    cut = chance.randrange(len(whole) - 1)
    seen = [spec.seen for spec in plan.batches()][cut]
    assert rest(seen, chance.choice([1, 2, 3, 4, 6, 8])) == whole[cut + 1 :]


def test_told_to_stop_it_saves_at_once_and_goes_on_later(pairs, unbroken, tmp_path):
    out = tmp_path / "model"
    config = settings("train.checkpoint_every=null")
    with pytest.raises(StoppedError, match="told to stop after 168 pairs; saved: start the same command again"):
        fit(job_of(pairs, out, config), notice=stop_after(7))
    found = checkpoint.latest(out / "checkpoints")
    assert found.name == "samples-000000000168"
    train_alone(pairs, out, config, progress=False)
    found, expected = losses(out), losses(unbroken)
    assert found.keys() == expected.keys()
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-4)


def test_before_its_machine_leaves_it_saves_once_and_goes_on(pairs, tmp_path, monkeypatch):
    saved = []
    put = checkpoint.Writer.put

    def counted(self, state):
        saved.append(state["progress"]["seen"])
        put(self, state)

    monkeypatch.setattr(checkpoint.Writer, "put", counted)
    config = settings("train.checkpoint_every=null", "train.epochs=1")
    asked = []
    job = job_of(pairs, tmp_path / "model", config)
    progress = fit(job, notice=lambda: Notice.LEAVING if asked.append(1) or len(asked) >= 3 else Notice.NONE)
    assert progress.seen == 120
    assert saved == [72, 120]


def test_sigterm_is_a_notice_and_a_second_one_ends_the_process():
    with alone._terminated() as stop:
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(10)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.heavy
def test_another_machine_goes_on_from_the_store(pairs, unbroken, s3, tmp_path):
    storage = s3("runs/one")
    first, second = tmp_path / "first", tmp_path / "second"
    with pytest.raises(StoppedError):
        fit(job_of(pairs, first, settings(), storage), notice=stop_after(8))
    manifest = train_alone(pairs, second, settings(), progress=False, storage=storage)
    assert manifest.counts["samples_seen"] == STEPS * 24
    found, expected = losses(second), losses(unbroken)
    assert min(found) == 9 * 24
    np.testing.assert_allclose(list(found.values()), [expected[seen] for seen in found], rtol=1e-4)
    assert Mirror(storage, "").newest() == "samples-000000000240"
    third = tmp_path / "third"
    with pytest.raises(UserError, match="holds another run"):
        job_of(pairs, third, settings("train.lr=0.1"), storage)
    assert not third.exists()


def test_a_store_may_be_a_folder_and_keeps_the_newest_few(pairs, tmp_path):
    storage = tmp_path / "store"
    train_alone(pairs, tmp_path / "model", settings(), progress=False, storage=str(storage))
    names = sorted(path.name for path in storage.iterdir())
    assert names == ["run.json", "samples-000000000216", "samples-000000000240", "start"]
    torn = storage / "samples-000000000999"
    torn.mkdir()
    (torn / "state.pt").write_bytes(b"half")
    identity = json.loads((storage / "run.json").read_text())["config"]
    assert Mirror(str(storage), identity).newest() == "samples-000000000240"


def test_a_store_that_is_down_costs_no_training_but_is_told_at_the_end(pairs, tmp_path, monkeypatch, caplog):
    def broken(self, *_):
        raise OSError("no route")

    monkeypatch.setattr(Mirror, "upload", broken)
    job = job_of(pairs, tmp_path / "model", settings("train.epochs=1"), str(tmp_path / "store"))
    with pytest.raises(WorkError, match=r"the newest checkpoint could not be copied there \(no route\)"):
        fit(job)
    assert "the next one will be tried" in caplog.text
    assert checkpoint.latest(job.checkpoints).name == "samples-000000000120"


def test_a_store_nobody_can_write_to_is_told_before_training(pairs, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--storage .*cannot be"):
        job_of(pairs, tmp_path / "model", settings(), str(tmp_path / "file" / "store"))


def test_a_checkpoint_of_another_run_is_refused(pairs, unbroken, tmp_path):
    config = settings("train.lr=0.01")
    job = job_of(pairs, tmp_path / "model", config)
    foreign = checkpoint.latest(unbroken / "checkpoints")
    (job.checkpoints / foreign.name).symlink_to(foreign)
    with pytest.raises(UserError, match=r"a checkpoint of another run \(other settings or pairs\)") as caught:
        job_of(pairs, tmp_path / "model", config)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="a checkpoint of another run"):
        fit(job)


def test_settings_that_change_no_result_may_change(pairs, tmp_path):
    out = tmp_path / "model"
    with pytest.raises(StoppedError):
        fit(job_of(pairs, out, settings()), notice=stop_after(2))
    more = ["data.threads=1", "data.cache_mb=0", "train.keep_checkpoints=5", "train.log_every=7", "train.max_failures=0"]
    job = job_of(pairs, out, settings(*more))
    assert fit(job).seen == STEPS * 24
    with pytest.raises(UserError, match="parts of another run"):
        job_of(pairs, out, settings("train.seed=1"))


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path, monkeypatch):
    begun, go = threading.Event(), threading.Event()
    write = checkpoint.write

    def slow(*arguments):
        begun.set()
        assert go.wait(30)
        return write(*arguments)

    monkeypatch.setattr(checkpoint, "write", slow)
    writer = checkpoint.Writer(tmp_path, 2)
    weight = torch.ones(3)
    state = {"model": {"w": checkpoint._to_cpu(weight)}, "progress": {"seen": 5}, "config": "x"}
    writer.put(state)
    assert begun.wait(30)
    weight.add_(1)  # the step after it
    go.set()
    writer.finish()
    writer.close()
    saved = torch.load(checkpoint.latest(tmp_path) / "state.pt")
    assert saved["model"]["w"].tolist() == [1, 1, 1]


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write", full)
    writer = checkpoint.Writer(tmp_path, 2)
    writer.put({})
    with pytest.raises(WorkError, match=r"a checkpoint cannot be written .No space left on device.; free some space"):
        writer.wait()
    writer.close()


def test_skipped_pictures_are_named_in_the_model(tmp_path, break_image):
    broken = break_image(tmp_path / "broken")
    config = settings("data.broken_images=skip", "data.cache_mb=0")
    out = tmp_path / "model"
    job = job_of(broken, out, config)
    fit(job)
    assert finish(job, 1).counts["broken_images"] == 1
    (line,) = (out / BROKEN).read_text().splitlines()
    assert json.loads(line)["pair_id"].startswith("PMC")


@pytest.mark.parametrize(
    ("given", "expected"), [("2", (2, 2)), (3, (3, 3)), ("1-4", (1, 4)), ("0", None), ("4-1", None), ("many", None), ("1-", None)]
)
def test_workers_are_a_number_or_a_range(given, expected):
    if expected is None:
        with pytest.raises(UserError, match="--workers"):
            Workers.of(given)
    else:
        found = Workers.of(given)
        assert (found.least, found.most) == expected


def test_a_batch_that_some_number_of_workers_cannot_share_is_refused():
    Workers.of("1-4").check([24, 48])
    with pytest.raises(UserError, match=r"train\.batch_size 4096: not a multiple of 3 workers; 4092 fits all of --workers 1-4"):
        Workers.of("1-4").check([24, 4096])


def torchrun(pairs, out, config, ranks=2):
    path = out.parent / "config.yaml"
    path.write_text(config.model_dump_json())
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(ranks),
        "-m",
        "biomedray.cli",
    ]
    command += ["train", str(pairs), str(out), "--no-ray", "--quiet", "--config", str(path)]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE)


@pytest.mark.heavy
def test_torchrun_has_the_losses_of_one_process(pairs, unbroken, tmp_path):
    out = tmp_path / "model"
    run = torchrun(pairs, out, settings())
    errors = run.communicate()[1].decode()
    assert run.returncode == 0, errors
    manifest = read_manifest(out, "model")
    assert (manifest.counts["steps"], manifest.details["workers"]) == (STEPS, 2)
    found, expected = losses(out), losses(unbroken)
    assert found.keys() == expected.keys()
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-3)


@pytest.mark.heavy
def test_killed_with_two_workers_it_goes_on_with_one_and_the_other_way(pairs, unbroken, tmp_path):
    """SIGKILL for all processes at a random moment, three times over; the curve is that of the unbroken run."""
    out = tmp_path / "model"
    chance = random.Random(0)
    for ranks in (2, 1, 2):
        run = torchrun(pairs, out, settings(), ranks)
        wanted = len(losses(out)) + chance.randint(1, 2) if (out / METRICS).exists() else chance.randint(1, 2)
        deadline = time.monotonic() + 240
        while not (out / METRICS).exists() or len(losses(out)) < wanted:
            assert run.poll() is None, run.communicate()[1].decode()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        for process in [*psutil.Process(run.pid).children(recursive=True), run]:
            process.send_signal(signal.SIGKILL)
        run.communicate()
        assert not (out / "manifest.json").exists(), "the run was over before the kill"
    train_alone(pairs, out, settings(), progress=False)
    found, expected = losses(out), losses(unbroken)
    assert found.keys() == expected.keys()
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-3)
