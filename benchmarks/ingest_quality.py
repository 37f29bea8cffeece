"""What looking at a picture costs, and how good the hints are.

Cost: CPU ms a JPEG of the real packages (every fourth of 684) or of the generated corpus, best of 3 rounds taken in turn:
the floor (Pillow: open, draft to 128 pixels, load), the decode, the whole of ``inspect_image`` with and without decoding.

Hints: AUROC of compound_hint and chart_hint against truth.jsonl of a generated corpus, and against what the captions
of real figures say: panels named (A) and (B), words of plots against words of images. Captions are a weak truth.

Usage: python benchmarks/ingest_quality.py [FOLDER OF REAL PACKAGES] (the generated corpus is made in a temporary folder).
"""

from __future__ import annotations

import io
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.stats import rankdata

from biomedray.corpus import generate
from biomedray.ingest.articles import extract
from biomedray.ingest.images import inspect_image
from biomedray.ingest.packages import open_ref
from biomedray.ingest.settings import IngestConfig
from biomedray.ingest.sources import discover
from biomedray.pixels import decode

ARTICLES = 150
SIDE = 128
ROUNDS = 3
PLOTS = {"scatter_plot", "line_chart", "bar_chart", "box_plot", "survival_curve"}
DRAWN = PLOTS | {"heat_map", "flow_chart", "tree", "molecule", "ecg"}
PANEL_A = re.compile(r"(?:^|[\s(.])\(?[Aa]\)?(?:[,\-–—:)]|\s*[).:])")  # noqa: RUF001  # dashes as captions have them
PANEL_B = re.compile(r"(?:^|[\s(.;,])\(?[Bb]\)?[,\-–—:).]")  # noqa: RUF001  # same
PLOT_WORDS = re.compile(
    r"\b(plots?|curves?|bar graph|histogram|box ?plot|ROC|Kaplan|scatter|error bars?|[xy]-axis|bars represent|correlation"
    r"|time course|regression)\b",
    re.IGNORECASE,
)
IMAGE_WORDS = re.compile(
    r"\b(micrograph|scale bar|stain\w*|radiograph|CT|MRI|photograph\w*|microscopy|images? of|immunofluorescence|western blot"
    r"|fundus|ultraso\w+|photo)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Figure:
    """A picture and what is known of it; ``chart`` is None where that can't be said."""

    data: bytes
    compound: bool
    chart: bool | None


def pairs(source: Path) -> Iterator[dict[str, object]]:
    """Rows of a source, without decoding."""
    config = IngestConfig(verify_decode=False)
    for ref in discover([str(source)]):
        for item in open_ref(ref, config):
            for rows in extract(item, config):
                yield from rows.pairs


def generated(folder: Path) -> list[Figure]:
    """Figures of a new corpus with their truth."""
    generate(folder, articles=ARTICLES, seed=11, progress=False)
    truth = {}
    for line in (folder / "truth.jsonl").read_text().splitlines():
        article = json.loads(line)
        for figure in article["figures"]:
            for graphic in figure["graphics"]:
                truth[f"{article['pmcid']}.{article['version']}/{figure['fig_id']}/{graphic['index']}"] = graphic["panels"]
    known = [(row["image"], truth.get(str(row["pair_id"]))) for row in pairs(folder)]
    return [Figure(bytes(data), len(panels) > 1, _chart(panels)) for data, panels in known if panels]  # type: ignore[call-overload]  # bytes


def _chart(panels: list[dict[str, str]]) -> bool | None:
    kinds = {panel["kind"] for panel in panels}
    return True if kinds <= PLOTS else False if not kinds & DRAWN else None


def real(folder: Path) -> list[Figure]:
    """Figures of real packages with what their captions say."""
    figures = []
    for row in pairs(folder):
        caption = str(row["caption"])
        plot, image = bool(PLOT_WORDS.search(caption)), bool(IMAGE_WORDS.search(caption))
        chart = plot if plot != image else None
        compound = bool(PANEL_A.search(caption) and PANEL_B.search(caption))
        figures.append(Figure(bytes(row["image"]), compound, chart))  # type: ignore[call-overload]  # bytes
    return figures


def auroc(labels: list[bool], scores: list[float]) -> float:
    """Area under the curve, ties counting half."""
    truth = np.array(labels)
    positive = int(truth.sum())
    ranks = rankdata(scores)[truth].sum() - positive * (positive + 1) / 2
    return float(ranks / (positive * (len(truth) - positive)))


def hints(name: str, figures: list[Figure]) -> None:
    """Print the AUROC of both hints."""
    found = [(figure, inspect_image("f", figure.data, IngestConfig()).quality) for figure in figures]
    compound = auroc([f.compound for f, _ in found], [q.compound_hint or 0 for _, q in found])
    known = [(f.chart, q.chart_hint or 0) for f, q in found if f.chart is not None]
    chart = auroc([bool(label) for label, _ in known], [score for _, score in known])
    print(f"{name}: compound {compound:.3f} ({sum(f.compound for f, _ in found)} of {len(found)})", end=", ")
    print(f"chart {chart:.3f} ({sum(bool(label) for label, _ in known)} of {len(known)})")


def floor(data: bytes) -> None:
    """The least that reads all of a JPEG."""
    with Image.open(io.BytesIO(data)) as image:
        scale = max(1.0, min(image.size) / SIDE)
        image.draft(image.mode, (int(image.width / scale), int(image.height / scale)))
        image.load()


def costs(name: str, figures: list[Figure]) -> None:
    """Print CPU ms a picture of each step, and the share of pictures that were not decoded without complaint."""
    pictures = [figure.data for figure in figures if figure.data.startswith(b"\xff\xd8")][::4]
    steps: dict[str, Callable[[bytes], object]] = {
        "floor": floor,
        "decode": lambda data: decode(data, SIDE),
        "inspect": lambda data: inspect_image("f.jpg", data, IngestConfig()),
        "header only": lambda data: inspect_image("f.jpg", data, IngestConfig(verify_decode=False)),
    }
    best = dict.fromkeys(steps, float("inf"))
    for _ in range(ROUNDS):
        for step, work in steps.items():
            start = time.process_time()
            for data in pictures:
                work(data)
            best[step] = min(best[step], 1000 * (time.process_time() - start) / len(pictures))
    print(f"{name}: " + ", ".join(f"{step} {ms:.2f} ms" for step, ms in best.items()), end=", ")
    flags = [inspect_image("f.jpg", data, IngestConfig()).flags for data in pictures]
    print(f"{len(pictures)} JPEG, {sum(bool({'truncated', 'damaged'} & set(found)) for found in flags)} damaged")


def main() -> None:
    """Print costs and hints."""
    with tempfile.TemporaryDirectory() as folder:
        sets = {"generated": generated(Path(folder))}
    if len(sys.argv) > 1:
        sets["real"] = real(Path(sys.argv[1]))
    for name, figures in sets.items():
        costs(name, figures)
        hints(name, figures)


if __name__ == "__main__":
    main()
