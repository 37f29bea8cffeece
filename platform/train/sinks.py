"""Where a run's numbers go beside metrics.jsonl: TensorBoard always, Weights & Biases and MLflow when asked for."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from biomedray.errors import UserError
from biomedray.train.presets import WatchConfig

Numbers = Mapping[str, float]


class Sink(Protocol):
    """Takes numbers named kind/name at x = pairs seen."""

    def write(self, numbers: Numbers, seen: int) -> None:
        """Numbers of one line."""

    def note(self, text: str, seen: int) -> None:
        """A line about something out of the ordinary."""

    def close(self) -> None:
        """End it."""


def open_sinks(folder: Path, seen: int, config: WatchConfig) -> list[Sink]:
    """Every place that the settings ask for; a run that goes on continues its own entries there.

    Raises:
        UserError: a package that the settings need is not installed.
    """
    sinks: list[Sink] = [TensorBoard(folder, seen)]
    if config.wandb is not None:
        sinks.append(Wandb(_package("wandb"), folder, config.wandb))
    if config.mlflow is not None:
        sinks.append(MLflow(_package("mlflow"), folder, config.mlflow))
    return sinks


def check(config: WatchConfig) -> None:
    """Refuse, before anything is started, what is not installed.

    Raises:
        UserError: a package that the settings need is not installed.
    """
    for name in ("wandb", "mlflow"):
        if getattr(config, name) is not None:
            _package(name)


def _package(name: str) -> ModuleType:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        hint = f"pip install {name}, or leave the setting out"
        raise UserError(f"watch.{name}: the package {name} is not installed; {hint}") from None


class TensorBoard:
    """Event files under ``logs/``."""

    def __init__(self, folder: Path, seen: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._board = SummaryWriter(str(folder / "logs"), purge_step=seen + 1 if seen else None)

    def write(self, numbers: Numbers, seen: int) -> None:
        """As ``Sink``."""
        for name, value in numbers.items():
            self._board.add_scalar(name, value, seen)

    def note(self, text: str, seen: int) -> None:
        """As ``Sink``."""
        self._board.add_text("note", text, seen)

    def close(self) -> None:
        """As ``Sink``."""
        self._board.close()


class Wandb:
    """A run of Weights & Biases; mode, key and server are as its own variables (WANDB_MODE ...) say."""

    def __init__(self, package: Any, folder: Path, project: str) -> None:
        identity = _kept(folder / "logs" / "wandb-run.txt", lambda: secrets.token_hex(8))
        self._run = package.init(project=project, name=folder.name, id=identity, resume="allow", dir=str(folder / "logs"))

    def write(self, numbers: Numbers, seen: int) -> None:
        """As ``Sink``."""
        self._run.log({**numbers, "samples_seen": seen}, step=seen)

    def note(self, text: str, seen: int) -> None:
        """As ``Sink``."""
        self._run.alert(title=f"after {seen} pairs", text=text)

    def close(self) -> None:
        """As ``Sink``."""
        self._run.finish()


class MLflow:
    """A run of MLflow in the store of the given address."""

    def __init__(self, package: Any, folder: Path, uri: str) -> None:
        self._client = package.MlflowClient(tracking_uri=uri)
        self._run = _kept(folder / "logs" / "mlflow-run.txt", lambda: self._new(folder.name))

    def _new(self, name: str) -> str:
        found = self._client.get_experiment_by_name("biomedray")
        experiment = found.experiment_id if found is not None else self._client.create_experiment("biomedray")
        return str(self._client.create_run(experiment, run_name=name).info.run_id)

    def write(self, numbers: Numbers, seen: int) -> None:
        """As ``Sink``."""
        for name, value in numbers.items():
            self._client.log_metric(self._run, name, value, step=seen)

    def note(self, text: str, seen: int) -> None:
        """As ``Sink``."""
        self._client.set_tag(self._run, f"note.{seen}", text)

    def close(self) -> None:
        """As ``Sink``."""
        self._client.set_terminated(self._run)


def _kept(path: Path, make: Any) -> str:
    """A name that is made once and found again when the run goes on."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(str(make()))
    return path.read_text().strip()
