"""Checkpoints on disk: whole or absent, the newest few kept, written by a thread while training goes on.

FOLDER/samples-000012345/state.pt      model, optimiser (and averages, if any), pairs seen, history
FOLDER/samples-000012345/about.json    which run it is of
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from biomedray.errors import UserError, WorkError
from biomedray.train.mirror import Mirror
from biomedray.train.source import public

PREFIX = "samples-"
ABOUT = "about.json"
_STATE = "state.pt"
_LOG = logging.getLogger(__name__)


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


class Trained(Protocol):
    """What is saved: a Stepper, whose own state is what it has beside model and optimiser."""

    clip: torch.nn.Module
    optimizer: torch.optim.AdamW

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Stand where ``state_dict`` was taken; what is absent starts anew."""
        ...


def snapshot(progress: Progress, trained: Trained, identity: str) -> dict[str, Any]:
    """A copy of everything in main memory, so that training may go on while it is written."""
    state = {"model": trained.clip.state_dict(), "optimizer": trained.optimizer.state_dict(), "step": trained.state_dict()}
    copied: dict[str, Any] = _to_cpu({**state, "progress": asdict(progress), "config": identity})
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return copied


def _to_cpu(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        pinned = value.is_cuda  # page-locked memory takes all tensors at once, without waiting for each
        return torch.empty_like(value, device="cpu", pin_memory=pinned).copy_(value.detach(), non_blocking=pinned)
    if isinstance(value, dict):
        return {key: _to_cpu(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_to_cpu(entry) for entry in value)
    return value


def write(folder: Path, state: dict[str, Any], keep: int) -> Path:
    """Write a snapshot under a temporary name, rename it, and drop those beyond the newest ``keep``."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{PREFIX}{state['progress']['seen']:012d}"
    temporary = Path(tempfile.mkdtemp(prefix=".checkpoint-", dir=folder))
    with (temporary / _STATE).open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    (temporary / ABOUT).write_text(json.dumps({"config": state["config"], "samples_seen": state["progress"]["seen"]}))
    shutil.rmtree(target, ignore_errors=True)
    temporary.chmod(0o755)
    temporary.rename(target)
    _prune(folder, keep)
    return target


class Writer:
    """Writes snapshots in a thread, one at a time, and copies them to a store if there is one."""

    def __init__(self, folder: Path, keep: int, mirror: Mirror | None = None) -> None:
        self._folder, self._keep, self._mirror = folder, keep, mirror
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._running: Future[None] | None = None
        self._trouble: Exception | None = None

    def put(self, state: dict[str, Any]) -> None:
        """Begin to write, once the one before is whole: never more than one copy is in memory.

        Raises:
            WorkError: the one before could not be written.
        """
        self.wait()
        self._running = self._pool.submit(self._write, state)

    def wait(self) -> None:
        """Until everything is on disk.

        Raises:
            WorkError: it could not be written.
        """
        if self._running is not None:
            try:
                self._running.result()
            except OSError as error:
                line = f"{self._folder}: a checkpoint cannot be written ({error.strerror or error}); free some space"
                raise WorkError(f"{line} and start the same command again") from None
            finally:
                self._running = None

    def finish(self) -> None:
        """As ``wait``, and everything is in the store too.

        Raises:
            WorkError: the newest checkpoint is not in the store.
        """
        self.wait()
        if self._trouble is not None and self._mirror is not None:
            raise WorkError(f"{public(self._mirror.address)}: the newest checkpoint could not be copied there ({self._trouble})")

    def close(self) -> None:
        """End the thread; what was begun is written."""
        self._pool.shutdown(wait=True)

    def _write(self, state: dict[str, Any]) -> None:
        target = write(self._folder, state, self._keep)
        if self._mirror is None:
            return
        try:
            self._mirror.upload(target, self._keep)
            self._trouble = None
        except Exception as error:  # noqa: BLE001  # each file system raises errors of its own; the disk has the checkpoint
            self._trouble = error
            _LOG.warning(
                "%s: %s could not be copied there (%s); the next one will be tried", public(self._mirror.address), target, error
            )


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint, if any."""
    found = sorted(folder.glob(f"{PREFIX}*/{_STATE}"))
    return found[-1].parent if found else None


def newest(folder: Path, mirror: Mirror | None = None) -> str | None:
    """Name of the newest checkpoint here or in the store, if any."""
    here = latest(folder)
    names = [here.name] if here else []
    names += [there] if mirror is not None and (there := mirror.newest()) else []
    return max(names, default=None)


def find(folder: Path, name: str, mirror: Mirror | None = None) -> Path:
    """The checkpoint of that name, fetched from the store if it is not here.

    Raises:
        WorkError: it is in neither place.
    """
    if not (folder / name / _STATE).is_file():
        if mirror is None:
            raise WorkError(f"{folder / name}: not on this machine; use a folder that all machines see, or --storage")
        mirror.fetch(name, folder)
    return folder / name


def check_identity(checkpoint: Path, identity: str) -> None:
    """Refuse a checkpoint of another run, from the small file beside it.

    Raises:
        UserError: it was written with other settings or pairs.
    """
    try:
        found = json.loads((checkpoint / ABOUT).read_text())["config"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # none, or damaged: the state itself will tell
    if found != identity:
        raise UserError(_foreign(checkpoint))


def load(checkpoint: Path, trained: Trained, identity: str) -> Progress:
    """Put a checkpoint into what is trained; where the run stood.

    Raises:
        WorkError: the file is damaged.
        UserError: it was written by a run with other settings or pairs.
    """
    try:
        state: dict[str, Any] = torch.load(checkpoint / _STATE, map_location="cpu", weights_only=True)
        found, progress = state.pop("config", None), Progress(**state.pop("progress"))
    except Exception as error:  # noqa: BLE001  # torch raises many kinds on a damaged file
        raise WorkError(_damaged(checkpoint, error)) from None
    if found != identity:
        raise UserError(_foreign(checkpoint))
    try:
        trained.clip.load_state_dict(state["model"])
        trained.optimizer.load_state_dict(state["optimizer"])
        trained.load_state_dict(state["step"])
    except Exception as error:  # noqa: BLE001  # as above
        raise WorkError(_damaged(checkpoint, error)) from None
    return progress


def _foreign(checkpoint: Path) -> str:
    return f"{checkpoint}: a checkpoint of another run (other settings or pairs); move it away, or choose another output folder"


def _damaged(checkpoint: Path, error: Exception) -> str:
    line = (str(error) or type(error).__name__).splitlines()[0]
    return f"{checkpoint}: damaged checkpoint ({line}); delete it to go on from the one before"


def _prune(folder: Path, keep: int) -> None:
    for old in sorted(folder.glob(f"{PREFIX}*"))[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    for torn in folder.glob(".checkpoint-*"):
        shutil.rmtree(torn, ignore_errors=True)
