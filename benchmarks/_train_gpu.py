"""``train_step.py --gpu``: real sizes in bf16 on one GPU, against open_clip 3.3.0's best own flags at the same batch.

ViT-B/16 and BERT-base, 256 tokens, pictures (floats for open_clip, bytes for us) and token ids that lie ready in page-locked
memory, random weights. Pairs a second over 10 steps after 3 to warm up (compiling is in these, told as ``warm_s``), peak memory,
and MFU: useful operations only (no padding, no recomputing; 3 forward passes) over the GPU's dense bf16 peak. What doesn't fit
is told as such. Results are written after every case, so a run that is cut off has lost one.

    python benchmarks/train_step.py --gpu [--captions real full] [--patch 0 0.5] [--gpu-pairs 512 1024 4096]
    python benchmarks/train_step.py --gpu --device cpu --size TINY --gpu-pairs 16 --eager     # does the script run: no figures
"""

from __future__ import annotations

import argparse
import itertools
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch

import _train
from _measure import child, peak_mb, record
from biomedray.errors import UserError
from biomedray.train.gauge import device_peak

_WARM, _STEPS = 3, 10


@dataclass(frozen=True)
class Case:
    """What one child measures; travels as words."""

    captions: str
    patch: str
    pairs: str
    device: str
    size: str
    compiled: str
    checkpointing: str

    @property
    def towers(self) -> _train.Size:
        """Their size."""
        found: _train.Size = getattr(_train, self.size)
        return found


def open_clip(*words: str) -> dict[str, Any]:
    """Their loop with --precision amp_bf16 --torchcompile, and --grad-checkpointing if asked."""
    case = Case(*words)

    def make() -> Any:
        clip = _train.model(case.towers, float(case.patch)).to(case.device)
        if case.checkpointing == "1":
            clip.set_grad_checkpointing()
        pixels, tokens = _train.batch(int(case.pairs), case.towers, case.captions)
        clip = torch.compile(clip) if case.compiled == "1" else clip
        return _train.open_clip_step(clip, pixels, tokens, None, case.device, "amp_bf16")

    return _timed(make, case)


def biomedray(*words: str) -> dict[str, Any]:
    """Our step; the planner sees to memory."""
    case, kept = Case(*words), {}

    def make() -> Any:
        clip = _train.model(case.towers, float(case.patch))
        pixels, tokens = _train.batch(int(case.pairs), case.towers, case.captions)
        settings = {"compile": case.compiled == "1", "precision": "bf16"}
        kept["stepper"], run = _train.our_step(clip, pixels, tokens, case.device, **settings)
        return run

    found = _timed(make, case)
    plan = kept["stepper"].plan if "stepper" in kept else None
    return found if plan is None else {**found, "micro_batch": plan.micro_batch, "recomputed": plan.share}


def _timed(make: Any, case: Case) -> dict[str, Any]:
    try:
        run, started = make(), time.perf_counter()
        run(_WARM)
        _wait(case.device)
        warm, started = time.perf_counter() - started, time.perf_counter()
        run(_STEPS)
        _wait(case.device)
    except (RuntimeError, UserError) as error:
        if isinstance(error, UserError) or "out of memory" in str(error):  # the compiler wraps torch.OutOfMemoryError
            return {"pairs_s": 0.0, "note": "out of memory"}
        raise
    seconds = (time.perf_counter() - started) / _STEPS
    found = {"pairs_s": int(case.pairs) / seconds, "peak_gib": _peak_gib(case.device), "warm_s": warm, "note": _name(case.device)}
    peak = device_peak(case.device)
    if peak is None:
        return found
    return {
        **found,
        "mfu": useful_operations(case.captions, float(case.patch), int(case.pairs), case.towers) / seconds / peak / 1e12,
    }


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _name(device: str) -> str:
    return torch.cuda.get_device_name() if device.startswith("cuda") else device


def _peak_gib(device: str) -> float:
    return torch.cuda.max_memory_allocated() / (1 << 30) if device.startswith("cuda") else peak_mb() / 1024


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


def options(parser: argparse.ArgumentParser) -> None:
    """Those of ``--gpu``."""
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", default="REAL", choices=("REAL", "SMALL", "TINY"))
    parser.add_argument("--captions", nargs="+", default=["real", "full"], choices=("real", "full"))
    parser.add_argument("--patch", nargs="+", default=["0", "0.5"])
    parser.add_argument("--gpu-pairs", nargs="+", default=["512", "1024", "4096"])
    parser.add_argument("--eager", action="store_true", help="nothing is compiled")


def measure(script: str, asked: argparse.Namespace) -> None:
    """All ways, each in a process of its own; ``script`` is asked to be the child."""
    if asked.device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit("--gpu: torch sees no GPU here; --device cpu --size TINY --gpu-pairs 16 --eager tries the script out")
    rows: list[dict[str, Any]] = []
    for captions, patch, pairs in itertools.product(asked.captions, asked.patch, asked.gpu_pairs):
        for name, checkpointing in (("open_clip", "0"), ("open_clip", "1"), ("biomedray", "0")):
            case = Case(captions, patch, pairs, asked.device, asked.size, "0" if asked.eager else "1", checkpointing)
            found = child(script, f"gpu-{name}", *asdict(case).values())
            keys = ("pairs_s", "mfu", "peak_gib", "warm_s", "note", "micro_batch", "recomputed")
            told = {"way": name, "captions": captions, "patch_dropout": float(patch), "pairs": int(pairs)}
            rows.append({**told, "checkpointing": checkpointing == "1", **{key: found[key] for key in keys if key in found}})
            if asked.device.startswith("cuda"):
                record("train-step-gpu", f"pairs a second over {_STEPS} steps, bf16, {asked.size}", rows, torch=torch.__version__)
            else:
                print(rows[-1])
