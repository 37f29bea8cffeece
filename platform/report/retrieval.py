"""What a page says of retrieval scores: recall against chance, ties, several golds, ANN, the breakdown, a gallery."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from biomedray.artifacts import Manifest
from biomedray.report.gallery import query_galleries
from biomedray.report.parts import Grid, Section

WAYS = (("image_to_text", "figure → caption"), ("text_to_image", "caption → figure"))

Scores = Mapping[str, Any]


def retrieval_grid(manifest: Manifest) -> Grid:
    """Recall by direction with 95 % intervals, chance in the last row; every value in percent."""
    scores = manifest.details
    ks = list(scores["chance"])
    rows = []
    for direction, name in WAYS:
        result = scores[direction]
        cells = [_recall_cell(result[k], result["interval_95"][k]) for k in ks]
        rows.append([name, *cells, f"{result['median_rank']:,.0f}", f"{result['times_chance_R@1']:.0f}x"])
    rows.append(["chance", *[f"{100 * scores['chance'][k]:.1f}" for k in ks], "", "1x"])
    over = scores.get("over", "articles")
    title = f"Retrieval among {scores['candidates']:,} held-out pairs ({scores['split']}), %, 95 % interval over {over}"
    return Grid(
        title, ["", *ks, "median rank", "R@1 / chance"], rows, " ".join(f"{_sentence(note)}." for note in scores.get("notes", []))
    )


def retrieval_section(folder: Path, manifest: Manifest, pictures: bool) -> Section:
    """The scores of one model on one split."""
    scores = manifest.details
    by = scores.get("by", "caption")
    lead = (
        f"Queries and candidates are held-out pairs. Pairs with the same {by} are gold for each other; "
        "a candidate that is not gold and scores the same as the gold one counts as a miss."
    )
    grids = [retrieval_grid(manifest), *_details(scores), *_approximate(scores), *_breakdown(scores)]
    queries = query_galleries(folder, manifest) if pictures else []
    return Section(f"Retrieval: {scores.get('model', folder.name)}", lead, _facts(manifest), grids, queries=queries)


def _facts(manifest: Manifest) -> list[tuple[str, str]]:
    scores = manifest.details
    texts = [(name, str(scores[name])) for name in ("model", "set") if name in scores]
    counts = [(name.replace("_", " "), f"{value:,}") for name, value in manifest.counts.items()]
    paper = scores.get("paper")
    if paper:
        counts.append(("the paper's weights", f"R@1 > {paper['R@1 over']:.0%} of {paper['candidates']:,}"))
    return texts + counts


def _details(scores: Scores) -> list[Grid]:
    """How ties were counted, and queries with several golds."""
    if "ties_in_favour" not in scores["image_to_text"]:
        return []
    rows = []
    for direction, name in WAYS:
        one = scores[direction]
        rows.append(
            [
                name,
                f"{100 * one['mrr']:.1f}",
                f"{one['tied_queries']:,}",
                f"{100 * one['ties_in_favour']['R@1']:.1f}",
                f"{one['several_golds']:,}",
                f"{100 * one['fractional_recall']['R@10']:.1f}",
                f"{100 * one['r_precision']:.1f}",
            ]
        )
    header = ["%", "MRR", "queries with ties", "R@1, ties won", "with several golds", "share of golds in 10", "R-precision"]
    return [Grid("Ties and several golds", header, rows)]


def _approximate(scores: Scores) -> list[Grid]:
    if "ann" not in scores:
        return []
    rows = []
    for direction, name in WAYS:
        one = scores["ann"][direction]
        neighbours = ", ".join(f"{100 * share:.1f} {of}" for of, share in one["exact_neighbours_found"].items())
        pairs = [f"{100 * one[k]:.1f} ({100 * (one[k] - scores[direction][k]):+.1f})" for k in scores["chance"]]
        rows.append([name, *pairs, neighbours, one["index"]])
    header = ["%", *scores["chance"], "exact neighbours found", "index"]
    note = "In brackets: against exact search. The paper measured with an approximate index that it does not name."
    return [Grid("Approximate search", header, rows, note)]


def _breakdown(scores: Scores) -> list[Grid]:
    grids = []
    for name, slices in scores.get("breakdown", {}).items():
        if len(slices) < 2:
            continue  # all queries are in one slice: nothing to compare
        rows = []
        for one in slices:
            label = f"{one['slice']} ({one['values']} values)" if "values" in one else one["slice"]
            cells = [_recall_cell(one[way]["value"], [one[way]["low"], one[way]["high"]]) for way, _ in WAYS]
            rows.append([label, f"{one['n']:,}", *cells])
        grids.append(Grid(f"R@1 by {name}, %", ["", "queries", *(title for _, title in WAYS)], rows))
    return grids


def _recall_cell(value: float, interval: list[float]) -> str:
    return f"{100 * value:.1f} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def _sentence(note: str) -> str:
    return note[:1].upper() + note[1:]
