"""The training loop in pure torch: run by each Ray worker, or alone in one process.

newest checkpoint -> plan from there -> feed -> step -> log ... -> epoch: validate, checkpoint, report
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed

from biomedray.model import encoder, features, tokenizer, weights
from biomedray.model.loss import world_size
from biomedray.train import checkpoint
from biomedray.train.feed import Batch, Feed
from biomedray.train.plan import BatchSpec, Plan
from biomedray.train.presets import TrainConfig
from biomedray.train.step import Stepper, StepResult
from biomedray.train.validate import Validation
from biomedray.train.watch import MetricsLog

Report = Callable[[dict[str, float]], None]


@dataclass(frozen=True)
class Job:
    """What a worker needs to know; plain values, so that it travels."""

    pairs: Path
    out: Path
    """The model folder to be; checkpoints and logs go into it."""
    rows: int
    """Pairs of the train split."""
    config: TrainConfig

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints lie."""
        return self.out / "checkpoints"

    @property
    def start(self) -> Path:
        """The model folder with the weights that training starts from."""
        return self.checkpoints / "start"


def fit(job: Job, device: str = "cpu", report: Report | None = None) -> checkpoint.Progress:
    """Train to the end from wherever the newest checkpoint stands; every worker calls this.

    ``report`` is called after each epoch on every worker.

    Raises:
        WorkError: an image or a checkpoint is damaged.
    """
    loop = _Loop(job, device)
    try:
        return loop.run(report or (lambda _: None))
    finally:
        loop.close()


class _Loop:
    def __init__(self, job: Job, device: str) -> None:
        self._job = job
        self._config = job.config.train
        self._rank = distributed.get_rank() if world_size() > 1 else 0
        opened = weights.open_folder(job.start)
        tokens = tokenizer.Tokens(opened.tokenizer, trim=features.ignores_padding(opened.clip))
        settings = encoder.eval_settings(opened)
        self._stepper = Stepper(opened.clip, self._config, device, tokens)
        found = checkpoint.latest(job.checkpoints)
        self._progress = checkpoint.load(found, opened.clip, self._stepper.optimizer) if found else checkpoint.Progress()
        data = job.config.data
        self._validate = Validation(job.pairs, data.val_pairs, settings, tokens, data.cache_mb)
        self._feed = Feed(job.pairs, data, encoder.side(settings), self._config.seed, self._rank, world_size())
        self._plan = Plan(job.rows, self._config)
        self._log = MetricsLog(job.out, self._progress.seen) if self._rank == 0 else None
        self._meter = _Meter()
        self._losses = torch.zeros((), device=device)

    def close(self) -> None:
        self._feed.__exit__()
        if self._log:
            self._log.close()

    def run(self, report: Report) -> checkpoint.Progress:
        if self._time_share() >= 1:
            return self._progress
        for batch in self._meter.timed(self._feed.batches(self._plan.batches(self._progress.seen))):
            result = self._step(batch)
            if self._progress.steps % self._config.log_every == 0:
                self._log_step(batch.spec, result)
            if batch.spec.ends_epoch:
                report(self._end_epoch(batch.spec))
                if self._time_share() >= 1:
                    break
            elif self._checkpoint_due(batch.spec):
                self._settle()
                self._save()
        return self._progress

    def _step(self, batch: Batch) -> StepResult:
        seen = self._progress.seen
        lr = self._plan.learning_rate(seen, self._time_share())
        seed = int(np.random.SeedSequence((self._config.seed, seen, self._rank)).generate_state(1)[0])
        result = self._stepper.step(batch.pixels, batch.captions, lr, seed)
        self._losses += result.loss
        self._progress.seen = batch.spec.seen
        self._progress.steps += 1
        self._progress.epoch_steps += 1
        return result

    def _time_share(self) -> float:
        """Part of max_seconds that has passed, the same on every worker; 0 without a limit."""
        limit = self._config.max_seconds
        if limit is None:
            return 0.0
        elapsed = self._progress.seconds + self._meter.peek()
        return _mean(torch.tensor(elapsed / limit, device=self._stepper.device))

    def _log_step(self, spec: BatchSpec, result: StepResult) -> None:
        loss = _mean(result.loss)
        if self._log:
            pace = self._meter.read(self._progress.seen)
            line = {"kind": "step", "samples_seen": spec.seen, "step": self._progress.steps, "epoch": spec.epoch, "loss": loss}
            self._log.write({**line, "lr": result.lr, "logit_scale": self._stepper.logit_scale, **pace})

    def _settle(self) -> None:
        """Move the running loss and time into the progress that a checkpoint holds."""
        self._progress.loss_sum += _mean(self._losses)
        self._losses.zero_()
        seconds = self._meter.lap()
        self._progress.epoch_seconds += seconds
        self._progress.seconds += seconds

    def _end_epoch(self, spec: BatchSpec) -> dict[str, float]:
        found = self._validate(self._stepper.clip, self._stepper.device)
        self._settle()
        state = self._progress
        loss = state.loss_sum / state.epoch_steps
        entry = {"epoch": spec.epoch, "samples_seen": spec.seen, "train_loss": loss, **found, "seconds": state.epoch_seconds}
        state.history.append(entry)
        state.loss_sum, state.epoch_steps, state.epoch_seconds = 0.0, 0, 0.0
        if self._log:
            self._log.write({"kind": "epoch", **entry})
        self._save()
        return entry

    def _checkpoint_due(self, spec: BatchSpec) -> bool:
        every = self._config.checkpoint_every
        size = spec.stop - spec.start
        return every is not None and spec.seen // every > (spec.seen - size) // every

    def _save(self) -> None:
        """Rank 0 writes; the others wait, so that a checkpoint is what every worker has reached."""
        if self._rank == 0:
            stepper = self._stepper
            checkpoint.save(self._job.checkpoints, self._progress, stepper.clip, stepper.optimizer, self._config.keep_checkpoints)
        if world_size() > 1:
            distributed.barrier()


class _Meter:
    """Pairs a second and seconds spent waiting for data since the last reading."""

    def __init__(self) -> None:
        self._lap = self._since = time.perf_counter()
        self._waited = 0.0
        self._seen: int | None = None

    def timed(self, items: Any) -> Any:
        iterator = iter(items)
        while True:
            start = time.perf_counter()
            item = next(iterator, None)
            if item is None:
                return
            self._waited += time.perf_counter() - start
            if self._seen is None:
                self._seen = item.spec.seen - (item.spec.stop - item.spec.start)
            yield item

    def read(self, seen: int) -> dict[str, float]:
        now = time.perf_counter()
        pace = (seen - (self._seen or 0)) / max(1e-9, now - self._since)
        found = {"pairs_per_second": round(pace, 2), "data_wait_seconds": round(self._waited, 4)}
        self._since, self._waited, self._seen = now, 0.0, seen
        return found

    def peek(self) -> float:
        return time.perf_counter() - self._lap

    def lap(self) -> float:
        now = time.perf_counter()
        seconds, self._lap = now - self._lap, now
        return seconds


def _mean(value: torch.Tensor) -> float:
    """Mean of a number over all workers."""
    if world_size() == 1:
        return float(value)
    total = value.detach().clone()
    distributed.all_reduce(total)
    return float(total) / world_size()
