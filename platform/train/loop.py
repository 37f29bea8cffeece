"""Ray Train runs ``fit`` in N workers, starts them again when one dies, and the driver shows how far it is."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch

from biomedray import cluster
from biomedray.artifacts import Manifest, write_atomic
from biomedray.errors import UserError, WorkError
from biomedray.train import watch
from biomedray.train.fit import Job, fit
from biomedray.train.plan import Plan
from biomedray.train.prepare import check, finish, prepare
from biomedray.train.presets import TrainConfig

_MAX_FAILURES = 3


def train(pairs: Path, out: Path, config: TrainConfig, workers: int = 1, progress: bool = True) -> Manifest:
    """Train on a pairs artifact into a model folder; see the room's front door."""
    # The controller looks for reports this often, and a report waits for it (2 s by default).
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    rows = check(pairs, out, config, workers)
    cluster.start()
    use_gpu = _placement(workers)
    job = prepare(pairs, out, config, rows)
    total = Plan(job.rows, config.train).total_samples
    with watch.progress_bar(job.out / watch.METRICS, total) if progress else contextlib.nullcontext():
        _run(job, workers, use_gpu)
    return finish(job, workers)


def _placement(workers: int) -> bool:
    """Whether workers get a GPU each; refuses more workers than the cluster can ever hold."""
    found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]  # ray's own signature
    gpus, cpus = int(found.get("GPU", 0)), int(found.get("CPU", 0))
    if gpus and workers > gpus:
        raise UserError(f"--workers {workers}: the cluster has {gpus} GPUs; ask for {gpus} or fewer")
    if workers > cpus:
        raise UserError(f"--workers {workers}: the cluster has {cpus} CPUs; ask for {cpus} or fewer")
    return gpus > 0


def _run(job: Job, workers: int, use_gpu: bool) -> None:
    # Ray keeps notes of its own about a run and would go on from them; where we stand is what our
    # checkpoints say, so each start is a new run to Ray and its notes go afterwards.
    notes = job.checkpoints / "ray"
    shutil.rmtree(notes, ignore_errors=True)
    trainer = ray.train.torch.TorchTrainer(
        _worker,
        train_loop_config={"job": job},
        scaling_config=ray.train.ScalingConfig(num_workers=workers, use_gpu=use_gpu, resources_per_worker=_resources(use_gpu)),
        run_config=ray.train.RunConfig(
            name=f"run-{time.time_ns()}",
            storage_path=str(notes),
            failure_config=ray.train.FailureConfig(max_failures=_MAX_FAILURES),
        ),
    )
    failure = _failure(job)
    failure.unlink(missing_ok=True)
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise WorkError(f"training failed: {_reason(error)}; start the same command again to go on") from error
    finally:
        shutil.rmtree(notes, ignore_errors=True)
    if failure.is_file():
        raise WorkError(f"training failed: {failure.read_text()}")


def _failure(job: Job) -> Path:
    """Where a worker writes what no new start can mend, such as a broken image."""
    return job.checkpoints / "failure.txt"


def _resources(use_gpu: bool) -> dict[str, float]:
    return {"CPU": 1, "GPU": 1} if use_gpu else {"CPU": 1}


def _worker(settings: dict[str, Any]) -> None:
    job: Job = settings["job"]
    if _failure(job).is_file():
        return
    context = ray.train.get_context()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // context.get_local_world_size()))
    try:
        fit(job, str(ray.train.torch.get_device()), report=ray.train.report)
    except WorkError as error:
        write_atomic(_failure(job), str(error))
        if context.get_world_size() > 1:
            raise  # the others wait for this worker; raising ends them, and their new start ends at once


def _reason(error: BaseException) -> str:
    """The last line of what went wrong in a worker."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
