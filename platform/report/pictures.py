"""Pictures for a report: figures of a pairs artifact as small data URLs with their captions."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

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


def _picture(row: dict[str, Any]) -> Picture:
    source = " · ".join(str(v) for v in (row["fig_label"], row["journal"], row["year"], row["license_code"]) if v)
    return Picture(row["pair_id"], data_url(row["image"]), row["caption"], source)
