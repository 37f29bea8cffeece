"""A batch of 4,096 pairs from micro-batches of 64 on tiny towers: time, memory and the gradient of the logit scale.

    python benchmarks/train_batch.py [--pairs 4096] [--micro 64] [--rounds 1]

open_clip 3.3.0 with --accum-freq 64 computes the full matrix of similarities once a micro-batch; our two passes compute it
once, by tiles. Towers 64 wide, 2 layers, 64 px, 64 tokens; lengths as in _train.py, shortened alike; nothing is dropped, so
both have the same features. CPU seconds of one thread for one step, after a small one to warm up; peak memory of the process,
which holds open_clip's float images in its case and uint8 images in ours; ``scale_gradient`` should be what one big batch gives.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import torch
from torch.nn import functional

import _train
from _measure import child, median, peak_mb, record, work


def open_clip(pairs: str, micro: str) -> dict[str, Any]:
    """Their loop with --accum-freq."""
    clip = _train.model(_train.TINY, 0.0)
    pixels, tokens = _train.batch(int(pairs), _train.TINY, "real")
    return _timed(
        lambda count, part: _train.open_clip_step(clip, pixels[:count], tokens[:count], part), int(pairs), int(micro), clip
    )


def biomedray(pairs: str, micro: str) -> dict[str, Any]:
    """Our step."""
    clip = _train.model(_train.TINY, 0.0)
    pixels, tokens = _train.batch(int(pairs), _train.TINY, "real")

    def make(count: int, part: int) -> Any:
        settings = {"micro_batch": part, "grad_checkpointing": False, "loss_tile": 1024}
        return _train.our_step(clip, pixels[:count], tokens[:count], **settings)[1]

    return _timed(make, int(pairs), int(micro), clip)


def _timed(make: Any, pairs: int, micro: int, clip: Any) -> dict[str, Any]:
    torch.set_num_threads(1)
    weights = {name: value.clone() for name, value in clip.state_dict().items()}
    make(2 * micro, micro)(1)
    clip.load_state_dict(weights)
    run = make(pairs, micro)
    before, started = peak_mb(), time.process_time()
    run(1)
    seconds = time.process_time() - started
    return {
        "cpu_s": seconds,
        "peak_mb": round(peak_mb()),
        "ready_mb": round(before),
        "scale_gradient": float(clip.logit_scale.grad),
    }


def one_big_batch(pairs: str, _: str) -> dict[str, Any]:
    """The plain formula: features without a graph, and the gradient of the scale from one matrix."""
    clip = _train.model(_train.TINY, 0.0).train()
    pixels, tokens = _train.batch(int(pairs), _train.TINY, "real")
    from open_clip.transform import PreprocessCfg

    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (PreprocessCfg().mean, PreprocessCfg().std))
    with torch.no_grad():
        values = (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std
        images = torch.cat([functional.normalize(clip.encode_image(part), dim=-1) for part in values.split(256)])
        texts = torch.cat([functional.normalize(clip.encode_text(part), dim=-1) for part in tokens.split(256)])
    logits = clip.logit_scale.exp() * images @ texts.T
    labels = torch.arange(len(images))
    ((functional.cross_entropy(logits, labels) + functional.cross_entropy(logits.T, labels)) / 2).backward()
    return {"scale_gradient": float(clip.logit_scale.grad)}


WAYS = {"open_clip --accum-freq": open_clip, "biomedray": biomedray, "plain formula": one_big_batch}


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=4096)
    parser.add_argument("--micro", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=1)
    asked = parser.parse_args()
    seen: dict[str, list[dict[str, Any]]] = {name: [] for name in WAYS}
    for _ in range(asked.rounds):
        for name, found in seen.items():
            found.append(child(__file__, name, asked.pairs, asked.micro))
    keys = ("cpu_s", "peak_mb", "ready_mb", "scale_gradient")
    rows: list[dict[str, Any]] = [
        {"way": name, **{key: median(seen[name], key) for key in keys}} for name in ("open_clip --accum-freq", "biomedray")
    ]
    true = seen["plain formula"][0]["scale_gradient"]
    for row in rows:
        row["scale_gradient / true"] = row["scale_gradient"] / true
    rows.append({"way": "plain formula", "scale_gradient": true, "scale_gradient / true": 1.0})
    method = f"{asked.pairs} pairs from micro-batches of {asked.micro}, one thread, median of {asked.rounds} steps"
    record("train-batch", method, rows, torch=torch.__version__, gpu="not measured on a GPU")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        work(WAYS, sys.argv[2], sys.argv[3:])
    else:
        main()
