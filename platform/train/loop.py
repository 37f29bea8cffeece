"""Ray Train runs ``fit`` in N workers, starts them again when one dies, and the driver shows how far it is."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from pyarrow import fs

from biomedray import cluster
from biomedray.artifacts import Manifest, write_atomic
from biomedray.errors import UserError, WorkError, last_error
from biomedray.train import checkpoint, watch
from biomedray.train.fit import Job, Notice, fit
from biomedray.train.plan import Plan, Workers
from biomedray.train.prepare import check, finish, prepare
from biomedray.train.presets import TrainConfig
from biomedray.train.source import is_remote, open_filesystem

# How often Ray looks whether there is room for more workers (its own default).
_RESIZE_SECONDS = 60.0
# A lone worker steps more often than Ray wants to be asked whether its machine is to go.
_ASK_SECONDS = 1.0


def train(
    pairs: Path | str,
    out: Path,
    config: TrainConfig,
    workers: int | str = 1,
    progress: bool = True,
    storage: str | None = None,
    hooks: Sequence[Any] = (),
    threads: int | None = None,
) -> Manifest:
    """Train on a pairs artifact into a model folder; see the room's front door.

    ``hooks`` are callbacks of Ray Train (``ray.train.UserCallback``), which hear of every report; ``threads`` those that
    torch gets in each worker, where several runs share a machine.
    """
    wanted = Workers.of(workers)
    # The controller looks for reports this often, and a report waits for it (2 s by default).
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    checked = check(pairs, out, config, wanted)
    cluster.start()
    use_gpu = _placement(wanted)
    job = prepare(out, config, checked, storage)
    total = Plan(job.rows, config.train).total_samples
    with watch.progress_bar(job.out / watch.METRICS, total) if progress else contextlib.nullcontext():
        _run(job, wanted, use_gpu, Sharing(list(hooks), threads))
    return finish(job, wanted)


def _placement(workers: Workers) -> bool:
    """Whether workers get a GPU each; refuses more workers than the cluster can ever hold."""
    found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]  # ray's own signature
    gpus, cpus = int(found.get("GPU", 0)), int(found.get("CPU", 0))
    for kind, count in (("GPUs", gpus), ("CPUs", cpus)):
        if count and workers.least > count:
            raise UserError(f"--workers {workers}: the cluster has {count} {kind}; ask for {count} or fewer")
    return gpus > 0


@dataclass(frozen=True)
class Sharing:
    """What a run is told that is one of several."""

    hooks: list[Any]
    threads: int | None


def _run(job: Job, workers: Workers, use_gpu: bool, sharing: Sharing) -> None:
    # Ray keeps notes of its own about a run and would go on from them; where we stand is what our
    # checkpoints say, so each start is a new run to Ray and its notes go afterwards.
    filesystem, notes = _notes(job)
    trainer = ray.train.torch.TorchTrainer(
        partial(_worker, job, sharing.threads),  # not as train_loop_config: the controller would import our models to read it
        scaling_config=_scaling(workers, use_gpu),
        run_config=ray.train.RunConfig(
            name=f"run-{time.time_ns()}",
            storage_path=notes,
            storage_filesystem=filesystem,
            failure_config=ray.train.FailureConfig(max_failures=job.config.train.max_failures),
            callbacks=sharing.hooks,
        ),
    )
    failure = _failure(job)
    failure.unlink(missing_ok=True)
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise WorkError(f"training failed: {_reason(error)}; start the same command again to go on") from error
    finally:
        with contextlib.suppress(OSError):  # they harm nobody
            filesystem.delete_dir(notes)
    if failure.is_file():
        raise WorkError(f"training failed: {failure.read_text()}")
    _check_whole(job)


def _notes(job: Job) -> tuple[fs.FileSystem, str]:
    """Where Ray may keep notes that all machines see: with the checkpoints, or in the store where they are copied to one."""
    if job.storage and is_remote(job.storage):
        filesystem, base = open_filesystem(job.storage)
        return filesystem, f"{base}/ray"
    notes = job.checkpoints / "ray"
    shutil.rmtree(notes, ignore_errors=True)
    return fs.LocalFileSystem(), str(notes)


def _check_whole(job: Job) -> None:
    """On machines that share no folder a worker's last words stay with it; then only the checkpoints tell.

    Raises:
        WorkError: the newest one is not of the end.
    """
    name = checkpoint.newest(job.checkpoints, job.mirror)
    total = Plan(job.rows, job.config.train).total_samples
    if name is None or (job.config.train.max_seconds is None and name != f"{checkpoint.PREFIX}{total:012d}"):
        raise WorkError(
            "training ended early; the workers' logs in Ray's dashboard say why: mend it and start the same command again"
        )


def _scaling(workers: Workers, use_gpu: bool) -> Any:
    """Elastic workers are started again, fewer or more of them, when machines go or come; what they share is a checkpoint."""
    count: Any = (workers.least, workers.most) if workers.elastic else workers.least
    make: Any = ray.train.ScalingConfig  # typed as that of the first version of Train
    resize = {"elastic_resize_monitor_interval_s": _RESIZE_SECONDS}
    return make(num_workers=count, use_gpu=use_gpu, resources_per_worker=_resources(use_gpu), **resize)


def _failure(job: Job) -> Path:
    """Where a worker writes what no new start can mend, such as a broken image."""
    return job.checkpoints / "failure.txt"


def _resources(use_gpu: bool) -> dict[str, float]:
    return {"CPU": 1, "GPU": 1} if use_gpu else {"CPU": 1}


def _worker(job: Job, threads: int | None) -> None:
    if _failure(job).is_file():
        return
    context = ray.train.get_context()
    torch.set_num_threads(threads or max(1, (os.cpu_count() or 1) // context.get_local_world_size()))
    try:
        fit(job, str(ray.train.torch.get_device()), ray.train.report, _Watch(context.get_world_size()))
    except (WorkError, UserError) as error:
        write_atomic(_failure(job), str(error))
        if context.get_world_size() > 1:
            raise  # the others wait for this worker; raising ends them, and their new start ends at once


class _Watch:
    """Asks Ray whether the machine of one of the workers is about to be taken away; all workers ask at the same steps."""

    def __init__(self, world: int) -> None:
        self._alone = world == 1
        self._asked = 0.0

    def __call__(self) -> Notice:
        now = time.monotonic()
        if self._alone and now - self._asked < _ASK_SECONDS:
            return Notice.NONE
        self._asked = now
        return Notice.NONE if ray.train.get_preemption_info() is None else Notice.LEAVING


def _reason(error: BaseException) -> str:
    return last_error(str(error)) or type(error).__name__
