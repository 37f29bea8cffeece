"""What a page says of a pairs artifact: the account, the paper's Figure 1A, rights, quality, duplicates, a sample.

One scan of narrow columns (export/survey.py) and a few row groups with pictures: memory does not grow with the rows.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from biomedray.artifacts import Manifest
from biomedray.export.survey import BINS, QUALITY, Clusters, Survey, clusters, quality_range, survey
from biomedray.report.parts import Grid, Section
from biomedray.report.plots import Plot, bars
from biomedray.report.sample import browse, draw_captions
from biomedray.report.tokens import Measure, clip_counter, file_counter, measure

_SHOWN = 14
_PICTURES = 96
_CAPTIONS = 2000
CONTEXT_LENGTHS = (77, 256)
# Width of the bins and the end of the plots of Figure 1A: pixels, words.
_PIXELS, _WORDS = (50, 2000), (10, 500)
_PAPER_SIDE = 336
_LEAD = "One row for each graphic and its caption; whatever was not kept has a reject row with a reason."
_QUALITY_NAMES = {
    "entropy": "Entropy of the grey values, bits",
    "blankness": "Share of background",
    "colourfulness": "Colourfulness, M3",
    "compound_hint": "Looks like several panels",
    "chart_hint": "Looks like a chart",
}


def pairs_section(folder: Path, manifest: Manifest, pictures: bool, tokenizer: Path | None = None) -> Section:
    """The section; ``pictures=False`` leaves plots, the sample and what takes long out."""
    found = survey(folder)
    grids = _short_grids(found)
    if not pictures or found.rows == 0:
        return Section("Pairs", _LEAD, _facts(found, manifest, None), grids)
    twins = {name: clusters(folder, name, found.rows) for name in ("dup_cluster", "article_cluster")}
    measures = _measures(folder, tokenizer)
    grids = [_length_grid(found, measures), *grids, *_long_grids(found), _cluster_grid(twins)]
    return Section("Pairs", _LEAD, _facts(found, manifest, twins), grids, _plots(found), [], browse(folder, _PICTURES))


def _facts(found: Survey, manifest: Manifest, twins: dict[str, Clusters] | None) -> list[tuple[str, str]]:
    ledger = found.ledger
    facts = [
        ("articles", f"{ledger['articles']:,}"),
        ("of these with pairs", f"{ledger['articles_with_pairs']:,}"),
        ("graphics and figures without one", f"{ledger['graphics'] + ledger['figures_without_graphic']:,}"),
        ("pairs", f"{found.rows:,}"),
        ("rejects", f"{sum(found.rejects.values()):,}"),
        ("ledger", f"{found.unbalanced:,} ARTICLES DON'T BALANCE" if found.unbalanced else "balances"),
    ]
    if found.rows:
        facts += [
            ("larger than 336 pixels", _share(found.share_over("short_side", _PAPER_SIDE))),
            ("words in a caption, mean", f"{found.mean('n_tokens'):.0f}"),
        ]
    if twins is not None:
        facts.append(("pairs whose picture has a twin", f"{twins['dup_cluster'].shared:,}"))
    return [*facts, ("engine", str(manifest.config.get("engine", "")))]


def _short_grids(found: Survey) -> list[Grid]:
    rejects = Counter({f"{stage}: {reason}": n for (stage, reason), n in found.rejects.items()})
    return [
        Grid("Pairs by split", ["split", "pairs", ""], _rows(found.counts["split"], found.rows)),
        Grid("Licences", ["licence", "pairs", ""], _rows(found.counts["license_code"], found.rows, "none known")),
        Grid("Formats", ["format", "pairs", ""], _rows(found.counts["image_format"], found.rows)),
        Grid("Rejects by reason", ["stage: reason", "rows", ""], _rows(rejects, sum(rejects.values()), shown=40)),
        Grid("Flags", ["flag", "pairs", ""], _rows(found.counts["flags"], found.rows, shown=30)),
    ]


def _long_grids(found: Survey) -> list[Grid]:
    third = {"": "nothing said", "True": "somebody else's", "False": "the article's own"}
    rights = Counter({third[key]: n for key, n in found.counts["fig_third_party"].items()})
    return [
        Grid("Whose figure it is", ["rights", "pairs", ""], _rows(rights, found.rows), "by the figure's own words"),
        Grid("Journals", ["journal", "pairs", ""], _rows(found.counts["journal"], found.rows)),
        Grid("Article types", ["type", "pairs", ""], _rows(found.counts["article_type"], found.rows)),
        Grid("Languages", ["xml:lang", "pairs", ""], _rows(found.counts["lang"], found.rows, "not given")),
        Grid("Where in the article", ["container", "pairs", ""], _rows(found.counts["container"], found.rows)),
    ]


def _cluster_grid(twins: dict[str, Clusters]) -> Grid:
    names = {"dup_cluster": "pictures that are alike", "article_cluster": "articles that belong together"}
    rows = [[names[key], f"{c.number:,}", f"{c.shared:,}", f"{c.largest:,}"] for key, c in twins.items()]
    note = "groups of more than one pair share their pictures, or come from one article or from articles of one work"
    return Grid("Duplicates and clusters", ["", "groups", "pairs in groups of several", "largest"], rows, note)


def _measures(folder: Path, tokenizer: Path | None) -> list[Measure]:
    rows = draw_captions(folder, _CAPTIONS)
    captions, words = [row["caption"] for row in rows], [row["n_tokens"] for row in rows]
    found = [measure("CLIP byte pairs (open_clip)", clip_counter(), captions, words)]
    if tokenizer is not None:
        found.append(measure(tokenizer.name, file_counter(tokenizer), captions, words))
    return found


def _length_grid(found: Survey, measures: list[Measure]) -> Grid:
    shares = [_share(found.share_over("n_tokens", n)) for n in CONTEXT_LENGTHS]
    rows = [["words and marks (n_tokens), all pairs", f"{found.mean('n_tokens'):.0f}", "1", *shares]]
    for entry in measures:
        error = 0.0 if len(entry.lengths) == found.rows else 1.96
        shares = [_interval(entry.share_over(n), error * entry.error_over(n)) for n in CONTEXT_LENGTHS]
        rows.append(
            [f"{entry.name}, {len(entry.lengths):,} pairs", f"{entry.lengths.mean():.0f}", f"{entry.per_word:.2f}", *shares]
        )
    note = (
        "Tokens include the start and end mark. The paper counts PubMedBERT's WordPieces: "
        "give its vocab.txt with --tokenizer to measure these too; it says that 256 hold about 90 % of the captions."
    )
    return Grid("Caption length", ["counted in", "mean", "per word", *(f"over {n}" for n in CONTEXT_LENGTHS)], rows, note)


def _plots(found: Survey) -> list[Plot]:
    side = f"{_share(found.share_over('short_side', _PAPER_SIDE))} over 336 pixels on both sides (the paper: over 75 %)"
    words = ", ".join(f"{_share(found.share_over('n_tokens', n))} over {n}" for n in CONTEXT_LENGTHS)
    plots = [
        _lengths(found, "short_side", "Short side of the image, pixels", side, _PIXELS, (_PAPER_SIDE,)),
        _lengths(found, "n_tokens", "Caption length, words and marks", words, _WORDS, CONTEXT_LENGTHS),
    ]
    years = {int(year): n for year, n in found.counts["year"].items() if year}
    if years:
        first, last = min(years), max(years)
        counts = np.asarray([years.get(year, 0) for year in range(first, last + 1)])
        missing = found.counts["year"][""]
        plots.append(bars(counts, first - 0.5, 1, "Year of publication", f"{missing:,} pairs without a year" if missing else ""))
    for name in QUALITY:
        if found.missing[name] < found.rows:
            low, high = quality_range(name)
            note = f"{found.missing[name]:,} pairs without" if found.missing[name] else ""
            plots.append(bars(found.quality[name], low, (high - low) / BINS, _QUALITY_NAMES[name], note))
    return plots


def _lengths(found: Survey, name: str, title: str, note: str, scale: tuple[int, int], marks: tuple[int, ...]) -> Plot:
    step, end = scale
    counts = found.lengths[name]
    inside = counts[:end].reshape(-1, step).sum(axis=1)
    rest = int(counts[end:].sum())
    return bars(inside, 0, step, title, f"{note}; {rest:,} beyond the plot" if rest else note, marks)


def _rows(counts: Counter[str], total: int, none: str = "none", shown: int = _SHOWN) -> list[list[str]]:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    if len(ordered) > shown:
        rest = ordered[shown - 1 :]
        ordered = [*ordered[: shown - 1], (f"{len(rest):,} others", sum(n for _, n in rest))]
    return [[key or none, f"{number:,}", _share(number / max(1, total))] for key, number in ordered]


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _interval(share: float, error: float) -> str:
    return f"{100 * share:.1f} ± {100 * error:.1f} %" if error else _share(share)
