"""The whole pipeline through Ray with one and with two workers.

Method: the same generated articles, a fresh Ray of 1 and of 2 CPUs in turn, a small run first so that Ray's workers are up
and have imported everything; wall seconds of the extraction (the manifest's ``extract_s``), median over rounds. With as many
busy neighbours on the machine as cores, two workers can't be twice as fast; the load stands in the result.

Usage: python benchmarks/ingest_scaling.py [--articles 300] [--rounds 3] [--workers 1,2]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from _measure import in_turn, record, work


def run(workers: str, folder: str, warm: str) -> dict[str, Any]:
    """Ingest on a Ray of so many CPUs."""
    import ray

    from biomedray.corpus import generate  # noqa: F401  # so that imports of the driver are done before
    from biomedray.ingest import IngestConfig, ingest

    ray.init(num_cpus=int(workers), include_dashboard=False, log_to_driver=False)
    config = IngestConfig(articles_per_part=16)
    with tempfile.TemporaryDirectory() as out:
        ingest([warm], Path(out) / "warm", config, progress=False)
        manifest = ingest([folder], Path(out) / "pairs", config, progress=False)
    ray.shutdown()
    return {"pairs": manifest.counts["pairs"], **manifest.timings}


def main() -> None:
    """Print pairs per second by number of workers."""
    if sys.argv[1:2] == ["--child"]:
        return work({f"{n} workers": run for n in range(1, 65)}, sys.argv[2], [sys.argv[2].split()[0], *sys.argv[3:]])
    options = argparse.ArgumentParser(description="Scaling of the pipeline with workers.")
    options.add_argument("--articles", type=int, default=300)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--workers", default="1,2")
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="biomedray-bench-") as scratch:
        from biomedray.corpus import generate

        folders = [Path(scratch) / "corpus", Path(scratch) / "warm"]
        for folder, number in zip(folders, (given.articles, 80), strict=True):
            generate(folder, number, 0, "cloud", 0.0, progress=False)
        ways = [(f"{workers} workers", *map(str, folders)) for workers in given.workers.split(",")]
        found = in_turn(__file__, ways, given.rounds)
    first = next(iter(found.values()))["extract_s"]
    rows = [
        {
            "way": way,
            "pairs": int(entry["pairs"]),
            "extract_s": entry["extract_s"],
            "pairs_per_s": entry["pairs"] / entry["extract_s"],
            "times_faster": first / entry["extract_s"],
            "total_s": entry["total_s"],
            "driver_peak_mb": int(entry["peak_mb"]),
        }
        for way, entry in found.items()
    ]
    record("ingest-scaling", f"{given.articles} generated articles through Ray, wall seconds, median of {given.rounds}", rows)
    return None


if __name__ == "__main__":
    main()
