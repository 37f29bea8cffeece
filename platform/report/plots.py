"""Plots as inline SVG, in colours that read on a light and on a dark page."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

INK = "#7d8590"
COLOURS = ("#2a8c82", "#d2703c", "#6b6fc9", "#b3862b", "#b8578f", "#5a9bd4", "#7a9a3a", "#8c6d5a")


@dataclass(frozen=True)
class Plot:
    """An SVG element with its heading and one line below it."""

    title: str
    svg: str
    note: str = ""


def bars(counts: npt.NDArray[Any], start: float, width: float, title: str, note: str = "", marks: Sequence[float] = ()) -> Plot:
    """Counts of equal bins from ``start`` on; ``marks`` are values of interest, drawn as named lines."""
    import numpy as np
    from matplotlib.ticker import MaxNLocator

    figure, axes = drawing()
    axes.bar(start + width * np.arange(len(counts)), counts, width=width, align="edge", color=COLOURS[0], linewidth=0)
    axes.set_ylabel("pairs", color=INK)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=width >= 1))
    axes.set_xlim(start, start + width * max(1, len(counts)))
    for mark in marks:
        axes.axvline(mark, color=COLOURS[1], linewidth=1.2)
        axes.annotate(f" {mark:g}", (mark, 1), xycoords=("data", "axes fraction"), va="top", color=COLOURS[1], fontsize=9)
    return Plot(title, svg_of(figure), note)


def lines(series: Mapping[str, Sequence[tuple[float, float]]], title: str, x_label: str) -> Plot:
    """One line for each series; a dense series is drawn thin, a sparse one with marks."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    figure, axes = drawing()
    for colour, (name, points) in zip(COLOURS, series.items(), strict=False):
        if points:
            dense = len(points) > 60
            x, y = zip(*points, strict=True)
            axes.plot(
                x, y, label=name, color=colour, linewidth=1.1 if dense else 1.8, marker=None if dense else "o", markersize=3
            )
    if len(axes.lines) > 1:  # of a single line the heading says what it is
        axes.legend(frameon=False, labelcolor=INK, fontsize=9)
    axes.set_xlabel(x_label, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    return Plot(title, svg_of(figure))


def drawing(width: float = 5.6, height: float = 2.9) -> tuple[Any, Any]:
    """A figure (inches) and its axes in the colours of the page."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    axes.tick_params(colors=INK, labelsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(INK)
    axes.grid(axis="y", color=INK, alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def svg_of(figure: Any) -> str:
    """The figure as an SVG element; the same figure gives the same text."""
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "biomedray", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
