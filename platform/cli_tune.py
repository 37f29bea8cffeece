"""'biomedray tune': a table of the paper, or a search of the user's own, in one command."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from biomedray.arguments import Out, Quiet, Settings, console, errors
from biomedray.errors import UserError


class ScaleName(StrEnum):
    """How much work an ablation is."""

    SMOKE = "smoke"
    SMALL = "small"
    PAPER = "paper"


class SearchName(StrEnum):
    """How a search draws its settings."""

    OPTUNA = "optuna"
    RANDOM = "random"
    GRID = "grid"


_ABLATIONS = (
    "context-length, vit-size, init, image-size, batch-size, batch-schedule, model (Supplementary Tables 1 to 8); "
    "patch-dropout, citances, panels, loss."
)


def tune(
    context: typer.Context,
    pairs: Annotated[str, typer.Argument(help="A pairs artifact: a folder, s3://... or https://...")],
    out: Out,
    ablation: Annotated[str | None, typer.Option(help=_ABLATIONS)] = None,
    scale: Annotated[
        ScaleName, typer.Option(help="smoke: does it run. small: minutes a trial on two CPU cores. paper: as published.")
    ] = ScaleName.SMALL,
    seeds: Annotated[int, typer.Option(min=1, help="Repeats of every variant; three or more give intervals.")] = 1,
    only: Annotated[list[str] | None, typer.Option(help="Only this variant; may be repeated.")] = None,
    space: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=KIND(...)", help="A search of your own: 'train.lr=loguniform(1e-4, 1e-2)'; may be repeated."),
    ] = None,
    preset: Annotated[str, typer.Option(help="The training preset that --space is tried around.")] = "small",
    trials: Annotated[int, typer.Option(min=1, help="How many settings --space draws.")] = 8,
    how: Annotated[SearchName, typer.Option("--search", help="How --space draws them.")] = SearchName.OPTUNA,
    asha: Annotated[bool, typer.Option("--asha", help="End trials early that fall behind (ASHA on pairs seen).")] = False,
    workers: Annotated[str, typer.Option(help="Data-parallel workers of each trial.")] = "1",
    side_by_side: Annotated[
        int | None, typer.Option("--concurrent", min=1, help="Trials at a time; as many as have GPUs, on CPUs one.")
    ] = None,
    general: Annotated[str | None, typer.Option(metavar="MODEL", help="For --ablation model below paper scale.")] = None,
    image_weights: Annotated[
        str | None, typer.Option(metavar="FILE", help="For --ablation init: a file in timm's layout, or timm to download them.")
    ] = None,
    zeroshot: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FOLDER", help="Score every validation on a labelled set too; may be repeated."),
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run trials again that have failed.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Run nothing; show the trials, their settings and their cost.")] = False,
    settings: Settings = None,
    quiet: Quiet = False,
) -> None:
    """The paper's ablations, one command each: from hypothesis to table; or a search of your own. A killed sweep goes on."""
    from biomedray.tune.quest import Quest
    from biomedray.tune.run import Options, Study, run_quest, run_study

    if (ablation is None) == (not space):
        raise UserError("say what to try: --ablation NAME, or --space 'KEY=KIND(...)', and only one of them")
    _refuse_others(context, ablation is not None)
    extra = (*(settings or []), *_zeroshot(zeroshot or []))
    options = Options(workers, side_by_side, _threads(side_by_side), asha, retry_failed, paged=True)
    if ablation is not None:
        from biomedray.tune.presets import ablation as named

        given = {name: value for name, value in (("general", general), ("image_weights", image_weights)) if value}
        study = Study(named(ablation), scale.value, tuple(range(seeds)), given, extra, tuple(only or ()))
        if plan:
            _show_plan(pairs, study.trials(), study.ablation.hypothesis)
            return
        with _bar(quiet) as told:
            manifest = run_study(pairs, out, study, options, told)
    else:
        quest = Quest.of(preset, space or [], trials, how.value, extra)
        if plan:
            _show_plan(pairs, quest.examples(), f"{quest.most()} trials around {preset}", quest.most())
            return
        with _bar(quiet) as told:
            manifest = run_quest(pairs, out, quest, options, told)
    _finish(out, manifest)


def _finish(out: Path, manifest: Any) -> None:
    from biomedray.report import write_report
    from biomedray.tune.formats import rich_table

    grid = manifest.details["grid"]
    title = manifest.details.get("source") or f"{manifest.details['search']} search"
    console.print(rich_table(title, grid["header"], grid["rows"]))
    for line in manifest.details["verdict"]:
        console.print(f"  {line}", highlight=False, markup=False)
    write_report([out], out / "report.html", title=f"biomedray: {manifest.details.get('ablation', 'search')}")
    console.print(f"page: [bold]{out / 'report.html'}[/bold]   table.md, table.csv, table.tex, trials.csv beside it")
    console.print(f"curves of every trial: tensorboard --logdir {out / 'trials'}")


def _refuse_others(context: typer.Context, ablation: bool) -> None:
    """Options that go with the other of the two ways would do nothing."""
    others = {"preset", "trials", "how"} if ablation else {"scale", "seeds", "only", "general", "image_weights"}
    names = {parameter.name: parameter.opts[0] for parameter in context.command.params}
    for name in others:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise UserError(f"{names[name]} goes with {'--space' if ablation else '--ablation'}; leave it out")


def _show_plan(pairs: str, trials: list[Any], lead: str, number: int | None = None) -> None:
    """``number``: how many trials there will be like the ones that are shown."""
    from rich.markup import escape
    from rich.table import Table

    from biomedray.tune.run import plan

    table = Table(title=lead, title_justify="left")
    for name in ("trial", "pairs seen", "GFLOP a pair", "H200 hours at 40 %", "what stands in the way"):
        table.add_column(name, justify="left" if name in ("trial", "what stands in the way") else "right")
    hours = 0.0
    for planned in plan(pairs, trials):
        cost = planned.cost
        hours += (cost.h200_hours or 0.0) if cost else 0.0
        work = [f"{cost.pairs_seen:,}", _number(cost.gflop_per_pair), _number(cost.h200_hours)] if cost else ["", "", ""]
        table.add_row(planned.trial.name, *work, escape(planned.error))
    console.print(table)
    number = number or len(trials)
    hours *= number / max(1, len(trials))
    console.print(f"{number} trials, {hours:,.3g} H200 hours in all at 40 % of its peak (an assumption)")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.3g}"


def _zeroshot(texts: list[str]) -> list[str]:
    """All sets in one setting, as a second one would replace the first."""
    found = {}
    for text in texts:
        name, equals, folder = text.partition("=")
        if not equals or not name.isidentifier() or name in found:
            raise UserError(f"--zeroshot {text}: write NAME=FOLDER, with a name of letters, each once")
        found[name] = {"folder": folder}
    return [f"validation.zeroshot={json.dumps(found)}"] if found else []


def _threads(side_by_side: int | None) -> int | None:
    """Trials that share a CPU share its cores."""
    import os

    return max(1, (os.cpu_count() or 1) // side_by_side) if side_by_side and side_by_side > 1 else None


@contextlib.contextmanager
def _bar(quiet: bool) -> Iterator[Callable[[str, dict[str, Any]], None]]:
    columns = (TextColumn("tune"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"), TimeElapsedColumn())
    with Progress(*columns, console=errors, disable=quiet) as bar:
        task = bar.add_task("tune", total=None, note="starting Ray")

        def told(name: str, values: dict[str, Any]) -> None:
            if "trials" in values:
                bar.update(task, total=values["trials"], note="starting the first trial")
                if values["dashboard"] and not quiet:
                    errors.print(f"Ray's dashboard: http://{values['dashboard']}")
            elif "state" in values:
                bar.update(task, advance=1, note=f"{name} {values['state']}")
            else:
                bar.update(task, note=_note(name, values))

        yield told


def _note(name: str, values: dict[str, Any]) -> str:
    if "val_r1_i2t" not in values:
        return name
    return f"{name}: epoch {values['epoch'] + 1}, val R@1 {values['val_r1_i2t']:.1%} / {values['val_r1_t2i']:.1%}"
