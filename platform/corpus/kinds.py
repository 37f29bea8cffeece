"""The registry of picture kinds: what each shows, how it is drawn, how captions say it.

Kind("mr", {"side": (left, right), ...}, draw)
  |-- sample(rng, fixed) -> attributes --+--> draw(rng, attributes, size) -> image
  |                                      +--> phrase(rng, attributes, slots) -> "T2-weighted MRI with ..."
kinds.json holds the words: phrases tell all attributes, notes are the remarks that journals add.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from biomedray.corpus.draw import cells, charts, laboratory, radiology, schemes, tissue
from biomedray.corpus.draw.canvas import Attributes, Rng, Size
from biomedray.corpus.grammar import expand, number, pick

Values = tuple[Any, ...]
Drawing = Callable[[Rng, Attributes, Size], Image.Image]
Tidy = Callable[[dict[str, Any]], dict[str, Any]]

_COLORS = ("blue", "red", "green", "orange", "purple", "grey")


@cache
def _words() -> dict[str, Any]:
    words: dict[str, Any] = json.loads(Path(__file__).with_name("kinds.json").read_text(encoding="utf-8"))
    return words


def _unchanged(attributes: dict[str, Any]) -> dict[str, Any]:
    return attributes


@dataclass(frozen=True)
class Kind:
    """One kind of picture: the domain of its attributes and its drawing; its words stand in kinds.json."""

    name: str
    family: str
    domain: Mapping[str, Values]
    draw: Drawing
    aspects: tuple[float, ...] = (1.0, 1.25, 1.33)
    """Width over height."""
    tidy: Tidy = _unchanged
    """Removes attributes that have no meaning beside others."""

    @property
    def noun(self) -> str:
        """A template for what the kind is called."""
        return str(_words()[self.name]["noun"])

    @property
    def notes(self) -> list[str]:
        """Templates of whole sentences that go well after a phrase."""
        return list(_words()[self.name]["notes"])

    def sample(self, rng: Rng, fixed: Attributes) -> dict[str, Any]:
        """Attributes at random; those in ``fixed`` that belong to the domain are kept."""
        drawn = {}
        for name, values in self.domain.items():
            choice = values[int(rng.integers(len(values)))]
            drawn[name] = fixed[name] if fixed.get(name) in values else choice
        return self.tidy(drawn)

    def phrase(self, rng: Rng, attributes: Attributes, context: Mapping[str, str]) -> str:
        """A phrase that tells all attributes, whose words come from ``context`` too; {n_s} ends the plural for a count n."""
        entry = _words()[self.name]
        slots = dict(context) | {name: _say(entry["words"].get(name, {}), value) for name, value in attributes.items()}
        slots |= {f"{name}_s": "" if value == 1 else "s" for name, value in attributes.items() if isinstance(value, int)}
        for name, words in entry["words"].items():
            slots.setdefault(name, words.get("", ""))
        return expand(rng, pick(rng, entry["phrases"]), slots)


def _say(words: Mapping[str, str], value: Any) -> str:
    said = words.get(str(value))
    if said is not None:
        return said
    return number(value) if isinstance(value, int) else str(value)


def _without(name: str, values: Values, *meaningless: str) -> Tidy:
    """A tidy function: some attributes mean nothing where ``name`` has one of ``values``."""

    def tidy(attributes: dict[str, Any]) -> dict[str, Any]:
        if attributes[name] not in values:
            return attributes
        return {key: value for key, value in attributes.items() if key not in meaningless}

    return tidy


def _seen_in_ct(attributes: dict[str, Any]) -> dict[str, Any]:
    """A dark lesion can't be seen in the dark lungs, so the chest has bright ones."""
    if attributes["region"] == "chest" and attributes["lesion"] == "hypodense":
        attributes = attributes | {"lesion": "hyperdense"}
    return _without("lesion", ("none",), "side")(attributes)


def _two_colors(attributes: dict[str, Any]) -> dict[str, Any]:
    if attributes["better"] != attributes["worse"]:
        return attributes
    return attributes | {"worse": _COLORS[(_COLORS.index(attributes["better"]) + 1) % len(_COLORS)]}


_SIDES = ("left", "right")
_FINDINGS = ("normal", "tumour", "inflammation", "fibrosis", "necrosis", "haemorrhage")
_CHEST = ("normal", "consolidation", "nodule", "effusion", "pneumothorax", "cardiomegaly")
_PATTERNS = ("filamentous", "punctate", "cytoplasmic", "membranous")
_RHYTHMS = ("sinus rhythm", "tachycardia", "bradycardia", "atrial fibrillation", "ST elevation")

KINDS: tuple[Kind, ...] = (
    Kind("histology", "microscopy", {"organ": tissue.ORGANS, "finding": _FINDINGS}, tissue.histology),
    Kind(
        "immunohistochemistry",
        "microscopy",
        {"organ": tissue.ORGANS, "staining": ("strong", "weak", "negative"), "site": ("nuclear", "cytoplasmic", "membranous")},
        tissue.immunohistochemistry,
        tidy=_without("staining", ("negative",), "site"),
    ),
    Kind(
        "fluorescence",
        "microscopy",
        {"color": tuple(cells.CHANNELS), "pattern": _PATTERNS, "density": ("few", "many")},
        cells.fluorescence,
    ),
    Kind(
        "electron",
        "microscopy",
        {"object": ("mitochondria", "virus particles", "vesicles", "bacteria"), "density": ("few", "many")},
        cells.electron,
    ),
    Kind(
        "blood_smear", "microscopy", {"finding": ("normal", "parasites", "blasts", "sickle cells", "pallor")}, cells.blood_smear
    ),
    Kind(
        "ct",
        "radiology",
        {"region": ("head", "chest", "abdomen"), "lesion": ("hypodense", "hyperdense", "none"), "side": _SIDES},
        radiology.ct,
        (1.0, 1.15),
        _seen_in_ct,
    ),
    Kind(
        "mr",
        "radiology",
        {
            "sequence": ("T1", "T2", "FLAIR", "contrast"),
            "plane": ("axial", "coronal"),
            "side": _SIDES,
            "extent": ("small", "large"),
        },
        radiology.mr,
        (0.85, 1.0),
    ),
    Kind(
        "radiograph",
        "radiology",
        {"finding": _CHEST, "side": _SIDES},
        radiology.radiograph,
        (0.9, 1.0, 1.1),
        _without("finding", ("normal", "cardiomegaly"), "side"),
    ),
    Kind(
        "ultrasound",
        "radiology",
        {"finding": ("cyst", "solid mass", "stone", "normal"), "position": ("left", "centre", "right")},
        radiology.ultrasound,
        (1.1, 1.25),
        _without("finding", ("normal",), "position"),
    ),
    Kind(
        "fundus",
        "radiology",
        {"eye": _SIDES, "finding": ("normal", "haemorrhages", "exudates", "scars", "cupping")},
        radiology.fundus,
        (1.0, 1.2),
    ),
    Kind(
        "western_blot",
        "laboratory",
        {"lanes": (3, 4, 5, 6, 8), "proteins": (2, 3, 4), "trend": ("increasing", "decreasing", "equal", "first only")},
        laboratory.western_blot,
        (1.3, 1.6, 1.9),
    ),
    Kind("gel", "laboratory", {"lanes": (4, 6, 8), "positive": ("all", "first half", "second half")}, laboratory.gel, (1.2, 1.4)),
    Kind(
        "ecg",
        "laboratory",
        {"rhythm": _RHYTHMS, "leads": (1, 2, 3), "paper": ("pink", "green", "white")},
        laboratory.ecg,
        (1.5, 1.8, 2.1),
    ),
    Kind(
        "molecule",
        "laboratory",
        {"rings": (1, 2, 3, 4), "atom": ("oxygen", "nitrogen", "sulfur", "chlorine")},
        laboratory.molecule,
        (1.3, 1.6),
    ),
    Kind(
        "bar_chart",
        "chart",
        {"groups": (3, 4, 5, 6), "color": _COLORS, "trend": ("increase", "decrease", "peak", "no change")},
        charts.bars,
    ),
    Kind(
        "line_chart",
        "chart",
        {"series": (1, 2, 3), "color": _COLORS, "trend": ("increase", "decrease", "peak", "plateau")},
        charts.lines,
    ),
    Kind("scatter_plot", "chart", {"color": _COLORS, "correlation": ("positive", "negative", "no")}, charts.scatter),
    Kind(
        "box_plot",
        "chart",
        {"groups": (2, 3, 4, 5), "color": _COLORS, "trend": ("increase", "decrease", "no change")},
        charts.boxes,
    ),
    Kind(
        "survival_curve",
        "chart",
        {"better": _COLORS, "worse": _COLORS, "gap": ("wide", "narrow")},
        charts.survival,
        tidy=_two_colors,
    ),
    Kind(
        "heat_map",
        "chart",
        {"palette": ("red-blue", "green-red", "yellow-purple", "white-orange"), "clusters": ("2", "4", "gradient")},
        charts.heat_map,
        (1.0, 1.2, 0.9),
    ),
    Kind(
        "flow_chart",
        "scheme",
        {"boxes": (3, 4, 5, 6), "direction": ("vertical", "horizontal"), "color": _COLORS},
        schemes.flow_chart,
        (1.2, 1.4),
    ),
    Kind(
        "tree",
        "scheme",
        {"leaves": (6, 9, 16, 24), "shape": ("rectangular", "circular"), "color": _COLORS[:5]},
        schemes.tree,
        (1.0, 1.2),
    ),
)


@cache
def all_kinds() -> dict[str, Kind]:
    """Every kind by name."""
    return {kind.name: kind for kind in KINDS}
