"""What a report says of each kind of artifact: facts, grids, plots and pictures, read back from its files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from biomedray.artifacts import Manifest
from biomedray.report.ablation import ablation_section
from biomedray.report.labelled import (
    probe_grid,
    probe_section,
    table_grid,
    table_section,
    zero_shot_grid,
    zero_shot_section,
)
from biomedray.report.model import model_section
from biomedray.report.pairs import pairs_section
from biomedray.report.parts import Gallery, Grid, Section
from biomedray.report.pictures import retrieval_pictures


def section_of(folder: Path, manifest: Manifest, pictures: bool = True, tokenizer: Path | None = None) -> Section:
    """The section for an artifact of any kind; ``pictures=False`` leaves plots and galleries out."""
    if manifest.kind == "pairs":
        return pairs_section(folder, manifest, pictures, tokenizer)
    return _SECTIONS.get(manifest.kind, _plain)(folder, manifest, pictures)


def retrieval_grid(manifest: Manifest) -> Grid:
    """Recall by direction with 95 % intervals, chance in the last row; every value in percent."""
    scores = manifest.details
    ks = list(scores["chance"])
    rows = []
    for direction, name in (("image_to_text", "figure → caption"), ("text_to_image", "caption → figure")):
        result = scores[direction]
        cells = [_recall_cell(result[k], result["interval_95"][k]) for k in ks]
        rows.append([name, *cells, f"{result['median_rank']:.0f}", f"{result['times_chance_R@1']:.0f}x"])
    rows.append(["chance", *[f"{100 * scores['chance'][k]:.1f}" for k in ks], "", "1x"])
    title = f"Retrieval among {scores['candidates']} held-out pairs ({scores['split']}), %, 95 % interval over articles"
    return Grid(title, ["", *ks, "median rank", "R@1 / chance"], rows)


def _recall_cell(value: float, interval: list[float]) -> str:
    return f"{100 * value:.1f} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"


def scores_grid(manifest: Manifest) -> Grid:
    """The main table of a scores artifact of any task."""
    return _GRIDS.get(manifest.details.get("task", ""), retrieval_grid)(manifest)


def _scores(folder: Path, manifest: Manifest, pictures: bool) -> Section:
    return _TASKS.get(manifest.details.get("task", ""), _retrieval)(folder, manifest, pictures)


def _retrieval(folder: Path, manifest: Manifest, pictures: bool) -> Section:
    facts = [("task", str(manifest.details.get("task", ""))), *_count_facts(manifest)]
    lead = "Queries and candidates are held-out pairs; a twin of the gold caption is gold, a tie with another a miss."
    galleries = []
    if pictures:
        galleries = [Gallery(title, found) for title, found in retrieval_pictures(folder, manifest, queries=4)]
    return Section("Scores", lead, facts, [retrieval_grid(manifest)], [], galleries)


def _plain(_folder: Path, manifest: Manifest, _pictures: bool) -> Section:
    grids = [
        Grid(name.replace("_", " "), ["", ""], [[str(k), str(v)] for k, v in value.items()])
        for name, value in manifest.counts.items()
        if isinstance(value, dict)
    ]
    return Section(manifest.kind.capitalize(), "", _count_facts(manifest), grids)


_GRIDS = {"zeroshot": zero_shot_grid, "table": table_grid, "probe": probe_grid}
_TASKS: dict[str, Callable[[Path, Manifest, bool], Section]] = {
    "zeroshot": zero_shot_section,
    "table": table_section,
    "probe": probe_section,
}
_SECTIONS: dict[str, Callable[[Path, Manifest, bool], Section]] = {
    "ablation": ablation_section,
    "model": model_section,
    "scores": _scores,
}


def _count_facts(manifest: Manifest) -> list[tuple[str, str]]:
    return [(name.replace("_", " "), f"{value:,}") for name, value in manifest.counts.items() if isinstance(value, int | float)]
