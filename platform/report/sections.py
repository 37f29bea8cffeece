"""What a report says of each kind of artifact: facts, grids, plots and pictures, read back from its files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from biomedray.artifacts import Manifest
from biomedray.records import LEDGER_SCHEMA, PAIR_SCHEMA, REJECT_SCHEMA
from biomedray.report.pictures import Picture, pair_pictures, retrieval_pictures
from biomedray.report.plots import Plot, histogram, lines

_PAIR_FACTS = [
    "pmcid",
    "split",
    "license_code",
    "license_group",
    "journal",
    "width",
    "height",
    "n_tokens",
    "flags",
    "image_format",
]
_EMPTY = {"data": PAIR_SCHEMA, "ledger": LEDGER_SCHEMA, "rejects": REJECT_SCHEMA}
CONTEXT_LENGTHS = (77, 256)


@dataclass(frozen=True)
class Grid:
    """A small table."""

    title: str
    header: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class Gallery:
    """A row of pictures under one heading; ``ranked`` ones are numbered and the gold one is marked."""

    title: str
    pictures: list[Picture]


@dataclass(frozen=True)
class Section:
    """One artifact's part of the page."""

    title: str
    lead: str
    facts: list[tuple[str, str]]
    grids: list[Grid] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    galleries: list[Gallery] = field(default_factory=list)


def section_of(folder: Path, manifest: Manifest, pictures: bool = True) -> Section:
    """The section for an artifact of any kind; ``pictures=False`` leaves plots and galleries out."""
    return _SECTIONS.get(manifest.kind, _plain)(folder, manifest, pictures)


def retrieval_grid(manifest: Manifest) -> Grid:
    """Recall by direction with 95 % intervals, chance in the last row; every value in percent."""
    scores = manifest.details
    ks = list(scores["chance"])
    rows = []
    for direction, name in (("image_to_text", "figure → caption"), ("text_to_image", "caption → figure")):
        result = scores[direction]
        cells = [_recall_cell(result[k], result["interval_95"][k]) for k in ks]
        rows.append([name, *cells, f"{result['median_rank']:.0f}", f"{result['times_chance_R@1']:.0f}x"])
    rows.append(["chance", *[f"{100 * scores['chance'][k]:.1f}" for k in ks], "", "1x"])
    title = f"Retrieval among {scores['candidates']} held-out pairs ({scores['split']}), %, 95 % interval over articles"
    return Grid(title, ["", *ks, "median rank", "R@1 / chance"], rows)


def _recall_cell(value: float, interval: list[float]) -> str:
    return f"{100 * value:.1f} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def _pairs(folder: Path, manifest: Manifest, pictures: bool) -> Section:
    table = _read(folder / "data", _PAIR_FACTS)
    ledger, rejects = _read(folder / "ledger", None), _read(folder / "rejects", ["stage", "reason"])
    facts = [
        ("articles", f"{ledger.num_rows:,}"),
        ("graphics and figures without one", f"{_sum(ledger, 'graphics') + _sum(ledger, 'figures_without_graphic'):,}"),
        ("pairs", f"{table.num_rows:,} from {len(pc.unique(table['pmcid'])):,} articles"),
        ("rejects", f"{rejects.num_rows:,}"),
        ("ledger", "balances" if _balances(ledger) else "DOES NOT BALANCE"),
        ("engine", str(manifest.config.get("engine", ""))),
    ]
    grids = [
        Grid("Pairs by split", ["split", "pairs"], _counted(table, "split")),
        Grid("Licences", ["licence", "pairs"], _counted(table, "license_code")),
        Grid("Formats", ["format", "pairs"], _counted(table, "image_format")),
        Grid("Rejects by reason", ["stage: reason", "rows"], _reject_rows(rejects)),
        Grid("Flags", ["flag", "pairs"], _flag_rows(table)),
    ]
    lead = "One row for each graphic and its caption; whatever was not kept has a reject row with a reason."
    if not pictures or table.num_rows == 0:
        return Section("Pairs", lead, facts, grids)
    return Section("Pairs", lead, facts, grids, _pair_plots(table), [Gallery("A sample", pair_pictures(folder, 8))])


def _pair_plots(table: pa.Table) -> list[Plot]:
    short_side = np.minimum(table["width"].to_numpy(), table["height"].to_numpy())
    words = table["n_tokens"].to_numpy()
    over = ", ".join(f"{100 * float((words > n).mean()):.0f} % over {n}" for n in CONTEXT_LENGTHS)
    large = f"{100 * float((short_side > 336).mean()):.0f} % larger than 336 pixels (the paper: over 75 %)"
    return [
        histogram(short_side.tolist(), "Short side of the image, pixels", large),
        histogram(words.tolist(), "Caption length, words and marks", over),
    ]


def _model(folder: Path, manifest: Manifest, pictures: bool) -> Section:
    history = manifest.details.get("history", [])
    name = manifest.config.get("model", {}).get("name", "")
    facts = [("configuration", str(name)), *_count_facts(manifest)]
    if "train_seconds" in manifest.timings:
        facts.append(("training time", f"{manifest.timings['train_seconds']:.0f} s"))
    epochs = [_epoch_row(e) for e in history]
    grids = [Grid("Epochs", ["epoch", "train loss", "val loss", "val R@1 figure→caption", "val R@1 caption→figure"], epochs)]
    lead = "An open_clip model: plain open_clip loads this folder as local-dir: with no network."
    plots = _training_plots(folder, history) if pictures else []
    return Section("Model", lead, facts, grids, plots)


def _epoch_row(epoch: dict[str, Any]) -> list[str]:
    losses = [_number(epoch.get(key)) for key in ("train_loss", "val_loss")]
    return [str(epoch["epoch"]), *losses, *[_percent(epoch.get(key)) for key in ("val_r1_i2t", "val_r1_t2i")]]


def _training_plots(folder: Path, history: list[dict[str, Any]]) -> list[Plot]:
    steps = _steps(folder / "metrics.jsonl")
    losses = {"train, each step": [(s["samples_seen"], s["loss"]) for s in steps if "loss" in s]}
    losses["validation"] = [(e["samples_seen"], e["val_loss"]) for e in history if e.get("val_loss") is not None]
    recalls = {
        name: [(e["samples_seen"], 100 * e[key]) for e in history if e.get(key) is not None]
        for name, key in (("figure → caption", "val_r1_i2t"), ("caption → figure", "val_r1_t2i"))
    }
    return [
        lines(losses, "Contrastive loss over pairs seen", "pairs seen"),
        lines(recalls, "Validation R@1 over pairs seen, %", "pairs seen"),
    ]


def _scores(folder: Path, manifest: Manifest, pictures: bool) -> Section:
    facts = [("task", str(manifest.details.get("task", ""))), *_count_facts(manifest)]
    lead = "Queries and candidates are held-out pairs; a twin of the gold caption is gold, a tie with another a miss."
    galleries = []
    if pictures:
        galleries = [Gallery(title, found) for title, found in retrieval_pictures(folder, manifest, queries=4)]
    return Section("Scores", lead, facts, [retrieval_grid(manifest)], [], galleries)


def _plain(_folder: Path, manifest: Manifest, _pictures: bool) -> Section:
    grids = [
        Grid(name.replace("_", " "), ["", ""], [[str(k), str(v)] for k, v in value.items()])
        for name, value in manifest.counts.items()
        if isinstance(value, dict)
    ]
    return Section(manifest.kind.capitalize(), "", _count_facts(manifest), grids)


_SECTIONS: dict[str, Callable[[Path, Manifest, bool], Section]] = {"pairs": _pairs, "model": _model, "scores": _scores}


def _read(folder: Path, columns: list[str] | None) -> pa.Table:
    files = sorted(folder.rglob("*.parquet"))
    if not files:
        return _EMPTY[folder.name].empty_table()
    return ds.dataset(files, format="parquet").to_table(columns=columns)


def _sum(table: pa.Table, column: str) -> int:
    return int(pc.sum(table[column]).as_py() or 0)


def _balances(ledger: pa.Table) -> bool:
    seen = pc.add(ledger["graphics"], ledger["figures_without_graphic"])
    return bool(pc.all(pc.equal(seen, pc.add(ledger["pairs"], ledger["rejects"]))).as_py() in (True, None))


def _counted(table: pa.Table, column: str) -> list[list[str]]:
    counts = Counter(table[column].to_pylist())
    return [[str(key or "none"), f"{n:,}"] for key, n in counts.most_common(12)]


def _reject_rows(rejects: pa.Table) -> list[list[str]]:
    counts = Counter(zip(rejects["stage"].to_pylist(), rejects["reason"].to_pylist(), strict=True))
    return [[f"{stage}: {reason}", f"{n:,}"] for (stage, reason), n in counts.most_common()]


def _flag_rows(table: pa.Table) -> list[list[str]]:
    counts = Counter(flag for flags in table["flags"].to_pylist() for flag in flags)
    return [[flag, f"{n:,}"] for flag, n in counts.most_common()]


def _count_facts(manifest: Manifest) -> list[tuple[str, str]]:
    return [(name.replace("_", " "), f"{value:,}") for name, value in manifest.counts.items() if isinstance(value, int | float)]


def _steps(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"
