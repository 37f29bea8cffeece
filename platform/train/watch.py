"""What a run says while it goes: metrics.jsonl, sinks such as TensorBoard, a profile, and a bar that follows the lines."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from biomedray.artifacts import atomic_path, write_atomic
from biomedray.train.presets import WatchConfig
from biomedray.train.sinks import open_sinks

METRICS = "metrics.jsonl"
_POLL_SECONDS = 0.5


class MetricsLog:
    """Lines of a run, one JSON object each with ``samples_seen``; on resume later lines are cut off.

    Raises:
        UserError: a package that the settings need is not installed.
    """

    def __init__(self, folder: Path, seen: int, config: WatchConfig | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / METRICS
        cut_after(path, seen)
        self._file = path.open("a")
        self._sinks = open_sinks(folder, seen, config or WatchConfig())

    def write(self, values: dict[str, Any]) -> None:
        """One line; its numbers go to every sink at x = samples_seen."""
        self._put(values)
        told = {name: value for name, value in values.items() if name != "samples_seen" and not isinstance(value, str)}
        numbers = {f"{values['kind']}/{name}": value for name, value in told.items()}
        for sink in self._sinks:
            sink.write(numbers, values["samples_seen"])

    def note(self, seen: int, text: str) -> None:
        """A line about something out of the ordinary."""
        self._put({"kind": "note", "samples_seen": seen, "text": text})
        for sink in self._sinks:
            sink.note(text, seen)

    def _put(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self) -> None:
        """End the files."""
        self._file.close()
        for sink in self._sinks:
            sink.close()


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


class Profiler:
    """torch.profiler over the steps ``first`` to ``last`` of a start of the run; its trace goes into ``profile/``."""

    def __init__(self, folder: Path, steps: tuple[int, int] | None) -> None:
        self._folder, self._steps, self._count = folder / "profile", steps, 0
        self._profile: Any = None

    def step(self) -> None:
        """Call before each step."""
        if self._steps is None:
            return
        self._count += 1
        if self._count == self._steps[0]:
            import torch.profiler

            self._profile = torch.profiler.profile(record_shapes=True)
            self._profile.start()
        elif self._count == self._steps[1] + 1:
            self.close()

    def close(self) -> None:
        """Write what was recorded: a trace for chrome://tracing or Perfetto, and a table of the operators."""
        if self._profile is None:
            return
        self._profile.stop()
        self._folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(self._folder / "trace.json") as temporary:
            self._profile.export_chrome_trace(str(temporary))
        table = self._profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=40)
        write_atomic(self._folder / "operators.txt", table + "\n")
        self._profile = None


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
        shares = [(name, line.get(key)) for name, key in (("MFU", "mfu"), ("wait", "data_wait_share"), ("padding", "pad_waste"))]
        shown = "".join(f", {name} {value:.1%}" for name, value in shares if value is not None)
        return f"{epoch}, loss {line['loss']:.3f}, {line['pairs_per_second']:.0f} pairs/s{shown}, scale {line['logit_scale']:.1f}"
    done = epoch if line["kind"] == "validation" else f"{epoch} done"
    if "val_r1_i2t" not in line:
        return done
    return f"{done}, val R@1 {line['val_r1_i2t']:.1%} / {line['val_r1_t2i']:.1%}"
