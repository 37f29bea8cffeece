"""What a run says while it goes: metrics.jsonl and TensorBoard files, and a bar that follows them."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from biomedray.artifacts import write_atomic

METRICS = "metrics.jsonl"
_POLL_SECONDS = 0.5


class MetricsLog:
    """Lines of a run, one JSON object each with ``samples_seen``; on resume later lines are cut off."""

    def __init__(self, folder: Path, seen: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        path = folder / METRICS
        cut_after(path, seen)
        self._file = path.open("a")
        self._board = SummaryWriter(str(folder / "logs"), purge_step=seen + 1 if seen else None)

    def write(self, values: dict[str, Any]) -> None:
        """One line; its numbers go to TensorBoard at x = samples_seen."""
        self._file.write(json.dumps(values) + "\n")
        self._file.flush()
        for name, value in values.items():
            if name not in ("samples_seen", "kind"):
                self._board.add_scalar(f"{values['kind']}/{name}", value, values["samples_seen"])

    def note(self, seen: int, text: str) -> None:
        """A line about something out of the ordinary."""
        self._file.write(json.dumps({"kind": "note", "samples_seen": seen, "text": text}) + "\n")
        self._file.flush()
        self._board.add_text("note", text, seen)

    def close(self) -> None:
        """End the files."""
        self._file.close()
        self._board.close()


def cut_after(path: Path, seen: int) -> None:
    """Drop lines of a metrics file that tell of work after ``seen`` pairs, and a torn last line."""
    if path.is_file():
        kept = [line for line in read_lines(path) if line["samples_seen"] <= seen]
        write_atomic(path, "".join(json.dumps(line) + "\n" for line in kept))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics file."""
    lines = []
    for text in path.read_text().splitlines():
        with contextlib.suppress(ValueError):
            lines.append(json.loads(text))
    return lines


@contextlib.contextmanager
def progress_bar(path: Path, total: int) -> Iterator[None]:
    """Show a bar on the terminal that follows a metrics file until the block ends."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("train"), BarColumn(), TextColumn("{task.percentage:3.0f}% {task.fields[note]}"), TimeRemainingColumn())
    done = threading.Event()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("train", total=total, note="starting workers")
        follower = threading.Thread(target=_follow, args=(path, bar, task, done), daemon=True)
        follower.start()
        try:
            yield
        finally:
            done.set()
            follower.join()


def _follow(path: Path, bar: Any, task: Any, done: threading.Event) -> None:
    over = False
    while not over:
        over = done.wait(_POLL_SECONDS)
        last = _last_line(path)
        if last:
            bar.update(task, completed=last["samples_seen"], note=_note(last))


def _last_line(path: Path) -> dict[str, Any] | None:
    """The newest whole line, from the end of the file."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        tail = file.read().split(b"\n")[:-1]
    with contextlib.suppress(ValueError, IndexError):
        line: dict[str, Any] = json.loads(tail[-1])
        return line
    return None


def _note(line: dict[str, Any]) -> str:
    if line["kind"] == "note":
        return str(line["text"])
    epoch = f"epoch {line['epoch'] + 1}"
    if line["kind"] == "step":
        return f"{epoch}, loss {line['loss']:.3f}, {line['pairs_per_second']:.0f} pairs/s"
    if "val_r1_i2t" not in line:
        return f"{epoch} done"
    return f"{epoch} done, val R@1 {line['val_r1_i2t']:.1%} / {line['val_r1_t2i']:.1%}"
