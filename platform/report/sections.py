"""What a report says of each kind of artifact: facts, grids, plots and pictures, read back from its files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from biomedray.artifacts import Manifest
from biomedray.report.ablation import ablation_section
from biomedray.report.comparison import comparison_grid, comparison_section
from biomedray.report.labelled import (
    probe_grid,
    probe_section,
    table_grid,
    table_section,
    zero_shot_grid,
    zero_shot_section,
)
from biomedray.report.leaks import leak_grid, leak_section
from biomedray.report.model import model_section
from biomedray.report.pairs import pairs_section
from biomedray.report.parts import Grid, Section
from biomedray.report.retrieval import retrieval_grid, retrieval_section


def section_of(folder: Path, manifest: Manifest, pictures: bool = True, tokenizer: Path | None = None) -> Section:
    """The section for an artifact of any kind; ``pictures=False`` leaves plots and galleries out."""
    if manifest.kind == "pairs":
        return pairs_section(folder, manifest, pictures, tokenizer)
    return _SECTIONS.get(manifest.kind, _plain)(folder, manifest, pictures)


def scores_grid(manifest: Manifest) -> Grid:
    """The main table of a scores artifact of any task."""
    return _GRIDS.get(manifest.details.get("task", ""), retrieval_grid)(manifest)


def _scores(folder: Path, manifest: Manifest, pictures: bool) -> Section:
    section = _TASKS.get(manifest.details.get("task", ""), retrieval_section)(folder, manifest, pictures)
    found = manifest.details.get("leak")
    return section if found is None else replace(section, grids=[*section.grids, leak_grid(found)])


def _plain(_folder: Path, manifest: Manifest, _pictures: bool) -> Section:
    grids = [
        Grid(name.replace("_", " "), ["", ""], [[str(k), str(v)] for k, v in value.items()])
        for name, value in manifest.counts.items()
        if isinstance(value, dict)
    ]
    return Section(manifest.kind.capitalize(), "", _count_facts(manifest), grids)


_GRIDS: dict[str, Callable[[Manifest], Grid]] = {
    "leak": lambda manifest: leak_grid(manifest.details),
    "compare": comparison_grid,
    "zeroshot": zero_shot_grid,
    "table": table_grid,
    "probe": probe_grid,
}
_TASKS: dict[str, Callable[[Path, Manifest, bool], Section]] = {
    "leak": leak_section,
    "compare": comparison_section,
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
