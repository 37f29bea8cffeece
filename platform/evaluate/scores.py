"""The scores artifact of retrieval: JSON for people, Parquet for each query.

pairs or a captioned set, a model -> embeddings (made once) -> ranks both ways -> scores.json, queries.parquet, manifest.json
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from biomedray.artifacts import Manifest, atomic_path, claim_output, write_atomic, write_manifest
from biomedray.errors import UserError
from biomedray.evaluate import ann, leaks
from biomedray.evaluate.breakdown import breakdown
from biomedray.evaluate.captioned import open_captioned
from biomedray.evaluate.embed import embed_once
from biomedray.evaluate.known import By, Known, Limited, known_of_pairs, known_of_set, left_out
from biomedray.evaluate.measures import Recall, chance, recall
from biomedray.evaluate.models import Model, best_device, open_model
from biomedray.evaluate.pairs import PairsSet
from biomedray.evaluate.ranking import KS, Ranking, rank_both
from biomedray.evaluate.samples import SampleSet
from biomedray.evaluate.stats import RESAMPLES, Interval, IntVector, bootstrap_mean, number_groups
from biomedray.evaluate.vectors import Embedded, read_rejects, read_vectors

MIN_PAIRS = 2
DIRECTIONS = ("image_to_text", "text_to_image")
FEW_CLUSTERS = 20
"""Below, intervals cover less than they say; measured in benchmarks/evaluate_coverage.py."""

PAPER = {"candidates": 725_739, "R@1 over": 0.56, "R@5 over": 0.77}
"""What the paper says in words of BiomedCLIP on its own test pairs; the bars of its Fig. 2A have no numbers."""


@dataclass(frozen=True)
class Options:
    """What a user may choose."""

    by: By = "caption"
    ann: str | None = None
    """A key of faiss.index_factory, "auto", or None for no approximate search."""
    limit: int | None = None
    """Most pairs of the split."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Of a set of captions."""
    embeddings: Path | None = None
    """A store of embeddings, or one embeddings artifact; by default the scores' own."""
    resamples: int = RESAMPLES
    against: Sequence[Path] = ()
    """Pairs artifacts that the model was trained on; of pairs, by default, their own train split."""
    progress: bool = True


@dataclass(frozen=True)
class _Task:
    """What is ranked."""

    data: SampleSet
    where: Path
    pairs: bool
    split: str


def write_retrieval_scores(where: Path, model: str, out: Path, split: str, options: Options) -> Manifest:
    """Embed the split, rank both ways, write ``scores.json`` and ``queries.parquet``."""
    started = time.monotonic()
    whole = open_captioned(where, **options.options)
    pairs = isinstance(whole, PairsSet)
    opened = open_model(model)
    task = _Task(_chosen(whole, split, pairs, options), where, pairs, split)
    against = options.against or _own(where, whole)
    config = _config(task, opened, options) | {"against": leaks.identities(against)}
    claim_output(out, "scores", config)
    leaked = leaks.examine(task.data, split, against, out, options.progress)
    store = options.embeddings or out / "embeddings"
    folder = embed_once(task.data, split, model, store, opened=opened, texts=True, progress=options.progress)
    embedded = read_vectors(folder)
    rejects = Counter(row["reason"] for row in [*read_rejects(folder), *left_out(whole, split)])
    if len(embedded.ids) < MIN_PAIRS:
        raise UserError(f"{where}: {len(embedded.ids)} readable pictures in split {split}; retrieval needs at least {MIN_PAIRS}")
    known = known_of_pairs(where, split, embedded.ids) if task.pairs else known_of_set(task.data, split, embedded.ids)
    groups = number_groups(known.keys(options.by))
    ready = time.monotonic()
    rankings = _rank(embedded, groups, options.progress)
    ranked = time.monotonic()
    scores = _head(task, opened, embedded, dict(rejects), options) | _scores(rankings, embedded, known, groups, options)
    clusters = number_groups(embedded.groups)
    scores["leak"] = leaks.said(leaked, embedded.ids, lambda rows: _again(rankings, clusters, rows, options))
    _write_queries(out / "queries.parquet", embedded, groups, rankings)
    write_atomic(out / "scores.json", json.dumps(scores, indent=2, allow_nan=False) + "\n")
    manifest = Manifest(
        kind="scores",
        name=out.name,
        config=config,
        inputs=[
            {"name": "pairs" if task.pairs else "set", "uri": str(where.resolve()), "fingerprint": task.data.fingerprint},
            {"name": "model", "uri": str(model), "fingerprint": opened.fingerprint},
        ],
        counts={
            "pairs": len(embedded.ids),
            "rejects": sum(rejects.values()),
            _cluster_name(task): scores["clusters"],
            f"{options.by}s": int(groups.max()) + 1,
        },
        timings={"embed": ready - started, "rank": ranked - ready, "intervals": time.monotonic() - ranked},
        details=scores,
    )
    write_manifest(out, manifest)
    return manifest


def _chosen(data: SampleSet, split: str, pairs: bool, options: Options) -> SampleSet:
    """What of a set is ranked.

    Raises:
        UserError: too little, or golds that it does not know.
    """
    if data.size(split) < MIN_PAIRS:
        there = ", ".join(f"{name} {data.size(name)}" for name in data.splits) or "none at all"
        raise UserError(f"{data.name}: {data.size(split)} pairs in split {split}; retrieval needs at least {MIN_PAIRS} ({there})")
    if options.by == "figure" and not pairs:
        raise UserError("--by figure: only a pairs artifact knows which pictures are of one figure; use --by caption")
    if options.limit is None or options.limit >= data.size(split):
        return data
    if options.limit < MIN_PAIRS:
        raise UserError(f"--limit {options.limit}: retrieval needs at least {MIN_PAIRS} pairs")
    return Limited(data, options.limit)


def _own(where: Path, data: SampleSet) -> list[Path]:
    """Held-out pairs are compared with the training pairs that they were held out from."""
    return [where] if isinstance(data, PairsSet) and data.size("train") else []


def _again(rankings: dict[str, Ranking], clusters: IntVector, rows: IntVector, options: Options) -> dict[str, Any]:
    """R@1 of some of the queries among all candidates."""
    found = {}
    for direction, ranking in rankings.items():
        hits = (ranking.ranks[rows] < 1).astype(np.float64)
        found[f"{direction} R@1"] = asdict(bootstrap_mean(hits, clusters[rows], options.resamples))
    return found


def _config(task: _Task, model: Model, options: Options) -> dict[str, Any]:
    return {
        "task": "retrieval",
        "split": task.split,
        "set": task.data.fingerprint,
        "model": model.fingerprint,
        "by": options.by,
        "limit": options.limit,
        "options": dict(options.options),
        "ann": options.ann,
        "resamples": options.resamples,
    }


def _rank(embedded: Embedded, groups: IntVector, progress: bool) -> dict[str, Ranking]:
    assert embedded.texts is not None
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, disable=not progress) as bar:
        task = bar.add_task("rank both ways", total=len(groups))
        both = rank_both(
            embedded.images, embedded.texts, groups, device=best_device(), advance=lambda done: bar.advance(task, done)
        )
    return dict(zip(DIRECTIONS, both, strict=True))


def _cluster_name(task: _Task) -> str:
    return "articles" if task.pairs else "groups"


def _head(task: _Task, model: Model, embedded: Embedded, rejects: dict[str, int], options: Options) -> dict[str, Any]:
    """What the scores are about."""
    clusters = len(set(embedded.groups))
    notes = []
    if isinstance(task.data, Limited):
        notes.append(f"the first {task.data.size(task.split)} pairs of the split only: fewer candidates, higher recall")
    if clusters < FEW_CLUSTERS:
        notes.append(f"drawn over only {clusters} {_cluster_name(task)}: so few that intervals come out too narrow")
    return {
        "task": "retrieval",
        "set": task.data.name,
        "model": model.name,
        "split": task.split,
        "n": len(embedded.ids),
        "candidates": len(embedded.ids),
        "rejects": rejects,
        "by": options.by,
        "over": _cluster_name(task),
        "clusters": clusters,
        "resamples": options.resamples,
        "notes": notes,
        "paper": PAPER,
    }


def _scores(
    rankings: dict[str, Ranking], embedded: Embedded, known: Known, groups: IntVector, options: Options
) -> dict[str, Any]:
    expected = chance(groups)
    clusters = number_groups(embedded.groups)
    scores: dict[str, Any] = {"chance": _named(expected), "metrics": {}}
    for direction, ranking in rankings.items():
        result = recall(ranking, clusters, resamples=options.resamples)
        scores[direction] = _direction(result) | {"times_chance_R@1": result.at[1].value / expected[1]}
        scores["metrics"] |= {f"{direction} {name}": asdict(interval) for name, interval in _intervals(result).items()}
    hits = {direction: (ranking.ranks < 1).astype(np.int64) for direction, ranking in rankings.items()}
    scores["breakdown"] = breakdown(hits, known.dimensions, clusters, options.resamples)
    if options.ann:
        scores["ann"] = _approximate(rankings, embedded, groups, None if options.ann == "auto" else options.ann)
    return scores


def _direction(result: Recall) -> dict[str, Any]:
    """R@k and the rest of one direction; ranks count from 1, ties count against the gold candidate."""
    return {
        **{f"R@{k}": interval.value for k, interval in result.at.items()},
        "interval_95": {name: [interval.low, interval.high] for name, interval in _intervals(result).items()},
        "median_rank": result.median_rank,
        "mean_rank": result.mean_rank,
        "mrr": result.mrr.value,
        "tied_queries": result.tied_queries,
        "ties_in_favour": _named(result.optimistic),
        "ties_at_random": _named(result.expected),
        "several_golds": result.several_golds,
        "fractional_recall": {f"R@{k}": interval.value for k, interval in result.fractional.items()},
        "r_precision": result.r_precision.value,
    }


def _intervals(result: Recall) -> dict[str, Interval]:
    fractional = {f"fractional R@{k}": interval for k, interval in result.fractional.items()}
    at = {f"R@{k}": interval for k, interval in result.at.items()}
    return at | {"MRR": result.mrr} | fractional | {"R-precision": result.r_precision}


def _approximate(rankings: dict[str, Ranking], embedded: Embedded, groups: IntVector, key: str | None) -> dict[str, Any]:
    """R@k as a FAISS index would report it, and how many of the exact neighbours it found."""
    assert embedded.texts is not None
    found: dict[str, Any] = {}
    sides = ((embedded.images, embedded.texts), (embedded.texts, embedded.images))
    for direction, (queries, candidates) in zip(DIRECTIONS, sides, strict=True):
        index = ann.search(queries, candidates, key)
        exact = ann.recall_of_exact(index, rankings[direction], queries, candidates)
        found[direction] = _named(ann.recall_at(index, groups)) | {
            "index": index.key,
            "exact_neighbours_found": {f"of {k}": share for k, share in exact.items()},
            "build_s": round(index.build_s, 3),
            "search_s": round(index.search_s, 3),
        }
    return found


def _named(by_k: dict[int, float]) -> dict[str, float]:
    return {f"R@{k}": value for k, value in by_k.items()}


def _write_queries(path: Path, embedded: Embedded, groups: IntVector, rankings: dict[str, Ranking]) -> None:
    """One row a query: id, group (drawn as a whole), key (equal: gold for each other), ranks from 1, the best ids."""
    ids = pa.array(embedded.ids, pa.string())
    columns: dict[str, Any] = {"id": ids, "group": embedded.groups, "key": groups, "golds": np.bincount(groups)[groups]}
    for direction in DIRECTIONS:
        ranking = rankings[direction]
        width = ranking.top.shape[1]
        columns[f"{direction}_rank"] = ranking.ranks + 1
        columns[f"{direction}_ties"] = ranking.ties
        columns[f"{direction}_top"] = _rows(ids.take(pa.array(ranking.top.ravel())), width)
        columns[f"{direction}_top_scores"] = _rows(pa.array(ranking.top_scores.astype(np.float32).ravel()), width)
        columns[f"{direction}_recalled"] = _rows(pa.array(ranking.recalled.ravel()), len(KS))
        columns[f"{direction}_r_precision"] = ranking.r_precision
    with atomic_path(path) as temporary:
        pq.write_table(pa.table(columns), temporary, compression="zstd")


def _rows(flat: pa.Array, width: int) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(flat, width).cast(pa.list_(flat.type))
