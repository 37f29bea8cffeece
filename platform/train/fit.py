r"""The training loop in pure torch: run by each Ray worker, by torchrun's, or alone in one process.

newest checkpoint -> plan from there -> feed -> step -> log ... -> epoch: validate, checkpoint, report
                                                         \-> the machine goes: checkpoint at once
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import distributed

from biomedray.errors import WorkError
from biomedray.model import features, front, tokenizer, weights
from biomedray.model.loss import world_size
from biomedray.model.malloc import keep_freed
from biomedray.records import Split
from biomedray.train import checkpoint
from biomedray.train.feed import BROKEN, Batch, Feed, FeedSettings, on_device, record_broken
from biomedray.train.gauge import Gauge
from biomedray.train.mirror import Mirror
from biomedray.train.plan import BatchSpec, Plan
from biomedray.train.presets import TrainConfig
from biomedray.train.rows import PairsReader, RowIndex
from biomedray.train.source import Source
from biomedray.train.step import Stepper, StepResult, use_bf16
from biomedray.train.together import fingerprint_of, from_first, mean, most
from biomedray.train.validate import Validation
from biomedray.train.watch import MetricsLog, Profiler

Report = Callable[[dict[str, float]], None]


# How often several workers ask, together; a machine has half a minute when Ray hears a SIGTERM.
_ASK_SECONDS = 2.0


class Notice(IntEnum):
    """What is about to happen to a worker's machine."""

    NONE = 0
    LEAVING = 1
    """It will be taken away and the run go on elsewhere: save at once, then go on until it happens."""
    STOP = 2
    """The process has been told to end: save at once, then end."""


class StoppedError(WorkError):
    """The run was told to end, and has saved where it stands."""


@dataclass(frozen=True)
class Job:
    """What a worker needs to know; plain values, so that it travels."""

    source: Source
    out: Path
    """The model folder to be; checkpoints and logs go into it."""
    rows: int
    """Pairs of the train split."""
    config: TrainConfig
    identity: str
    """Hash of the pairs and of all settings that decide what comes out."""
    storage: str | None = None
    """Where checkpoints are copied to, if anywhere."""

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints lie."""
        return self.out / "checkpoints"

    @property
    def start(self) -> Path:
        """The model folder with the weights that training starts from, and the index of the rows."""
        return self.checkpoints / "start"

    @property
    def mirror(self) -> Mirror | None:
        """The second home of the checkpoints."""
        return Mirror(self.storage, self.identity) if self.storage else None

    def index_file(self, split: Split) -> Path:
        """Where the index of a split's rows lies."""
        return self.start / f"rows-{split}.json"

    def index(self, split: Split) -> RowIndex:
        """The rows of a split."""
        return RowIndex.load(self.index_file(split))

    def broken_file(self, rank: int) -> Path:
        """Where a worker names pictures that it skipped."""
        return self.checkpoints / f"rank-{rank}-{BROKEN}"


def fit(
    job: Job, device: str = "cpu", report: Report | None = None, notice: Callable[[], Notice] | None = None
) -> checkpoint.Progress:
    """Train to the end from wherever the newest checkpoint stands; every worker calls this.

    ``report`` is called after each epoch on every worker. ``notice`` is asked on every worker at the same steps (each
    step in a single process, else some seconds apart), and what one of them hears holds for all.

    Raises:
        WorkError: an image or a checkpoint is damaged, or the disk is full.
        UserError: the checkpoint is of another run.
        StoppedError: ``notice`` said so; a checkpoint is there.
    """
    loop = _Loop(job, device, notice or (lambda: Notice.NONE))
    try:
        return loop.run(report or (lambda _: None))
    finally:
        loop.close()


class _Loop:
    def __init__(self, job: Job, device: str, notice: Callable[[], Notice]) -> None:
        self._job = job
        self._config = job.config.train
        self._notice = notice
        self._warned, self._asked = False, time.monotonic()
        self._rank = distributed.get_rank() if world_size() > 1 else 0
        self._fetch_start()
        opened = weights.open_folder(job.start)
        tokens = tokenizer.Tokens(opened.tokenizer, trim=features.ignores_padding(opened.clip))
        settings = front.eval_settings(opened)
        self._stepper = Stepper(opened.clip, self._config, device, tokens)
        keep_freed(device)
        self._progress = self._resume()
        data = job.config.data
        self._validate = Validation(
            PairsReader(job.source, job.index("val"), keep=2),
            data.val_pairs,
            settings,
            tokens,
            data.cache_mb,
            partial(record_broken, job.broken_file(self._rank)) if data.broken_images == "skip" else None,
            job.config.validation.zeroshot,
            use_bf16(self._config, device),
        )
        self._feed = Feed(job.source, job.index("train"), self._feed_settings(front.side(settings)))
        self._plan = Plan(job.rows, self._config)
        watch = job.config.watch
        self._log = MetricsLog(job.out, self._progress.seen, watch) if self._rank == 0 else None
        if self._log and self._progress.seen:
            who = "1 worker" if world_size() == 1 else f"{world_size()} workers"
            self._log.note(self._progress.seen, f"goes on after {self._progress.seen} pairs with {who}")
        self._gauge = Gauge(opened.clip, opened.config["model_cfg"], device, world_size(), watch.peak_tflops)
        self._profiler = Profiler(job.out, watch.profile_steps if self._rank == 0 else None)
        self._writer = checkpoint.Writer(job.checkpoints, self._config.keep_checkpoints, job.mirror)
        self._meter = _Meter()
        self._losses = torch.zeros((), device=device)

    def _fetch_start(self) -> None:
        """On a machine that doesn't see the output folder of the others, the store has what is needed."""
        job = self._job
        if not (job.start / weights.CONFIG).is_file() and job.mirror is not None:
            job.mirror.fetch(job.start.name, job.checkpoints)

    def _resume(self) -> checkpoint.Progress:
        """Stand where the newest checkpoint that the first worker finds was taken."""
        job = self._job
        found = checkpoint.newest(job.checkpoints, job.mirror) if self._rank == 0 else None
        name = from_first(found)
        if name is None:
            return checkpoint.Progress()
        return checkpoint.load(checkpoint.find(job.checkpoints, name, job.mirror), self._stepper, job.identity)

    def _feed_settings(self, size: int) -> FeedSettings:
        config, cuda = self._job.config, self._stepper.device.startswith("cuda")
        broken = self._job.broken_file(self._rank)
        device_crops = config.data.augment_on == "device"
        return FeedSettings(config.data, size, config.train.seed, self._rank, world_size(), cuda, broken, device_crops)

    def close(self) -> None:
        self._feed.__exit__()
        self._writer.close()
        self._profiler.close()
        if self._log:
            self._log.close()

    def run(self, report: Report) -> checkpoint.Progress:
        if self._time_share() >= 1:
            return self._progress
        batches = on_device(self._feed.batches(self._plan.batches(self._progress.seen)), self._stepper.device)
        for batch in self._meter.timed(batches):
            self._profiler.step()
            result = self._step(batch)
            logged = self._progress.steps % self._config.log_every == 0
            if logged:
                self._log_step(batch, result)
            if batch.spec.ends_epoch:
                report(self._end_epoch(batch.spec))
                if self._time_share() >= 1:
                    break
            else:
                if _due(self._job.config.validation.every, batch.spec):
                    self._look(batch.spec)
                if _due(self._config.checkpoint_every, batch.spec):
                    self._save()
            if self._asks():
                self._heed()
        self._writer.finish()
        return self._progress

    def _asks(self) -> bool:
        """Whether to ask for a notice after this step: alone always; else all workers at the same step, some seconds apart."""
        if world_size() == 1:
            return True
        now = time.monotonic()
        asks = bool(most(int(now - self._asked >= _ASK_SECONDS), self._stepper.device))
        self._asked = now if asks else self._asked
        return asks

    def _heed(self) -> None:
        """Save at once when any worker's machine is about to go."""
        heard = Notice(most(int(self._notice()), self._stepper.device))
        if heard is Notice.NONE or (heard is Notice.LEAVING and self._warned):
            return
        self._warned = True
        self._save()
        self._writer.finish()
        if heard is Notice.STOP:
            raise StoppedError(f"told to stop after {self._progress.seen} pairs; saved: start the same command again to go on")

    def _step(self, batch: Batch) -> StepResult:
        seen = self._progress.seen
        lr = self._plan.learning_rate(seen, self._time_share())
        seed = int(np.random.SeedSequence((self._config.seed, seen)).generate_state(1)[0])
        result = self._stepper.step(batch.pixels, batch.captions, lr, seed)
        self._losses += result.loss
        self._progress.seen = batch.spec.seen
        self._progress.steps += 1
        self._progress.epoch_steps += 1
        if result.incident and self._log:
            self._log.note(batch.spec.seen, result.incident)
        return result

    def _time_share(self) -> float:
        """Part of max_seconds that has passed, the same on every worker; 0 without a limit."""
        limit = self._config.max_seconds
        if limit is None:
            return 0.0
        elapsed = self._progress.seconds + self._meter.peek()
        return mean(torch.tensor(elapsed / limit, device=self._stepper.device))

    def _log_step(self, batch: Batch, result: StepResult) -> None:
        spec, loss = batch.spec, mean(result.loss)
        pairs = fingerprint_of(batch.pair_ids, self._stepper.device)
        if self._log:
            pace = self._meter.read(self._progress.seen)
            pace |= self._gauge.read(result, (spec.stop - spec.start) // world_size(), pace["pairs_per_second"])
            line = {"kind": "step", "samples_seen": spec.seen, "step": self._progress.steps, "epoch": spec.epoch, "loss": loss}
            line |= {"pairs": pairs, "workers": world_size()}
            self._log.write({**line, "lr": result.lr, "logit_scale": self._stepper.logit_scale, **pace})

    def _settle(self) -> None:
        """Move the running loss and time into the progress that a checkpoint holds."""
        self._progress.loss_sum += mean(self._losses)
        self._losses.zero_()
        seconds = self._meter.lap()
        self._progress.epoch_seconds += seconds
        self._progress.seconds += seconds

    def _validated(self) -> dict[str, float]:
        with self._averaged():
            return self._validate(self._stepper.clip, self._stepper.device)

    def _look(self, spec: BatchSpec) -> None:
        """A validation within an epoch; it is logged, and tells the driver nothing."""
        found = self._validated()
        if self._log:
            self._log.write({"kind": "validation", "samples_seen": spec.seen, "epoch": spec.epoch, **found})

    def _end_epoch(self, spec: BatchSpec) -> dict[str, float]:
        found = self._validated()
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

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """With the moving average of the weights in place of the weights, where there is one to be exported."""
        clip, ema = self._stepper.clip, self._stepper.ema
        if ema is None or not self._config.export_ema:
            yield
            return
        live = [parameter.detach().clone() for parameter in clip.parameters()]
        ema.copy_to(clip)
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, value in zip(clip.parameters(), live, strict=True):
                    parameter.copy_(value)

    def _save(self) -> None:
        """Rank 0 copies what there is to main memory; its writer does the rest while training goes on."""
        self._settle()
        if self._rank == 0:
            self._writer.put(checkpoint.snapshot(self._progress, self._stepper, self._job.identity))


def _due(every: int | None, spec: BatchSpec) -> bool:
    """Whether this batch is the one with which another ``every`` pairs are full."""
    return every is not None and spec.seen // every > (spec.seen - (spec.stop - spec.start)) // every


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
        waited = {"data_wait_seconds": round(self._waited, 4), "data_wait_share": round(self._waited / (now - self._since), 4)}
        found = {"pairs_per_second": round(pace, 2), **waited}
        self._since, self._waited, self._seen = now, 0.0, seen
        return found

    def peek(self) -> float:
        return time.perf_counter() - self._lap

    def lap(self) -> float:
        now = time.perf_counter()
        seconds, self._lap = now - self._lap, now
        return seconds
