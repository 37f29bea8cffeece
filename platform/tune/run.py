"""A whole ablation or search: plan its trials, run the open ones, write the tables.

settings -> trials -> (sweep, on Ray Tune) -> outcomes on disk -> table.md .csv .tex, trials.csv, manifest.json
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from biomedray.artifacts import (
    MANIFEST,
    RUN_FILE,
    Manifest,
    claim_output,
    fingerprint,
    is_finished,
    read_manifest,
    write_atomic,
    write_manifest,
)
from biomedray.config import override
from biomedray.errors import UserError, WorkError
from biomedray.model import towers
from biomedray.train.plan import Plan, Workers
from biomedray.train.prepare import check
from biomedray.train.presets import TrainConfig, preset
from biomedray.train.rows import index_rows
from biomedray.train.source import Source
from biomedray.tune import formats
from biomedray.tune.ablation import Ablation, Scale
from biomedray.tune.cost import Cost, estimate
from biomedray.tune.space import Dimension, parse
from biomedray.tune.table import make_table, verdict
from biomedray.tune.trial import Outcome, Trial, read_outcome

Told = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True)
class Options:
    """How trials are run; none of it is part of what they are."""

    workers: str = "1"
    side_by_side: int | None = None
    """Trials at a time; None: as many as there are GPUs for, one on CPUs."""
    threads: int | None = None
    """Of torch in each worker; None: the cores, dealt out."""
    early_stop: bool = False
    """ASHA: trials that fall behind end early."""
    retry_failed: bool = False
    """Run failed trials of an earlier start again."""


@dataclass(frozen=True)
class Study:
    """An ablation as it is to be run."""

    ablation: Ablation
    scale: Scale
    seeds: tuple[int, ...]
    given: Mapping[str, str] = field(default_factory=dict)
    extra: tuple[str, ...] = ()
    only: tuple[str, ...] = ()

    def trials(self) -> list[Trial]:
        """Variant by variant, seed by seed; what trains nothing is looked at once.

        Raises:
            UserError: a setting doesn't fit, something that the ablation needs was not given, or ``only`` names no variant.
        """
        variants = self.ablation.at(self.scale)
        names = [variant.name for variant in variants]
        if unknown := sorted(set(self.only) - set(names)):
            raise UserError(f"--only {unknown[0]}: no such variant at this scale; there are {', '.join(names)}")
        found = []
        for variant in variants:
            if self.only and variant.name not in self.only:
                continue
            trains = variant.arms[self.scale].trains
            for seed in self.seeds if trains else self.seeds[:1]:
                config = self.ablation.config(variant, self.scale, seed, self.given, self.extra)
                found.append(Trial(f"{variant.name}-seed{seed}", variant.name, seed, config, trains))
        return found


@dataclass(frozen=True)
class Quest:
    """A user's own search."""

    base: str
    space: tuple[Dimension, ...]
    number: int
    how: Literal["grid", "random", "optuna"]
    extra: tuple[str, ...] = ()
    seed: int = 0

    @classmethod
    def of(cls, base: str, space: Sequence[str], number: int, how: str, extra: tuple[str, ...], seed: int = 0) -> Quest:
        """From the words of the command line.

        Raises:
            UserError: they don't fit together.
        """
        dimensions = tuple(parse(space))
        if not dimensions:
            raise UserError("name what is to be tried: --space 'train.lr=loguniform(1e-4, 1e-2)', or an --ablation")
        kinds = {dimension.kind for dimension in dimensions}
        if how == "grid" and kinds != {"grid"}:
            raise UserError("--search grid: every --space must be grid(a, b, ...)")
        if how != "grid" and "grid" in kinds:
            raise UserError(f"--search {how}: draws from choice(...) and ranges; grid(...) goes with --search grid")
        if how not in ("grid", "random", "optuna"):
            raise UserError(f"--search {how}: there are grid, random and optuna")
        return cls(base, dimensions, number, how, extra, seed)  # type: ignore[arg-type]  # checked just above

    def trial(self, drawn: Mapping[str, Any]) -> Trial:
        """What these values of the dimensions make.

        Raises:
            UserError: a value doesn't fit its setting.
        """
        settings = [f"{dimension.key}={_yaml(drawn[dimension.key])}" for dimension in self.space]
        config = override(preset(self.base), [*self.extra, *settings])
        values = {dimension.key: drawn[dimension.key] for dimension in self.space}
        name = f"trial-{fingerprint(values)[:10]}"
        return Trial(name, name, config.train.seed, config, settings=values)

    def grid(self) -> list[Trial]:
        """Every combination."""
        combinations: list[dict[str, Any]] = [{}]
        for dimension in self.space:
            combinations = [{**made, dimension.key: value} for made in combinations for value in dimension.values]
        return [self.trial(drawn) for drawn in combinations]


def _yaml(value: Any) -> str:
    """Floats with all their digits, in a form that YAML reads as a number."""
    if isinstance(value, float):
        return f"{value:.17g}" if "e" not in f"{value:.17g}" else f"{value:.20f}"
    return str(value)


@dataclass(frozen=True)
class Planned:
    """What a run is about to do; ``error`` where a trial can't even start."""

    trial: Trial
    cost: Cost | None
    error: str = ""


def plan(pairs: Path | str, trials: Sequence[Trial]) -> list[Planned]:
    """Pairs and work of each trial, and what is wrong with it, before anything runs.

    Raises:
        UserError: ``pairs`` is no pairs artifact.
    """
    source = Source.of(pairs)
    source.manifest()
    rows = index_rows(source, "train").rows
    found = []
    for trial in trials:
        try:
            tower = trial.config.model.text_tower
            if tower is None or Path(tower).exists():  # a plan asks no hub: without a network that takes minutes
                towers.check(trial.config.model)
            found.append(Planned(trial, estimate(trial.config, rows, trial.trains)))
        except UserError as error:
            found.append(Planned(trial, None, str(error)))
    return found


def run_study(pairs: Path | str, out: Path, study: Study, options: Options, told: Told) -> Manifest:
    """Run the open trials of an ablation and write its tables; started again, it goes on.

    Raises:
        UserError: the pairs, the settings or every trial are off, or ``out`` is taken.
        WorkError: no trial has ended well.
    """
    from biomedray.tune import sweep

    trials = study.trials()
    _check(pairs, trials, options)
    source = Source.of(pairs)
    claim: dict[str, Any] = {"pairs": source.fingerprint(), "ablation": study.ablation.name, "scale": study.scale}
    claim |= {"trials": {trial.name: trial.config.identity() for trial in trials}}
    _take(out, claim, options)
    dashboard = sweep.start()
    told("", {"dashboard": dashboard, "trials": len(trials)})
    shared = _shared(pairs, out, options, sweep)
    left = _open(trials, out, options, told)
    if left:
        stopping = _stopping(source, trials[0].config, sweep) if options.early_stop else None
        sweep.run_grid(left, shared, sweep.concurrency(options.side_by_side, Workers.of(options.workers)), stopping, told)
    outcomes = _outcomes(trials, out)
    return _write_study(out, study, source, claim, outcomes)


def run_quest(pairs: Path | str, out: Path, quest: Quest, options: Options, told: Told) -> Manifest:
    """Run a search until it has its number of trials, and write their table; started again, it goes on.

    Raises:
        UserError, WorkError: as ``run_study``.
    """
    from biomedray.tune import sweep

    first = quest.grid() if quest.how == "grid" else []
    base = first[0].config if first else override(preset(quest.base), list(quest.extra))
    _check(pairs, first or [Trial("base", "base", 0, base)], options)
    source = Source.of(pairs)
    claim = {"pairs": source.fingerprint(), "base": base.identity() if not first else quest.base, "search": quest.how}
    claim |= {"space": {d.key: [d.kind, *d.values] for d in quest.space}}
    _take(out, claim, options)
    dashboard = sweep.start()
    total = len(first) if first else quest.number
    told("", {"dashboard": dashboard, "trials": total})
    shared = _shared(pairs, out, options, sweep)
    side_by_side = sweep.concurrency(options.side_by_side, Workers.of(options.workers))
    stopping = _stopping(source, base, sweep) if options.early_stop else None
    if first:
        if left := _open(first, out, options, told):
            sweep.run_grid(left, shared, side_by_side, stopping, told)
    elif (done := _known(out)) is not None and (missing := quest.number - len(done)) > 0:
        for _, outcome in done:
            told(outcome.name, {"state": outcome.state})
        drawn = [(outcome.settings, _score(outcome)) for _, outcome in done if outcome.metrics]
        search = sweep.Search("optuna" if quest.how == "optuna" else "random", side_by_side, quest.seed + len(done), stopping)
        sweep.run_search(quest.space, quest.trial, drawn, missing, shared, search, told)
    outcomes = [outcome for _, outcome in _known(out)]
    return _write_quest(out, quest, source, claim, outcomes)


def _take(out: Path, claim: dict[str, Any], options: Options) -> None:
    """Claim the folder; a finished sweep is opened again where failed trials are to be tried again."""
    if options.retry_failed and is_finished(out):
        if fingerprint(read_manifest(out, "ablation").config) != fingerprint(claim):
            raise UserError(f"{out}: holds a sweep of other input or settings; choose another folder")
        write_atomic(out / RUN_FILE, json.dumps({"kind": "ablation", "config": fingerprint(claim)}))
        (out / MANIFEST).unlink()
    claim_output(out, "ablation", claim)


def _check(pairs: Path | str, trials: Sequence[Trial], options: Options) -> None:
    """Something must be able to run; what is wrong with single trials is found when they run, and is in the table."""
    wrong = []
    for trial in trials:
        try:
            check(pairs, Path("a-folder-that-is-not-there"), trial.config, options.workers)
        except UserError as error:
            wrong.append(f"{trial.name}: {error}")
    if len(wrong) == len(trials):
        raise UserError(wrong[0])


def _shared(pairs: Path | str, out: Path, options: Options, sweep: Any) -> Any:
    return sweep.Shared(Source.of(pairs).address, out.resolve(), options.workers, options.threads)


def _open(trials: Sequence[Trial], out: Path, options: Options, told: Told) -> list[Trial]:
    """Those without an outcome; failed ones too if they are to be tried again."""
    left = []
    for trial in trials:
        outcome = read_outcome(trial.folder(out))
        if outcome is not None and outcome.state == "failed" and options.retry_failed:
            (trial.folder(out) / "outcome.json").unlink()
            outcome = None
        if outcome is None:
            left.append(trial)
        else:
            told(trial.name, {"state": outcome.state})
    return left


def _stopping(source: Source, config: TrainConfig, sweep: Any) -> Any:
    """Rungs at a ninth and a third of the run, but never before the first epoch."""
    rows = index_rows(source, "train").rows
    total = Plan(rows, config.train).total_samples
    return sweep.Stopping(grace=max(total // 9, total // config.train.epochs), most=total + 1)


def _outcomes(trials: Sequence[Trial], out: Path) -> list[Outcome]:
    found = [(trial, read_outcome(trial.folder(out))) for trial in trials]
    if missing := [trial.name for trial, outcome in found if outcome is None]:
        raise WorkError(f"{len(missing)} trials are still open ({missing[0]} ...); start the same command again to go on")
    return [outcome for _, outcome in found if outcome is not None]


def _known(out: Path) -> list[tuple[Path, Outcome]]:
    folders = sorted((out / "trials").glob("*")) if (out / "trials").is_dir() else []
    return [(folder, outcome) for folder in folders if (outcome := read_outcome(folder)) is not None]


def _score(outcome: Outcome) -> float:
    recalls = [outcome.metrics[name] for name in ("val_r1_i2t", "val_r1_t2i") if name in outcome.metrics]
    return sum(recalls) / len(recalls) if recalls else 0.0


def _write_study(out: Path, study: Study, source: Source, claim: dict[str, Any], outcomes: list[Outcome]) -> Manifest:
    sets = sorted({name for trial in study.trials() for name in trial.config.validation.zeroshot})
    table = make_table(study.ablation, study.scale, outcomes, sets)
    header, rows = formats.grid(table)
    lines = verdict(table)
    ablation = study.ablation
    title = f"{ablation.source}, {study.scale} scale"
    text = f"# {ablation.name}: {title}\n\n{ablation.hypothesis}\n\nThe paper: {ablation.expected}\n\n"
    text += formats.markdown(header, rows) + "\n" + "".join(f"- {line}\n" for line in lines)
    write_atomic(out / "table.md", text)
    write_atomic(out / "table.tex", formats.latex(header, rows, title))
    write_atomic(out / "table.csv", formats.numbers(table))
    details = {
        "ablation": ablation.name,
        "source": ablation.source,
        "scale": study.scale,
        "hypothesis": ablation.hypothesis,
        "expected": ablation.expected,
        "table": table.as_json(),
        "grid": {"header": header, "rows": rows},
        "verdict": lines,
    }
    return _finish(out, source, claim, outcomes, details)


def _write_quest(out: Path, quest: Quest, source: Source, claim: dict[str, Any], outcomes: list[Outcome]) -> Manifest:
    keys = [dimension.key for dimension in quest.space]
    ranked = sorted(outcomes, key=lambda outcome: (-_score(outcome), outcome.name))
    header = ["trial", *keys, "img2txt R@1 (%) ↑", "txt2img R@1 (%) ↑", "loss ↓", "pairs seen", "state"]
    rows = [[o.name, *[_short(o.settings[key]) for key in keys], *_numbers(o), f"{o.pairs_seen:,}", _state(o)] for o in ranked]
    write_atomic(out / "table.md", f"# Search: {quest.how}\n\n" + formats.markdown(header, rows))
    write_atomic(out / "table.tex", formats.latex(header, rows, f"Search: {quest.how}"))
    write_atomic(out / "table.csv", formats.comma_separated(header, rows))
    details: dict[str, Any] = {
        "search": quest.how,
        "grid": {"header": header, "rows": rows},
        "verdict": [],
        "best": ranked[0].settings,
    }
    return _finish(out, source, claim, ranked, details)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _numbers(outcome: Outcome) -> list[str]:
    shares = [outcome.metrics.get(name) for name in ("val_r1_i2t", "val_r1_t2i")]
    loss = outcome.metrics.get("val_loss")
    return [*["-" if share is None else f"{100 * share:.2f}" for share in shares], "-" if loss is None else f"{loss:.4g}"]


def _state(outcome: Outcome) -> str:
    return outcome.state if not outcome.reason else f"{outcome.state}: {outcome.reason}"


def _finish(out: Path, source: Source, claim: dict[str, Any], outcomes: list[Outcome], details: dict[str, Any]) -> Manifest:
    write_atomic(out / "trials.csv", formats.trials(outcomes))
    if all(outcome.state == "failed" for outcome in outcomes):
        raise WorkError(f"every trial failed: {outcomes[0].reason}; mend it and start again with --retry-failed")
    states = {state: sum(o.state == state for o in outcomes) for state in ("finished", "stopped", "failed")}
    manifest = Manifest(
        kind="ablation",
        name=out.name,
        config=claim,
        inputs=[{"name": source.name, "fingerprint": claim["pairs"]}],
        counts={"trials": len(outcomes), **states, "pairs_seen": sum(outcome.pairs_seen for outcome in outcomes)},
        timings={"train_seconds": round(sum(outcome.seconds for outcome in outcomes), 3)},
        details=details | {"devices": sorted({o.device for o in outcomes if o.device})},
    )
    write_manifest(out, manifest)
    return manifest
