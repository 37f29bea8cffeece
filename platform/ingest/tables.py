"""What a run shows on the terminal: a progress bar, the closing table, the comparison."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from biomedray.artifacts import Manifest
from biomedray.ingest.pubmed import ArticleDifference, Comparison
from biomedray.records import SPLITS

T = TypeVar("T")
_SHOWN = 40


def progress_bar(visible: bool) -> Progress:
    """A bar on standard error with articles done, pairs so far and the time left."""
    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not visible,
    )


def track(items: Sequence[T], description: str, visible: bool) -> Iterable[T]:
    """The items, with a bar that moves as they are taken."""
    with progress_bar(visible) as bar:
        task = bar.add_task(description, total=len(items), note="")
        for item in items:
            yield item
            bar.advance(task)


def summary(manifest: Manifest) -> Table:
    """Articles, figures and pairs of a pairs artifact, and the rejects by reason."""
    counts = manifest.counts
    table = Table(title=f"pairs: {manifest.name}", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name in ("articles", "articles_with_pairs", "figures", "graphics"):
        table.add_row(name.replace("_", " "), f"{counts[name]:,}")
    table.add_section()
    table.add_row("[bold]pairs[/bold]", f"[bold]{counts['pairs']:,}[/bold]")
    for split in SPLITS:
        table.add_row(f"  {split}", f"{counts['pairs_by_split'].get(split, 0):,}")
    if update := manifest.details.get("update"):
        table.add_section()
        table.add_row("[bold]articles that this update[/bold]", "")
        for name in ("added", "replaced", "withdrawn"):
            table.add_row(f"  {name}", f"{update[name]:,}")
    if "near_duplicate_images" in counts:
        table.add_section()
        table.add_row("images with a near-duplicate", f"{counts['near_duplicate_images']:,}")
        table.add_row("clusters of several articles", f"{counts['article_clusters']:,}")
    for title, key in (
        ("rejected figures and graphics", "rejects_by_reason"),
        ("rejected articles and sources", "article_rejects_by_reason"),
    ):
        table.add_section()
        table.add_row(f"[bold]{title}[/bold]", f"[bold]{sum(counts[key].values()):,}[/bold]")
        for reason, number in sorted(counts[key].items(), key=lambda item: (-item[1], item[0])):
            table.add_row(f"  {reason}", f"{number:,}")
    table.add_section()
    units = counts["graphics"] + counts["figures_without_graphic"]
    table.add_row("ledger", f"{units:,} = {counts['pairs']:,} + {counts['rejects']:,}")
    return table


def advice(manifest: Manifest) -> str | None:
    """What to do about PMCIDs that no source has, and about a split that got nothing; None where all is well."""
    return "\n".join(line for line in (_missing_advice(manifest), _split_advice(manifest)) if line) or None


def _missing_advice(manifest: Manifest) -> str | None:
    missing = manifest.details.get("pmcids_not_found")
    return missing and f"In no source: {missing['number']:,} of the PMCIDs asked for, such as {', '.join(missing['some'][:3])}"


def _split_advice(manifest: Manifest) -> str | None:
    by_split = manifest.counts["pairs_by_split"]
    empty = [split for split in ("val", "test") if manifest.counts["pairs"] and not by_split.get(split)]
    if not empty:
        return None
    shares = " ".join(f"--set {split}_fraction={share}" for split, share in (("val", 0.05), ("test", 0.1)))
    return f"No pair is in {' and '.join(empty)}: the default shares are those of 15 million pairs. For a small archive: {shares}"


def differences(comparison: Comparison) -> Table:
    """The articles on which pubmed_parser loses something, worst first, and the totals of all."""
    table = Table(
        title="pubmed_parser 0.5.1 against biomedray",
        caption="ours, theirs: share of the XML's caption characters that each engine keeps; "
        "ours leaves out labels of source-data files on purpose. lost: figures without a picture, "
        "wrong: figures under another figure's caption, raised: the error that lost the whole article",
    )
    table.add_column("article", no_wrap=True, max_width=19)
    for name in ("figs", "ours", "theirs", "lost", "wrong"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("raised", overflow="fold")
    worse = [article for article in comparison.articles if _loss(article)]
    for article in sorted(worse, key=lambda a: (-_loss(a), a.uri))[:_SHOWN]:
        table.add_row(
            *_cells(
                article.uri.rpartition("/")[2], vars(article) | {}, (article.crash or "").partition(":")[0].removesuffix("Error")
            )
        )
    if len(worse) > _SHOWN:
        table.add_row(f"... and {len(worse) - _SHOWN} more")
    table.add_section()
    totals = comparison.totals
    crashed = f"{totals['crashed']}" if totals["crashed"] else ""
    table.add_row(*_cells(f"all {totals['articles']} articles", totals, crashed), style="bold")
    return table


def _loss(article: ArticleDifference) -> int:
    return (article.ours_chars - article.theirs_chars) + article.lost_figures + article.mispaired + bool(article.crash)


def _cells(name: str, numbers: dict[str, int], crash: str) -> list[str]:
    chars = max(1, numbers["caption_chars"])
    shares = [f"{100 * numbers[key] / chars:.1f} %" for key in ("ours_chars", "theirs_chars")]
    return [name, str(numbers["figures"]), *shares, str(numbers["lost_figures"]), str(numbers["mispaired"]), crash]
