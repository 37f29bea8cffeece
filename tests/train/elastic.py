"""Run by test_elastic.py in a process of its own: a cluster of two machines that loses one, gets one, and is told that one goes.

python elastic.py PAIRS OUT RESULT
"""

from __future__ import annotations

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ray
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

from biomedray.config import override
from biomedray.train import checkpoint, loop, preset
from biomedray.train.watch import METRICS, read_lines

BATCH, EVERY = 24, 96  # pairs of a step, pairs between checkpoints; those after an epoch come every 120
SETTINGS = ["model.image_size=32", f"train.batch_size={BATCH}", "train.epochs=8", f"train.checkpoint_every={EVERY}"]
PATIENCE = 1000


def gated(gate: str) -> Any:
    """What Ray's workers run: no step goes beyond the number of pairs that the file names."""
    worker = loop._worker

    def held(job: Any, threads: int | None) -> None:
        from biomedray.train import fit

        step = fit._Loop._step

        def waiting(self: Any, batch: Any) -> Any:
            while batch.spec.seen > int(Path(gate).read_text()):
                time.sleep(0.05)
            return step(self, batch)

        fit._Loop._step = waiting
        worker(job, threads)

    return held


class Run:
    """The training under way, as it can be seen from outside."""

    def __init__(self, out: Path, gate: Path) -> None:
        self.out, self.gate = out, gate
        self.open_to(0)

    def open_to(self, seen: int) -> None:
        """Let it go on up to so many pairs."""
        temporary = self.gate.with_suffix(".new")
        temporary.write_text(str(seen))
        temporary.rename(self.gate)

    def lines(self) -> list[dict[str, Any]]:
        return read_lines(self.out / METRICS) if (self.out / METRICS).is_file() else []

    def seen(self) -> int:
        return max((line["samples_seen"] for line in self.lines() if line["kind"] == "step"), default=0)

    def saved(self) -> int:
        found = checkpoint.latest(self.out / "checkpoints")
        return int(found.name.removeprefix(checkpoint.PREFIX)) if found else 0

    def until(self, what: Any) -> None:
        """Wait for it.

        Raises:
            TimeoutError: it doesn't happen.
        """
        deadline = time.monotonic() + PATIENCE
        while not what():
            if time.monotonic() > deadline:
                raise TimeoutError(f"at {self.seen()} pairs, saved {self.saved()}: {self.lines()[-3:]}")
            time.sleep(0.1)

    def restarts(self) -> list[str]:
        return [line["text"] for line in self.lines() if line["kind"] == "note"]


def joined(cluster: Any) -> Any:
    """A machine more with one core; Ray gives a busy one 30 seconds to start, so it is asked again.

    Raises:
        RuntimeError: it doesn't start.
    """
    for _ in range(5):
        try:
            return cluster.add_node(num_cpus=1, include_dashboard=False)
        except Exception as error:  # noqa: BLE001  # Ray raises no other
            trouble = error
    raise RuntimeError("no node starts here") from trouble


def story(run: Run, cluster: Any, second: Any, told: dict[str, Any]) -> None:
    """Lose a machine, get one, be told that it goes."""
    run.open_to(7 * BATCH)
    run.until(lambda: run.seen() == 7 * BATCH and run.saved() == 5 * BATCH)
    told["lost"] = {"seen": run.seen(), "saved": run.saved()}
    cluster.remove_node(second, allow_graceful=False)
    run.until(lambda: run.restarts()[-1:] == [f"goes on after {told['lost']['saved']} pairs with 1 worker"])
    run.open_to(14 * BATCH)
    run.until(lambda: run.seen() == 14 * BATCH and run.saved() == 12 * BATCH)
    told["found"] = {"seen": run.seen(), "saved": run.saved()}
    third = joined(cluster)
    run.until(lambda: "with 2 workers" in (run.restarts() or [""])[-1])
    run.open_to(18 * BATCH)
    run.until(lambda: run.seen() == 18 * BATCH and run.saved() == 16 * BATCH)
    told["warned"] = {"seen": run.seen(), "saved": run.saved()}
    deadline = time.time_ns() // 10**6 + 20_000
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    GcsClient(address=cluster.address).drain_node(third.node_id, reason, "the machine goes", deadline)
    time.sleep(3)  # Train asks every half second here
    run.open_to(19 * BATCH)  # a worker hears of it after its step
    run.until(lambda: run.saved() == 19 * BATCH)
    told["heard"] = {"seen": run.seen(), "saved": run.saved()}
    run.until(lambda: time.time_ns() // 10**6 > deadline)
    cluster.remove_node(third, allow_graceful=False)
    run.until(lambda: f"goes on after {19 * BATCH} pairs with 1 worker" in run.restarts())


def main(pairs: str, out: Path, result: Path) -> None:
    """Train through all of it; what happened is written to ``result``."""
    os.environ |= {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2", "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5"}
    os.environ |= {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "HF_HUB_OFFLINE": "1"}
    cluster = Cluster()
    joined(cluster)  # the first is the head
    second = joined(cluster)
    run = Run(out, result.with_suffix(".gate"))
    ray.init(address=cluster.address, log_to_driver=False)
    loop._RESIZE_SECONDS, loop._worker = 2.0, gated(str(run.gate))
    told: dict[str, Any] = {"trouble": []}
    config = override(preset("smoke"), SETTINGS)
    with ThreadPoolExecutor(1) as pool:  # Ray starts machines from the main thread only
        training = pool.submit(loop.train, pairs, out, config, workers="1-2", progress=False)
        try:
            story(run, cluster, second, told)
        except Exception as error:  # noqa: BLE001  # told in the result, whatever it is
            told["trouble"].append(repr(error))
        run.open_to(10**9)
        told |= {"counts": training.result().counts, "restarts": run.restarts()}
    result.write_text(json.dumps(told))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
