"""Checkpoints on disk: whole or absent, the newest few kept.

FOLDER/samples-000012345/state.pt    model, optimiser, pairs seen, history
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from biomedray.errors import WorkError

_PREFIX = "samples-"
_STATE = "state.pt"


@dataclass
class Progress:
    """Where a run stands, apart from the weights."""

    seen: int = 0
    """Pairs seen; decides order, crops, learning rate and dropout of all that follows."""
    steps: int = 0
    loss_sum: float = 0.0
    """Sum of the losses of this epoch's steps so far."""
    epoch_steps: int = 0
    epoch_seconds: float = 0.0
    seconds: float = 0.0
    """Training time of the whole run, over all its starts."""
    history: list[dict[str, float]] = field(default_factory=list)
    """One entry a finished epoch."""


def save(folder: Path, progress: Progress, clip: torch.nn.Module, optimizer: torch.optim.Optimizer, keep: int) -> Path:
    """Write a checkpoint under a temporary name, rename it, and drop those beyond the newest ``keep``."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{_PREFIX}{progress.seen:012d}"
    temporary = Path(tempfile.mkdtemp(prefix=".checkpoint-", dir=folder))
    state = {"progress": asdict(progress), "model": clip.state_dict(), "optimizer": optimizer.state_dict()}
    with (temporary / _STATE).open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    shutil.rmtree(target, ignore_errors=True)
    temporary.chmod(0o755)
    temporary.rename(target)
    _prune(folder, keep)
    return target


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint, if any."""
    found = sorted(folder.glob(f"{_PREFIX}*/{_STATE}"))
    return found[-1].parent if found else None


def load(checkpoint: Path, clip: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
    """Put a checkpoint into model and optimiser; where the run stood.

    Raises:
        WorkError: the file is damaged.
    """
    try:
        state: dict[str, Any] = torch.load(checkpoint / _STATE, map_location="cpu", weights_only=True)
        clip.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        return Progress(**state["progress"])
    except Exception as error:  # noqa: BLE001  # torch raises many kinds on a damaged file
        line = (str(error) or type(error).__name__).splitlines()[0]
        raise WorkError(f"{checkpoint}: damaged checkpoint ({line}); delete it to go on from the one before") from None


def _prune(folder: Path, keep: int) -> None:
    for old in sorted(folder.glob(f"{_PREFIX}*"))[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    for torn in folder.glob(".checkpoint-*"):
        shutil.rmtree(torn, ignore_errors=True)
