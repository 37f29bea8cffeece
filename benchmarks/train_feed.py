"""Images a second from a pairs artifact against open_clip's own WebDataset loader on the same pictures, and what the step waits.

Method: pairs of real packages (of generated articles where there are none), the same rows as Parquet and as tars that
``biomedray export`` wrote. open_clip's side is open_clip_train.data.get_wds_dataset of 3.3.0 with its own train transform; ours
is Feed with nothing kept in memory. Both: one pass in shuffled order, batches of 64 at 224 pixels, RandomResizedCrop (0.9, 1.0),
bicubic, no tokenizing. CPU seconds of all threads of one process (open_clip's --workers 0), a fresh one each, in turn, medians.
``wait``: training steps on a tiny ViT and BERT (benchmarks/_train.py) fed by Feed as fit does it; share of the time from the
second batch on in which the step waited for data. ``order``: looking up a batch of 4,096 in an epoch of 46 million rows.

Usage: python benchmarks/train_feed.py [--rounds 5] [--articles 200] [--generated]
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
import tracemalloc
from argparse import Namespace
from pathlib import Path
from typing import Any

from _measure import REAL_PACKAGES, in_turn, record, work

SIZE, BATCH = 224, 64
PMC_GROUPS = 360_000  # of 128 rows: 46 million pairs


def _feed(folder: str, device_crops: bool = False) -> Any:
    from biomedray.train.feed import Feed, FeedSettings
    from biomedray.train.presets import DataConfig
    from biomedray.train.rows import index_rows
    from biomedray.train.source import Source

    source = Source.of(Path(folder) / "pairs")
    index = index_rows(source, "train")
    settings = FeedSettings(DataConfig(cache_mb=0, crop_scale=(0.9, 1.0)), SIZE, 0, device_crops=device_crops)
    return Feed(source, index, settings), index.rows


def ours(folder: str, device_crops: bool = False) -> dict[str, Any]:
    """The batches of one epoch, up to the device."""
    from biomedray.train.plan import Plan
    from biomedray.train.presets import LoopConfig

    feed, rows = _feed(folder, device_crops)
    count = size = 0
    with feed:
        for batch in feed.batches(Plan(rows, LoopConfig(epochs=1, batch_size=BATCH)).batches()):
            count += len(batch.captions)
            size += batch.pictures.nbytes
    return {"images": count, "bytes_each": size // count}


def uncropped(folder: str) -> dict[str, Any]:
    """The same with crops left to the device."""
    return ours(folder, device_crops=True)


def open_clip(folder: str) -> dict[str, Any]:
    """The loader that open_clip trains from, one pass."""
    import torch
    from open_clip.transform import AugmentationCfg, PreprocessCfg, image_transform_v2
    from open_clip_train.data import get_wds_dataset

    shards = sorted(str(path) for path in (Path(folder) / "tars").rglob("*.tar"))
    samples = int((Path(folder) / "count").read_text())
    given = {"train_data": shards, "train_num_samples": samples, "batch_size": BATCH, "workers": 0, "world_size": 1}
    rest = {"seed": 0, "dataset_resampled": False, "train_data_upsampling_factors": None}
    transform = image_transform_v2(PreprocessCfg(size=SIZE), is_train=True, aug_cfg=AugmentationCfg())
    none = torch.zeros(1, 1, dtype=torch.long)
    loader = get_wds_dataset(Namespace(**given, **rest), transform, True, floor=True, tokenizer=lambda _: none).dataloader
    count = size = 0
    for images, _ in loader:
        count += len(images)
        size += images.nbytes
    return {"images": count, "bytes_each": size // count}


def wait(folder: str) -> dict[str, Any]:
    """Steps of a small model, fed as ``fit`` feeds them."""
    import torch

    from _train import SMALL, batch, model
    from biomedray.train.fit import _Meter
    from biomedray.train.plan import Plan
    from biomedray.train.presets import LoopConfig
    from biomedray.train.step import Stepper

    torch.set_num_threads(1)
    loop = LoopConfig(epochs=1, batch_size=BATCH)
    tokens = batch(BATCH, SMALL, "lognormal")[1]
    stepper = Stepper(model(SMALL, 0.5), loop, tokenize=lambda _: tokens)
    feed, rows = _feed(folder)
    meter, steps = _Meter(), 0
    with feed:
        for found in itertools.islice(meter.timed(feed.batches(Plan(rows, loop).batches())), 13):
            stepper.step(found.pixels, found.captions, 1e-4, 0)
            steps += 1
            if steps == 1:
                meter.read(found.spec.seen)
    pace = meter.read(found.spec.seen)
    return {"images": (steps - 1) * BATCH, "wait_share": pace["data_wait_share"], "images_per_s": pace["pairs_per_second"]}


def order(_: str) -> dict[str, Any]:
    """Random places in an epoch of all of PMC."""
    import numpy as np

    from biomedray.train.order import EpochOrder

    tracemalloc.start()
    epoch = EpochOrder(np.full(PMC_GROUPS, 128), 64, 0, 0)
    epoch.arranged(0, 4096)
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    batches = range(0, 4096 * 200, 4096)
    begun = time.process_time()
    for start in batches:
        epoch.arranged(start, start + 4096)
    spent = time.process_time() - begun
    return {"images": 4096 * len(batches), "us_each": 1e6 * spent / 4096 / len(batches), "memory_mb": held / 1e6}


WAYS = {"biomedray": ours, "crops left to the device": uncropped, "open_clip": open_clip, "wait": wait, "order": order}


def pairs_of_articles(scratch: Path, articles: int, source: Path | None = None) -> Path:
    """A pairs artifact whose every pair is for training, of a folder or of so many generated articles; in this process."""
    from biomedray.corpus import generate
    from biomedray.ingest import IngestConfig, pipeline

    if source is None:
        source = scratch / "corpus"
        generate(source, articles, 0, "cloud", 0.0, progress=False)
    spread = pipeline.spread
    pipeline.spread = lambda numbers, task, **_: spread(numbers, task, here=True)  # type: ignore[assignment]  # no Ray
    pipeline.run([str(source)], scratch / "pairs", IngestConfig(val_fraction=0.0, test_fraction=0.0), progress=False)
    return scratch / "pairs"


def prepare(scratch: Path, articles: int, generated: bool) -> str:
    """The same pairs as Parquet and as tars; of what."""
    from biomedray.export import ExportConfig, export
    from biomedray.train.rows import count_rows
    from biomedray.train.source import Source

    real = REAL_PACKAGES.is_dir() and not generated
    pairs = pairs_of_articles(scratch, articles, REAL_PACKAGES if real else None)
    export(pairs, scratch / "tars", "webdataset", ExportConfig(rows_per_shard=100, splits=("train",)))
    (scratch / "count").write_text(str(count_rows(Source.of(pairs), "train")))
    return "real packages" if real else f"{articles} generated articles"


def main() -> None:
    """Print images per CPU second."""
    if sys.argv[1:2] == ["--child"]:
        import open_clip.transform  # noqa: F401  # so that the time is that of the work
        import open_clip_train.data  # noqa: F401  # as above

        import biomedray.train.fit  # noqa: F401  # as above

        return work(WAYS, sys.argv[2], sys.argv[3:])
    options = argparse.ArgumentParser(description="The feed against open_clip's loader.")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--articles", type=int, default=200)
    options.add_argument("--generated", action="store_true")
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="biomedray-bench-") as scratch:
        what = prepare(Path(scratch), given.articles, given.generated)
        found = in_turn(
            __file__, [(way, scratch) for way in ("biomedray", "crops left to the device", "open_clip")], given.rounds
        )
        once = in_turn(__file__, [(way, scratch) for way in ("wait", "order")], 1)
    base = found["open_clip"]
    rows: list[dict[str, Any]] = []
    for way, entry in found.items():
        pace = entry["images"] / entry["cpu_s"]
        numbers = {"images": int(entry["images"]), "ms_each": 1000 * entry["cpu_s"] / entry["images"], "images_per_cpu_s": pace}
        times = pace / (base["images"] / base["cpu_s"])
        rows.append({"way": way, **numbers, "times_as_many": times, "bytes_each": int(entry["bytes_each"])})
    rows += [{"way": way, "images": int(entry["images"]), **_own(entry)} for way, entry in once.items()]
    record("train-feed", f"pairs of {what}, batches of {BATCH} at {SIZE} pixels, CPU seconds, median of {given.rounds}", rows)
    return None


def _own(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: entry[key] for key in ("wait_share", "images_per_s", "us_each", "memory_mb") if key in entry}


if __name__ == "__main__":
    main()
