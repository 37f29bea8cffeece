"""What a page says of a model: its recipe, its size and work, and the curves of its training."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from biomedray.artifacts import Manifest
from biomedray.report.parts import Grid, Section
from biomedray.report.plots import Plot, lines

_LEAD = "An open_clip model: plain open_clip loads this folder as local-dir: with no network."
_TRAIN = ("epochs", "batch_size", "batch_schedule", "lr", "weight_decay", "betas", "eps", "warmup_steps", "grad_clip", "loss")
_TRAIN_MORE = ("precision", "ema_decay", "seed", "max_seconds")
_MODEL = ("text_tower", "image_weights", "clip_weights", "init_from", "image_size", "context_length", "patch_dropout")
_MEAN_CAPTION = 110  # tokens of 256 that PubMedBERT sees of a PMC caption on average
_X = "pairs seen"
_BINS = 300

Points = list[tuple[float, float]]


def model_section(folder: Path, manifest: Manifest, pictures: bool) -> Section:
    """The section; ``pictures=False`` leaves the plots out."""
    history = manifest.details.get("history", [])
    steps = _steps(folder / "metrics.jsonl")
    grids = [_recipe(manifest.config), _ends(history, steps), *([_epochs(history)] if pictures or len(history) <= 8 else [])]
    return Section("Model", _LEAD, _facts(folder, manifest), grids, _plots(steps, history) if pictures else [])


def _facts(folder: Path, manifest: Manifest) -> list[tuple[str, str]]:
    counts = manifest.counts
    facts = [("configuration", str(manifest.config.get("model", {}).get("name", "")))]
    facts += [(name.replace("_", " "), f"{value:,}") for name, value in counts.items() if isinstance(value, int | float)]
    facts += _work(folder)
    if "train_seconds" in manifest.timings:
        facts.append(("training time", f"{manifest.timings['train_seconds']:,.0f} s"))
    return facts


def _work(folder: Path) -> list[tuple[str, str]]:
    """GFLOP of one forward pass; nothing where the folder's configuration can't be built here."""
    from biomedray.model.flops import count

    try:
        model_cfg = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
        bert = folder / "config.json"
        work = count(model_cfg, json.loads(bert.read_text()) if bert.is_file() else None)
    except (OSError, ValueError, KeyError, RuntimeError):
        return []
    length = min(_MEAN_CAPTION, model_cfg["text_cfg"]["context_length"])
    pair = work.train_pair(length) / 1e9
    lengths = (length, model_cfg["text_cfg"]["context_length"])
    text = [(f"GFLOP, caption of {n}", f"{work.text(n) / 1e9:.2f}") for n in lengths]
    return [("GFLOP, picture", f"{work.image / 1e9:.2f}"), *dict(text).items(), ("GFLOP, pair in training", f"{pair:.1f}")]


def _recipe(config: dict[str, Any]) -> Grid:
    """The settings that say what was trained how, those that are unset left out."""
    model, train, data = (config.get(name, {}) for name in ("model", "train", "data"))
    rows = [["model." + name, _value(model[name])] for name in _MODEL if model.get(name)]
    rows += [["train." + name, _value(train[name])] for name in (*_TRAIN, *_TRAIN_MORE) if train.get(name) not in (None, [])]
    rows += [["data." + name, _value(data[name])] for name in ("crop_scale", "crop_ratio", "text") if name in data]
    return Grid("Recipe", ["setting", "value"], rows)


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_value(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _ends(history: list[dict[str, Any]], steps: list[dict[str, Any]]) -> Grid:
    """First, best and last value of each curve."""
    curves: list[tuple[str, list[float], Callable[[Sequence[float]], float], str]] = [
        ("training loss", _column(history, "train_loss"), min, ".3f"),
        ("validation loss", _column(history, "val_loss"), min, ".3f"),
        ("R@1 figure → caption", _column(history, "val_r1_i2t"), max, ".1%"),
        ("R@1 caption → figure", _column(history, "val_r1_t2i"), max, ".1%"),
        *[(name.removeprefix("val_"), _column(history, name), max, ".1%") for name in _zero_shot(history)],
        ("logit scale", _column(steps, "logit_scale"), max, ".1f"),
        ("pairs a second", _column(steps, "pairs_per_second"), max, ",.0f"),
        ("MFU", _column(steps, "mfu"), max, ".1%"),
        ("waiting for data", _column(steps, "data_wait_share"), min, ".1%"),
        ("padding in texts", _column(steps, "pad_waste"), min, ".1%"),
    ]
    shown = [(name, (values[0], best(values), values[-1]), form) for name, values, best, form in curves if values]
    rows = [[name, *(format(value, form) for value in values)] for name, values, form in shown]
    return Grid("Curves", ["", "first", "best", "last"], rows)


def _epochs(history: list[dict[str, Any]]) -> Grid:
    header = ["epoch", "train loss", "val loss", "val R@1 figure→caption", "val R@1 caption→figure"]
    return Grid("Epochs", header, [_epoch_row(entry) for entry in history])


def _epoch_row(epoch: dict[str, Any]) -> list[str]:
    losses = [_format(epoch.get(key), ".3f") for key in ("train_loss", "val_loss")]
    return [str(epoch["epoch"]), *losses, *[_format(epoch.get(key), ".1%") for key in ("val_r1_i2t", "val_r1_t2i")]]


def _format(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _plots(steps: list[dict[str, Any]], history: list[dict[str, Any]]) -> list[Plot]:
    recalls = {"figure → caption": "val_r1_i2t", "caption → figure": "val_r1_t2i"}
    zero_shot = {name.removeprefix("val_zeroshot_"): _points(history, name, 100) for name in _zero_shot(history)}
    shares = {"waiting for data": "data_wait_share", "padding in texts": "pad_waste", "MFU": "mfu"}
    found: list[tuple[str, dict[str, Points]]] = [
        ("Contrastive loss", {"training": _points(steps, "loss"), "validation": _points(history, "val_loss")}),
        ("Validation R@1, %", {name: _points(history, key, 100) for name, key in recalls.items()}),
        ("Zero-shot accuracy, %", zero_shot),
        ("Learning rate, 1e-4", {"lr": _points(steps, "lr", 1e4)}),
        ("Logit scale", {"scale": _points(steps, "logit_scale")}),
        ("Pairs a second", {"pairs/s": _points(steps, "pairs_per_second")}),
        (_shares_title(shares, steps), {name: _points(steps, key, 100) for name, key in shares.items()}),
    ]
    drawn = [(title, {name: points for name, points in series.items() if points}) for title, series in found]
    return [lines(series, title, _X) for title, series in drawn if series]


def _shares_title(shares: dict[str, str], steps: list[dict[str, Any]]) -> str:
    """Named after what is drawn, since a plot of one line has no legend."""
    return ", ".join([*(name for name, key in shares.items() if _column(steps, key)), "%"]).capitalize().replace("mfu", "MFU")


def _zero_shot(history: list[dict[str, Any]]) -> list[str]:
    return sorted({name for entry in history for name in entry if name.startswith("val_zeroshot_")})


def _column(entries: list[dict[str, Any]], name: str) -> list[float]:
    return [float(entry[name]) for entry in entries if entry.get(name) is not None]


def _points(entries: list[dict[str, Any]], name: str, factor: float = 1.0) -> Points:
    """A curve; one of very many points is shown by the means of neighbours."""
    found = [(float(entry["samples_seen"]), factor * entry[name]) for entry in entries if entry.get(name) is not None]
    size = -(-len(found) // _BINS)
    if size <= 1:
        return found
    groups = [found[start : start + size] for start in range(0, len(found), size)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]


def _steps(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    entries = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    return [entry for entry in entries if entry.get("kind", "step") == "step"]
