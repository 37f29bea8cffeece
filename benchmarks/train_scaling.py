"""The training loop with one and with two workers: the same run, its pairs a second and its CPU seconds a pair.

Method: ``fit`` on pairs of generated articles, one torch thread and one decode thread a worker, gloo on loopback, without Ray
(its start is no matter of scaling); fixed global batch, tiny model at 64 pixels, so exchange and the loop's own work weigh more
than at real sizes. ``pairs_per_s``: wall clock, median over the logged steps of all but the first tenth; with as many busy
neighbours on the machine as cores, two workers can't be twice as fast. ``cpu_ms_each``: CPU time of all workers a pair, from the
difference of a run of several epochs and one of a single epoch, so the start is outside; ``cpu_efficiency`` is what of two
workers' CPU time would have done with one. A fresh process each, in turn, medians.

Usage: python benchmarks/train_scaling.py [--articles 150] [--rounds 3] [--epochs 4]
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from _measure import in_turn, record, work
from train_feed import pairs_of_articles

BATCH = 64


def _config(epochs: int) -> Any:
    from biomedray.config import override
    from biomedray.train import preset

    settings = ["model.image_size=64", f"train.batch_size={BATCH}", f"train.epochs={epochs}", "train.log_every=1"]
    return override(preset("demo"), [*settings, "data.threads=1", "data.read_threads=1", "data.val_pairs=8"])


def _fit(job: Any, rank: int, world: int, meet: Path) -> None:
    import torch

    from biomedray.train.fit import fit

    torch.set_num_threads(1)
    if world > 1:
        torch.distributed.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=world)
    fit(job)
    if world > 1:
        torch.distributed.destroy_process_group()


def run(way: str, pairs: str, epochs: str) -> dict[str, Any]:
    """As the first of so many workers; the others are processes of their own."""
    from biomedray.train.prepare import check, prepare
    from biomedray.train.watch import METRICS, read_lines

    world, config = int(way), _config(int(epochs))
    with tempfile.TemporaryDirectory(prefix="biomedray-bench-") as scratch:
        out, meet = Path(scratch) / "model", Path(scratch) / "meet"
        job = prepare(out, config, check(pairs, out, config, world))
        arguments = [str(world), str(meet), str(out), pairs, epochs]
        others = [subprocess.Popen([sys.executable, __file__, "--rank", str(rank), *arguments]) for rank in range(1, world)]
        _fit(job, 0, world, meet)
        assert [other.wait() for other in others] == [0] * len(others)
        lines = [line for line in read_lines(out / METRICS) if line["kind"] == "step"]
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    steady = [line["pairs_per_second"] for line in lines[len(lines) // 10 + 1 :]]
    waits = [line["data_wait_share"] for line in lines[len(lines) // 10 + 1 :]]
    cpu = sum(usage.ru_utime + usage.ru_stime for usage in used)
    found = {"pairs": len(lines) * BATCH, "pairs_per_s": statistics.median(steady), "wait_share": statistics.median(waits)}
    return {**found, "all_cpu_s": cpu, "last_loss": lines[-1]["loss"]}


def rank_process(rank: str, world: str, meet: str, out: str, pairs: str, epochs: str) -> None:
    """Another worker of the same run."""
    from biomedray.train.prepare import check, prepare

    config = _config(int(epochs))
    job = prepare(Path(out), config, check(pairs, Path(out), config, int(world)))
    _fit(job, int(rank), int(world), Path(meet))


def _child(arguments: list[str]) -> tuple[str, list[str]]:
    return arguments[0], [arguments[0].split()[0], *arguments[1:]]


def main() -> None:
    """Print pairs a second by number of workers."""
    if sys.argv[1:2] == ["--rank"]:
        return rank_process(*sys.argv[2:])
    if sys.argv[1:2] == ["--child"]:
        return work({f"{n} workers{kind}": run for n in (1, 2) for kind in ("", ", one epoch")}, *_child(sys.argv[2:]))
    options = argparse.ArgumentParser(description="Scaling of the training loop with workers.")
    options.add_argument("--articles", type=int, default=150)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--epochs", type=int, default=4)
    given = options.parse_args()
    kinds = {"": str(given.epochs), ", one epoch": "1"}
    with tempfile.TemporaryDirectory(prefix="biomedray-bench-") as scratch:
        pairs = pairs_of_articles(Path(scratch), given.articles)
        ways = [(f"{n} workers{kind}", str(pairs), epochs) for n in (1, 2) for kind, epochs in kinds.items()]
        found = in_turn(__file__, ways, given.rounds)
    rows = []
    for way in ("1 workers", "2 workers"):
        whole, short = found[way], found[f"{way}, one epoch"]
        each = 1000 * (whole["all_cpu_s"] - short["all_cpu_s"]) / (whole["pairs"] - short["pairs"])
        numbers = {"pairs": int(whole["pairs"]), "pairs_per_s": whole["pairs_per_s"], "cpu_ms_each": each}
        first = rows[0] if rows else numbers
        times = whole["pairs_per_s"] / first["pairs_per_s"]
        shares = {"times_faster": times, "cpu_efficiency": first["cpu_ms_each"] / each, "wait_share": whole["wait_share"]}
        rows.append({"way": way, **numbers, **shares, "last_loss": whole["last_loss"]})
    record("train-scaling", f"tiny model, batch {BATCH}, one thread a worker, median of {given.rounds}", rows)
    return None


if __name__ == "__main__":
    main()
