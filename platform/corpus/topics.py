"""What the articles are about, and the journals they appear in: typed views of articles.json."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any


@cache
def vocabulary() -> dict[str, Any]:
    """Names, sentences and house styles, as articles.json has them."""
    words: dict[str, Any] = json.loads(Path(__file__).with_name("articles.json").read_text(encoding="utf-8"))
    return words


@dataclass(frozen=True)
class Topic:
    """An organ or field, what ails it, and the kinds of picture its articles show beside the common ones."""

    name: str
    conditions: tuple[str, ...]
    kinds: tuple[str, ...]
    fixed: tuple[tuple[str, str], ...]
    """Attributes that hold for all pictures of an article, such as the organ of its sections."""


COMMON_KINDS = (
    "fluorescence",
    "electron",
    "western_blot",
    "gel",
    "molecule",
    "bar_chart",
    "line_chart",
    "scatter_plot",
    "box_plot",
    "survival_curve",
    "heat_map",
    "flow_chart",
    "tree",
)

LICENSES: dict[str, tuple[str, str] | None] = {
    "CC0": ("cc0", "https://creativecommons.org/publicdomain/zero/1.0/"),
    "CC BY": ("open-access", "https://creativecommons.org/licenses/by/4.0/"),
    "CC BY-SA": ("open-access", "https://creativecommons.org/licenses/by-sa/4.0/"),
    "CC BY-ND": ("open-access", "https://creativecommons.org/licenses/by-nd/4.0/"),
    "CC BY-NC": ("open-access", "https://creativecommons.org/licenses/by-nc/4.0/"),
    "CC BY-NC-SA": ("open-access", "https://creativecommons.org/licenses/by-nc-sa/3.0/"),
    "CC BY-NC-ND": ("open-access", "https://creativecommons.org/licenses/by-nc-nd/4.0/"),
    "NO-CC CODE": None,
}
LICENSE_WEIGHTS = (0.06, 0.46, 0.06, 0.05, 0.14, 0.06, 0.12, 0.05)
CLOUD_DTD = ("jats1.3", "jats1.4", "jats1.4")


@dataclass(frozen=True)
class Journal:
    """A journal's house style, as its XML shows it."""

    title: str
    abbreviation: str
    publisher: str
    dtd: str
    """Key of jats.DTDS."""
    label: str
    """Figure label with {n}; empty where the journal gives none."""
    reference: str
    """How the text refers to a figure: {n} the number."""
    plural: str
    fig_id: str
    href: str
    caption: str
    """title: a <title> and paragraphs; bold: first sentence bold in one <p>; plain: one <p>."""
    markers: str
    """How sub-captions are marked; {p} the letter."""
    upper: bool = True
    floats: bool = False
    """Whether figures stand in a floats-group at the end."""
    license_ref: bool = False
    """Whether the licence is an ali:license_ref."""
    panel_inside: bool = True
    """Whether a panel's letter stands inside the xref."""


@cache
def topics() -> tuple[Topic, ...]:
    """Every topic."""
    return tuple(
        Topic(entry["name"], tuple(entry["conditions"]), tuple(entry["kinds"]), tuple(entry["fixed"].items()))
        for entry in vocabulary()["topics"]
    )


@cache
def journals() -> tuple[Journal, ...]:
    """Every journal."""
    return tuple(Journal(**entry) for entry in vocabulary()["journals"])
