"""A table in the forms that people paste: Markdown, CSV, LaTeX, and rich on the terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table as RichTable

from biomedray.tune.table import Row, Table
from biomedray.tune.trial import Outcome

_LATEX = {
    "\\": r"\textbackslash{}",
    **{letter: "\\" + letter for letter in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "→": r"$\rightarrow$",
    "±": r"$\pm$",
    "<": r"$<$",
    ">": r"$>$",
}


def grid(table: Table) -> tuple[list[str], list[list[str]]]:
    """Header and rows as text: leading cells, then each number with the paper's beside it, then the trials."""
    known = {metric.key for metric in table.metrics if any(metric.key in row.paper for row in table.rows)}
    header = list(table.header)
    for metric in table.metrics:
        header += [f"{metric.title} {'↑' if metric.higher else '↓'}", *(["paper"] if metric.key in known else [])]
    rows = []
    for row in table.rows:
        cells = list(row.cells)
        for metric in table.metrics:
            cells.append(row.found[metric.key].shown(metric) if metric.key in row.found else "-")
            if metric.key in known:
                cells.append(metric.shown(row.paper[metric.key]) if metric.key in row.paper else "")
        rows.append([*cells, _trials(row)])
    return [*header, "trials"], rows


def _trials(row: Row) -> str:
    return "; ".join([f"{row.finished} finished", *row.notes])


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A pipe table."""
    lines = [list(header), ["---"] * len(header), *[[" ".join(cell.split()).replace("|", r"\|") for cell in row] for row in rows]]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def latex(header: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    """A booktabs table."""
    body = [" & ".join(_escaped(cell) for cell in row) + r" \\" for row in rows]
    head = " & ".join(_escaped(cell.replace("↑", "").replace("↓", "").strip()) for cell in header) + r" \\"
    begin = [r"\begin{table}", r"\centering", rf"\caption{{{_escaped(caption)}}}", rf"\begin{{tabular}}{{{'l' * len(header)}}}"]
    return "\n".join([*begin, r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in text)


def comma_separated(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """RFC 4180, with plain line ends."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([list(header), *[list(row) for row in rows]])
    return text.getvalue()


def numbers(table: Table) -> str:
    """CSV of plain numbers: a line for each variant and metric."""
    header = ["variant", *table.header, "metric", "mean", "low", "high", "seeds", "paper"]
    rows: list[list[object]] = []
    for row in table.rows:
        for metric in table.metrics:
            found, paper = row.found.get(metric.key), row.paper.get(metric.key, "")
            measured = [found.mean, found.low, found.high, found.n] if found else ["", "", "", 0]
            rows.append([row.variant, *row.cells, metric.key, *measured, paper])
    return comma_separated(header, rows)


def trials(outcomes: Sequence[Outcome]) -> str:
    """CSV of every trial: state, reason, what it spent, its last numbers."""
    drawn = sorted({name for outcome in outcomes for name in outcome.settings})
    keys = sorted({name for outcome in outcomes for name in outcome.metrics})
    header = ["trial", "variant", "seed", *drawn, "state", "reason", "pairs_seen", "seconds", "device", "workers", *keys]
    rows: list[list[object]] = [
        [
            *(o.name, o.variant, o.seed, *[o.settings.get(name, "") for name in drawn]),
            *(o.state, o.reason, o.pairs_seen, o.seconds, o.device, o.workers),
            *[o.metrics.get(name, "") for name in keys],
        ]
        for o in outcomes
    ]
    return comma_separated(header, rows)


def rich_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> RichTable:
    """For the terminal."""
    table = RichTable(title=title, title_justify="left")
    for name in header:
        table.add_column(name, justify="right" if "↑" in name or "↓" in name or name == "paper" else "left")
    for row in rows:
        table.add_row(*[escape(cell) for cell in row])
    return table
