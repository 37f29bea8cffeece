"""What the benchmarks share: work measured in a process of its own, medians over rounds, results with the machine.

A way is a function that returns a dict with what it did; ``child`` runs it in a fresh Python and adds CPU time and peak
memory. CPU time of the work alone: imports and the start of Python are outside of it. Ways take turns, so that a
machine which is busy with other things slows all of them alike; ratios within one run are what to look at.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
REAL_PACKAGES = ROOT.parent / "shared" / "data" / "packages"

_STAT_FIELDS = 8
Way = Callable[..., dict[str, Any]]


def work(ways: Mapping[str, Way], name: str, arguments: Sequence[str], warm: Sequence[str] = ()) -> None:
    """In the child: do it, and print what came of it as one line of JSON; ``warm``: do it on these first, for the imports."""
    way = ways[name]
    if warm:
        way(*warm)
    started, wall = time.process_time(), time.perf_counter()
    found = way(*arguments)
    found = {"cpu_s": time.process_time() - started, "wall_s": time.perf_counter() - wall, "peak_mb": round(peak_mb()), **found}
    print("\n" + json.dumps(found), flush=True)


def child(script: str, name: str, *arguments: object, threads: int | None = 1) -> dict[str, Any]:
    """Run one way in a process of its own, with so many threads; adds ``tree_cpu_s``, with what it takes to start and import."""
    command = [sys.executable, script, "--child", name, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads or 1), "ARROW_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    lines = process.stdout.read().strip().splitlines()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return {"tree_cpu_s": usage.ru_utime + usage.ru_stime, **json.loads(lines[-1])}


def peak_mb() -> float:
    """This process's peak resident memory. Linux's ru_maxrss would count what the parent held at the fork."""
    high = next((line.split()[1] for line in _lines("/proc/self/status") if line.startswith("VmHWM")), None)
    return int(high) / 1024 if high else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)


class Given:
    """Share of the machine's time since then that a hypervisor did not give to others; 1 where Linux tells nothing of it."""

    def __init__(self) -> None:
        self._before = self._ticks()

    def share(self) -> float:
        """Up to now."""
        total, stolen = (after - before for after, before in zip(self._ticks(), self._before, strict=True))
        return 1 - stolen / total if total else 1.0

    @staticmethod
    def _ticks() -> tuple[int, int]:
        values = [int(value) for value in next(iter(_lines("/proc/stat")), "").split()[1:9]]
        return sum(values), values[7] if len(values) == _STAT_FIELDS else 0


def in_turn(script: str, ways: Sequence[tuple[str, ...]], rounds: int) -> dict[str, dict[str, Any]]:
    """Every way once a round; medians by name (the way and its options)."""
    seen: dict[str, list[dict[str, Any]]] = {}
    for _ in range(rounds):
        for way in ways:
            seen.setdefault(way[0], []).append(child(script, *way))
    return {name: {key: median(found, key) for key in found[0]} for name, found in seen.items()}


def median(found: Sequence[Mapping[str, Any]], key: str) -> Any:
    """Median of numbers; of anything else the first."""
    values = [entry[key] for entry in found]
    return statistics.median(values) if isinstance(values[0], int | float) else values[0]


def machine() -> dict[str, Any]:
    """What it ran on."""
    model = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "")
    memory = next((int(line.split()[1]) >> 20 for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    versions = {name: __import__(name).__version__ for name in ("pyarrow", "PIL")}
    return {
        "cpu": model or platform.processor(),
        "cores": os.cpu_count(),
        "memory_gib": memory,
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),
        **versions,
    }


def record(name: str, method: str, rows: Sequence[Mapping[str, Any]], **facts: Any) -> None:
    """Print a table, and keep it with the machine in benchmarks/results."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_cell(row.get(key, "")) for key in columns] for row in rows]
    widths = [max(len(text) for text in column) for column in zip(columns, *cells, strict=True)]
    print(f"\n{name}: {method}")
    for line in (columns, *cells):
        padded = [text.rjust(width) if i else text.ljust(width) for i, (text, width) in enumerate(zip(line, widths, strict=True))]
        print("  ".join(padded))
    RESULTS.mkdir(exist_ok=True)
    command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *map(_public, sys.argv[1:])])
    found = {"method": method, "command": command, "machine": machine(), "date": time.strftime("%Y-%m-%d"), **facts}
    found["rows"] = list(rows)
    (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")


def _public(argument: str) -> str:
    """Where a folder lay on this machine is nobody's business."""
    return "FOLDER" if Path(argument).is_absolute() else argument


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2f}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).is_file() else []
