"""A trial and what became of it: one folder each, with ``outcome.json`` once it is decided.

trials/NAME/            a model artifact in the making, its checkpoints and metrics.jsonl
drawn/NAME.json         what a search has drawn for it
trials/NAME/outcome.json   finished | stopped (by the scheduler) | failed (and why): such a trial is never run again,
                           a failed one only where it is asked for
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from biomedray.artifacts import MANIFEST, read_manifest, write_atomic
from biomedray.train.presets import TrainConfig
from biomedray.train.watch import METRICS, read_lines

OUTCOME = "outcome.json"
TRIALS = "trials"
DRAWN = "drawn"

State = Literal["finished", "stopped", "failed"]


@dataclass(frozen=True)
class Trial:
    """One run to make."""

    name: str
    variant: str
    seed: int
    config: TrainConfig
    trains: bool = True
    """False: the weights that it would start from are validated as they are."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What a search has drawn."""

    def folder(self, out: Path) -> Path:
        """Where it lies."""
        return out / TRIALS / self.name

    def note(self, out: Path) -> None:
        """Write down what was drawn, so that a search that is killed knows its open trials."""
        if self.settings:
            (out / DRAWN).mkdir(exist_ok=True)
            write_atomic(out / DRAWN / f"{self.name}.json", json.dumps(self.settings))


@dataclass(frozen=True)
class Outcome:
    """What came of a trial; ``metrics`` are those of its last validation, and ``train_seconds``."""

    name: str
    variant: str
    seed: int
    state: State
    reason: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    pairs_seen: int = 0
    seconds: float = 0.0
    """Spent in training and validation, start of workers left out."""
    device: str = ""
    workers: str = "1"
    settings: dict[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Decide the trial."""
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / OUTCOME, json.dumps(asdict(self), indent=2) + "\n")


def read_drawn(out: Path) -> list[dict[str, Any]]:
    """What was drawn so far, by the name of the trial."""
    return [json.loads(path.read_text()) for path in sorted((out / DRAWN).glob("*.json"))]


def read_outcome(folder: Path) -> Outcome | None:
    """What came of the trial in this folder; None while it is open."""
    path = folder / OUTCOME
    return Outcome(**json.loads(path.read_text())) if path.is_file() else None


def outcome_of(trial: Trial, folder: Path, state: State, reason: str, device: str, workers: str) -> Outcome:
    """From what the trial has left on disk: its manifest where it is whole, else the epochs in its log."""
    history = _history(folder)
    last = history[-1] if history else {}
    seconds = sum(entry.get("seconds", 0.0) for entry in history)
    metrics = {name: value for name, value in last.items() if name.startswith("val_")}
    return Outcome(
        name=trial.name,
        variant=trial.variant,
        seed=trial.seed,
        state=state,
        reason=reason,
        metrics=metrics | {"train_seconds": round(seconds, 3)} if history else {},
        history=history,
        pairs_seen=int(last.get("samples_seen", 0)),
        seconds=round(seconds, 3),
        device=device,
        workers=workers,
        settings=trial.settings,
    )


def looked_at(trial: Trial, found: dict[str, float], device: str) -> Outcome:
    """Of a trial that trains nothing."""
    return Outcome(trial.name, trial.variant, trial.seed, "finished", "", found, [], device=device, settings=trial.settings)


def _history(folder: Path) -> list[dict[str, float]]:
    if (folder / MANIFEST).is_file():
        history: list[dict[str, float]] = read_manifest(folder, "model").details["history"]
        return history
    if not (folder / METRICS).is_file():
        return []
    return [
        {name: value for name, value in line.items() if isinstance(value, int | float)}
        for line in read_lines(folder / METRICS)
        if line["kind"] == "epoch"
    ]
