"""Queries with what they retrieve, as the paper's Fig. 2B: a caption and its four nearest figures, the gold one in a gold box.

Queries are drawn by seed among successes and failures alike, both ways; pictures are read for those few alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from biomedray.artifacts import Manifest
from biomedray.errors import UserError
from biomedray.evaluate.captioned import CaptionedSet, open_captioned
from biomedray.report.parts import Answer, Queries, Query
from biomedray.report.pictures import data_url

SHOWN = 4
_EACH = 3
_THUMBNAIL = 220
_TITLES = {"text_to_image": "Caption → figures", "image_to_text": "Figure → captions"}
_COLUMNS = ("caption", "fig_label", "journal", "year", "license_code", "image", "image_copy")


@dataclass(frozen=True)
class _Pair:
    """A figure with its caption."""

    image: bytes | Any
    caption: str
    source: str


def query_galleries(scores: Path, manifest: Manifest, each: int = _EACH, seed: int = 0) -> list[Queries]:
    """Both directions, ``each`` successes and failures of both; none where the set is no longer where it was."""
    path = scores / "queries.parquet"
    if not path.is_file():
        return []
    found = []
    for direction, title in _TITLES.items():
        columns = ["id", "key", *(f"{direction}_{name}" for name in ("rank", "top", "top_scores"))]
        table = pq.read_table(path, columns=columns)
        rows = draw(table, direction, each, seed)
        pairs = _pairs(manifest, {name for row in rows for name in (row["id"], *row[f"{direction}_top"][:SHOWN])})
        if pairs is None:
            return []
        keys = dict(zip(table["id"].to_pylist(), table["key"].to_pylist(), strict=True))
        queries = [_query(row, direction, pairs, keys) for row in rows if row["id"] in pairs]
        note = f"Drawn with seed {seed}: up to {each} with the gold answer among the first {SHOWN}, and up to {each} without."
        found.append(Queries(title, note, queries))
    return found


def draw(table: pa.Table, direction: str, each: int, seed: int) -> list[dict[str, Any]]:
    """Rows of successes (the gold one among those shown) and failures, drawn in the order of the file."""
    ranks = table[f"{direction}_rank"].to_pylist()
    chosen: list[int] = []
    for success in (True, False):
        rows = [row for row, rank in enumerate(ranks) if (rank <= SHOWN) is success]
        chosen += sorted(random.Random(f"{seed}:{direction}:{success}").sample(rows, min(each, len(rows))))
    found: list[dict[str, Any]] = table.take(chosen).to_pylist()
    return found


def _query(row: Mapping[str, Any], direction: str, pairs: Mapping[str, _Pair], keys: Mapping[str, int]) -> Query:
    own, rank = pairs[row["id"]], row[f"{direction}_rank"]
    by_figure = direction == "image_to_text"
    answers = []
    top = zip(row[f"{direction}_top"][:SHOWN], row[f"{direction}_top_scores"], strict=False)
    for place, (name, score) in enumerate(top, 1):
        gold = keys[name] == row["key"]
        answers.append(_answer(pairs[name], f"{place}  cos {score:.2f}", by_figure, gold))
    if not any(answer.gold for answer in answers):
        answers.append(_answer(own, f"rank {rank:,}", by_figure, gold=True, beyond=True))
    verdict = f"Found: gold at rank {rank:,}" if rank <= SHOWN else f"Missed: gold at rank {rank:,} of {len(keys):,}"
    return Query(by_figure, verdict, _url(own) if by_figure else "", own.caption, f"{own.source} {row['id']}".strip(), answers)


def _answer(pair: _Pair, mark: str, by_figure: bool, gold: bool, beyond: bool = False) -> Answer:
    return Answer(mark, "" if by_figure else _url(pair), pair.caption, pair.source, gold, beyond)


def _url(pair: _Pair) -> str:
    return data_url(pair.image, _THUMBNAIL) if isinstance(pair.image, bytes) else pixels_url(pair.image, _THUMBNAIL)


def pixels_url(pixels: Any, size: int) -> str:
    """A thumbnail of decoded pixels."""
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return data_url(buffer.getvalue(), size)


# ---- the few pairs that are shown


def _pairs(manifest: Manifest, ids: Iterable[str]) -> dict[str, _Pair] | None:
    where = {entry["name"]: Path(entry["uri"]) for entry in manifest.inputs}
    split, wanted = str(manifest.details["split"]), set(ids)
    if "pairs" in where:
        return _of_artifact(where["pairs"], split, wanted) if where["pairs"].is_dir() else None
    try:
        data = open_captioned(where["set"], **manifest.config.get("options", {}))
    except UserError:
        return None
    assert isinstance(data, CaptionedSet)
    return _of_set(data, split, wanted)


def _of_artifact(pairs: Path, split: str, wanted: set[str]) -> dict[str, _Pair]:
    """Ids are read of every row group, pictures of those that hold a wanted one."""
    found: dict[str, _Pair] = {}
    for path in sorted((pairs / "data" / f"split={split}").glob("*.parquet")):
        with pq.ParquetFile(path) as file:
            columns = [name for name in _COLUMNS if name in file.schema_arrow.names]
            for group in range(file.num_row_groups):
                ids = file.read_row_group(group, columns=["pair_id"])["pair_id"].to_pylist()
                rows = [row for row, name in enumerate(ids) if name in wanted]
                if rows:
                    table = file.read_row_group(group, columns=columns).take(rows)
                    found |= {ids[row]: _pair(entry) for row, entry in zip(rows, table.to_pylist(), strict=True)}
    return found


def _pair(row: Mapping[str, Any]) -> _Pair:
    source = " · ".join(str(row[name]) for name in ("fig_label", "journal", "year", "license_code") if row.get(name))
    return _Pair(row.get("image_copy") or row["image"], row["caption"], source)


def _of_set(data: CaptionedSet, split: str, wanted: set[str]) -> dict[str, _Pair]:
    rows: Sequence[int] = [row for row, name in enumerate(data.parts[split].ids) if name in wanted]
    samples = [sample for row in rows for sample in data.read(split, row, row + 1)]
    return {sample.id: _Pair(sample.image, sample.caption, "") for sample in samples}
