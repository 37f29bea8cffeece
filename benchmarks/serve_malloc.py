"""What keeping freed memory spares (``model.malloc``): embedding pictures batch after batch, with and without it.

Method: ViT-B/16 with random weights, in the precision that serving takes here, on a thread as in the service and with all
cores; each way in a process of its own, in turn, medians of the rounds. Faults are minor page faults of the work alone.

Usage: python benchmarks/serve_malloc.py [--rounds 3] [--seconds 8] [--batches 1 16 32]
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from _measure import child, median, record, work
from _towers import write_model


def embed(folder: str, kept: str, batch: str, seconds: str) -> dict[str, Any]:
    """Embed noise for so long, on a thread."""
    found: dict[str, Any] = {}
    thread = threading.Thread(target=lambda: found.update(_embed(folder, kept == "kept", int(batch), float(seconds))))
    thread.start()
    thread.join()
    return found


def _embed(folder: str, kept: bool, batch: int, seconds: float) -> dict[str, Any]:
    import torch

    from biomedray.model.encoder import Encoder
    from biomedray.model.malloc import keep_freed

    encoder = Encoder.load(folder, precision="auto")
    if kept and not keep_freed():
        raise SystemExit("this C library can't be told")
    size = encoder.image_size
    pixels = torch.randint(0, 256, (batch, size, size, 3), dtype=torch.uint8)
    for _ in range(2):
        encoder.encode_pixels(pixels)
    before, began, images = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        images += len(encoder.encode_pixels(pixels))
    took, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    return {
        "images_per_s": images / took,
        "user_ms": 1000 * (after.ru_utime - before.ru_utime) / images,
        "system_ms": 1000 * (after.ru_stime - before.ru_stime) / images,
        "faults_per_image": (after.ru_minflt - before.ru_minflt) / images,
        "resident_mb": int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / (1 << 20),
    }


def main() -> None:
    """Measure, print, write benchmarks/results/serve-malloc.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 32])
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        work({"embed": embed}, given.child[0], given.child[1:])
        return
    seen: dict[tuple[int, str], list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory(prefix="biomedray-bench-") as folder:
        write_model(Path(folder) / "large")
        for _ in range(given.rounds):
            for batch in given.batches:
                for kept in ("default", "kept"):
                    ran = child(__file__, "embed", f"{folder}/large", kept, batch, given.seconds, threads=os.cpu_count())
                    seen.setdefault((batch, kept), []).append(ran)
    names = ("images_per_s", "user_ms", "system_ms", "faults_per_image", "resident_mb")
    rows = [{"batch": batch, "freed": kept, **{n: median(ran, n) for n in names}} for (batch, kept), ran in seen.items()]
    record("serve-malloc", "ViT-B/16, batch after batch on one thread of the process", rows, rounds=given.rounds)


if __name__ == "__main__":
    main()
