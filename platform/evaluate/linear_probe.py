"""Linear probe: a linear head on frozen embeddings, trained on 1 %, 10 % and 100 % of the training split.

    embeddings (once) -> nested samples by seed -> head, chosen on validation -> test answers -> mean over seeds, intervals
                                             the same on raw 28 px pixels: the floor

The paper's Fig. 3C and D. A point is the mean over seeds; its interval is a bootstrap over test groups of that mean, and the
spread over seeds stands beside it: the one says how far the test set may mislead, the other how far the training sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import Progress

from biomedray.artifacts import Manifest, claim_output
from biomedray.errors import UserError
from biomedray.evaluate import elevater, heads, leaks
from biomedray.evaluate.classification import METRICS, Answers, confusion, metric, plain, reliability, score
from biomedray.evaluate.labelled import EMBEDDINGS, Clock, Vectors, described, finish, inputs_of, vectors_of, write_samples
from biomedray.evaluate.models import Model
from biomedray.evaluate.nested import held_out, nested
from biomedray.evaluate.raw_pixels import as_features, raw_pixels
from biomedray.evaluate.sets import ImageSet
from biomedray.evaluate.sets.resplit import with_splits
from biomedray.evaluate.stats import bootstrap, paired
from biomedray.evaluate.zero_shot import classifier, logits

IntVector = NDArray[np.int64]
FloatMatrix = NDArray[np.float32]

FRACTIONS = (0.01, 0.1, 1.0)
SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Settings:
    """How to probe."""

    fractions: tuple[float, ...] = FRACTIONS
    """Of the training split."""
    seeds: tuple[int, ...] = SEEDS
    """Of the samples, and of what is drawn in training."""
    head: str = "zero"
    """What the head starts from and, with lbfgs, is penalised towards: zero or text."""
    search: str = "lbfgs"
    """lbfgs: logistic regression, C searched; elevater: SGD, learning rate and weight decay searched."""
    floor: bool = False
    """Whether the pixels themselves are probed too."""
    resamples: int = 1000

    def check(self) -> None:
        """Refuse what can't be probed.

        Raises:
            UserError: a value is off.
        """
        if not self.fractions or not all(0 < fraction <= 1 for fraction in self.fractions):
            raise UserError(f"fractions {', '.join(map(str, self.fractions))}: each above 0 and at most 1, such as 0.01 0.1 1")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise UserError(f"seeds {', '.join(map(str, self.seeds))}: give different numbers from 0 on, such as 0 1 2")
        for name, known in (("head", ("zero", "text")), ("search", ("lbfgs", "elevater"))):
            if getattr(self, name) not in known:
                raise UserError(f"{name} '{getattr(self, name)}': choose {' or '.join(known)}")


@dataclass(frozen=True)
class Table:
    """Features [n, D] with what is known of their samples."""

    features: FloatMatrix
    labels: IntVector
    groups: list[str]

    def take(self, rows: IntVector) -> Table:
        """Only these rows."""
        return Table(self.features[rows], self.labels[rows], [self.groups[i] for i in rows])


@dataclass(frozen=True)
class Problem:
    """What a probe is trained, chosen and tested on."""

    train: Table
    validation: Table | None
    test: Table
    classes: int
    metric: str
    text: FloatMatrix
    """[K, D] unit vectors of the prompts."""
    scale: float


@dataclass(frozen=True)
class Run:
    """One head: of one fraction and seed."""

    fraction: float
    seed: int
    n_train: int
    chosen: heads.Chosen
    chosen_on: str
    answers: Answers

    def record(self) -> dict[str, Any]:
        """As scores.json has it."""
        everything = np.arange(len(self.answers.labels))
        metrics = {name: metric(self.answers, name)(everything) for name in METRICS}
        return {
            "seed": self.seed,
            "n_train": self.n_train,
            **self.chosen.setting,
            "converged": self.chosen.head.converged,
            "chosen_on": self.chosen_on,
            "validation": self.chosen.score,
            "metrics": {name: None if np.isnan(found) else found for name, found in metrics.items()},
        }


def run_all(problem: Problem, settings: Settings, done: Callable[[], None] = lambda: None) -> list[Run]:
    """A run for every fraction and seed; ``done`` is told after each."""
    runs: list[Run] = []
    seen: dict[tuple[float, bytes], Run] = {}
    for seed in settings.seeds:
        for fraction, rows in zip(settings.fractions, nested(problem.train.labels, settings.fractions, seed), strict=True):
            # The same sample and a choice that draws nothing: the same head.
            key = (fraction, rows.tobytes())
            again = seen.get(key) if settings.search == "lbfgs" and problem.validation is not None else None
            run = replace(again, seed=seed) if again else _run(problem, settings, fraction, seed, rows)
            seen[key] = run
            runs.append(run)
            done()
    return runs


def _run(problem: Problem, settings: Settings, fraction: float, seed: int, rows: IntVector) -> Run:
    sample = problem.train.take(rows)
    chosen, on = _choose(problem, settings, sample, seed)
    return Run(fraction, seed, len(rows), chosen, on, Answers.of(problem.test.labels, chosen.head.logits(problem.test.features)))


def _choose(problem: Problem, settings: Settings, sample: Table, seed: int) -> tuple[heads.Chosen, str]:
    """The head for a sample; what was held out of the sample for the choice is trained on in the end with what was chosen."""
    if problem.validation is not None:
        return _search(problem, settings, sample, problem.validation, seed), "split val"
    parts = held_out(sample.labels, sample.groups, seed)
    if parts is None:
        return heads.Chosen(_fit(problem, settings, sample)(heads.FALLBACK_C), {"C": heads.FALLBACK_C}, None), "nothing: too few"
    fit, choose = (sample.take(rows) for rows in parts)
    found = _search(problem, settings, fit, choose, seed)
    if settings.search == "lbfgs":
        found = replace(found, head=_fit(problem, settings, sample)(found.setting["C"]))
    return found, f"{len(choose.labels)} of the sample"


def _search(problem: Problem, settings: Settings, fit: Table, choose: Table, seed: int) -> heads.Chosen:
    if settings.search == "lbfgs":
        return heads.choose(_fit(problem, settings, fit), choose.features, choose.labels, problem.metric)
    train, validation = (elevater.Samples(part.features, part.labels) for part in (fit, choose))
    start = np.ascontiguousarray(problem.text.T) if settings.head == "text" else np.zeros_like(problem.text.T)
    return elevater.search(train, validation, start, problem.metric, seed)


def _fit(problem: Problem, settings: Settings, sample: Table) -> heads.Fit:
    if settings.head == "text":
        text = np.ascontiguousarray(problem.scale * problem.text.T)
        return lambda c: heads.fit_to_text(sample.features, sample.labels, text, c)
    return lambda c: heads.fit_plain(sample.features, sample.labels, problem.classes, c)


# ---- points


def points(runs: Sequence[Run], clusters: IntVector, resamples: int) -> list[dict[str, Any]]:
    """For each fraction: the mean over seeds of every metric with its interval, the spread over seeds, and every run."""
    found = []
    for fraction in sorted({run.fraction for run in runs}):
        own = [run for run in runs if run.fraction == fraction]
        records = [run.record() for run in own]
        values = {name: [record["metrics"][name] for record in records] for name in METRICS}
        intervals = {name: bootstrap(mean_over_seeds(own, name), clusters, resamples) for name in METRICS}
        found.append(
            {
                "fraction": fraction,
                "n_train": own[0].n_train,
                "metrics": plain(intervals),
                "sd_over_seeds": {name: _spread(each) for name, each in values.items()},
                "runs": records,
            }
        )
    return found


def mean_over_seeds(runs: Sequence[Run], name: str) -> Callable[[IntVector], float]:
    """The metric of any rows, averaged over the runs; runs with the same answers are computed once."""
    different: dict[int, tuple[Callable[[IntVector], float], int]] = {}
    for run in runs:
        key = id(run.answers)
        different[key] = (metric(run.answers, name), 1) if key not in different else (different[key][0], different[key][1] + 1)
    return lambda rows: sum(times * one(rows) for one, times in different.values()) / len(runs)


def gains(ours: Sequence[Run], floor: Sequence[Run], name: str, clusters: IntVector, resamples: int) -> dict[str, Any]:
    """By fraction: how much more than the floor, on the same draws of the test samples."""
    found = {}
    for fraction in sorted({run.fraction for run in ours}):
        both = [mean_over_seeds([run for run in runs if run.fraction == fraction], name) for runs in (ours, floor)]
        compared = paired(both[0], both[1], clusters, resamples)
        found[f"{fraction:g}"] = plain({"difference": compared.difference})["difference"] | {"p": compared.p}
    return found


def _spread(values: Sequence[float | None]) -> float | None:
    known = [found for found in values if found is not None]
    return float(np.std(known, ddof=1)) if len(known) > 1 else None


# ---- the artifact


def prepared(data: ImageSet, split: str) -> ImageSet:
    """The set with a training split; one without splits is cut here, and its notes say so.

    Raises:
        UserError: there are splits, but none to train on, or not the one to test on.
    """
    found = with_splits(data) if len(data.splits) == 1 else data
    found.part(split)
    if split == "train" or "train" not in found.splits:
        raise UserError(
            f"{data.name}: a probe trains on split train and tests on another one; there is {', '.join(found.splits)}"
        )
    return found


def write_linear_probe(
    data: ImageSet,
    where: Path,
    split: str,
    spec: str | Path,
    model: Model,
    out: Path,
    settings: Settings,
    *,
    store: Path | None = None,
    against: Sequence[Path] = (),
    progress: bool = True,
) -> Manifest:
    """Probe one set into ``out``, a scores artifact; embeddings come from ``store`` (or are made in it).

    Raises:
        UserError: there is no training split, the settings are off, or ``out`` is taken.
    """
    clock = Clock()
    settings.check()
    ready = prepared(data, split)
    config = {"task": "probe", "set": ready.fingerprint, "split": split, "model": model.fingerprint, "prompts": ready.prompts}
    config |= {"against": leaks.identities(against)}
    claim_output(out, "scores", config | {"templates": ready.templates} | asdict(settings))
    leaked = leaks.examine(ready, split, against, out, progress)
    names = [name for name in ("train", "val", split) if name in ready.splits]
    vectors = {
        name: vectors_of(ready, name, spec, store or out / EMBEDDINGS, opened=model, progress=progress)
        for name in dict.fromkeys(names)
    }
    text = classifier(ready.prompts, ready.templates, model.encode_texts)
    problem = _problem(ready, split, vectors, text, model.logit_scale)
    floor = _floor(ready, split, problem, vectors) if settings.floor else None
    with Progress(disable=not progress) as bar:
        total = len(settings.fractions) * len(settings.seeds) * (1 + settings.floor)
        task = bar.add_task(f"probe {data.name}", total=total)
        runs = run_all(problem, settings, lambda: bar.advance(task))
        floor_runs = run_all(floor, replace(settings, head="zero"), lambda: bar.advance(task)) if floor else []
    scores = _scores(ready, split, vectors[split], settings, runs, floor_runs)
    zero = Answers.of(problem.test.labels, logits(problem.test.features, text, model.logit_scale))
    scores |= {"zeroshot": plain(score(zero, vectors[split].clusters, settings.resamples)), "model": model.name}
    scores["notes"] += [f"{sum(v.rejects.values())} unreadable pictures in {name}" for name, v in vectors.items() if v.rejects]
    shown = _shown(runs).answers

    def again(rows: IntVector) -> dict[str, Any]:
        return plain(score(Answers(shown.labels[rows], shown.logits[rows]), vectors[split].clusters[rows], settings.resamples))

    scores["leak"] = leaks.said(leaked, vectors[split].embedded.ids, again)
    write_samples(out / "samples.parquet", vectors[split].embedded, shown)
    return finish(out, config | asdict(settings), inputs_of(ready, where, spec, model), scores, clock())


def _problem(data: ImageSet, split: str, vectors: dict[str, Vectors], text: FloatMatrix, scale: float) -> Problem:
    tables = {name: Table(found.embedded.images, found.embedded.labels, found.embedded.groups) for name, found in vectors.items()}
    validation = tables.get("val") if split != "val" else None
    if len(np.unique(tables["train"].labels)) < 2:
        raise UserError(f"{data.name}: split train has one class only; a probe needs two")
    return Problem(tables["train"], validation, tables[split], len(data.classes), data.metric, text, scale)


def _floor(data: ImageSet, split: str, problem: Problem, vectors: dict[str, Vectors]) -> Problem:
    """The same samples as pixels."""
    names = list(vectors)
    found = dict(zip(names, as_features([raw_pixels(data, name, vectors[name].embedded.ids) for name in names]), strict=True))
    zeros = np.zeros((problem.classes, found[split].shape[1]), np.float32)
    validation = replace(problem.validation, features=found["val"]) if problem.validation else None
    train, test = replace(problem.train, features=found["train"]), replace(problem.test, features=found[split])
    return replace(problem, train=train, validation=validation, test=test, text=zeros)


def _scores(
    data: ImageSet, split: str, vectors: Vectors, settings: Settings, runs: Sequence[Run], floor: Sequence[Run]
) -> dict[str, Any]:
    clusters, resamples = vectors.clusters, settings.resamples
    found, shown = points(runs, clusters, resamples), _shown(runs)
    scores = {
        "task": "probe",
        **described(data, split, vectors),
        "paper": None,  # its Fig. 3C and D have no numbers
        "head": settings.head,
        "search": settings.search,
        "seeds": list(settings.seeds),
        "metrics": found[-1]["metrics"],
        "points": found,
        "confusion": confusion(shown.answers).astype(int).tolist(),
        "reliability": [asdict(one) for one in reliability(shown.answers)],
        "shown": {"fraction": shown.fraction, "seed": shown.seed},
    }
    if floor:
        compared = gains(runs, floor, data.metric, clusters, resamples)
        scores["floor"] = {"features": "28 px pixels", "points": points(floor, clusters, resamples), "above_floor": compared}
    return scores


def _shown(runs: Sequence[Run]) -> Run:
    """The run that samples.parquet, confusion and reliability are of: the largest fraction, the first seed."""
    return max(runs, key=lambda run: (run.fraction, -runs.index(run)))
