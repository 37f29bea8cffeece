"""What a page says of an ablation or a search: the table, whether the paper's order holds, curves, and what was spent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from biomedray.artifacts import Manifest
from biomedray.report.parts import Grid, Section
from biomedray.report.plots import Plot, lines
from biomedray.tune.ablation import Metric
from biomedray.tune.trial import TRIALS, Outcome, read_outcome

_CURVES = (("val_r1_i2t", "Validation R@1, figure → caption, %", 100), ("val_r1_t2i", "Validation R@1, caption → figure, %", 100))
_MOST = 8


def ablation_section(folder: Path, manifest: Manifest, pictures: bool) -> Section:
    """The section; ``pictures=False`` leaves the plots out."""
    details = manifest.details
    grids = [Grid(str(details.get("source", "Trials")), details["grid"]["header"], details["grid"]["rows"], _note(details))]
    if details["verdict"] and "table" in details:
        grids.append(_order(details["table"]))
    outcomes = _outcomes(folder, details.get("table", {}).get("rows", []))
    grids.append(_spent(outcomes))
    title = f"Ablation: {details['ablation']}" if "ablation" in details else f"Search: {details['search']}"
    plots = _plots(outcomes) if pictures else []
    return Section(title, str(details.get("hypothesis", "")), _facts(manifest), grids, plots)


def _note(details: dict[str, Any]) -> str:
    if "ablation" not in details:
        return "Ranked by the mean of both R@1."
    paper = "" if details["scale"] == "paper" else " The paper's are of its own models and pairs: compare orders, not values."
    return f"Mean ± half of the 95 % interval over seeds. The paper found: {details['expected']}{paper}"


def _order(table: dict[str, Any]) -> Grid:
    """Each two rows that the paper tells apart: by how much there, by how much here, and whether the order is the same."""
    metrics = {found["key"]: Metric(**found) for found in table["metrics"]}
    rows = []
    for found in table["order"]:
        metric, here = metrics[found["metric"]], found["found"]
        interval = "" if here["low"] is None else f" [{metric.shown(here['low'])}, {metric.shown(here['high'])}]"
        answer = ("yes" if found["agrees"] else "no") + (
            "" if found["certain"] else ", within the spread" if here["n"] > 1 else ", one seed"
        )
        pair = f"{metric.title}: {found['better']} better than {found['worse']}"
        rows.append([pair, metric.shown(found["paper"]), metric.shown(here["mean"]) + interval, answer])
    return Grid("The paper's order", ["in the paper", "by", "here by", "found again"], rows, "Differences are paired by seed.")


def _facts(manifest: Manifest) -> list[tuple[str, str]]:
    facts = [(name.replace("_", " "), f"{value:,}") for name, value in manifest.counts.items() if isinstance(value, int)]
    facts.append(("training time, all trials", f"{manifest.timings['train_seconds']:,.0f} s"))
    return [*facts, ("device", ", ".join(manifest.details.get("devices", [])))]


def _outcomes(folder: Path, rows: Sequence[dict[str, Any]]) -> list[Outcome]:
    """All trials, in the order of the table."""
    found = [outcome for path in sorted((folder / TRIALS).glob("*")) if (outcome := read_outcome(path)) is not None]
    order = {row["variant"]: number for number, row in enumerate(rows)}
    return sorted(found, key=lambda outcome: (order.get(outcome.variant, len(order)), outcome.seed, outcome.name))


def _spent(outcomes: Sequence[Outcome]) -> Grid:
    rows = [[o.name, o.state, f"{o.pairs_seen:,}", f"{o.seconds:,.0f}", o.device, o.reason] for o in outcomes]
    return Grid("Trials", ["trial", "state", "pairs seen", "seconds", "device", "reason"], rows)


def _plots(outcomes: Sequence[Outcome]) -> list[Plot]:
    found = []
    for key, title, factor in _CURVES:
        series = _means(outcomes, key, factor)
        if series:
            found.append(lines(series, title, "pairs seen"))
    return found


def _means(outcomes: Sequence[Outcome], key: str, factor: float) -> dict[str, list[tuple[float, float]]]:
    """A curve for each variant: at each number of pairs seen the mean of its finished seeds (of all where none has)."""
    whole = {outcome.variant for outcome in outcomes if outcome.state == "finished"}
    outcomes = [outcome for outcome in outcomes if outcome.state == "finished" or outcome.variant not in whole]
    variants = list(dict.fromkeys(outcome.variant for outcome in outcomes if outcome.history))
    if len(variants) > _MOST:
        variants = [o.variant for o in sorted(outcomes, key=lambda o: -o.metrics.get(key, 0.0))][:_MOST]
    curves = {}
    for variant in variants:
        values: dict[float, list[float]] = {}
        for outcome in outcomes:
            for entry in outcome.history if outcome.variant == variant else ():
                if key in entry:
                    values.setdefault(float(entry["samples_seen"]), []).append(factor * entry[key])
        curves[variant] = [(seen, sum(found) / len(found)) for seen, found in sorted(values.items())]
    return {variant: points for variant, points in curves.items() if points}
