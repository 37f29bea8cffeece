"""What a page says of zero-shot and probe scores: measured numbers with intervals, the paper's for reference, plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from biomedray.artifacts import Manifest
from biomedray.report.parts import Grid, Section
from biomedray.report.plots import Plot
from biomedray.report.score_plots import Point, heat_map, probe_curve, reliability_diagram

_NAMES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro-F1",
    "auroc": "AUROC",
    "ece": "calibration error",
}
_PAPER = "The paper's numbers are of its own weights, for reference: not measured here."

Scores = Mapping[str, Any]


# ---- zero-shot


def zero_shot_section(_folder: Path, manifest: Manifest, pictures: bool) -> Section:
    """One set."""
    scores = manifest.details
    lead = (
        f"Every picture goes to the class whose prompts are nearest; no picture of the set was trained on for this. "
        f"Intervals: 95 %, bootstrap over {scores['over']}."
    )
    grids = [zero_shot_grid(manifest), _prompts(scores), _templates(scores), *_notes(scores)]
    plots = _confusion_plots(scores) if pictures else []
    return Section(f"Zero-shot: {scores['set']}", lead, _facts(scores), grids, plots)


def zero_shot_grid(manifest: Manifest) -> Grid:
    """Every metric with its interval, and the paper's number where it has one."""
    scores = manifest.details
    paper = scores["paper"]
    rows = []
    for name, found in _main_first(scores):
        theirs = f"{paper['224px']:.1f}" if paper and name == scores["metric"] else ""
        rows.append([_NAMES[name], _value(found), _interval(found), theirs])
    header = ["%", "measured", "95 % interval", "paper, other weights"] if paper else ["%", "measured", "95 % interval"]
    title = f"Zero-shot on {scores['set']} ({scores['split']}, {scores['n']:,} pictures), interval over {scores['over']}"
    return Grid(title, header, [row[: len(header)] for row in rows], _majority(scores))


def _prompts(scores: Scores) -> Grid:
    rows = [[name, prompt, f"{scores['counts'].get(name, 0):,}"] for name, prompt in scores["prompts"].items()]
    return Grid("Classes", ["class", "what prompts call it", "pictures"], rows)


def _templates(scores: Scores) -> Grid:
    names = [name for name, _ in _main_first(scores)]
    rows = [[template, *[_percent(found[name]) for name in names]] for template, found in scores["templates"].items()]
    if len(rows) > 1:
        rows.append(["all together", *[_value(scores["metrics"][name]) for name in names]])
    spread = scores["template_spread"]
    note = (
        f"Between the templates the {_NAMES[scores['metric']]} differs by {100 * spread:.1f} points."
        if spread is not None
        else ""
    )
    return Grid("Each template alone, %", ["template", *[_NAMES[name] for name in names]], rows, note if len(rows) > 1 else "")


# ---- several sets


def table_section(_folder: Path, manifest: Manifest, _pictures: bool) -> Section:
    """The paper's table."""
    scores = manifest.details
    lead = f"Zero-shot over several sets with {scores['model']}. {_PAPER}"
    facts = [("model", str(scores["model"])), ("sets", str(len(scores["columns"])))]
    return Section("Zero-shot: the paper's table", lead, facts, [table_grid(manifest)])


def table_grid(manifest: Manifest) -> Grid:
    """Columns in the paper's order; below the measured numbers the paper's."""
    scores = manifest.details
    columns = scores["columns"]
    header = [
        "%",
        *[
            f"{column['title']} {'' if column['metric'] == 'accuracy' else _NAMES[column['metric']]}".strip()
            for column in columns
        ],
    ]
    rows = [
        ["measured", *[_value(column) for column in columns], _percent(scores["mean"]["value"])],
        ["95 % interval", *[_interval(column) for column in columns], ""],
        ["pictures", *[f"{column['n']:,}" for column in columns], ""],
        ["drawn over", *[f"{column['groups']:,} {column['over']}" for column in columns], ""],
    ]
    for side in ("224px", "384px"):
        theirs = [f"{column['paper'][side]:.1f}" if column["paper"] else "" for column in columns]
        rows.append([f"paper, other weights, {side[:3]} px", *theirs, f"{scores['mean']['paper'][side]:.1f}"])
    missing = scores["mean"]["missing"]
    note = (
        f"No mean: it is over five sets, and {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing."
        if missing
        else ""
    )
    return Grid("Zero-shot, accuracy unless named", [*header, "mean of the paper's five"], rows, note)


# ---- probe


def probe_section(_folder: Path, manifest: Manifest, pictures: bool) -> Section:
    """One set."""
    scores = manifest.details
    seeds = len(scores["seeds"])
    lead = (
        f"A linear head on frozen embeddings, the mean of {seeds} seed{'s' if seeds > 1 else ''}. Intervals: 95 %, bootstrap "
        f"of that mean over test {scores['over']}; the spread over seeds (standard deviation) stands beside them."
    )
    grids = [probe_grid(manifest), _all_metrics(scores), _runs(scores), *_notes(scores)]
    plots = [_curve(scores), *_confusion_plots(scores)] if pictures else []
    facts = [*_facts(scores), ("head starts from", scores["head"]), ("search", scores["search"])]
    return Section(f"Linear probe: {scores['set']}", lead, facts, grids, plots)


def probe_grid(manifest: Manifest) -> Grid:
    """The set's metric by share of the training split, beside the floor and zero-shot."""
    scores = manifest.details
    name, floor = scores["metric"], scores.get("floor")
    header = ["training pictures", f"{_NAMES[name]}, %", "95 % interval", "± over seeds"]
    rows = []
    for number, point in enumerate(scores["points"]):
        found, spread = point["metrics"][name], point["sd_over_seeds"][name]
        row = [_sample(point), _value(found), _interval(found), "" if spread is None else f"{100 * spread:.1f}"]
        if floor:
            under, above = floor["points"][number]["metrics"][name], floor["above_floor"][f"{point['fraction']:g}"]
            row += [_value(under), f"{_signed(above['value'])} {_interval(above, signed=True)}"]
        rows.append(row)
    zero = scores["zeroshot"][name]
    rows.append(["0 (zero-shot)", _value(zero), _interval(zero), ""] + (["", ""] if floor else []))
    title = f"Probe of {scores['set']} ({scores['split']}, {scores['n']:,} pictures), interval over {scores['over']}"
    return Grid(title, header + (["raw 28 px pixels", "above the pixels"] if floor else []), rows, _majority(scores))


def _all_metrics(scores: Scores) -> Grid:
    names = [name for name, _ in _main_first(scores)]
    rows = [[_sample(point), *[_cell(point["metrics"][name]) for name in names]] for point in scores["points"]]
    if floor := scores.get("floor"):
        rows += [[f"pixels, {_sample(point)}", *[_cell(point["metrics"][name]) for name in names]] for point in floor["points"]]
    return Grid("All metrics, %", ["training pictures", *[_NAMES[name] for name in names]], rows)


def _runs(scores: Scores) -> Grid:
    rows = []
    for point in scores["points"]:
        for run in point["runs"]:
            setting = ", ".join(f"{name} {run[name]:.3g}" for name in ("C", "lr", "weight_decay") if name in run)
            done = "" if run["converged"] else " (stopped at the most steps)"
            main = _percent(run["metrics"][scores["metric"]])
            rows.append([_sample(point), str(run["seed"]), setting + done, run["chosen_on"], _percent(run["validation"]), main])
    header = ["training pictures", "seed", "chosen", "on", "there, %", f"test {_NAMES[scores['metric']]}, %"]
    return Grid("Runs", header, rows)


def _curve(scores: Scores) -> Plot:
    name = scores["metric"]
    series = {"embeddings": _points(scores["points"], name)}
    if floor := scores.get("floor"):
        series["raw 28 px pixels"] = _points(floor["points"], name)
    zero = scores["zeroshot"][name]["value"]
    level = None if zero is None else ("zero-shot", 100 * zero)
    return probe_curve(series, level, f"Probe, {_NAMES[name]} by training pictures", f"{_NAMES[name]}, %")


def _points(points: Sequence[Scores], name: str) -> list[Point]:
    found = [(100 * point["fraction"], point["metrics"][name]) for point in points]
    return [(x, *(100 * m[key] for key in ("value", "low", "high"))) for x, m in found if m["value"] is not None]


# ---- shared


def _facts(scores: Scores) -> list[tuple[str, str]]:
    facts = [
        ("model", str(scores.get("model", ""))),
        ("layout", scores["layout"]),
        ("split", scores["split"]),
    ]
    facts += [("pictures", f"{scores['n']:,}"), ("classes", str(len(scores["classes"])))]
    if scores["over"] != "pictures":
        facts.append((scores["over"], f"{scores['groups']:,}"))
    if scores["rejects"]:
        facts.append(("unreadable", ", ".join(f"{count} {reason}" for reason, count in scores["rejects"].items())))
    return facts


def _confusion_plots(scores: Scores) -> list[Plot]:
    table, names = scores["confusion"], scores["classes"]
    undecided = sum(row[-1] for row in table)
    columns = [*names, "undecided"] if undecided else names
    shown = [row if undecided else row[:-1] for row in table]
    which = ""
    if "shown" in scores:
        which = f" Of {100 * scores['shown']['fraction']:g} % of the training split, seed {scores['shown']['seed']}."
    ece = scores["metrics"]["ece"]["value"]
    right = f"A perfect one lies on the dashed line; the expected error is {100 * ece:.1f} %."
    return [
        heat_map(shown, names, columns, "Confusion", f"Pictures; colour: share of the true class.{which}"),
        reliability_diagram(scores["reliability"], "Reliability", f"{right} Area: pictures.{which}"),
    ]


def _notes(scores: Scores) -> list[Grid]:
    return (
        [Grid("Good to know", ["", ""], [[str(i), note] for i, note in enumerate(scores["notes"], 1)])] if scores["notes"] else []
    )


def _majority(scores: Scores) -> str:
    name, count = max(scores["counts"].items(), key=lambda item: item[1])
    paper = f" {_PAPER}" if scores["paper"] else ""
    return f"Always saying '{name}' would be right in {100 * count / scores['n']:.1f} %.{paper}"


def _main_first(scores: Scores) -> list[tuple[str, Scores]]:
    return sorted(scores["metrics"].items(), key=lambda item: item[0] != scores["metric"])


def _sample(point: Scores) -> str:
    return f"{100 * point['fraction']:g} % ({point['n_train']:,})"


def _cell(found: Scores) -> str:
    return f"{_value(found)} {_interval(found)}"


def _value(found: Scores) -> str:
    return _percent(found["value"])


def _interval(found: Scores, signed: bool = False) -> str:
    if found["low"] is None:
        return ""
    form = _signed if signed else _percent
    return f"[{form(found['low'])}, {form(found['high'])}]"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


def _signed(value: float | None) -> str:
    return "" if value is None else f"{100 * value:+.1f}"
