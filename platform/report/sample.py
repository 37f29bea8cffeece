"""A seeded sample of a pairs artifact: a few row groups are read, never the whole.

Rows lie in the order of a hash, so a row group is a sample of its part; groups are drawn over all parts of each split.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from biomedray.export.source import Group, Source, read_group
from biomedray.records import SPLITS, Split
from biomedray.report.parts import Browser, Sample
from biomedray.report.pictures import Picture, data_url
from biomedray.where import Where

_PER_GROUP = 4
_COLUMNS = (
    "pair_id",
    "caption",
    "fig_label",
    "journal",
    "year",
    "license_code",
    "split",
    "flags",
    "width",
    "height",
    "compound_hint",
    "chart_hint",
    "image",
    "image_copy",
)
_HELD_OUT_SHARE = 0.2
_SURE = 0.5

Row = dict[str, Any]


def browse(pairs: Path, count: int, seed: int = 0) -> Browser:
    """Pairs of every split with thumbnails, at least a fifth of them from each of val and test where there are such."""
    groups = {split: _groups(pairs, split) for split in SPLITS}
    samples = [
        _sample(row)
        for split, wanted in _quotas({split: sum(g.rows for g in found) for split, found in groups.items()}, count).items()
        for row in draw(groups[split], wanted, _COLUMNS, f"{seed}:{split}")
    ]
    random.Random(seed).shuffle(samples)
    note = f"{len(samples)} pairs drawn with seed {seed}; pictures are shown small."
    return Browser("A sample", note, samples)


def draw_captions(pairs: Path, count: int, seed: int = 0) -> list[Row]:
    """Captions with their n_tokens from all splits together, for what can't be counted on every row."""
    groups = [group for split in SPLITS for group in _groups(pairs, split)]
    return list(draw(groups, count, ("caption", "n_tokens"), f"{seed}:captions", per_group=64))


def draw(groups: Sequence[Group], count: int, columns: Sequence[str], seed: str, per_group: int = _PER_GROUP) -> Iterator[Row]:
    """``count`` rows, or all there are: groups in random order, up to ``per_group`` rows of each, round after round."""
    rng = random.Random(seed)
    order = rng.sample(list(groups), len(groups))
    if sum(group.rows for group in order) <= count:
        per_group = max((group.rows for group in order), default=0)
    elif len(order) * per_group < count:
        per_group = -(-count // len(order))
    left = count
    for group in order:
        if left <= 0:
            return
        chosen = sorted(rng.sample(range(group.rows), min(per_group, left, group.rows)))
        with pq.ParquetFile(group.path) as file:
            table = read_group(file, group.index, list(columns)).take(chosen)
        yield from table.to_pylist()
        left -= len(chosen)


def _groups(pairs: Path, split: Split) -> list[Group]:
    return Source(pairs, Where("", (), None)).groups(split)


def _quotas(rows: dict[Split, int], count: int) -> dict[Split, int]:
    """How many of each split: a fifth of them from val and from test, the rest from train, never more than there are."""
    share = max(1, round(count * _HELD_OUT_SHARE))
    quotas: dict[Split, int] = {split: min(share, rows[split]) for split in SPLITS if split != "train"}
    quotas["train"] = min(rows["train"], count - sum(quotas.values()))
    for split in SPLITS:
        quotas[split] += max(0, min(rows[split] - quotas[split], count - sum(quotas.values())))
    return quotas


def _sample(row: Row) -> Sample:
    size = f"{row['width']} x {row['height']}"
    source = " · ".join(str(v) for v in (row["fig_label"], row["journal"], row["year"], row["license_code"], size) if v)
    image = data_url(row["image_copy"] or row["image"])
    picture = Picture(row["pair_id"], image, row["caption"], source, ", ".join(row["flags"]))
    words = f"{row['caption']} {source} {row['pair_id']} {' '.join(row['flags'])}".lower()
    return Sample(picture, row["split"], row["license_code"] or "none known", kind_of(row), words)


def kind_of(row: Row) -> str:
    """What the cheap hints say of a picture, or that nobody looked."""
    if row["compound_hint"] is None and row["chart_hint"] is None:
        return "not looked at"
    if (row["compound_hint"] or 0) >= _SURE:
        return "several panels"
    return "chart or drawing" if (row["chart_hint"] or 0) >= _SURE else "single picture"
