"""The scores artifact: retrieval on a split of pairs, written as JSON for people and Parquet for each query."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

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
from biomedray.evaluate.embed import embed, read_embeddings
from biomedray.evaluate.ranking import IntVector, Ranking, Recall, chance, number_groups, rank, recall
from biomedray.model.encoder import Encoder
from biomedray.records import Split

MIN_PAIRS = 2
DIRECTIONS = ("image_to_text", "text_to_image")


def write_retrieval_scores(pairs: Path, model: str, out: Path, split: Split, progress: bool) -> Manifest:
    """Embed the split, rank both ways, write ``scores.json`` and ``queries.parquet``."""
    read_manifest(pairs, "pairs")
    encoder = Encoder.load(model)
    rows = _captions(pairs, split)
    if rows.num_rows < MIN_PAIRS:
        raise UserError(f"{pairs}: {rows.num_rows} pairs in split {split}; retrieval needs at least {MIN_PAIRS}")
    config = {"task": "retrieval", "split": split, "pairs": manifest_fingerprint(pairs), "model": encoder.fingerprint}
    claim_output(out, "scores", config)
    started = time.monotonic()
    pair_ids, images, texts = read_embeddings(_embed_once(pairs, model, out / "embeddings", split, progress))
    embedded = time.monotonic()
    rows = _aligned(rows, pair_ids)
    groups, articles = number_groups(rows["caption"].to_pylist()), number_groups(rows["pmcid"].to_pylist())
    rankings = {"image_to_text": rank(images, texts, groups), "text_to_image": rank(texts, images, groups)}
    scores = _scores(rankings, groups, articles, split)
    _write_queries(out / "queries.parquet", pair_ids, rankings)
    write_atomic(out / "scores.json", json.dumps(scores, indent=2) + "\n")
    manifest = Manifest(
        kind="scores",
        name=out.name,
        config=config,
        inputs=[
            {"name": "pairs", "uri": str(pairs.resolve()), "fingerprint": config["pairs"]},
            {"name": "model", "uri": str(model), "fingerprint": encoder.fingerprint},
        ],
        counts={"pairs": len(pair_ids), "articles": int(articles.max()) + 1, "captions": int(groups.max()) + 1},
        timings={"embed": embedded - started, "rank": time.monotonic() - embedded},
        details=scores,
    )
    write_manifest(out, manifest)
    return manifest


def _embed_once(pairs: Path, model: str, folder: Path, split: Split, progress: bool) -> Path:
    if (folder / "manifest.json").is_file():
        return folder
    return embed(pairs, model, folder, [split], progress)


def _captions(pairs: Path, split: Split) -> pa.Table:
    files = sorted((pairs / "data" / f"split={split}").glob("*.parquet"))
    if not files:
        return pa.table({"pair_id": [], "pmcid": [], "caption": []})
    return ds.dataset(files, format="parquet").to_table(columns=["pair_id", "pmcid", "caption"])


def _aligned(rows: pa.Table, pair_ids: list[str]) -> pa.Table:
    position = {pair_id: i for i, pair_id in enumerate(rows["pair_id"].to_pylist())}
    return rows.take([position[pair_id] for pair_id in pair_ids])


def _scores(rankings: dict[str, Ranking], groups: IntVector, articles: IntVector, split: Split) -> dict[str, Any]:
    expected = chance(groups)
    scores: dict[str, Any] = {"task": "retrieval", "split": split, "candidates": len(groups), "chance": _named(expected)}
    for direction, ranking in rankings.items():
        result = recall(ranking, articles)
        scores[direction] = _direction(result) | {"times_chance_R@1": result.at[1] / expected[1]}
    return scores


def _direction(result: Recall) -> dict[str, Any]:
    values = dataclasses.asdict(result)
    at, interval = values.pop("at"), values.pop("interval")
    return _named(at) | {"interval_95": {f"R@{k}": list(v) for k, v in interval.items()}} | values


def _named(by_k: dict[int, float]) -> dict[str, float]:
    return {f"R@{k}": value for k, value in by_k.items()}


def _write_queries(path: Path, pair_ids: list[str], rankings: dict[str, Ranking]) -> None:
    ids = np.array(pair_ids, dtype=object)
    columns: dict[str, Any] = {"pair_id": pair_ids}
    for direction in DIRECTIONS:
        columns[f"{direction}_rank"] = rankings[direction].ranks + 1
        columns[f"{direction}_ties"] = rankings[direction].ties
        columns[f"{direction}_top"] = [list(ids[row]) for row in rankings[direction].top]
    with atomic_path(path) as temporary:
        pq.write_table(pa.table(columns), temporary)
