"""Exact retrieval both ways: time and memory by size, the paper's 725,739 planned from them, and the full matrix beside it.

Method: N x 512 unit vectors, text i = image i plus noise, so that some queries find their gold and some do not. Every size runs
in a process of its own. Ours: ``rank_both``, all of it (golds, counts, ties, top 10, fractional recall), on all cores. The other
way, at sizes where it fits: the whole matrix in float32 and its ten largest by row and by column, as CLIP_benchmark and
torchmetrics do it, on all cores too; the recalls must be equal. Planned: seconds a n^2 + b n and megabytes c + d n, fitted to
the sizes measured. ``peak_mb`` counts everything, torch itself included; ``own_mb`` is what came on top of torch and vectors.
Usage: python benchmarks/evaluate_retrieval.py [--sizes 10000 20000 40000 100000] [--compare 10000 20000]
"""

from __future__ import annotations

import argparse
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from _measure import child, in_turn, peak_mb, record, work
from biomedray.evaluate.ranking import rank_both

DIM = 512
PAPER = 725_739
_CHUNK = 8192


def vectors(n: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Images and texts, made in place."""
    rng = np.random.default_rng(0)
    images, texts = np.empty((n, DIM), np.float32), np.empty((n, DIM), np.float32)
    for start in range(0, n, _CHUNK):
        part = slice(start, min(start + _CHUNK, n))
        rng.standard_normal(out=images[part], dtype=np.float32)
        rng.standard_normal(out=texts[part], dtype=np.float32)
        texts[part] *= 5.5
        texts[part] += images[part]
        for matrix in (images, texts):
            matrix[part] /= np.linalg.norm(matrix[part], axis=1, keepdims=True)
    return images, texts


def ours(size: str) -> dict[str, Any]:
    """Ranks of both directions by tiles."""
    images, texts = vectors(int(size))
    before = peak_mb()
    both = rank_both(images, texts, np.arange(len(images)))
    recalls = [float((one.ranks < k).mean()) for one in both for k in (1, 10)]
    return {"own_mb": round(peak_mb() - before), "recalls": recalls}


def matrix(size: str) -> dict[str, Any]:
    """The whole matrix, and its ten largest each way."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    images, texts = (torch.from_numpy(side) for side in vectors(int(size)))
    before = peak_mb()
    scores = images @ texts.T
    own = torch.arange(len(scores))[:, None]
    recalls = []
    for side in (scores, scores.T):
        hits = side.topk(10, dim=1).indices == own
        recalls += [float(hits[:, :k].any(dim=1).float().mean()) for k in (1, 10)]
    return {"own_mb": round(peak_mb() - before), "recalls": recalls}


WAYS = {"ours": ours, "matrix": matrix}


def plan(rows: list[dict[str, Any]], n: int = PAPER) -> dict[str, float]:
    """Seconds and megabytes at ``n``, from the sizes measured."""
    sizes = np.array([row["n"] for row in rows], float)

    def at(terms: list[NDArray[np.float64]], values: list[float], where: list[float]) -> float:
        columns = np.stack(terms, axis=1)
        weights = 1 / np.array(values)  # relative errors: small sizes count as much as large ones
        found = np.linalg.lstsq(columns * weights[:, None], np.array(values) * weights, rcond=None)[0]
        return float(np.dot(found, where))

    quadratic, linear = [sizes**2, sizes], [float(n) ** 2, float(n)]
    ones = np.ones_like(sizes)
    return {
        "n": n,
        "cpu_s": round(at(quadratic, [row["cpu_s"] for row in rows], linear)),
        "wall_s": round(at(quadratic, [row["wall_s"] for row in rows], linear)),
        "peak_mb": round(at([ones, sizes], [row["peak_mb"] for row in rows], [1.0, float(n)])),
    }


def main() -> None:
    """Every size, the comparison, the plan."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 20_000, 40_000, 100_000])
    parser.add_argument("--compare", type=int, nargs="*", default=[10_000, 20_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", nargs=2)
    arguments = parser.parse_args()
    if arguments.child:
        work(WAYS, arguments.child[0], arguments.child[1:], warm=("2048",))
        return
    rows = []
    for n in arguments.compare:
        found = in_turn(__file__, [("ours", str(n)), ("matrix", str(n))], arguments.rounds)
        if not np.allclose(found["ours"]["recalls"], found["matrix"]["recalls"], atol=1e-9):
            raise SystemExit(f"the two ways disagree at {n}: {found}")
        rows += [{"way": way, "n": n, **_shown(values)} for way, values in found.items()]
    for n in arguments.sizes:
        if n not in arguments.compare:
            rows.append({"way": "ours", "n": n, **_shown(child(__file__, "ours", n))})
    measured = sorted((row for row in rows if row["way"] == "ours"), key=lambda row: row["n"])
    record("evaluate-retrieval", f"exact retrieval both ways, {DIM} dimensions", rows, cores=_cores(), planned=plan(measured))
    print(f"planned: {plan(measured)}")


def _shown(values: dict[str, Any]) -> dict[str, Any]:
    names = ("wall_s", "cpu_s", "peak_mb", "own_mb")
    return {name: round(values[name], 2) for name in names} | {"recalls": [round(value, 4) for value in values["recalls"]]}


def _cores() -> int:
    return len(os.sched_getaffinity(0))


if __name__ == "__main__":
    main()
