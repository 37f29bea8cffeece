"""What the lanes cost beside the bare model, and how many threads pay: concurrent clients in this process, no HTTP.

Method: ViT-B/16 and BERT-base with random weights in serving's precision; JPEG files and captions of real packages. ``bare``:
the same encoder on the same files and captions, in batches as large as the lanes' (16 pictures; 64 captions, sorted by length:
the best that a batch job can do), decoding included, one step after another. Lanes: ``--clients`` callers that each send the
next item when the last was answered, with 1 and 2 threads that decode and 1 and all threads for the model. All in turn, medians
of the rounds.

    per_s       items a second by the clock
    cpu_ms      CPU milliseconds an item, all threads
    ratio       per_s over the better one of bare (1 thread, all threads) of the same round, cpu_ratio the same of CPU time

Usage: python benchmarks/serve_lanes.py [--items 96] [--rounds 3] [--clients 32]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import torch

from _measure import record
from _towers import captions, encoder, pictures
from biomedray.serve.inputs import ImageSource
from biomedray.serve.lanes import Lanes
from biomedray.serve.limits import Limits
from biomedray.serve.metrics import Metrics

PICTURES, CAPTIONS = 16, 64


def bare_images(model: Any, files: Sequence[bytes]) -> None:
    """Decode and encode."""
    for start in range(0, len(files), PICTURES):
        batch = [model.preprocess_uint8(data) for data in files[start : start + PICTURES]]
        model.encode_pixels(torch.from_numpy(np.stack(batch)))


def bare_texts(model: Any, texts: Sequence[str]) -> None:
    """Tokenise and encode, like lengths together."""
    ordered = sorted(texts, key=len)
    for start in range(0, len(ordered), CAPTIONS):
        model.encode_texts(ordered[start : start + CAPTIONS])


async def served(send: Callable[[Any], Awaitable[Any]], items: Sequence[Any], clients: int) -> None:
    """Each client takes the next item when its last was answered."""
    left = iter(items)

    async def client() -> None:
        for item in left:
            await send(item)

    await asyncio.gather(*(client() for _ in range(clients)))


def timed(work: Callable[[], Any], items: int) -> dict[str, float]:
    """Speed and CPU time."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"per_s": items / wall, "cpu_ms": 1000 * cpu / items}


def through_lanes(model: Any, kind: str, items: Sequence[Any], clients: int, threads: int) -> dict[str, float]:
    """One run of the lanes."""

    async def run() -> None:
        lanes = Lanes(model, Limits(), Metrics(), threads=threads)
        if kind == "images":
            await served(lambda data: lanes.images([ImageSource(data)], ["image"]), items, clients)
        else:
            await served(lambda text: lanes.texts([text]), items, clients)
        lanes.close()

    return timed(lambda: asyncio.run(run()), len(items))


def main() -> None:
    """Print a row for each kind and number of threads."""
    options = argparse.ArgumentParser(description="The lanes beside the bare model.")
    options.add_argument("--items", type=int, default=96)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--clients", type=int, default=32)
    given = options.parse_args()
    model, cores = encoder("auto"), os.cpu_count() or 1
    work = {"images": pictures(given.items), "texts": captions(4 * given.items)}
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for turn in range(given.rounds + 1):
        for kind, items in work.items():
            clients = given.clients * (1 if kind == "images" else 4)
            for torch_threads in (1, cores):
                torch.set_num_threads(torch_threads)
                bare = bare_images if kind == "images" else bare_texts
                ways = {f"bare, {torch_threads} for the model": timed(lambda b=bare, i=items: b(model, i), len(items))}
                for threads in (1, 2):
                    name = f"lanes, {torch_threads} for the model, {threads} decode"
                    ways[name] = through_lanes(model, kind, items, clients, threads)
                for name, result in ways.items():
                    found.setdefault((kind, name), []).extend([result] if turn else [])
    rows = []
    for (kind, name), results in found.items():
        bare_ones = [one for (other, way), one in found.items() if other == kind and way.startswith("bare")]
        best = [max(one[turn]["per_s"] for one in bare_ones) for turn in range(given.rounds)]
        least = [min(one[turn]["cpu_ms"] for one in bare_ones) for turn in range(given.rounds)]
        rows.append(
            {
                "kind": kind,
                "way": name,
                **{key: round(statistics.median(one[key] for one in results), 1) for key in ("per_s", "cpu_ms")},
                "ratio": round(statistics.median(one["per_s"] / top for one, top in zip(results, best, strict=True)), 2),
                "cpu_ratio": round(statistics.median(low / one["cpu_ms"] for one, low in zip(results, least, strict=True)), 2),
            }
        )
    method = (
        f"{given.items} pictures, {4 * given.items} captions, {given.clients} and {4 * given.clients} clients, {model.precision}"
    )
    record("serve-lanes", method, rows, rounds=given.rounds)


if __name__ == "__main__":
    main()
