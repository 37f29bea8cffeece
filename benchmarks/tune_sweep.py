r"""What a sweep costs beside its trials, and what ASHA saves: 'biomedray tune' against the same trials by hand.

overhead: two trials of the preset small (learning rates), by one 'biomedray tune', by 'biomedray train' one after
another, and again without Ray (``train_alone``); whole processes by the clock, one after another, on a machine that does
nothing else. What is compared is the whole: Ray's start, placing, reports, tables. ``trials_s`` is what the trials took.

asha: a grid of learning rates, all to the end, then the same with --asha. Counted in pairs seen, which a busy machine
does not change. Kept the winner: the best trial of the full grid ran to its end under ASHA too and is its best.

Usage: python benchmarks/tune_sweep.py [--part overhead|asha] [--pairs PAIRS] [--epochs 8] [--work FOLDER]
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _measure import record

ALONE = """
import sys
from pathlib import Path
from biomedray.config import override
from biomedray.train import preset, train_alone
train_alone(sys.argv[1], Path(sys.argv[2]), override(preset("small"), sys.argv[3:]), progress=False)
"""
RATES = ("5e-4", "2e-3")
GRID = ("3e-5", "2e-4", "1e-3", "2e-3", "4e-3", "3e-2")


def main() -> None:
    """Measure, print, write benchmarks/results/tune_sweep_PART.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("overhead", "asha"), default="overhead")
    parser.add_argument("--pairs", type=Path, help="a pairs artifact; made of 400 generated articles when not given")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--work", type=Path)
    arguments = parser.parse_args()
    folder = arguments.work or Path(tempfile.mkdtemp(prefix="biomedray-bench-"))
    pairs = arguments.pairs or make_pairs(folder)
    settings = ["--set", f"train.epochs={arguments.epochs}", "--set", "train.max_seconds=null"]
    measure = {"overhead": overhead, "asha": asha}[arguments.part]
    method = "the preset small on generated articles, whole commands by the clock; ASHA in pairs seen"
    record(f"tune_sweep_{arguments.part}", method, [measure(pairs, folder, settings)], epochs=arguments.epochs)
    if arguments.work is None:
        shutil.rmtree(folder, ignore_errors=True)


def overhead(pairs: Path, folder: Path, settings: list[str]) -> dict[str, Any]:
    """Seconds by the clock of the sweep and of its trials by hand."""
    grid = ["--preset", "small", "--search", "grid", "--space", f"train.lr=grid({', '.join(RATES)})"]
    sweep = biomedray("tune", pairs, folder / "sweep", *grid, *settings)
    train = sum(
        biomedray("train", pairs, folder / f"train-{rate}", "--preset", "small", "--set", f"train.lr={rate}", *settings)
        for rate in RATES
    )
    alone = sum(python(ALONE, pairs, folder / f"alone-{rate}", f"train.lr={rate}", *settings[1::2]) for rate in RATES)
    trials = sum(float(row["seconds"]) for row in read_trials(folder / "sweep"))
    found = {"trials": len(RATES), "sweep_s": sweep, "trials_s": trials, "train_s": train, "alone_s": alone}
    return {**found, "over_train": sweep / train, "over_alone": sweep / alone, "over_trials": sweep / trials}


def asha(pairs: Path, folder: Path, settings: list[str]) -> dict[str, Any]:
    """Pairs seen by the full grid and with ASHA, and the best trial of each."""
    grid = ["--preset", "small", "--search", "grid", "--space", f"train.lr=grid({', '.join(GRID)})"]
    biomedray("tune", pairs, folder / "full", *grid, *settings)
    biomedray("tune", pairs, folder / "asha", *grid, *settings, "--asha")
    full, early = read_trials(folder / "full"), read_trials(folder / "asha")
    seen_full, seen_early = (sum(int(row["pairs_seen"]) for row in rows) for rows in (full, early))
    best_full, best_early = best(full), best(early)
    return {
        "trials": len(GRID),
        "pairs_seen_full": seen_full,
        "pairs_seen_asha": seen_early,
        "share_of_cost": seen_early / seen_full,
        "stopped": sum(row["state"] == "stopped" for row in early),
        "best_full": best_full["trial"],
        "best_asha": best_early["trial"],
        "best_full_r1": mean_r1(best_full),
        "best_asha_r1": mean_r1(best_early),
        "kept_the_winner": best_full["trial"] == best_early["trial"],
    }


def best(rows: list[dict[str, str]]) -> dict[str, str]:
    """The finished trial with the best mean of both R@1."""
    return max((row for row in rows if row["state"] == "finished"), key=mean_r1)


def mean_r1(row: dict[str, str]) -> float:
    """Mean of both validation R@1."""
    return (float(row["val_r1_i2t"]) + float(row["val_r1_t2i"])) / 2


def read_trials(out: Path) -> list[dict[str, str]]:
    """The sweep's trials.csv."""
    with (out / "trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def make_pairs(folder: Path) -> Path:
    """400 generated articles, a fifth of the pairs held out for validation."""
    biomedray("corpus", folder / "corpus", "--articles", 400)
    biomedray("ingest", folder / "corpus", folder / "pairs", "--set", "val_fraction=0.2", "--set", "test_fraction=0.05")
    return folder / "pairs"


def biomedray(*words: object) -> float:
    """Run a command in a process of its own; seconds by the clock."""
    return python("from biomedray.cli import main; main()", *words, "--quiet")


def python(code: str, *words: object) -> float:
    """Run Python in a process of its own; seconds by the clock."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(os.cpu_count() or 1)}
    command = [sys.executable, "-c", code, *map(str, words)]
    started = time.perf_counter()
    process = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    if process.returncode:
        raise SystemExit(f"{json.dumps(command)} ended with {process.returncode}:\n{process.stderr[-2000:]}")
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
