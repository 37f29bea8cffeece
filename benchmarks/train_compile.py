"""What ``train.compile=true`` costs at the start and saves in a step: Inductor against eager, same weights, same batches.

    python benchmarks/train_compile.py [--pairs 32] [--steps 5]

ViT and BERT 192 wide, 4 layers, 224 px, 256 tokens, patch dropout 0.5; lengths as in _train.py, drawn anew for each step,
so texts are grouped otherwise each time. Each way in a fresh process with one thread and an empty cache of kernels.
``start_cpu_s``: two steps to warm up, g++ included; ``cpu_s``: a step after these, median; ``graphs``: compiled in all, and
``graphs_later`` after the start, one for texts without padding
may come. The losses of both ways are compared.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import tempfile
import time
from typing import Any

import torch

import _train
from _measure import child, record, work

_WARM = 2


def eager(pairs: str, steps: str) -> dict[str, Any]:
    """As it is by default."""
    return _timed(False, int(pairs), int(steps))


def compiled(pairs: str, steps: str) -> dict[str, Any]:
    """By Inductor."""
    with tempfile.TemporaryDirectory(prefix="biomedray-inductor-") as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        return _timed(True, int(pairs), int(steps))


def _timed(by_inductor: bool, pairs: int, steps: int) -> dict[str, Any]:
    from torch._dynamo.utils import counters

    from biomedray.train.presets import LoopConfig
    from biomedray.train.step import Stepper

    torch.set_num_threads(1)
    batches = [_train.batch(pairs, _train.SMALL, "real", seed) for seed in range(_WARM + steps)]
    loop = LoopConfig(batch_size=pairs, compile=by_inductor)
    stepper = Stepper(_train.model(_train.SMALL, 0.5), loop, tokenize=lambda captions: batches[int(captions[0])][1])
    losses, seconds, graphs = [], [], []
    for number, (pixels, _) in enumerate(batches):
        started = _spent()
        losses.append(float(stepper.step(pixels, [str(number)] * pairs, 5e-4, number).loss))
        seconds.append(_spent() - started)
        graphs.append(counters["stats"]["unique_graphs"])
    return {
        "start_cpu_s": sum(seconds[:_WARM]),
        "cpu_s": statistics.median(seconds[_WARM:]),
        "graphs": graphs[-1],
        "graphs_later": graphs[-1] - graphs[_WARM - 1],
        "losses": losses,
    }


def _spent() -> float:
    """CPU seconds of this process and of the compilers that it has started."""
    started = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + started.ru_utime + started.ru_stime


WAYS = {"eager": eager, "compiled": compiled}


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=32)
    parser.add_argument("--steps", type=int, default=5)
    asked = parser.parse_args()
    found = {name: child(__file__, name, asked.pairs, asked.steps) for name in WAYS}
    plain = found["eager"]
    apart = max(abs(a - b) / abs(b) for a, b in zip(found["compiled"]["losses"], plain["losses"], strict=True))
    keys = ("start_cpu_s", "cpu_s", "graphs", "graphs_later")
    rows = [{"way": name, **{key: entry[key] for key in keys}} for name, entry in found.items()]
    rows[1]["ratio"] = plain["cpu_s"] / found["compiled"]["cpu_s"]
    rows[1]["losses_apart"] = apart
    method = f"CPU seconds a step of {asked.pairs} pairs, one thread, {asked.steps} steps"
    record("train-compile", method, rows, torch=torch.__version__, gpu="not measured on a GPU")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        work(WAYS, sys.argv[2], sys.argv[3:])
    else:
        main()
