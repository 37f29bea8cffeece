r"""Trials through Ray Tune: a driver each, which starts Ray Train's workers and passes their reports on.

    trials -> Tuner( driver -> train (TorchTrainer) -> Relay -> Tune ) -> outcome.json in each trial's folder
                 \- ASHA or Optuna may stop one early: Desk writes that down and gives its workers' places back

What is decided lies in the trials' folders and not in Tune's own notes, so a sweep that is started again runs the open ones only.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler

from biomedray import cluster
from biomedray.artifacts import is_finished
from biomedray.errors import UserError, WorkError, last_error
from biomedray.train.look import look
from biomedray.train.loop import train
from biomedray.train.plan import Workers
from biomedray.tune.places import Places, give_back
from biomedray.tune.quest import Quest
from biomedray.tune.relay import LAST, SCORE, Relay
from biomedray.tune.space import Dimension
from biomedray.tune.trial import Outcome, State, Trial, looked_at, outcome_of, read_outcome

# A driver only waits; Tune wants it to ask for something.
_DRIVER_CPUS = 0.01
_POLITE_SECONDS = "5"

Told = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True)
class Shared:
    """What all trials have in common; plain values, so that it travels to their drivers."""

    pairs: str
    out: Path
    workers: str
    threads: int | None


@dataclass(frozen=True)
class Stopping:
    """ASHA: of the trials that reach a rung, the better 1/factor go on; rungs stand at grace and grace x factor pairs."""

    grace: int
    factor: int = 3


def start() -> str:
    """Start or join Ray with its dashboard, whose state tells Ray Train of drivers that are gone; the dashboard's address."""
    cluster.start(dashboard=True)
    url = ray._private.worker.get_dashboard_url()  # type: ignore[no-untyped-call]  # noqa: SLF001  # ray has no public way to ask
    return str(url or "")


def device() -> str:
    """What trials train on, in words."""
    found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]  # ray's own signature
    kinds = sorted(name.removeprefix("accelerator_type:") for name in found if name.startswith("accelerator_type:"))
    return ", ".join(kinds) if kinds and cluster.gpus() else "CPU"


def concurrency(asked: int | None, workers: Workers) -> int:
    """How many trials run side by side: as many as have GPUs, on CPUs one, unless the user says otherwise."""
    if asked is not None:
        return asked
    return max(1, cluster.gpus() // workers.most)


def run_grid(trials: Sequence[Trial], shared: Shared, side_by_side: int, stopping: Stopping | None, told: Told) -> None:
    """Run these trials; each has an outcome afterwards, and none that fails ends the others.

    A driver that is done takes the next trial, which spares its imports; one that a scheduler stops is still in its trial.

    Raises:
        WorkError: Tune itself failed.
    """
    by_name = {trial.name: trial for trial in trials}
    config = tune.TuneConfig(
        metric=SCORE,
        mode="max",
        scheduler=_asha(stopping) if stopping else None,
        reuse_actors=stopping is None,
        max_concurrent_trials=side_by_side,
        trial_dirname_creator=lambda found: f"driver-{found.trial_id}",
    )
    space = {"trial": tune.grid_search(list(by_name))}
    _fit(space, config, shared, lambda drawn: by_name[drawn["trial"]], told)


def run_search(
    quest: Quest,
    taken: Sequence[Mapping[str, Any]],
    done: Sequence[tuple[dict[str, Any], float]],
    shared: Shared,
    side_by_side: int,
    stopping: Stopping | None,
    told: Told,
) -> None:
    """Let Optuna draw what is missing and run it; ``taken`` was drawn before, ``done`` is known of it, with scores.

    Raises:
        WorkError: Tune itself failed.
    """
    from biomedray.tune.distinct import Distinct

    points, scores = ([drawn for drawn, _ in done], [score for _, score in done]) if done else (None, None)
    known = {"points_to_evaluate": points, "evaluated_rewards": scores}
    space = {dimension.key: _domain(dimension) for dimension in quest.space}
    config = tune.TuneConfig(
        scheduler=_asha(stopping, metric=SCORE, mode="max") if stopping else None,
        search_alg=Distinct(quest, taken, space=space, metric=SCORE, mode="max", seed=quest.seed + len(taken), **known),
        num_samples=quest.most() - len(taken),
        reuse_actors=stopping is None,
        max_concurrent_trials=side_by_side,
        trial_dirname_creator=lambda found: f"driver-{found.trial_id}",
    )
    _fit({}, config, shared, quest.trial, told)


def _fit(space: dict[str, Any], config: Any, shared: Shared, make: Callable[[dict[str, Any]], Trial], told: Told) -> None:
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    os.environ.setdefault("TUNE_FORCE_TRIAL_CLEANUP_S", _POLITE_SECONDS)
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the other way prints tables of its own, whatever verbose says
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # each trial's TensorBoard lies in its own folder
    notes = shared.out / "tune"
    shutil.rmtree(notes, ignore_errors=True)
    desk = Desk(shared, make, told)
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(_drive, shared=shared, make=make), {"CPU": _DRIVER_CPUS}),
        param_space=space,
        tune_config=config,
        run_config=tune.RunConfig(name="driver", storage_path=str(notes), callbacks=[desk], verbose=0),
    )
    try:
        with _terms_as_interrupts():
            tuner.fit()
    except tune.TuneError as error:
        raise WorkError(f"the sweep failed: {_first_line(error)}; start the same command again to go on") from error
    finally:
        desk.close()
        shutil.rmtree(notes, ignore_errors=True)


@contextlib.contextmanager
def _terms_as_interrupts() -> Iterator[None]:
    """Tune ends its trials on Ctrl-C and returns; of SIGTERM, which job schedulers send, it knows nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _drive(drawn: dict[str, Any], shared: Shared, make: Callable[[dict[str, Any]], Trial]) -> None:
    """One trial, in a process of its own, whatever becomes of it."""
    trial = make(drawn)
    folder = trial.folder(shared.out)
    if read_outcome(folder) is not None:
        return
    if is_finished(folder):  # it was killed between its model and its outcome
        _decide(trial, shared, "finished")
        return
    try:
        if not trial.trains:
            looked_at(trial, look(shared.pairs, folder, trial.config), device()).write(folder)
            return
        hooks: list[Any] = [Relay(trial.config.train.epochs), Places(folder)]
        train(shared.pairs, folder, trial.config, shared.workers, progress=False, hooks=hooks, threads=shared.threads)
    except (UserError, WorkError) as error:
        _decide(trial, shared, "failed", str(error))
        return
    _decide(trial, shared, "finished")


def _decide(trial: Trial, shared: Shared, state: State, reason: str = "") -> Outcome:
    folder = trial.folder(shared.out)
    outcome = outcome_of(trial, folder, state, reason, device(), shared.workers)
    outcome.write(folder)
    return outcome


class Desk(tune.Callback):
    """Follows the trials from the sweep's own process: tells of reports, and closes what was stopped or died."""

    def __init__(self, shared: Shared, make: Callable[[dict[str, Any]], Trial], told: Told) -> None:
        self._shared, self._make, self._told = shared, make, told
        self._folders: set[Path] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Tune writes its callbacks into notes that we never read; a progress bar can't be written."""
        return {"_shared": self._shared}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002  # Tune's signature
        """A driver has started."""
        found = self._make(trial.config)
        found.note(self._shared.out)
        self._folders.add(found.folder(self._shared.out))
        self._told(found.name, {})

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:  # noqa: ARG002
        """An epoch is over."""
        self._told(self._make(trial.config).name, result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        """The driver has ended, or the scheduler has stopped it."""
        self._close(trial, "stopped", "by the scheduler")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        """The driver has died."""
        self._close(trial, "failed", _died(trial))

    def _close(self, trial: Any, state: Literal["stopped", "failed"], reason: str) -> None:
        found = self._make(trial.config)
        folder = found.folder(self._shared.out)
        give_back(folder)
        outcome = read_outcome(folder)
        if outcome is None:
            outcome = _decide(found, self._shared, *(("finished", "") if is_finished(folder) else (state, reason)))
        self._told(found.name, {"state": outcome.state})

    def close(self) -> None:
        """Whatever happened, no trial keeps its places."""
        for folder in self._folders:
            give_back(folder)


class _Asha(ASHAScheduler):
    """ASHA that lets a trial be once it has trained to its end: what is left to do is to write its model."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether the trial goes on."""
        if result.get(LAST):
            return str(self.CONTINUE)
        return str(super().on_trial_result(tune_controller, trial, result))


def _asha(stopping: Stopping, **compared: Any) -> Any:
    """Rungs at grace and grace x factor; beyond, a trial runs to an end of its own, which is not the same for all."""
    most = stopping.grace * stopping.factor + 1
    return _Asha(
        time_attr="samples_seen",
        grace_period=stopping.grace,
        max_t=most,
        stop_last_trials=False,
        reduction_factor=stopping.factor,
        **compared,
    )


def _domain(dimension: Dimension) -> Any:
    match dimension.kind:
        case "grid":
            return tune.grid_search(list(dimension.values))
        case "choice":
            return tune.choice(list(dimension.values))
        case _:
            return getattr(tune, dimension.kind)(*dimension.values)


def _died(trial: Any) -> str:
    path = getattr(trial, "error_file", None)
    text = Path(path).read_text() if path else ""
    return last_error(text) or "its driver died; the logs in Ray's dashboard say why"


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
