"""What a kill costs: a run killed half way and started again, against an unbroken run.

Method: the same generated articles, in one process without Ray's workers (the pipeline's own tasks, one after the other, so
that all CPU time is counted). The first process gets SIGKILL when half of the parts are there; a second one ends the run. CPU
seconds of both together against those of the unbroken run, less what a process takes that only starts and imports. Rounds
in turn, medians; on a shared machine their difference is noise of several percent either way. So the loss is also added up
from what it consists of: the part that was being read when the kill came, counted whole (one of the usual 256), and looking
through the sources again, measured by itself in the second process (``look_s``).

Usage: python benchmarks/ingest_resume.py [--articles 512] [--rounds 3]
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from _measure import child, record, work

_PER_PART = 2


def run(folder: str, out: str) -> dict[str, Any]:
    """The whole run in this process."""
    from biomedray.ingest import IngestConfig, pipeline

    pipeline.spread = partial(_here, pipeline.spread)  # type: ignore[assignment]  # all tasks in this process
    looking, populate = [0.0], pipeline._populate  # noqa: SLF001  # what is measured

    def timed(*arguments: Any) -> Any:
        before = time.process_time()
        found = populate(*arguments)
        looking.append(time.process_time() - before)
        return found

    pipeline._populate = timed  # noqa: SLF001  # same
    manifest = pipeline.run([folder], Path(out), IngestConfig(articles_per_part=_PER_PART), progress=False)
    return {"pairs": manifest.counts["pairs"], "parts": manifest.details["parts"], "look_s": sum(looking)}


def _here(spread: Any, numbers: Any, task: Any, **_: Any) -> Any:
    return spread(numbers, task, here=True)


def start(_folder: str, _out: str) -> dict[str, Any]:
    """Imports, and the language model, which each process loads once."""
    from biomedray.ingest import pipeline
    from biomedray.ingest.language import caption_language

    caption_language("Kernspintomographie des Kopfes bei einem Kranken mit mehreren Herden, Aufnahme vor der Behandlung.", None)
    return {"pairs": 0, "parts": len(pipeline.__name__)}


def killed(folder: Path, out: Path, parts: int) -> float:
    """CPU seconds of a run that is killed when half of its parts are whole."""
    process = subprocess.Popen([sys.executable, __file__, "--child", "run", str(folder), str(out)], stdout=subprocess.DEVNULL)
    while len(list((out / "parts").glob("*.json"))) < parts // 2 and process.poll() is None:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    _, _, usage = os.wait4(process.pid, 0)
    process.returncode = -signal.SIGKILL
    return usage.ru_utime + usage.ru_stime


def tree(out: Path) -> dict[str, bytes]:
    """Files of an artifact but the manifest, which holds times."""
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*.parquet")}


def one_round(folder: Path, scratch: Path) -> dict[str, float]:
    """CPU seconds: a bare start, the unbroken run, the killed and the second run."""
    bare = child(__file__, "start", folder, scratch / "none")["tree_cpu_s"]
    whole = child(__file__, "run", folder, scratch / "whole")
    first = killed(folder, scratch / "killed", int(whole["parts"]))
    again = child(__file__, "run", folder, scratch / "killed")
    if tree(scratch / "whole") != tree(scratch / "killed"):
        raise SystemExit("the resumed run has other bytes than the unbroken one")
    return {
        "parts": whole["parts"],
        "pairs": whole["pairs"],
        "start_s": bare,
        "unbroken_s": whole["tree_cpu_s"] - bare,
        "killed_s": first - bare,
        "resumed_s": again["tree_cpu_s"] - bare,
        "look_s": again["look_s"],
    }


def main() -> None:
    """Print the overhead in percent."""
    if sys.argv[1:2] == ["--child"]:
        return work({"run": run, "start": start}, sys.argv[2], sys.argv[3:])
    options = argparse.ArgumentParser(description="Overhead of a kill and a resume.")
    options.add_argument("--articles", type=int, default=512)
    options.add_argument("--rounds", type=int, default=3)
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="biomedray-bench-") as scratch:
        from biomedray.corpus import generate

        generate(Path(scratch) / "corpus", given.articles, 0, "cloud", 0.0, progress=False)
        found = [one_round(Path(scratch) / "corpus", Path(scratch) / str(number)) for number in range(given.rounds)]
    row: dict[str, Any] = {key: statistics.median(entry[key] for entry in found) for key in found[0]}
    losses = [entry["killed_s"] + entry["resumed_s"] - entry["unbroken_s"] for entry in found]
    shares = [100 * loss / entry["unbroken_s"] for loss, entry in zip(losses, found, strict=True)]
    row |= {"overhead_percent": statistics.median(shares), "lowest": min(shares), "highest": max(shares)}
    row["added_up_percent"] = 100 / row["parts"] + 100 * row["look_s"] / row["unbroken_s"]
    record("ingest-resume", f"{given.articles} generated articles, CPU seconds, median of {given.rounds}, same bytes", [row])
    return None


if __name__ == "__main__":
    main()
