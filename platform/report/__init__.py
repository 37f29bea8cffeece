"""Report: artifacts in, one self-contained HTML page or a rich table out.

    pairs, model, scores, index, ... -> sections (facts, tables, plots, galleries) -> template.html -> page

The page carries its pictures inside and loads nothing from anywhere. Counts are read from the artifacts' files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from biomedray.artifacts import Manifest, read_manifest, write_atomic
from biomedray.report.parts import Section
from biomedray.report.sections import section_of


def write_report(
    artifacts: Sequence[Path],
    out: Path,
    title: str = "biomedray report",
    extra: Sequence[Section] = (),
    tokenizer: Path | None = None,
) -> Path:
    """Write one HTML page: scores of one task and set side by side, a section for each artifact, the ``extra`` sections.

    ``tokenizer``: a tokenizer.json or WordPiece vocab.txt by which caption lengths are measured too.

    Raises:
        UserError: one of the folders is no finished artifact, or the tokenizer can't be read.
    """
    from biomedray.report.page import render
    from biomedray.report.side_by_side import side_by_side

    found = [(folder, read_manifest(folder)) for folder in artifacts]
    sections = [section_of(folder, manifest, tokenizer=tokenizer) for folder, manifest in found]
    write_atomic(out, render(title, [*side_by_side(found), *sections, *extra]))
    return out


def inspect_table(artifact: Path) -> Table:
    """The facts of one artifact as a rich table."""
    section = section_of(artifact, read_manifest(artifact), pictures=False)
    table = Table(title=f"{section.title}  {artifact}", show_header=False, title_justify="left")
    for label, value in section.facts:
        table.add_row(label, value)
    for grid in section.grids:
        table.add_section()
        table.add_row(f"[bold]{grid.title}[/bold]", "")
        for row in grid.rows:
            table.add_row(row[0], "   ".join(row[1:]))
    return table


def scores_table(manifest: Manifest) -> Table:
    """The main table of a scores artifact as a rich table, its note below."""
    from biomedray.report.sections import scores_grid

    grid = scores_grid(manifest)
    table = Table(title=grid.title, title_justify="left", caption=grid.note or None, caption_justify="left")
    for i, name in enumerate(grid.header):
        table.add_column(name, justify="left" if i == 0 else "right")
    for row in grid.rows:
        table.add_row(*row)
    return table
