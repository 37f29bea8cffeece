"""Embedding against the bare model: what reading, decoding and writing cost beside it.

Method: pairs of real packages (of generated articles where there are none) and a ViT of real size with random weights. ``bare``:
the image tower alone on batches that lie ready in memory as tensors. ``embed``: ``embed_splits`` of the same pairs in the same
batches, from Parquet to Parquet, decoded in threads beside the model. Both in one process with the same model, in turn, medians
of the rounds' ratios. The model has ``--threads`` threads, by default one, so that on two cores decoding has the other, as it has
cores of its own beside a GPU.

    wall_ratio    images a second of embed over those of bare, by the clock
    model_share   of embed's time the model was at work: what is missing to 1 is time in which it waited for pictures
    cpu_ratio     CPU seconds of bare over those of embed, all threads: what wall_ratio can be at most where no core is free for
                  decoding, so that every picture decoded is time taken from the model
    decode_ms     CPU of one picture's decoding and preprocessing, model_ms that of the image tower

On a machine that is busy with other things wall_ratio says little: it swings from round to round, and the scheduler gives a
process with more threads more time. model_share suffers too (the first batch is decoded before the model begins; with more
pictures that counts less). Repeat it on a quiet machine, with more pictures and rounds, before anything is concluded from it.

Usage: python benchmarks/evaluate_embed.py [--models vit_base_patch16_224,vit_small_patch16_224] [--images 64] [--rounds 5]
       [--threads 1] [--articles 40] [--generated] [--pairs PAIRS]
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from _measure import REAL_PACKAGES, record
from train_feed import pairs_of_articles

BATCH = 16


class Subset:
    """The first pairs of a split."""

    def __init__(self, data: Any, split: str, count: int) -> None:
        self.name, self.fingerprint, self.classes, self.splits = data.name, data.fingerprint, (), (split,)
        self._data, self._count = data, min(count, data.size(split))

    def size(self, _: str) -> int:
        """How many."""
        return self._count

    def read(self, split: str, start: int, stop: int) -> Any:
        """As of the whole."""
        return self._data.read(split, start, stop)


def vit(name: str) -> Any:
    """A model whose image tower is a ViT of timm's, with random weights; its text tower is as small as may be."""
    import open_clip
    import torch

    from biomedray.evaluate.adapters.openclip import Encoder, OpenedModel

    torch.manual_seed(0)
    text = {"context_length": 8, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
    vision = {"timm_model_name": name, "timm_pool": "", "timm_proj": "linear", "image_size": 224}
    model_cfg = {"embed_dim": 512, "vision_cfg": vision, "text_cfg": text}
    clip = open_clip.CustomTextCLIP(**model_cfg).eval()
    opened = OpenedModel(clip, {"model_cfg": model_cfg}, open_clip.get_tokenizer("ViT-B-16", context_length=8), name)
    return Encoder(opened, name, "cpu")


def timed(work: Any) -> tuple[float, float, Any]:
    """Wall and CPU seconds, and what came of it."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    return time.perf_counter() - wall, time.process_time() - cpu, found


def bare(model: Any, batches: list[Any]) -> None:
    """Only the image tower."""
    for batch in batches:
        model.encode_pixels(batch)


def embedded(model: Any, data: Subset, out: Path) -> float:
    """All of it; seconds that the model was at work."""
    from biomedray.artifacts import read_manifest
    from biomedray.evaluate.embed import embed_splits
    from biomedray.evaluate.stream import Options

    shutil.rmtree(out, ignore_errors=True)
    options = Options(batch_size=BATCH, here=True)
    embed_splits(data, data.splits, model.name, out, opened=model, progress=False, options=options)
    return float(read_manifest(out).details["throughput"]["image_seconds"])


def compare(name: str, data: Subset, rounds: int, scratch: Path) -> dict[str, Any]:
    """One model's row."""
    import torch

    model, (split,) = vit(name), data.splits
    samples = data.read(split, 0, data.size(split))
    if len(samples) < BATCH:
        raise SystemExit(f"{len(samples)} pictures; --articles of more")
    _, decode, tensors = timed(lambda: [model.preprocess(sample.image) for sample in samples])
    batches = [torch.stack(tensors[start : start + BATCH]) for start in range(0, len(tensors), BATCH)]
    bare(model, batches[:1])
    seen: list[dict[str, float]] = []
    for _ in range(rounds):
        alone = timed(lambda: bare(model, batches))
        whole = timed(lambda: embedded(model, data, scratch / "embeddings"))
        seen.append(
            {
                "wall_ratio": alone[0] / whole[0],
                "model_share": whole[2] / whole[0],
                "cpu_ratio": alone[1] / whole[1],
                "images_per_s": len(samples) / whole[0],
                "model_ms": 1000 * alone[1] / len(samples),
            }
        )
    medians = {key: statistics.median(one[key] for one in seen) for key in seen[0]}
    kilobytes = sum(len(sample.image) for sample in samples) / len(samples) / 1000
    return {
        "model": name,
        "images": len(samples),
        "kB_each": round(kilobytes),
        **medians,
        "decode_ms": 1000 * decode / len(samples),
    }


def main() -> None:
    """Print a row for each model."""
    options = argparse.ArgumentParser(description="Embedding against the bare model.")
    options.add_argument("--models", default="vit_base_patch16_224,vit_small_patch16_224")
    options.add_argument("--images", type=int, default=64)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--articles", type=int, default=40)
    options.add_argument("--generated", action="store_true")
    options.add_argument("--pairs", type=Path, help="a pairs artifact instead; its train split is read")
    given = options.parse_args()
    import torch

    from biomedray.evaluate.pairs import open_pairs

    torch.set_num_threads(given.threads)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="biomedray-bench-") as scratch:
        what, folder = (f"pairs of {given.pairs.name}", given.pairs) if given.pairs else prepare(Path(scratch), given)
        subset = Subset(open_pairs(folder), "train", given.images)
        method = f"{what}, batches of {BATCH}, {given.threads} thread(s) for the model, median of {given.rounds} rounds in turn"
        rows: list[dict[str, Any]] = []
        for name in given.models.split(","):
            rows.append(compare(name, subset, given.rounds, Path(scratch)))
            record("evaluate-embed", method, rows, load_before=round(load, 1), load_after=round(os.getloadavg()[0], 1))


def prepare(scratch: Path, given: argparse.Namespace) -> tuple[str, Path]:
    """What is embedded, in words and on disk."""
    real = REAL_PACKAGES.is_dir() and not given.generated
    pairs = pairs_of_articles(scratch, given.articles, few(scratch, given.articles) if real else None)
    return ("pairs of real packages" if real else f"pairs of {given.articles} generated articles"), pairs


def few(scratch: Path, articles: int) -> Path:
    """So many of the real packages, from everywhere in the list."""
    folder = scratch / "packages"
    folder.mkdir()
    packages = sorted(REAL_PACKAGES.glob("*.tar.gz"))
    for path in packages[:: max(1, len(packages) // articles)]:
        shutil.copy(path, folder)
    return folder


if __name__ == "__main__":
    main()
