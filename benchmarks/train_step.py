"""One training step against open_clip 3.3.0's own loop: same weights, same batch, CPU time of one thread.

    python benchmarks/train_step.py                 # ViT and BERT 192 wide, 4 layers, 224 px, 256 tokens, batches of 64
    python benchmarks/train_step.py --gpu           # on a GPU: ViT-B/16 and BERT-base in bf16

Lengths as in _train.py, and a control in which every caption is as long as the context. Each way runs in a fresh process: one
step to warm up, then so many in a row. ``ratio`` is open_clip's CPU time by ours. That the gradients are equal is
held by tests/train/test_gradients.py.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import torch

import _train
import _train_gpu
from _measure import child, median, record, work


def open_clip(kind: str, patch: str, bert: str, pairs: str, steps: str) -> dict[str, Any]:
    """Their loop."""
    pixels, tokens = _train.batch(int(pairs), _train.SMALL, kind)
    run = _train.open_clip_step(_train.model(_train.SMALL, float(patch), float(bert)), pixels, tokens)
    return _timed(run, int(steps))


def biomedray(kind: str, patch: str, bert: str, pairs: str, steps: str) -> dict[str, Any]:
    """Our step."""
    pixels, tokens = _train.batch(int(pairs), _train.SMALL, kind)
    _, run = _train.our_step(_train.model(_train.SMALL, float(patch), float(bert)), pixels, tokens)
    return _timed(run, int(steps))


def _timed(run: Any, steps: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    run(1)
    started = time.process_time()
    last = run(steps)
    found: dict[str, Any] = {"cpu_s": (time.process_time() - started) / steps}
    return found if last is None else {**found, "tokens": last.tokens, "padded_tokens": last.padded_tokens}


WAYS = {"open_clip": open_clip, "biomedray": biomedray}
CASES = (("real", "0", "0"), ("real", "0.5", "0"), ("real", "0.5", "0.1"), ("full", "0", "0"), ("full", "0.5", "0"))


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    _train_gpu.options(parser)
    asked = parser.parse_args()
    if asked.gpu:
        _train_gpu.measure(__file__, asked)
        return
    rows = []
    for kind, patch, bert in CASES:
        seen: dict[str, list[dict[str, Any]]] = {name: [] for name in WAYS}
        for _ in range(asked.rounds):
            for name in WAYS:
                seen[name].append(child(__file__, name, kind, patch, bert, asked.pairs, asked.steps))
        theirs, ours = (median(seen[name], "cpu_s") for name in WAYS)
        entry = {"captions": kind, "patch_dropout": float(patch), "bert_dropout": float(bert), "open_clip_cpu_s": theirs}
        padded = {key: median(seen["biomedray"], key) for key in ("tokens", "padded_tokens")}
        rows.append({**entry, "biomedray_cpu_s": ours, "ratio": theirs / ours, **padded})
    method = f"CPU seconds a step of {asked.pairs} pairs, one thread, median of {asked.rounds} x {asked.steps} steps"
    record("train-step", method, rows, torch=torch.__version__, gpu="not measured on a GPU")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        gpu = {f"gpu-{name}": way for name, way in _train_gpu.WAYS.items()}
        work({**WAYS, **gpu}, sys.argv[2], sys.argv[3:])
    else:
        main()
