"""A whole ablation or search: plan its trials, run the open ones, write the tables.

settings -> trials -> (sweep, on Ray Tune) -> outcomes on disk -> table.md .csv .tex, trials.csv, manifest.json
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from biomedray.artifacts import (
    MANIFEST,
    RUN_FILE,
    Manifest,
    claim_output,
    fingerprint,
    held,
    is_finished,
    read_manifest,
    write_atomic,
    write_manifest,
)
from biomedray.errors import UserError, WorkError
from biomedray.model import towers
from biomedray.train.plan import Plan, Workers
from biomedray.train.prepare import check
from biomedray.train.presets import TrainConfig
from biomedray.train.rows import index_rows
from biomedray.train.source import Source
from biomedray.tune import formats
from biomedray.tune.ablation import Ablation, Scale
from biomedray.tune.cost import Cost, estimate
from biomedray.tune.quest import Quest
from biomedray.tune.table import make_table, verdict
from biomedray.tune.trial import OUTCOME, Outcome, Trial, read_drawn, read_outcome

PAGE = "report.html"
"""What the command line writes last."""

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
    paged: bool = False
    """The command ends with a page: a whole sweep that has none yet is given back instead of being refused."""


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
        WorkError: no trial has ended well, or the sweep was ended before all were decided.
    """
    trials = study.trials()
    _check(pairs, trials, options)
    source = Source.of(pairs)
    claim: dict[str, Any] = {"pairs": source.fingerprint(), "ablation": study.ablation.name, "scale": study.scale}
    claim |= {"trials": {trial.name: trial.config.identity() for trial in trials}}
    if found := _take(out, claim, options):
        return found
    with held(out):
        start = _started(pairs, out, options, told, len(trials))
        start.run([trial.config for trial in trials], trials)
        return _write_study(out, study, source, claim, _outcomes(trials, out))


def run_quest(pairs: Path | str, out: Path, quest: Quest, options: Options, told: Told) -> Manifest:
    """Run a search until it has its number of trials, and write their table; started again, it goes on.

    Raises:
        UserError, WorkError: as ``run_study``.
    """
    trials, base = quest.fixed(), quest.start()
    _check(pairs, trials or [Trial("base", "base", 0, base)], options)
    source = Source.of(pairs)
    claim = {"pairs": source.fingerprint(), "base": base.identity(), "search": quest.how}
    claim |= {"space": {d.key: [d.kind, *d.values] for d in quest.space}}
    if found := _take(out, claim, options):
        return found
    with held(out):
        start = _started(pairs, out, options, told, quest.most() if trials is None else len(trials))
        known = trials if trials is not None else [quest.trial(drawn) for drawn in read_drawn(out)]
        start.run([base, *[trial.config for trial in known]], known)
        outcomes = _outcomes(known, out)
        if trials is None and len(known) < quest.most():
            start.draw(quest, known, outcomes)
            known = [quest.trial(drawn) for drawn in read_drawn(out)]
            outcomes = _outcomes(known, out)
        if trials is None and len(known) < quest.most():
            raise WorkError(f"{quest.most() - len(known)} trials were not begun; start the same command again to go on")
        return _write_quest(out, quest, source, claim, outcomes)


@dataclass(frozen=True)
class _Started:
    """A sweep under way: what its trials share, and who hears of them."""

    shared: Any
    source: Source
    options: Options
    side_by_side: int
    told: Told

    def run(self, configs: Sequence[TrainConfig], trials: Sequence[Trial]) -> None:
        """Run those of the trials that are open; ``configs`` say how long a trial is, for early stops."""
        from biomedray.tune import sweep

        if left := _open(trials, self.shared.out, self.options, self.told):
            sweep.run_grid(left, self.shared, self.side_by_side, self._stopping(configs), self.told)

    def draw(self, quest: Quest, known: Sequence[Trial], outcomes: Sequence[Outcome]) -> None:
        """Draw and run what is missing, after what the known trials have shown."""
        from biomedray.tune import sweep

        done = [(outcome.settings, _score(outcome)) for outcome in outcomes if outcome.metrics]
        stopping = self._stopping([quest.start()])
        sweep.run_search(quest, [trial.settings for trial in known], done, self.shared, self.side_by_side, stopping, self.told)

    def _stopping(self, configs: Sequence[TrainConfig]) -> Any:
        """Rungs at a ninth and a third of the longest run, but never before an epoch of it."""
        from biomedray.tune import sweep

        if not self.options.early_stop:
            return None
        rows = index_rows(self.source, "train").rows
        totals = []
        for config in configs:
            with contextlib.suppress(UserError):  # such a trial fails by itself
                totals.append((Plan(rows, config.train).total_samples, config.train.epochs))
        total, epochs = max(totals, default=(1, 1))
        return sweep.Stopping(grace=max(total // 9, total // epochs, 1))


def _started(pairs: Path | str, out: Path, options: Options, told: Told, number: int) -> _Started:
    from biomedray.tune import sweep

    dashboard = sweep.start()
    told("", {"dashboard": dashboard, "trials": number})
    source = Source.of(pairs)
    shared = sweep.Shared(source.address, out.resolve(), options.workers, options.threads)
    side_by_side = sweep.concurrency(options.side_by_side, Workers.of(options.workers))
    return _Started(shared, source, options, side_by_side, told)


def _take(out: Path, claim: dict[str, Any], options: Options) -> Manifest | None:
    """Claim the folder. The manifest of a whole sweep whose page was never written: nothing is left to run.

    A finished sweep is opened again where failed trials are to be tried again.

    Raises:
        UserError: it holds something else.
    """
    if is_finished(out):
        manifest = read_manifest(out)
        same = manifest.kind == "ablation" and fingerprint(manifest.config) == fingerprint(claim)
        if same and options.paged and not options.retry_failed and not (out / PAGE).exists():
            return manifest
        if options.retry_failed and not same:
            raise UserError(f"{out}: holds a sweep of other input or settings; choose another folder")
        if options.retry_failed:
            write_atomic(out / RUN_FILE, json.dumps({"kind": "ablation", "config": fingerprint(claim)}))
            (out / MANIFEST).unlink()
            (out / PAGE).unlink(missing_ok=True)
    claim_output(out, "ablation", claim)
    return None


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


def _open(trials: Sequence[Trial], out: Path, options: Options, told: Told) -> list[Trial]:
    """Those without an outcome; failed ones too if they are to be tried again."""
    left = []
    for trial in trials:
        outcome = read_outcome(trial.folder(out))
        if outcome is not None and outcome.state == "failed" and options.retry_failed:
            (trial.folder(out) / OUTCOME).unlink()
            outcome = None
        if outcome is None:
            left.append(trial)
        else:
            told(trial.name, {"state": outcome.state})
    return left


def _outcomes(trials: Sequence[Trial], out: Path) -> list[Outcome]:
    found = [(trial, read_outcome(trial.folder(out))) for trial in trials]
    if missing := [trial.name for trial, outcome in found if outcome is None]:
        raise WorkError(f"{len(missing)} trials are still open ({missing[0]} ...); start the same command again to go on")
    return [outcome for _, outcome in found if outcome is not None]


def _score(outcome: Outcome) -> float:
    recalls = [outcome.metrics.get(name, math.nan) for name in ("val_r1_i2t", "val_r1_t2i")]
    measured = [recall for recall in recalls if math.isfinite(recall)]
    return sum(measured) / len(measured) if measured else 0.0


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
    few = quest.most() < quest.number
    details: dict[str, Any] = {
        "search": quest.how,
        "grid": {"header": header, "rows": rows},
        "verdict": [f"the space holds only {quest.most()} different settings"] if quest.how != "grid" and few else [],
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
