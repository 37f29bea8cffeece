"""Two models on the same samples: differences with paired intervals, p-values, and a correction for asking several times.

    scores A, scores B -> samples in both, by id -> paired bootstrap over clusters, McNemar -> Holm ==[scores: compare]==> report

Pairing takes out how hard a sample is, so far smaller differences can be told than by two intervals side by side.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from biomedray.artifacts import (
    Manifest,
    atomic_path,
    claim_output,
    manifest_fingerprint,
    read_manifest,
    write_atomic,
    write_manifest,
)
from biomedray.errors import UserError
from biomedray.evaluate.classification import METRICS, Answers, metric
from biomedray.evaluate.ranking import KS
from biomedray.evaluate.stats import RESAMPLES, IntVector, Paired, number_groups, paired, paired_means

TABLES = {"retrieval": "queries.parquet", "zeroshot": "samples.parquet", "probe": "samples.parquet"}
"""The file of each task that has a row for each sample."""

_SAME = ("task", "by", "classes")
"""What two scores must agree on."""

_DIRECTIONS = ("image_to_text", "text_to_image")


@dataclass(frozen=True)
class _Both:
    """The samples that two scores share, row by row."""

    a: dict[str, NDArray[Any]]
    b: dict[str, NDArray[Any]]
    ids: list[str]
    groups: list[str]
    only_a: int
    only_b: int


def write_comparison(a: Path, b: Path, out: Path, resamples: int = RESAMPLES) -> Manifest:
    """Compare two scores artifacts of one task into ``out``, a scores artifact.

    Raises:
        UserError: they are no scores of one task, share no sample, or disagree on labels.
    """
    first, second = read_manifest(a, "scores"), read_manifest(b, "scores")
    task = _task(a, first, b, second)
    both = _both(a / TABLES[task], b / TABLES[task])
    if task != "retrieval" and not np.array_equal(both.a["label"], both.b["label"]):
        raise UserError(f"{a} and {b}: labels of the same samples differ; score both on the same set")
    config = {"task": "compare", "a": manifest_fingerprint(a), "b": manifest_fingerprint(b), "resamples": resamples}
    claim_output(out, "scores", config)
    clusters = number_groups(both.groups)
    found = dict(_retrieval(both, clusters, resamples) if task == "retrieval" else _labelled(both, clusters, resamples))
    scores = {
        "task": "compare",
        "of": task,
        "a": _named(a, first),
        "b": _named(b, second),
        "n": len(both.ids),
        "only_a": both.only_a,
        "only_b": both.only_b,
        "over": first.details.get("over", "groups"),
        "clusters": int(clusters.max()) + 1,
        "resamples": resamples,
        "metrics": _corrected(found),
        "mcnemar": {name: mcnemar(*right) for name, right in _right(task, both).items()},
        "notes": _notes(task, first, second, both, int(clusters.max()) + 1),
    }
    _write_samples(out / "samples.parquet", task, both)
    write_atomic(out / "scores.json", json.dumps(scores, indent=2, allow_nan=False) + "\n")
    manifest = Manifest(
        kind="scores",
        name=out.name,
        config=config,
        inputs=[
            {"name": name, "uri": str(folder.resolve()), "fingerprint": config[name]} for name, folder in (("a", a), ("b", b))
        ],
        counts={"samples": len(both.ids), "groups": scores["clusters"], "only_a": both.only_a, "only_b": both.only_b},
        details=scores,
    )
    write_manifest(out, manifest)
    return manifest


def mcnemar(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> dict[str, Any]:
    """McNemar's exact test of paired hits and misses; it takes samples as independent.

    McNemar, Note on the sampling error of the difference between correlated proportions (1947).
    """
    from scipy.stats import binomtest

    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    p = float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    return {"only_a_right": only_a, "only_b_right": only_b, "p": p}


def holm(ps: Sequence[float]) -> list[float]:
    """P-values corrected for how many there are; Holm, A simple sequentially rejective multiple test procedure (1979)."""
    values = np.asarray(ps, np.float64)
    order = np.argsort(values, kind="stable")
    steps = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    corrected = np.empty(len(values))
    corrected[order] = np.minimum(steps, 1)
    return [float(p) for p in corrected]


def _task(a: Path, first: Manifest, b: Path, second: Manifest) -> str:
    for folder, manifest in ((a, first), (b, second)):
        if manifest.details.get("task") not in TABLES:
            raise UserError(f"{folder}: scores of task {manifest.details.get('task')}; compare takes {', '.join(TABLES)}")
        if not (folder / TABLES[manifest.details["task"]]).is_file():
            raise UserError(f"{folder}: {TABLES[manifest.details['task']]} is missing; score the model again")
    for key in _SAME:
        if first.details.get(key) != second.details.get(key):
            raise UserError(f"{a} and {b} differ in {key}: {first.details.get(key)} and {second.details.get(key)}")
    return str(first.details["task"])


def _both(a: Path, b: Path) -> _Both:
    tables = pq.read_table(a), pq.read_table(b)
    places = [{name: row for row, name in enumerate(table["id"].to_pylist())} for table in tables]
    ids = [name for name in places[0] if name in places[1]]
    if not ids:
        raise UserError(f"{a.parent} and {b.parent}: no sample in both; score both models on the same split of the same set")
    rows = [table.take([place[name] for name in ids]) for table, place in zip(tables, places, strict=True)]
    first, second = ({name: _array(table[name]) for name in table.column_names} for table in rows)
    return _Both(first, second, ids, rows[0]["group"].to_pylist(), len(places[0]) - len(ids), len(places[1]) - len(ids))


def _array(column: pa.ChunkedArray) -> NDArray[Any]:
    if pa.types.is_list(column.type) and pa.types.is_floating(column.type.value_type):
        return np.array(column.to_pylist(), np.float64)
    return np.asarray(column.to_numpy())


def _retrieval(both: _Both, clusters: IntVector, resamples: int) -> Iterator[tuple[str, Paired]]:
    for direction in _DIRECTIONS:
        a, b = (side[f"{direction}_rank"] for side in (both.a, both.b))
        for k in KS:
            yield f"{direction} R@{k}", paired_means(a <= k, b <= k, clusters, resamples)
        yield f"{direction} MRR", paired_means(1 / a, 1 / b, clusters, resamples)


def _labelled(both: _Both, clusters: IntVector, resamples: int) -> Iterator[tuple[str, Paired]]:
    a, b = _answers(both.a), _answers(both.b)
    for name in METRICS:
        found = paired(metric(a, name), metric(b, name), clusters, resamples)
        if not np.isnan(found.difference.value):  # AUROC of samples that are all of one class
            yield name, found


def _answers(side: Mapping[str, NDArray[Any]]) -> Answers:
    """What a classifier said, from its probabilities; an undecided one stays undecided."""
    logits = np.log(np.maximum(side["probabilities"], np.finfo(np.float64).tiny))
    undecided = side["predicted"] < 0
    best = logits.max(axis=1, keepdims=True)
    logits[undecided] = np.where(logits >= best - 1e-9, best, logits)[undecided]
    return Answers.of(side["label"], logits)


def _right(task: str, both: _Both) -> dict[str, tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Hits and misses of both, for each metric that is a share of hits."""
    if task == "retrieval":
        return {f"{way} R@1": (both.a[f"{way}_rank"] <= 1, both.b[f"{way}_rank"] <= 1) for way in _DIRECTIONS}
    return {"accuracy": (both.a["predicted"] == both.a["label"], both.b["predicted"] == both.b["label"])}


def _corrected(found: Mapping[str, Paired]) -> dict[str, dict[str, float]]:
    corrected = holm([one.p for one in found.values()])
    return {
        name: {
            "a": one.a,
            "b": one.b,
            "value": one.difference.value,
            "low": one.difference.low,
            "high": one.difference.high,
            "p": one.p,
            "p_holm": p,
        }
        for (name, one), p in zip(found.items(), corrected, strict=True)
    }


def _named(folder: Path, manifest: Manifest) -> dict[str, Any]:
    details = manifest.details
    return {key: details.get(key) for key in ("model", "set", "split", "n")} | {"scores": folder.resolve().name}


def _notes(task: str, first: Manifest, second: Manifest, both: _Both, clusters: int) -> list[str]:
    notes = []
    if both.only_a or both.only_b:
        notes.append(f"left out: {both.only_a} samples that only a has, {both.only_b} that only b has")
        if task == "retrieval":
            notes.append("ranks are among different candidates, so they are not quite comparable")
    if first.details.get("split") != second.details.get("split"):
        notes.append(f"splits differ: {first.details.get('split')} and {second.details.get('split')}")
    if clusters < len(both.ids):
        notes.append("McNemar's test takes samples as independent, which these are not: prefer the bootstrap's p")
    if task == "probe":
        notes.append("of each probe the run with the most training samples and the first seed")
    return notes


def _write_samples(path: Path, task: str, both: _Both) -> None:
    """One row a sample: id, group, and whether each model was right."""
    columns: dict[str, Any] = {"id": both.ids, "group": both.groups}
    for name, (a, b) in _right(task, both).items():
        columns |= {f"{name}: a": a, f"{name}: b": b}
    with atomic_path(path) as temporary:
        pq.write_table(pa.table(columns), temporary)
