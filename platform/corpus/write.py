"""The corpus on disk: articles one by one, then the lists that name them all, then the manifest.

jobs (index or damage number) -> files, truth lines -> out/packages, out/cloud -> oa_file_list, inventory, truth.jsonl
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from biomedray.artifacts import Manifest, write_atomic
from biomedray.config import Config
from biomedray.corpus.article import plan_article
from biomedray.corpus.broken import broken_articles, classes
from biomedray.corpus.captions import Prose
from biomedray.corpus.inventory import EARLIER, earlier, inventory
from biomedray.corpus.layouts import Bundle, bundle, files
from biomedray.corpus.truth import truth_line

Layout = Literal["cloud", "package", "mixed"]
TRUTH = "truth.jsonl"
_LIST_COLUMNS = ("File", "Article Citation", "Accession ID", "Last Updated (YYYY-MM-DD HH:MM:SS)", "PMID", "License")


class CorpusConfig(Config):
    """The settings of a corpus; the same settings give the same bytes."""

    articles: int
    """Whole articles; article i is the same whatever the number."""
    seed: int
    """Seed of everything that is drawn and written."""
    layout: Layout
    """Layout of the files; mixed: articles with an even index are packages, the others cloud prefixes."""
    broken: float
    """Damaged articles in addition, as a fraction of ``articles``; above 0 each class occurs at least once."""
    long_captions: float | None = None
    """This share of whole articles' captions opens with 70 to 130 words of background; None: few do, as in PMC."""


@dataclass(frozen=True)
class Job:
    """One article to make: number ``index``, or damaged article number ``index``."""

    index: int
    damaged: bool = False


@dataclass(frozen=True)
class Made:
    """What one article adds to the lists: its truth, its row of the file list, the ETag of its JSON record."""

    source: str
    truth: str
    package_row: tuple[str, ...] | None
    etag: tuple[str, str] | None


def jobs(config: CorpusConfig) -> list[Job]:
    """The articles to make, whole ones first."""
    n_classes = len(classes(config.layout))
    damaged = max(round(config.broken * config.articles), n_classes) if config.broken > 0 else 0
    return [Job(i) for i in range(config.articles)] + [Job(k, damaged=True) for k in range(damaged)]


def make(job: Job, out: Path, config: CorpusConfig) -> list[Made]:
    """Draw, write and store one article (and the second one that some damage needs)."""
    if job.damaged:
        return [
            _store(found, out, truth_line(found, name, expected))
            for found, name, expected in broken_articles(config.seed, job.index, config.layout)
        ]
    layout = config.layout if config.layout != "mixed" else ("package", "cloud")[job.index % 2]
    whole = bundle(plan_article(config.seed, job.index, layout, prose=Prose.of(config.long_captions)))
    return [_store(whole, out, truth_line(whole))]


def _store(found: Bundle, out: Path, truth: str) -> Made:
    contents = files(found)
    for path, data in contents.items():
        write_atomic(out / path, data)
    article = found.article
    if article.layout == "package":
        citation = f"{article.journal.abbreviation}. {article.year}; 1:{article.index + 1}"
        row = (
            found.source.rpartition("/")[2],
            citation,
            article.pmcid,
            f"{article.year}-06-15 12:00:00",
            article.pmid or "",
            article.license_code,
        )
        return Made(found.source, truth, row, None)
    key = f"metadata/{article.stem}.json"
    return Made(found.source, truth, None, (key, hashlib.md5(contents[f"cloud/{key}"], usedforsecurity=False).hexdigest()))


def make_all(out: Path, config: CorpusConfig) -> Iterator[list[Made]]:
    """Make every article, in the order of the jobs."""
    for job in jobs(config):
        yield make(job, out, config)


def write_lists(out: Path, made: Iterable[Made]) -> None:
    """The file list of the packages, the inventory of the bucket and the truth."""
    everything = sorted(made, key=lambda found: found.source)
    rows = sorted(found.package_row for found in everything if found.package_row)
    if rows:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([_LIST_COLUMNS, *rows])
        write_atomic(out / "packages" / "oa_file_list.csv", text.getvalue())
    etags = dict(found.etag for found in everything if found.etag)
    if etags:
        for key, data in (inventory(earlier(etags), EARLIER) | inventory(etags)).items():
            write_atomic(out / "cloud" / key, data)
    write_atomic(out / TRUTH, "".join(found.truth for found in everything))


def sweep(out: Path) -> None:
    """Remove the temporary files that a killed run left behind."""
    for leftover in out.rglob(".*.tmp"):
        leftover.unlink(missing_ok=True)


def manifest(out: Path, config: CorpusConfig) -> Manifest:
    """The manifest, with counts read back from truth.jsonl; no timings, so that it too is the same each time."""
    lines = [json.loads(line) for line in (out / TRUTH).read_text(encoding="utf-8").splitlines()]
    return Manifest(kind="corpus", name=f"generated-{config.seed}", config=config.resolved(), counts=_counts(lines))


def _counts(lines: list[dict[str, Any]]) -> dict[str, Any]:
    whole = [line for line in lines if line["damage"] is None]
    figures = [figure for line in whole for figure in line["figures"]]
    graphics = [graphic for figure in figures for graphic in figure["graphics"]]
    panels = [panel for graphic in graphics for panel in graphic["panels"]]
    damage = Counter(line["damage"] for line in lines if line["damage"] is not None)
    return {
        "articles": len(whole),
        "damaged_articles": len(lines) - len(whole),
        "figures": len(figures),
        "compound_figures": sum(figure["compound"] for figure in figures),
        "graphics": len(graphics),
        "other_graphics": sum(len(line["other_graphics"]) for line in whole),
        "panels": len(panels),
        "mentions": sum(len(figure["mentions"]) for figure in figures),
        "by_kind": dict(sorted(Counter(panel["kind"] for panel in panels).items())),
        "by_license": dict(sorted(Counter(line["license_code"] or "none" for line in whole).items())),
        "by_damage": dict(sorted(damage.items())),
    }
