"""Training without Ray: in this one process, or as one of those that torchrun has started.

biomedray train PAIRS OUT --no-ray
torchrun --nproc-per-node 2 -m biomedray.cli train PAIRS OUT --no-ray
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from biomedray.artifacts import Manifest
from biomedray.errors import UserError
from biomedray.train import watch
from biomedray.train.fit import Job, Notice, fit
from biomedray.train.plan import Plan
from biomedray.train.prepare import check, finish, prepare
from biomedray.train.presets import TrainConfig


def train_alone(
    pairs: Path | str, out: Path, config: TrainConfig, storage: str | None = None, progress: bool = True
) -> Manifest | None:
    """Train in the processes there are; None on all but the first of torchrun's.

    A SIGTERM (as schedulers send it before they take a machine away) saves at once and ends the run.

    Raises:
        UserError, WorkError: as ``train``.
    """
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    with _group(world), _terminated() as stop:
        device = _device()
        job: Any = None
        if rank == 0:
            job = prepare(out, config, check(pairs, out, config, world), storage)
        job = _shared(job, world)
        with _bar(job, progress and rank == 0):
            fit(job, device, notice=lambda: Notice.STOP if stop.is_set() else Notice.NONE)
    return finish(job, world) if rank == 0 else None


@contextlib.contextmanager
def _group(world: int) -> Iterator[None]:
    if world == 1:
        yield
        return
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    if "MASTER_ADDR" not in os.environ:
        raise UserError("WORLD_SIZE is set, but no MASTER_ADDR: start with torchrun, or unset WORLD_SIZE")
    if torch.cuda.is_available():
        torch.cuda.set_device(_device())
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        distributed.destroy_process_group()


def _device() -> str:
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"


def _shared(job: Job | None, world: int) -> Job:
    """The job that the first process has prepared."""
    held = [job]
    if world > 1:
        distributed.broadcast_object_list(held, src=0)
    found = held[0]
    assert found is not None, "the first process prepares"
    return found


@contextlib.contextmanager
def _terminated() -> Iterator[threading.Event]:
    """An event that SIGTERM sets; a second SIGTERM ends the process as usual."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may listen to signals
        return

    def heed(*_: object) -> None:
        stop.set()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    before = signal.signal(signal.SIGTERM, heed)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)


def _bar(job: Job, shown: bool) -> contextlib.AbstractContextManager[None]:
    total = Plan(job.rows, job.config.train).total_samples
    return watch.progress_bar(job.out / watch.METRICS, total) if shown else contextlib.nullcontext()
