"""Plots of a classifier's scores: confusion as a heat map, reliability, and a probe's curve over its training samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from biomedray.report.plots import COLOURS, INK, Plot, drawing, svg_of

_NAME = 22
_MOST_NUMBERS = 12
_ASIDE = 1.04

Point = tuple[float, float, float, float]
"""x, value, low, high."""


def heat_map(table: Sequence[Sequence[int]], rows: Sequence[str], columns: Sequence[str], title: str, note: str = "") -> Plot:
    """Counts by true class (row) and predicted one, coloured by their share of the row."""
    from matplotlib.colors import LinearSegmentedColormap

    shares = [[count / max(1, sum(line)) for count in line] for line in table]
    figure, axes = drawing(5.6, 1.5 + 0.42 * len(rows))
    colours = LinearSegmentedColormap.from_list("share", ["#2a8c8200", "#2a8c82ff"])
    axes.imshow(shares, cmap=colours, vmin=0, vmax=1, aspect="auto")
    axes.grid(visible=False)
    axes.set_xticks(range(len(columns)), [_short(name) for name in columns])
    axes.tick_params(axis="x", rotation=30 if len(columns) > 3 else 0)
    axes.set_yticks(range(len(rows)), [_short(name) for name in rows])
    axes.set_xlabel("predicted", color=INK)
    axes.set_ylabel("true", color=INK)
    if len(columns) <= _MOST_NUMBERS:
        for y, line in enumerate(table):
            for x, count in enumerate(line):
                colour = "white" if shares[y][x] > 0.55 else INK
                axes.text(x, y, f"{count:,}", ha="center", va="center", color=colour, fontsize=9, weight="bold")
    return Plot(title, svg_of(figure), note)


def reliability_diagram(bins: Sequence[Mapping[str, float]], title: str, note: str = "") -> Plot:
    """Accuracy against confidence, in percent; a mark's area is the share of the pictures in its bin."""
    figure, axes = drawing()
    total = sum(one["pictures"] for one in bins)
    x, y = ([100 * one[name] for one in bins] for name in ("confidence", "accuracy"))
    axes.plot([0, 100], [0, 100], color=INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.plot(x, y, color=COLOURS[0], linewidth=1.2)
    axes.scatter(x, y, s=[12 + 260 * one["pictures"] / total for one in bins], color=COLOURS[0], alpha=0.75, linewidths=0)
    axes.set_xlabel("confidence, %", color=INK)
    axes.set_ylabel("right, %", color=INK)
    axes.set_xlim(min(45.0, min(x) - 5), 101)
    axes.set_ylim(-3, 103)
    return Plot(title, svg_of(figure), note)


def probe_curve(
    series: Mapping[str, Sequence[Point]], level: tuple[str, float] | None, title: str, y_label: str, note: str = ""
) -> Plot:
    """Each series with its intervals over the logarithm of x (percent of the training split); ``level`` is a named line."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    figure, axes = drawing()
    for number, (colour, (name, points)) in enumerate(zip(COLOURS, series.items(), strict=False)):
        x, y, low, high = ([point[i] for point in points] for i in range(4))
        x = [value * _ASIDE**number for value in x]  # so that intervals stand side by side
        down, up = ([max(0.0, a - b) for a, b in zip(*pair, strict=True)] for pair in ((y, low), (high, y)))
        axes.errorbar(x, y, yerr=[down, up], color=colour, marker="o", markersize=4, linewidth=1.6, capsize=3, label=name)
    if level is not None:
        axes.axhline(level[1], color=COLOURS[len(series) % len(COLOURS)], linewidth=1.3, linestyle=(0, (4, 3)), label=level[0])
    ticks = sorted({point[0] for points in series.values() for point in points})
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(_percent))
    axes.set_xlabel("share of the training split", color=INK)
    axes.set_ylabel(y_label, color=INK)
    axes.legend(frameon=False, labelcolor=INK, fontsize=9)
    return Plot(title, svg_of(figure), note)


def _percent(value: float, _position: Any = None) -> str:
    return f"{value:g} %"


def _short(name: str) -> str:
    return name if len(name) <= _NAME else name[: _NAME - 1] + "…"
