"""'biomedray evaluate ...': one command for each table of the paper."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from biomedray.arguments import Model, Quiet, SplitName, console
from biomedray.errors import UserError

if TYPE_CHECKING:
    from biomedray.evaluate.labelled import Choice

evaluate_app = typer.Typer(no_args_is_help=True, help="Score a model on held-out pairs.")


class GoldBy(StrEnum):
    """What makes pairs gold for each other."""

    CAPTION = "caption"
    FIGURE = "figure"


@evaluate_app.command()
def retrieval(
    pairs: Annotated[Path, typer.Argument(help="A pairs artifact, or a set of images with captions.")],
    model: Model,
    out: Annotated[Path, typer.Option("--out", help="Folder for the scores.")],
    split: Annotated[SplitName, typer.Option(help="Which pairs.")] = SplitName.TEST,
    by: Annotated[GoldBy, typer.Option(help="Pairs that are right answers for each other.")] = GoldBy.CAPTION,
    ann: Annotated[bool, typer.Option("--ann", help="Score approximate search by FAISS too, as the paper did.")] = False,
    ann_index: Annotated[
        str | None, typer.Option(metavar="KEY", help="Its faiss.index_factory key, such as HNSW32; implies --ann.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=2, help="The first so many pairs of the split only.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="NAME=VALUE", help="Of a set of captions: file, caption, group, split (columns), root."),
    ] = None,
    embeddings: Store = None,
    resamples: Resamples = 1000,
    against: Against = None,
    quiet: Quiet = False,
) -> None:
    """Recall at 1, 5 and 10, figure to caption and caption to figure, exact, against chance, with 95 % intervals."""
    from biomedray.evaluate import retrieval as run
    from biomedray.report import scores_table

    manifest = run(
        pairs,
        model,
        out,
        split.value,
        by=by.value,
        ann=ann_index or ("auto" if ann else None),
        limit=limit,
        options=_named("--option", option),
        embeddings=embeddings,
        resamples=resamples,
        against=against or (),
        progress=not quiet,
    )
    console.print(scores_table(manifest))


class HeadStart(StrEnum):
    """What a probe's head starts from."""

    ZERO = "zero"
    TEXT = "text"


class Search(StrEnum):
    """How a probe's head is trained and its settings are chosen."""

    LBFGS = "lbfgs"
    ELEVATER = "elevater"


_WORDS = "Prompts"
Layout = Annotated[
    str | None,
    typer.Option(
        help="pcam, lc25000-lung, lc25000-colon, tcga-til, rsna, medmnist, webdataset, csv or folders; else recognised by itself."
    ),
]
LayoutOptions = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="NAME=VALUE", help="Of the layout, such as cancer=luad; may be repeated."),
]
Classes = Annotated[
    list[str] | None,
    typer.Option("--class", metavar="NAME=WORDS", help="What prompts call a class; may be repeated.", rich_help_panel=_WORDS),
]
Templates = Annotated[
    list[str] | None,
    typer.Option("--template", help="A prompt with {} for the class; may be repeated.", rich_help_panel=_WORDS),
]
Prompts = Annotated[Path | None, typer.Option(metavar="FILE", help="JSON with classes and templates.", rich_help_panel=_WORDS)]
Limit = Annotated[int | None, typer.Option(min=1, help="At most so many pictures of a split, drawn at random.")]
Store = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Where embeddings are kept and found again; by default in the scores.")
]
Against = Annotated[
    list[Path] | None,
    typer.Option(metavar="PAIRS", help="Pairs that the model was trained on: leak check; may be repeated."),
]
Resamples = Annotated[int, typer.Option(min=100, help="Draws of each interval.")]


@evaluate_app.command()
def zeroshot(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="DATA... MODEL",
            help="Sets of labelled images (several give the paper's table); then the model: an artifact, hf-hub:ORG/NAME, "
            "open_clip:NAME/PRETRAINED, transformers:FOLDER.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the scores.")],
    layout: Layout = None,
    option: LayoutOptions = None,
    split: Annotated[SplitName, typer.Option(help="Which pictures.")] = SplitName.TEST,
    classes: Classes = None,
    template: Templates = None,
    prompts: Prompts = None,
    limit: Limit = None,
    embeddings: Store = None,
    resamples: Resamples = 1000,
    against: Against = None,
    quiet: Quiet = False,
) -> None:
    """Classify images by prompts: accuracy, balanced accuracy, macro-F1, AUROC, calibration, with 95 % intervals."""
    from biomedray.evaluate import zeroshot as run
    from biomedray.report import scores_table

    if len(paths) < 2:
        raise UserError("name a set of labelled images and a model: biomedray evaluate zeroshot DATA MODEL --out OUT")
    choice = _choice(layout, option, classes, template, prompts, limit)
    manifest = run(
        [Path(path) for path in paths[:-1]],
        paths[-1],
        out,
        choice=choice,
        split=split.value,
        embeddings=embeddings,
        resamples=resamples,
        against=against or (),
        progress=not quiet,
    )
    console.print(scores_table(manifest))


@evaluate_app.command()
def probe(
    data: Annotated[Path, typer.Argument(help="A set of labelled images.")],
    model: Model,
    out: Annotated[Path, typer.Option("--out", help="Folder for the scores.")],
    layout: Layout = None,
    option: LayoutOptions = None,
    split: Annotated[SplitName, typer.Option(help="What is tested on.")] = SplitName.TEST,
    fraction: Annotated[
        list[float] | None, typer.Option(help="Share of the training split; may be repeated. By default 0.01, 0.1 and 1.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many training samples are drawn for each share.")] = 3,
    head: Annotated[
        HeadStart, typer.Option(help="text: the head starts from the prompts' embeddings, and is tied to them.")
    ] = HeadStart.ZERO,
    search: Annotated[
        Search, typer.Option(help="lbfgs: logistic regression, C chosen on validation; elevater: SGD as ELEVATER does it.")
    ] = Search.LBFGS,
    floor: Annotated[
        bool, typer.Option("--floor", help="Probe the raw pixels at 28 px too: what an encoder has to beat.")
    ] = False,
    classes: Classes = None,
    template: Templates = None,
    prompts: Prompts = None,
    limit: Limit = None,
    embeddings: Store = None,
    resamples: Resamples = 1000,
    against: Against = None,
    quiet: Quiet = False,
) -> None:
    """Train a linear head on 1 %, 10 % and 100 % of a set and test it, with intervals over test samples and over seeds."""
    from biomedray.evaluate import probe as run
    from biomedray.report import scores_table

    manifest = run(
        data,
        model,
        out,
        split=split.value,
        fractions=sorted(set(fraction)) if fraction else (0.01, 0.1, 1.0),
        seeds=range(seeds),
        head=head.value,
        search=search.value,
        floor=floor,
        choice=_choice(layout, option, classes, template, prompts, limit),
        embeddings=embeddings,
        resamples=resamples,
        against=against or (),
        progress=not quiet,
    )
    console.print(scores_table(manifest))


def _choice(
    layout: str | None,
    options: list[str] | None,
    classes: list[str] | None,
    templates: list[str] | None,
    prompts: Path | None,
    limit: int | None,
) -> Choice:
    from biomedray.evaluate.labelled import Choice

    return Choice(layout, _named("--option", options), _named("--class", classes), templates or (), prompts, limit)


def _named(name: str, entries: list[str] | None) -> dict[str, str]:
    """NAME=VALUE entries of a repeated option."""
    pairs = [entry.partition("=") for entry in entries or ()]
    if bad := [before for before, sign, after in pairs if not before or not sign or not after]:
        raise UserError(f"{name} {bad[0]}: write NAME=VALUE")
    return {before: after for before, _, after in pairs}


@evaluate_app.command()
def compare(
    a: Annotated[Path, typer.Argument(help="Scores of one model.")],
    b: Annotated[Path, typer.Argument(help="Scores of another one: the same task, the same samples.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the comparison.")],
    resamples: Resamples = 1000,
) -> None:
    """Test two models on the same samples: differences with paired 95 % intervals, p-values, Holm's correction."""
    from biomedray.evaluate import compare as run
    from biomedray.report import scores_table

    console.print(scores_table(run(a, b, out, resamples)))


@evaluate_app.command()
def leak(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="DATA PAIRS...", help="What is evaluated on; then the pairs that a model was trained on."),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the matches.")],
    split: Annotated[SplitName, typer.Option(help="Of DATA.")] = SplitName.TEST,
    layout: Layout = None,
    option: LayoutOptions = None,
    quiet: Quiet = False,
) -> None:
    """What of a set was in training: the same bytes, alike pictures, the same article, caption or id."""
    from biomedray.evaluate import leak as run
    from biomedray.report import scores_table

    if len(paths) < 2:
        raise UserError("name a set and the training pairs: biomedray evaluate leak DATA PAIRS --out OUT")
    options = _named("--option", option)
    manifest = run(paths[0], paths[1:], out, split=split.value, layout=layout, options=options, progress=not quiet)
    console.print(scores_table(manifest))


class Stored(StrEnum):
    """How vectors are stored."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"


class Precision(StrEnum):
    """What the towers compute in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


@evaluate_app.command()
def embed(
    data: Annotated[Path, typer.Argument(help="A pairs artifact, a set of images with captions, or a set of labelled images.")],
    model: Model,
    out: Annotated[Path, typer.Argument(help="Folder for the embeddings of several sets, splits and models.")],
    split: Annotated[list[SplitName] | None, typer.Option(help="Which split; may be repeated. By default all.")] = None,
    layout: Layout = None,
    option: LayoutOptions = None,
    dtype: Annotated[Stored, typer.Option(help="How vectors are stored.")] = Stored.FLOAT32,
    precision: Annotated[Precision, typer.Option(help="What the towers compute in; the halves by autocast.")] = Precision.FLOAT32,
    batch_size: Annotated[int, typer.Option(min=1, help="Images, or texts, that the model sees at once.")] = 64,
    workers: Annotated[int | None, typer.Option(min=1, help="Models side by side; by default one for each GPU.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="That decode, for each model; by default as many as cores.")] = None,
    quiet: Quiet = False,
) -> None:
    """Embed a set once; retrieval, zeroshot and probe find it by --embeddings OUT and embed nothing again."""
    from biomedray.evaluate.store import fill, open_any
    from biomedray.evaluate.stream import Options

    options = Options(batch_size, precision.value, threads, workers)
    found = open_any(data, layout, _named("--option", option))
    wanted = [name.value for name in split or ()]
    for manifest in fill(found, model, out, wanted, dtype=dtype.value, options=options, progress=not quiet):
        left = sum(manifest.counts["rejected"].values())
        speed = manifest.details["throughput"].get("images_per_s")
        rate = f", {speed:,.1f} images/s" if speed else ""
        console.print(f"{manifest.name}: {manifest.counts['embedded']:,} embedded, {left:,} rejected{rate}", highlight=False)
