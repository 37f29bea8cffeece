"""Which text goes with a picture: its caption, a sentence that cites the figure, or a panel's own part of the caption."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from biomedray.errors import UserError
from biomedray.train.presets import DataConfig
from biomedray.train.rows import COLUMNS, RowIndex, index_rows
from biomedray.train.source import Source

_CITANCES = ("citances",)
_PANELS = ("subcaption", "bbox")


@dataclass(frozen=True)
class Texts:
    """What may be said of a picture."""

    pair_id: str
    caption: str
    citances: tuple[str, ...] = ()


def columns_for(data: DataConfig) -> tuple[str, ...]:
    """The columns of the pairs that training with these settings reads."""
    extra = {"caption": (), "panel": _PANELS}.get(data.text, _CITANCES)
    return (*COLUMNS, *extra)


def index_for(source: Source, data: DataConfig) -> RowIndex:
    """The index of the train split.

    Raises:
        UserError: a file is damaged, or lacks a column that ``data.text`` needs.
    """
    try:
        return index_rows(source, "train", columns_for(data))
    except UserError as error:
        hint = f"; data.text={data.text} needs them" if "lacks the columns" in str(error) and data.text != "caption" else ""
        raise UserError(f"{error}{hint}") from None


def texts_of(row: dict[str, Any]) -> Texts:
    """The texts of a row of the pairs."""
    citances = tuple(citance["text"] for citance in row.get("citances") or () if citance["text"])
    return Texts(row["pair_id"], row.get("subcaption") or row["caption"], citances)


def box_of(row: dict[str, Any]) -> tuple[float, float, float, float] | None:
    """Left, top, right, bottom of the panel in pixels of the picture, if the row is about one."""
    box = row.get("bbox")
    return None if box is None else (box[0], box[1], box[2], box[3])


def draw(texts: Texts, data: DataConfig, random: np.random.Generator) -> str:
    """The text of one sample in one epoch, decided by ``random`` alone."""
    if data.text not in ("citance_instead", "citance_after") or not texts.citances:
        return texts.caption
    if random.random() >= data.citance_share:
        return texts.caption
    citance = texts.citances[int(random.integers(len(texts.citances)))]
    return citance if data.text == "citance_instead" else f"{texts.caption} {citance}"
