"""``train_step.py --gpu``: real sizes in bf16 on one GPU, against open_clip 3.3.0's best own flags at the same batch.

ViT-B/16 and BERT-base, 256 tokens, uint8 pictures and token ids that lie ready in main memory, random weights. Pairs a
second over 10 steps after 3 to warm up (compiling is in these, told as ``warm_s``), peak memory, and MFU: useful operations
only (no padding, no recomputing; 3 forward passes) over the GPU's dense bf16 peak. Out of memory is told as such.
"""

from __future__ import annotations

import time
from typing import Any

import torch

import _train
from _measure import child, record

_WARM, _STEPS = 3, 10
_PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40": 181e12, "L4": 121e12}
"""Dense bf16 operations a second, from NVIDIA's data sheets."""


def open_clip(kind: str, patch: str, pairs: str, checkpointing: str) -> dict[str, Any]:
    """Their loop with --precision amp_bf16 --torchcompile, and --grad-checkpointing if asked."""
    clip = _train.model(_train.REAL, float(patch)).cuda()
    if checkpointing == "1":
        clip.set_grad_checkpointing()
    pixels, tokens = _train.batch(int(pairs), _train.REAL, kind)
    return _timed(_train.open_clip_step(torch.compile(clip), pixels, tokens, None, "cuda", "amp_bf16"), kind, patch, int(pairs))


def biomedray(kind: str, patch: str, pairs: str, _: str) -> dict[str, Any]:
    """Our step; the planner sees to memory."""
    clip = _train.model(_train.REAL, float(patch))
    pixels, tokens = _train.batch(int(pairs), _train.REAL, kind)
    stepper, run = _train.our_step(clip, pixels, tokens, "cuda", compile=True, precision="bf16")
    found = _timed(run, kind, patch, int(pairs))
    plan = stepper.plan
    return found if plan is None else {**found, "micro_batch": plan.micro_batch, "recomputed": plan.share}


def _timed(run: Any, kind: str, patch: str, pairs: int) -> dict[str, Any]:
    try:
        started = time.perf_counter()
        run(_WARM)
        torch.cuda.synchronize()
        warm, started = time.perf_counter() - started, time.perf_counter()
        run(_STEPS)
        torch.cuda.synchronize()
    except torch.OutOfMemoryError:
        return {"pairs_s": 0.0, "mfu": 0.0, "peak_gib": 0.0, "warm_s": 0.0, "note": "out of memory"}
    seconds = (time.perf_counter() - started) / _STEPS
    name = torch.cuda.get_device_name()
    peak = next((value for key, value in _PEAKS.items() if key in name), None)
    mfu = useful_operations(kind, float(patch), pairs) / seconds / peak if peak else float("nan")
    memory = torch.cuda.max_memory_allocated() / (1 << 30)
    return {"pairs_s": pairs / seconds, "mfu": mfu, "peak_gib": memory, "warm_s": warm, "note": name}


def useful_operations(kind: str, patch: float, pairs: int, size: _train.Size = _train.REAL) -> float:
    """Of one step: 3 forward passes, 2 operations a multiplication, tokens that carry something."""
    patches = (size.image // size.patch) ** 2
    kept = 1 + max(1, int(patches * (1 - patch)))
    texts = _train.lengths(pairs, size.context, kind)

    def tower(tokens: Any) -> Any:
        return size.depth * (24 * size.width**2 * tokens + 4 * size.width * tokens**2)

    embed = 2 * 3 * size.patch**2 * size.width * (kept - 1)
    return float(3 * (pairs * (tower(kept) + embed) + tower(texts.astype(float)).sum()))


WAYS = {"open_clip": open_clip, "biomedray": biomedray}


def measure(script: str) -> None:
    """All ways, each in a process of its own; ``script`` is asked to be the child."""
    if not torch.cuda.is_available():
        raise SystemExit("--gpu: torch sees no GPU here")
    rows = []
    for kind, patch in (("real", "0"), ("real", "0.5"), ("full", "0.5")):
        for pairs in ("512", "1024", "4096"):
            for name, checkpointing in (("open_clip", "0"), ("open_clip", "1"), ("biomedray", "0")):
                found = child(script, f"gpu-{name}", kind, patch, pairs, checkpointing)
                case = {"way": name, "captions": kind, "patch_dropout": float(patch), "pairs": int(pairs)}
                keys = ("pairs_s", "mfu", "peak_gib", "warm_s", "note", "micro_batch", "recomputed")
                rows.append({**case, "checkpointing": checkpointing == "1", **{key: found[key] for key in keys if key in found}})
    record("train-step-gpu", f"pairs a second over {_STEPS} steps, bf16", rows, torch=torch.__version__)
