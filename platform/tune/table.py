"""From outcomes to the paper's table: mean and interval over seeds, the paper's numbers beside them, and whether its order holds.

An interval over seeds is Student's: mean +- t(n-1) s / sqrt(n). Of one seed there is none. It tells what another seed would
change, not what another archive would.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any

from biomedray.tune.ablation import SECONDS, TIMES, Ablation, Metric, Scale, Variant
from biomedray.tune.trial import Outcome


@dataclass(frozen=True)
class Spread:
    """Mean over n seeds with its 95 % interval (None of one seed)."""

    mean: float
    low: float | None
    high: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        n, mean = len(values), sum(values) / len(values)
        if n == 1:
            return cls(mean, None, None, 1)
        from scipy.stats import t

        deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1))
        half = float(t.ppf(0.975, n - 1)) * deviation / math.sqrt(n)
        return cls(mean, mean - half, mean + half, n)

    def shown(self, metric: Metric) -> str:
        """Mean, and half the interval."""
        if self.low is None or self.high is None:
            return metric.shown(self.mean)
        return f"{metric.shown(self.mean)} ± {metric.shown((self.high - self.low) / 2)}"


@dataclass(frozen=True)
class Row:
    """A variant's line."""

    variant: str
    cells: tuple[str, ...]
    found: dict[str, Spread]
    paper: dict[str, float]
    finished: int
    notes: tuple[str, ...]
    """Of trials that were stopped or failed: which, and why."""


@dataclass(frozen=True)
class Comparison:
    """Whether one of the paper's differences is found again."""

    metric: str
    better: str
    """The variant that is better in the paper."""
    worse: str
    paper: float
    """By how much there."""
    found: Spread
    """By how much here, over the seeds that both have."""

    @property
    def agrees(self) -> bool:
        """Whether the order of the means is the paper's."""
        return self.found.mean > 0

    @property
    def certain(self) -> bool:
        """Whether the interval leaves 0 out."""
        low, high = self.found.low, self.found.high
        return low is not None and high is not None and (low > 0 or high < 0)


@dataclass(frozen=True)
class Table:
    """All of it; ``as_json`` is what the manifest keeps."""

    header: tuple[str, ...]
    metrics: tuple[Metric, ...]
    rows: list[Row]
    comparisons: list[Comparison]

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        comparisons = [asdict(c) | {"agrees": c.agrees, "certain": c.certain} for c in self.comparisons]
        rows = [asdict(row) for row in self.rows]
        return {"header": list(self.header), "metrics": [asdict(m) for m in self.metrics], "rows": rows, "order": comparisons}


def make_table(ablation: Ablation, scale: Scale, outcomes: Sequence[Outcome], zeroshot: Sequence[str] = ()) -> Table:
    """The ablation's table from what its trials left; ``zeroshot`` names the sets that validation scored."""
    variants = ablation.at(scale)
    metrics = (*ablation.metrics, *[_labelled(name, variants) for name in zeroshot])
    outcomes = _timed(variants[0].name, outcomes)
    rows = [_row(variant, scale, metrics, [o for o in outcomes if o.variant == variant.name]) for variant in variants]
    comparisons = [c for metric in metrics for c in _compare(variants, metric, outcomes)]
    return Table(ablation.header, metrics, rows, comparisons)


def _labelled(name: str, variants: Sequence[Variant]) -> Metric:
    """Accuracy on a labelled set, or AUROC where that is what the paper has."""
    auroc = Metric(f"val_zeroshot_{name}_auroc", f"zero-shot {name} AUROC (%)")
    known = any(auroc.key in variant.paper for variant in variants)
    return auroc if known else Metric(f"val_zeroshot_{name}", f"zero-shot {name} (%)")


def _timed(first: str, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """With each finished trial's training time over the mean of the first row's."""
    whole = [
        o.metrics[SECONDS.key] for o in outcomes if o.variant == first and o.state == "finished" and SECONDS.key in o.metrics
    ]
    if not whole or not all(whole):
        return list(outcomes)
    mean = sum(whole) / len(whole)
    return [
        replace(o, metrics=o.metrics | {TIMES.key: o.metrics[SECONDS.key] / mean}) if SECONDS.key in o.metrics else o
        for o in outcomes
    ]


def _row(variant: Variant, scale: Scale, metrics: Sequence[Metric], outcomes: Sequence[Outcome]) -> Row:
    finished = [outcome for outcome in outcomes if outcome.state == "finished"]
    found = {}
    for metric in metrics:
        values = [outcome.metrics[metric.key] for outcome in finished if _measured(outcome, metric)]
        if values:
            found[metric.key] = Spread.of(values)
    notes = [f"seed {o.seed} {o.state}: {o.reason}" for o in outcomes if o.state != "finished"]
    told = [(o, metric) for o in finished for metric in metrics if metric.key in o.metrics and not _measured(o, metric)]
    notes += [f"seed {o.seed}: {metric.title} is no number" for o, metric in told]
    return Row(variant.name, variant.arms[scale].cells, found, dict(variant.paper), len(finished), tuple(notes))


def _measured(outcome: Outcome, metric: Metric) -> bool:
    """Whether there is such a number; that of a training that diverged is none."""
    return math.isfinite(outcome.metrics.get(metric.key, math.nan))


def _compare(variants: Sequence[Variant], metric: Metric, outcomes: Sequence[Outcome]) -> list[Comparison]:
    """Each two variants that the paper tells apart, paired by seed."""
    known = [variant for variant in variants if metric.key in variant.paper]
    comparisons = []
    for one, other in combinations(known, 2):
        sign = 1 if metric.higher else -1
        gain = sign * (other.paper[metric.key] - one.paper[metric.key])
        better, worse = (other, one) if gain > 0 else (one, other)
        high, low = (_by_seed(outcomes, variant.name, metric) for variant in (better, worse))
        shared = sorted(high.keys() & low.keys())
        if gain and shared:
            found = Spread.of([sign * (high[seed] - low[seed]) for seed in shared])
            comparisons.append(Comparison(metric.key, better.name, worse.name, abs(gain), found))
    return comparisons


def _by_seed(outcomes: Sequence[Outcome], variant: str, metric: Metric) -> dict[int, float]:
    """A trial that trains nothing is the same for every seed, so it is looked at once and stands for all."""
    found = {
        o.seed: o.metrics[metric.key] for o in outcomes if o.variant == variant and o.state == "finished" and _measured(o, metric)
    }
    if len(found) == 1 and not any(o.history for o in outcomes if o.variant == variant):
        return dict.fromkeys({o.seed for o in outcomes}, next(iter(found.values())))
    return found


def verdict(table: Table) -> list[str]:
    """A line for each difference that the paper found: again, or not and by how much."""
    metrics = {metric.key: metric for metric in table.metrics}
    lines = []
    for c in table.comparisons:
        metric = metrics[c.metric]
        sureness = "beyond the spread of seeds" if c.certain else "within the spread of seeds" if c.found.n > 1 else "one seed"
        by = f"by {metric.shown(abs(c.found.mean))} ({sureness}; paper: by {metric.shown(c.paper)})"
        if c.agrees:
            lines.append(f"{metric.title}: {c.better} better than {c.worse}, as in the paper, {by}")
        else:
            lines.append(f"{metric.title}: {c.better} NOT better than {c.worse}, unlike the paper, {by}")
    return lines
