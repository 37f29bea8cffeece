"""Pictures for a report: figures of a pairs artifact as small data URLs with their captions."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from biomedray.artifacts import Manifest
from biomedray.pixels import PixelError, decode

THUMBNAIL = 260
_COLUMNS = ["pair_id", "image", "caption", "fig_label", "journal", "year", "license_code"]


@dataclass(frozen=True)
class Picture:
    """One figure on the page; ``mark`` is a short word on it, ``gold`` draws a frame."""

    pair_id: str
    image: str
    caption: str
    source: str
    mark: str = ""
    gold: bool = False


def data_url(image: bytes, size: int = THUMBNAIL) -> str:
    """A JPEG thumbnail with the long side at most ``size`` pixels; empty when the bytes can't be decoded."""
    try:
        picture, _ = decode(image, short_side=size)
    except PixelError:
        return ""
    picture.thumbnail((size, size))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def pictures_of(pairs: Path, pair_ids: Iterable[str]) -> dict[str, Picture]:
    """Pictures by pair id."""
    wanted = sorted(set(pair_ids))
    found: dict[str, Picture] = {}
    for path in sorted((pairs / "data").glob("split=*/*.parquet")):
        table = pq.read_table(path, columns=_COLUMNS, filters=pc.field("pair_id").isin(wanted), partitioning=None)
        found |= {row["pair_id"]: _picture(row) for row in table.to_pylist()}
    return found


def retrieval_pictures(scores: Path, manifest: Manifest, queries: int) -> list[tuple[str, list[Picture]]]:
    """Captions with the four figures that they retrieve, the gold one framed (the paper's Fig. 2B)."""
    pairs = Path(next(i["uri"] for i in manifest.inputs if i["name"] == "pairs"))
    path = scores / "queries.parquet"
    if not path.is_file() or not pairs.is_dir():
        return []
    table = pq.read_table(path, columns=["id", "text_to_image_rank", "text_to_image_top"])
    rows = _spread(table.to_pylist(), queries)
    pictures = pictures_of(pairs, [i for row in rows for i in [row["id"], *row["text_to_image_top"][:4]]])
    return [(_heading(row, pictures), _ranked(row, pictures)) for row in rows]


def _spread(rows: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Queries from the best to the worst rank in even steps, so that failures are shown too."""
    ordered = sorted(rows, key=lambda row: (row["text_to_image_rank"], row["id"]))
    count = min(count, len(ordered))
    return [ordered[round(i * (len(ordered) - 1) / max(1, count - 1))] for i in range(count)]


def _heading(row: dict[str, Any], pictures: dict[str, Picture]) -> str:
    return f"“{pictures[row['pair_id']].caption}”  (gold at rank {row['text_to_image_rank']})"


def _ranked(row: dict[str, Any], pictures: dict[str, Picture]) -> list[Picture]:
    found = []
    for i, pair_id in enumerate(row["text_to_image_top"][:4], 1):
        p = pictures[pair_id]
        found.append(Picture(pair_id, p.image, p.caption, p.source, str(i), pair_id == row["id"]))
    return found


def _picture(row: dict[str, Any]) -> Picture:
    source = " · ".join(str(v) for v in (row["fig_label"], row["journal"], row["year"], row["license_code"]) if v)
    return Picture(row["pair_id"], data_url(row["image"]), row["caption"], source)
