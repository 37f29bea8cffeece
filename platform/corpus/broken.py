"""Damaged articles beside the whole ones, with what a correct ingester should do about each.

whole article -> damage(bundle) -> Expected: a reject with stage and reason, or a survival with flags
"""

from __future__ import annotations

from dataclasses import replace

from biomedray.corpus import damage_files, damage_images, damage_xml
from biomedray.corpus.article import BROKEN_BASE, plan_article
from biomedray.corpus.damage import Class
from biomedray.corpus.layouts import Bundle, bundle
from biomedray.corpus.truth import Expected, rejected
from biomedray.records import Reason, Stage

CLASSES: tuple[Class, ...] = (
    *damage_files.damage.classes,
    *damage_xml.damage.classes,
    *damage_images.damage.classes,
)


def classes(layout: str) -> list[tuple[Class, str]]:
    """The classes that fit a layout and where each goes; in a mixed corpus they take turns."""
    if layout != "mixed":
        return [(found, layout) for found in CLASSES if layout in found.layouts]
    return [(found, found.layouts[i % len(found.layouts)]) for i, found in enumerate(CLASSES)]


def broken_articles(seed: int, k: int, layout: str) -> list[tuple[Bundle, str, Expected]]:
    """Damaged article ``k``: its bundle, class and expectation; some classes need a second, whole article beside it."""
    able = classes(layout)
    kind, where = able[k % len(able)]
    article = plan_article(seed, BROKEN_BASE + k, where, simple=True)
    made = bundle(article)
    expected = kind.damage(made)
    results = [(made, kind.name, expected)]
    if kind.name == "superseded_version":
        newer = bundle(replace(article, version=2))
        results.append((newer, f"{kind.name}:newer", Expected("article")))
    elif kind.name == "duplicate_article":
        copy = replace(made, suffix="_copy")
        results.append((copy, f"{kind.name}:copy", rejected(Stage.ARTICLE, Reason.DUPLICATE_ARTICLE)))
    return results
