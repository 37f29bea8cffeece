"""The truth of an article: what its pictures show, what its captions say, what an ingester should make of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from biomedray.corpus.figure_xml import source_data_words
from biomedray.corpus.layouts import Bundle
from biomedray.corpus.plan import Article, Figure, Graphic
from biomedray.records import Reason, Stage, license_group

_FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "gif": "GIF", "tif": "TIFF"}
_STRAY_REASONS = {"table-wrap": Reason.TABLE_GRAPHIC, "disp-formula": Reason.FORMULA_GRAPHIC, "p": Reason.NOT_IN_FIGURE}


@dataclass(frozen=True)
class Expected:
    """What a correct ingester does with a damaged article.

    ``scope`` article: the whole article is rejected, or survives with all its pairs. ``scope``
    figure: this holds for the first figure (its first graphic); the others become pairs as if
    nothing had happened.
    """

    scope: str
    stage: Stage | None = None
    reason: Reason | None = None
    """None: it survives."""
    flags: tuple[str, ...] = ()
    """Flags of pixels.decode that a surviving picture carries."""
    also: tuple[Reason, ...] = ()
    """Other reasons at the same stage that are right too."""
    may_survive: bool = False
    """Whether a more tolerant ingester that keeps the article, captions unharmed, is right too."""
    figure: dict[str, Any] = field(default_factory=dict)
    """Corrections to the truth of the first figure, such as ``fig_id`` null."""
    graphic: dict[str, Any] = field(default_factory=dict)
    """Corrections to the truth of its first graphic."""

    def verdict(self) -> dict[str, Any]:
        """As truth.jsonl has it."""
        if self.reason is None:
            return {"outcome": "pair", "flags": sorted(self.flags)} if self.scope == "figure" else {"outcome": "pairs"}
        verdict: dict[str, Any] = {"outcome": "reject", "stage": str(self.stage), "reason": str(self.reason)}
        if self.also:
            verdict["also"] = [str(reason) for reason in self.also]
        return verdict | ({"may_survive": True} if self.may_survive else {})


def rejected(stage: Stage, reason: Reason, *also: Reason, may_survive: bool = False) -> Expected:
    """The whole article is rejected."""
    return Expected("article", stage, reason, also=also, may_survive=may_survive)


def truth_line(bundle: Bundle, damage: str | None = None, expected: Expected | None = None) -> str:
    """The article's line of truth.jsonl, with a line end."""
    return json.dumps(truth(bundle, damage, expected), ensure_ascii=False) + "\n"


def truth(bundle: Bundle, damage: str | None = None, expected: Expected | None = None) -> dict[str, Any]:
    """The article's truth as JSON values; docs/guides/corpus.md explains the fields."""
    article = bundle.article
    figures = [_figure(article, inner) for outer in article.figures for inner in outer.walk()]
    if expected is not None and expected.scope == "figure":
        _correct(figures[0], expected)
    whole = expected is None or expected.scope == "figure"
    return {
        **_article(article),
        "source": bundle.source,
        "figures": figures,
        "other_graphics": [
            {
                "container": stray.container,
                "href": stray.href,
                "file": stray.file,
                "expected": _reject(Stage.FIGURE, _STRAY_REASONS[stray.container]),
            }
            for stray in article.strays
        ],
        "damage": damage,
        "expected": {"outcome": "pairs"} if whole or expected is None else expected.verdict(),
    }


def _article(article: Article) -> dict[str, Any]:
    licence = None if article.license_code == "NO-CC CODE" else article.license_code
    return {
        "pmcid": article.pmcid,
        "version": article.version,
        "layout": article.layout,
        "license_code": licence,
        "license_group": license_group(licence),
        "pmid": article.pmid,
        "doi": article.doi,
        "journal": article.journal.title,
        "year": article.year,
        "article_type": article.article_type,
        "dtd": article.dtd,
        "topic": article.topic.name,
        "condition": article.context["condition"],
        "features": list(article.features),
    }


def _reject(stage: Stage, reason: Reason) -> dict[str, Any]:
    return {"outcome": "reject", "stage": str(stage), "reason": str(reason)}


def _figure(article: Article, figure: Figure) -> dict[str, Any]:
    caption = figure.caption
    return {
        "fig_id": figure.fig_id,
        "label": figure.label,
        "number": figure.number,
        "construct": figure.construct,
        "role": figure.role,
        "container": "floats" if article.journal.floats and figure.container == "body" else figure.container,
        "parent_id": figure.parent_id,
        "rights": figure.rights,
        "caption": " ".join((caption.text, *(source_data_words(figure) if figure.construct == "source_data" else ()))),
        "has_caption_title": caption.title is not None,
        "subcaptions": [
            {"labels": list(part.labels), "text": part.text, "start": part.start, "end": part.end} for part in caption.parts
        ],
        "compound": any(len(graphic.panels) > 1 for graphic in figure.graphics),
        "graphics": [_graphic(i, graphic) for i, graphic in enumerate(figure.graphics)],
        "mentions": _mentions(article, figure),
        "expected": {"outcome": "pairs"},
    }


def _graphic(index: int, graphic: Graphic) -> dict[str, Any]:
    suffix = (graphic.file or graphic.href).rpartition(".")[2]
    flags = ["palette"] if suffix == "gif" else []
    return {
        "index": index,
        "href": graphic.href,
        "file": graphic.file,
        "width": graphic.size[0],
        "height": graphic.size[1],
        "format": _FORMATS.get(suffix, "JPEG"),
        "panels": [
            {"label": panel.label, "kind": panel.kind, "attributes": panel.attributes, "box": list(panel.box)}
            for panel in graphic.panels
        ],
        "expected": {"outcome": "pair", "flags": flags}
        if graphic.chosen
        else _reject(Stage.FIGURE, Reason.ALTERNATIVE_NOT_CHOSEN),
    }


def _mentions(article: Article, figure: Figure) -> list[dict[str, Any]]:
    """Sentences that refer to the figure, or to the group that it is a member of."""
    ids = {figure.fig_id, figure.parent_id} if figure.role == "member" else {figure.fig_id}
    found = []
    for mention in article.mentions:
        named = ids & set(mention.figures)
        if named or ids & set(mention.implied):
            panels = [letter for name in sorted(named, key=str) for letter in mention.panels.get(str(name), ())]
            found.append(
                {
                    "section": mention.section,
                    "text": mention.text,
                    "figures": list(mention.figures),
                    "panels": panels,
                    "implied": not named,
                }
            )
    return found


def _correct(figure: dict[str, Any], expected: Expected) -> None:
    graphic = figure["graphics"][0]
    figure.update(expected.figure)
    graphic.update(expected.graphic)
    if expected.stage == Stage.FIGURE:
        figure["expected"] = expected.verdict()
    graphic["expected"] = expected.verdict()
