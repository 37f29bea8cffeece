"""Scores of one task on one set side by side: a line for each model, and its intervals as a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from biomedray.artifacts import Manifest
from biomedray.report.parts import Grid, Section
from biomedray.report.plots import COLOURS, INK, Plot, drawing, svg_of

_TASKS = {"retrieval": "Retrieval", "zeroshot": "Zero-shot", "probe": "Linear probe"}
_LEAD = (
    "Each interval is a model's own. Whether two models differ is a question for 'biomedray evaluate compare', which draws the "
    "same samples for both: intervals that overlap may still differ."
)
_SHOWN = {
    "retrieval": tuple(f"{way} R@{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)),
    "zeroshot": ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "ece"),
    "probe": ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "ece"),
}
_NAMES = {
    "image_to_text": "figure → caption",
    "text_to_image": "caption → figure",
    "auroc": "AUROC",
    "ece": "ECE",
    "macro_f1": "macro-F1",
}

Scored = tuple[Path, Manifest]


def side_by_side(artifacts: Sequence[Scored]) -> list[Section]:
    """A section for each task and set of which there are several scores."""
    groups: dict[tuple[str, str, str], list[Scored]] = {}
    for folder, manifest in artifacts:
        details = manifest.details
        if manifest.kind == "scores" and details.get("task") in _TASKS:
            groups.setdefault((details["task"], str(details.get("set")), str(details.get("split"))), []).append(
                (folder, manifest)
            )
    return [_section(*key, found) for key, found in groups.items() if len(found) > 1]


def _section(task: str, name: str, split: str, found: Sequence[Scored]) -> Section:
    metrics = [metric for metric in _SHOWN[task] if all(metric in manifest.details["metrics"] for _, manifest in found)]
    labels = _labels(found)
    rows = [
        [label, f"{manifest.details['n']:,}", *[_cell(manifest.details["metrics"][metric]) for metric in metrics]]
        for label, (_, manifest) in zip(labels, found, strict=True)
    ]
    counts = {manifest.details["n"] for _, manifest in found}
    note = "" if len(counts) == 1 else "Not all were scored on the same number of samples."
    title = f"{_TASKS[task]} on {name} ({split}), side by side"
    header = ["model", "n", *[_words(metric) for metric in metrics]]
    grid = Grid("Percent, with 95 % intervals", header, rows, note)
    plots = [_forest(metric, labels, [manifest.details["metrics"][metric] for _, manifest in found]) for metric in metrics[:2]]
    return Section(title, _LEAD, [("runs", str(len(found)))], [grid], plots)


def _labels(found: Sequence[Scored]) -> list[str]:
    """The model's name, with the run's where several are of one model."""
    models = [str(manifest.details.get("model", folder.name)) for folder, manifest in found]
    return [
        model if models.count(model) == 1 else f"{model} ({manifest.name})"
        for model, (_, manifest) in zip(models, found, strict=True)
    ]


def _words(metric: str) -> str:
    return " ".join(_NAMES.get(word, word.replace("_", " ")) for word in metric.split(" "))


def _cell(value: Mapping[str, Any]) -> str:
    if value["value"] is None:
        return "-"
    if value["low"] is None or value["high"] is None:
        return f"{100 * value['value']:.1f}"
    return f"{100 * value['value']:.1f} [{100 * value['low']:.1f}, {100 * value['high']:.1f}]"


def _forest(metric: str, labels: Sequence[str], values: Sequence[Mapping[str, Any]]) -> Plot:
    """A mark and an interval for each model, the first on top."""
    figure, axes = drawing(5.6, 1.2 + 0.38 * len(labels))
    for place, value in enumerate(values):
        if value["value"] is None:
            continue
        middle = 100 * value["value"]
        ends = [100 * value[side] if value[side] is not None else middle for side in ("low", "high")]
        colour = COLOURS[place % len(COLOURS)]
        axes.plot(ends, [place, place], color=colour, linewidth=2, solid_capstyle="round")
        axes.plot([middle], [place], color=colour, marker="o", markersize=6)
    axes.set_yticks(range(len(labels)), list(labels))
    axes.invert_yaxis()
    axes.margins(y=0.3)
    axes.grid(visible=False, axis="y")
    axes.grid(visible=True, axis="x", color=INK, alpha=0.25, linewidth=0.6)
    axes.set_xlabel("%", color=INK)
    return Plot(_words(metric), svg_of(figure))
