"""The command line: one command for each room; rooms are imported only by the command that needs them."""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress

from biomedray.arguments import ConfigFile, Out, Pairs, Quiet, Settings, SplitName, console, errors
from biomedray.cli_evaluate import evaluate_app
from biomedray.cli_index import index as index_command
from biomedray.cli_keys import keys as keys_command
from biomedray.cli_serve import embed, serve
from biomedray.cli_tune import tune
from biomedray.errors import UserError, WorkError
from biomedray.options import (
    Closed,
    Endpoint,
    IdList,
    Journals,
    Keywords,
    Licenses,
    ManuscriptOption,
    Media,
    Ocr,
    Retracted,
    Signed,
    Snapshot,
    Types,
    Years,
)

app = typer.Typer(
    name="biomedray",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="BiomedCLIP as a platform on Ray: PMC articles in; figure-caption pairs, a trained model, scores and search out.\n\n"
    "Start with [bold]biomedray demo[/bold]. Every artifact is a folder with a manifest.json; look into one with "
    "[bold]biomedray inspect[/bold]. A command that was killed resumes when it is started again.",
)
app.add_typer(evaluate_app, name="evaluate")
app.command()(tune)
app.command()(embed)
app.command("index")(index_command)
app.command("keys")(keys_command)


class Layout(StrEnum):
    """How the generated articles lie on disk."""

    CLOUD = "cloud"
    PACKAGE = "package"
    MIXED = "mixed"


class Engine(StrEnum):
    """What reads captions from the XML."""

    BIOMEDRAY = "biomedray"
    PUBMED_PARSER = "pubmed_parser"


class ExportFormat(StrEnum):
    """What a pairs artifact may be exported as."""

    WEBDATASET = "webdataset"
    JSONL = "jsonl"
    HUGGINGFACE = "huggingface"
    CARD = "card"


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes; finished stages in it are reused.")] = Path(
        "out/demo"
    ),
    articles: Annotated[
        Path | None, typer.Option(help="Real articles instead of generated ones: any folder that 'biomedray ingest' reads.")
    ] = None,
    n: Annotated[int, typer.Option("--generate", min=8, help="How many articles to generate.")] = 420,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training pairs, if there is time for them.")] = 20,
    minutes: Annotated[float, typer.Option(min=0.05, help="Stop training after about this long, at the end of an epoch.")] = 2.0,
    workers: Annotated[int, typer.Option(min=1, help="Training workers.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the corpus, the split and the training.")] = 0,
) -> None:
    """The whole road at small size: corpus, ingest, train, evaluate, index, serve; ends in a table and a report."""
    from biomedray.demo import DemoConfig, run_demo

    run_demo(out, DemoConfig(articles, n, epochs, minutes, workers, seed), console)


@app.command()
def corpus(
    out: Out,
    articles: Annotated[int, typer.Option(min=1, help="How many articles.")] = 64,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 0,
    layout: Annotated[
        Layout, typer.Option(help="PMC's Cloud layout of 2026, the former .tar.gz packages, or half of each.")
    ] = Layout.MIXED,
    broken: Annotated[float, typer.Option(min=0, max=1, help="Add this share of damaged articles, of every class.")] = 0.0,
    long_captions: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="This share of captions opens with 100 words of background: what is seen comes after 77 tokens."
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Generate articles with drawn figures, true captions and known truth, as PMC would distribute them."""
    from biomedray.corpus import generate

    manifest = generate(out, articles, seed, layout.value, broken, progress=not quiet, long_captions=long_captions)
    _show(out, manifest.counts)


@app.command()
def ingest(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE... OUT",
            help="s3://pmc-oa-opendata or another store (s3://, https://), PMCIDs, folders of unpacked articles, of .tar.gz "
            "packages or in the PMC Cloud layout, archives, XML files, list files; then the folder for the pairs.",
        ),
    ],
    engine: Annotated[
        Engine, typer.Option(help="pubmed_parser is there as a cross-check: it loses caption text.")
    ] = Engine.BIOMEDRAY,
    compare: Annotated[
        bool, typer.Option("--compare", help="Write nothing; show what pubmed_parser would lose on these sources.")
    ] = False,
    update: Annotated[
        bool, typer.Option("--update", help="Bring finished pairs up to what the sources hold now: add, replace, withdraw.")
    ] = False,
    filters: Annotated[
        list[str] | None,
        typer.Option(
            "--filter",
            metavar="CONDITION",
            help='Keep only pairs like "n_tokens >= 5" or "\'label_caption\' not in flags"; may be repeated.',
        ),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Fetch no article; show files, bytes, requests, hours and cost of these sources.")
    ] = False,
    nodes: Annotated[int, typer.Option(min=1, help="Machines that --plan counts with.")] = 1,
    licenses: Licenses = None,
    journals: Journals = None,
    years: Years = None,
    article_types: Types = None,
    keywords: Keywords = None,
    pmcids: IdList = None,
    manuscripts: ManuscriptOption = None,
    include_retracted: Retracted = False,
    include_historical_ocr: Ocr = False,
    include_not_open_access: Closed = False,
    media: Media = None,
    endpoint: Endpoint = None,
    signed: Signed = False,
    snapshot: Snapshot = None,
    settings: Settings = None,
    config: ConfigFile = None,
    quiet: Quiet = False,
) -> None:
    """PMC articles to figure-caption pairs in Parquet, with a reject row for everything that was not kept."""
    from biomedray.ingest import advice, comparison_table, summary_table
    from biomedray.ingest import compare as compare_engines
    from biomedray.ingest import ingest as run
    from biomedray.ingest.plan import make_plan, plan_table, sources_of
    from biomedray.ingest.selection import parse_years, read_pmcids

    if compare:
        console.print(comparison_table(compare_engines(paths, progress=not quiet)))
        return
    which = {
        "licenses": licenses,
        "journals": journals,
        "article_types": article_types,
        "keywords": keywords,
        "manuscripts": manuscripts and manuscripts.value,
        "include_retracted": include_retracted,
        "include_historical_ocr": include_historical_ocr,
        "include_not_open_access": include_not_open_access,
        **({"pmcids": read_pmcids(pmcids)} if pmcids else {}),
        **(parse_years(years) if years else {}),
    }
    fetch = _given({"endpoint": endpoint, "signed": signed, "snapshot": snapshot})
    chosen = _given({"select": _given(which), "media": media and str(media.resolve()), "filters": filters})
    resolved = _ingest_config(config, {**chosen, "fetch": fetch}, [f"engine={engine.value}", *(settings or [])])
    if plan:
        console.print(plan_table(make_plan(sources_of(paths), resolved, nodes, progress=not quiet), resolved))
        return
    if len(paths) < 2:
        raise UserError("ingest needs a SOURCE and an OUT folder: biomedray ingest ARTICLES PAIRS")
    if update:
        _update(paths, fetch, bool(settings or config or chosen), quiet)
        return
    manifest = run(paths[:-1], Path(paths[-1]), resolved, progress=not quiet)
    console.print(summary_table(manifest))
    if hint := advice(manifest):
        console.print(hint, style="yellow")
    console.print(f"pairs: [bold]{paths[-1]}[/bold]   next: biomedray train {paths[-1]} MODEL")


def _ingest_config(file: Path | None, options: dict[str, Any], settings: list[str]) -> Any:
    """The file's settings, or the usual ones, with the options given, then those of --set."""
    from biomedray.config import load_yaml, merge, override
    from biomedray.ingest import IngestConfig

    return override(merge(load_yaml(IngestConfig, file) if file else IngestConfig(), options), settings)


def _update(paths: list[str], fetch: dict[str, Any], others: bool, quiet: bool) -> None:
    from biomedray.ingest import summary_table, update

    if others:
        raise UserError(
            "--update keeps the settings of the pairs it updates; leave out --set, --config, --filter, --media and selections"
        )
    console.print(summary_table(update(paths[:-1], Path(paths[-1]), fetch, progress=not quiet)))


@app.command()
def train(
    pairs: Annotated[
        str, typer.Argument(help="A pairs artifact, as made by 'biomedray ingest': a folder, s3://... or https://...")
    ],
    out: Out,
    preset: Annotated[
        str,
        typer.Option(
            help="smoke, demo, small, medium, or the paper's: biomedclip (Supplementary Table 9), biomedclip-64k, "
            "biomedclip-gpt77, continual-vitb16, continual-rn50."
        ),
    ] = "small",
    init: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="A whole model to go on from: FOLDER, 'local-dir:PATH' or 'hf-hub:ORG/NAME'."),
    ] = None,
    workers: Annotated[
        str, typer.Option(help="Data-parallel workers, one GPU each where there are GPUs; 1-4: as many as there is room for.")
    ] = "1",
    storage: Annotated[
        str | None, typer.Option(help="Copy checkpoints there too, a folder or s3://...: other machines can go on from it.")
    ] = None,
    no_ray: Annotated[
        bool, typer.Option("--no-ray", help="In this process, or in those of torchrun (which then sets the number of workers).")
    ] = False,
    profile: Annotated[
        bool, typer.Option("--profile", help="Record steps 11 to 15 with torch.profiler into OUT/profile/.")
    ] = False,
    settings: Settings = None,
    config: ConfigFile = None,
    quiet: Quiet = False,
) -> None:
    """Contrastive pretraining; the result loads in plain open_clip with no network."""
    from biomedray.config import load_yaml, override
    from biomedray.train import TrainConfig, train_alone
    from biomedray.train import preset as named_preset
    from biomedray.train import train as run

    base = load_yaml(TrainConfig, config) if config else named_preset(preset)
    chosen = [f"model.init_from={json.dumps(init)}"] if init else []
    chosen += ["watch.profile_steps=[11, 15]"] if profile else []
    resolved = override(base, [*chosen, *(settings or [])])
    if no_ray:
        if workers != "1":
            raise UserError(f"--workers {workers} needs Ray; without it: torchrun --nproc-per-node N -m biomedray.cli train ...")
        manifest = train_alone(pairs, out, resolved, progress=not quiet, storage=storage)
    else:
        manifest = run(pairs, out, resolved, workers, progress=not quiet, storage=storage)
    if manifest is not None:
        _show(out, manifest.counts)


@app.command()
def export(
    pairs: Pairs,
    out: Out,
    form: Annotated[
        ExportFormat,
        typer.Option(
            "--format",
            help="webdataset: tars for open_clip. jsonl: Microsoft's PMC-15M schema, a line an article. "
            "huggingface: a folder for datasets.load_dataset. card: the README.md and croissant.json that all others have too.",
        ),
    ],
    split: Annotated[list[SplitName] | None, typer.Option(help="Which splits; all when not given.")] = None,
    where: Annotated[
        str, typer.Option(metavar="EXPR", help="Only such rows: \"license_group == 'comm' and min(width, height) > 336\".")
    ] = "",
    settings: Settings = None,
    quiet: Quiet = False,
) -> None:
    """Pairs in the formats of other tools, each with a dataset card that says what may be done with them."""
    from biomedray.config import override
    from biomedray.export import ExportConfig
    from biomedray.export import export as run
    from biomedray.records import SPLITS

    splits = tuple(s.value for s in split) if split else SPLITS
    config = override(ExportConfig(splits=splits, where=where), settings or [])
    with Progress(console=errors, disable=quiet) as bar:
        task = bar.add_task("export", total=None)
        manifest = run(pairs, out, form.value, config, lambda done, total: bar.update(task, completed=done, total=total))
    _show(out, manifest.counts)
    if options := manifest.details.get("open_clip"):
        console.print(f"open_clip_train, in {out}: {options}", highlight=False, soft_wrap=True)


app.command()(serve)


@app.command()
def inspect(
    artifact: Annotated[Path, typer.Argument(help="Any artifact folder.")],
    html: Annotated[Path | None, typer.Option(help="Also write a page with pictures here.")] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="On a page of pairs: count captions by this tokenizer.json or WordPiece vocab.txt too.")
    ] = None,
) -> None:
    """What is in an artifact, in a table; of pairs the page shows sizes, lengths, rights and a sample to sift."""
    from biomedray.report import inspect_table, write_report

    console.print(inspect_table(artifact))
    if html is not None:
        write_report([artifact], html, tokenizer=tokenizer)
        console.print(f"page: [bold]{html}[/bold]")


@app.command()
def report(
    paths: Annotated[
        list[Path], typer.Argument(metavar="ARTIFACT... OUT.html", help="Artifact folders, then the page to write.")
    ],
) -> None:
    """One HTML page with the tables, plots and pictures of several artifacts; it needs no network to look at."""
    from biomedray.report import write_report

    if len(paths) < 2 or paths[-1].suffix != ".html":
        raise UserError("report needs artifacts and a page to write: biomedray report PAIRS MODEL SCORES out.html")
    write_report(paths[:-1], paths[-1])
    console.print(f"report: [bold]{paths[-1]}[/bold]")


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value}


def _version(show: bool) -> None:
    if show:
        console.print(f"biomedray {importlib.metadata.version('biomedray')}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.basicConfig(level=logging.WARNING)


def _show(out: Path, counts: dict[str, object]) -> None:
    facts = ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in counts.items() if isinstance(value, int) and value)
    console.print(f"[bold]{out}[/bold]: {facts}")


def main() -> None:
    """Entry point: exit code 0 done, 1 the work failed, 2 the user's arguments or input are off."""
    try:
        app()
    except UserError as error:
        _fail(str(error), 2)
    except WorkError as error:
        _fail(str(error), 1)
    except KeyboardInterrupt:
        _fail("stopped; start the same command again to resume", 130)


def _fail(message: str, code: int) -> None:
    errors.print(f"[bold red]biomedray:[/bold red] {message}", highlight=False, soft_wrap=True)
    sys.exit(code)


if __name__ == "__main__":  # so that a Ray job can say: python -m biomedray.cli
    main()
