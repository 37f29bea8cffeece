"""pubmed_parser 0.5.1 as a second engine and as the other side of a comparison."""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from biomedray.errors import UserError
from biomedray.ingest.captions import Caption
from biomedray.ingest.figures import Figure, Inventory, Unit, read_figures
from biomedray.ingest.jats import XmlError, parse_articles
from biomedray.ingest.packages import Package, open_ref
from biomedray.ingest.settings import IngestConfig
from biomedray.ingest.sources import discover
from biomedray.ingest.text import collapse
from biomedray.records import Reason


class PubmedParserError(Exception):
    """What pubmed_parser raised, in one line."""


@dataclass(frozen=True)
class ArticleDifference:
    """One article under both engines; characters are counted without white space.

    ``mispaired``: figures to which pubmed_parser gives the caption of another figure.
    """

    uri: str
    figures: int
    caption_chars: int
    ours_chars: int
    theirs_chars: int
    lost_figures: int
    mispaired: int
    crash: str | None


@dataclass(frozen=True)
class Comparison:
    """Ours against pubmed_parser, article by article."""

    articles: tuple[ArticleDifference, ...]
    unreadable: int = 0
    """Sources that hold no readable article; neither engine was asked."""
    totals: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        """Sum up once; the class is frozen."""
        names = ("figures", "caption_chars", "ours_chars", "theirs_chars", "lost_figures", "mispaired")
        totals = {name: sum(getattr(article, name) for article in self.articles) for name in names}
        totals["articles"] = len(self.articles)
        totals["crashed"] = sum(article.crash is not None for article in self.articles)
        object.__setattr__(self, "totals", totals)


def parse_captions(xml: bytes) -> list[dict[str, Any]]:
    """``pubmed_parser.parse_pubmed_caption`` on bytes; what it prints is swallowed.

    Raises:
        PubmedParserError: it raised; on real articles UnboundLocalError, KeyError and AttributeError were seen.
    """
    import pubmed_parser

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return list(pubmed_parser.parse_pubmed_caption(xml) or [])
    except Exception as error:  # noqa: BLE001  # it raises whatever comes; the class is part of the finding
        raise PubmedParserError(f"{type(error).__name__}: {error}".splitlines()[0][:160]) from None


def replace_by_pubmed(xml: bytes, inventory: Inventory) -> Inventory:
    """The inventory with pubmed_parser's captions and graphic names; what it lost becomes a reject."""
    try:
        found = {str(entry["fig_id"]): entry for entry in parse_captions(xml)}
    except PubmedParserError as error:
        return replace(inventory, units=tuple(_lost(unit, str(error)) for unit in inventory.units))
    return replace(inventory, units=tuple(_replaced(unit, found) for unit in inventory.units))


def _lost(unit: Unit, detail: str) -> Unit:
    return unit if unit.figure is None else replace(unit, reject=Reason.ENGINE_FAILED, detail=f"pubmed_parser: {detail}")


def _replaced(unit: Unit, found: dict[str, dict[str, Any]]) -> Unit:
    """The first graphic of a figure takes what pubmed_parser says; it knows of no other."""
    if unit.figure is None or (unit.reject is not None and unit.reject is not Reason.NO_CAPTION):
        return unit
    entry = found.get(unit.figure.xml_id or "")
    if entry is None or unit.graphic_index > 0 or not entry["graphic_ref"]:
        return _lost(unit, "gives no graphic for it")
    text = collapse(entry["fig_caption"] or "")
    if not text:
        return replace(unit, reject=Reason.NO_CAPTION, detail="pubmed_parser gives an empty caption")
    caption = Caption(text, entry["fig_caption"], None, None)
    label = collapse(entry["fig_label"] or "") or None
    figure = replace(unit.figure, caption=caption, label=label, flags=tuple(f for f in unit.figure.flags if "caption" not in f))
    return replace(unit, figure=figure, href=str(entry["graphic_ref"]), reject=None)


def compare_engines(sources: Sequence[str], progress: bool = True) -> Comparison:
    """Read every article with both engines, one after the other, in this process; images are not asked."""
    from biomedray.ingest.tables import track

    config = IngestConfig()
    articles: list[ArticleDifference] = []
    unreadable = 0
    for ref in track(discover(sources), "comparing", progress):
        for item in open_ref(ref, config):
            difference = compare_package(item) if isinstance(item, Package) else None
            unreadable += difference is None
            articles += [difference] if difference else []
    if not articles:
        raise UserError("no readable article in these sources; there is nothing to compare")
    return Comparison(tuple(articles), unreadable)


def compare_package(package: Package) -> ArticleDifference | None:
    """Both engines on one article; None where its XML holds no article."""
    try:
        trees = parse_articles(package.xml)
    except XmlError:
        return None
    figures = [figure for tree in trees for figure in read_figures(tree.root, tree.found).figures]
    own = [f for f in figures if f.caption is not None and not f.caption.flags]
    total = sum(len(_letters(f.caption.raw)) for f in own if f.caption)
    ours = sum(_common(f.caption.raw, f.caption.text) for f in own if f.caption)
    try:
        entries = parse_captions(package.xml)
    except PubmedParserError as error:
        return ArticleDifference(package.uri, len(figures), total, ours, 0, len(figures), 0, str(error))
    theirs = _by_id(entries)
    kept = sum(_common(f.caption.raw, theirs(f)) for f in own if f.caption)
    lost = sum(not _graphic_of(f, entries) for f in figures if f.n_graphics)
    mispaired = sum(bool(theirs(f)) for f in figures if f not in own)
    return ArticleDifference(package.uri, len(figures), total, ours, kept, lost, mispaired, None)


def _by_id(entries: list[dict[str, Any]]) -> Callable[[Figure], str]:
    captions = {str(entry["fig_id"]): entry["fig_caption"] or "" for entry in entries}
    return lambda figure: captions.get(figure.xml_id or "", "")


def _graphic_of(figure: Figure, entries: list[dict[str, Any]]) -> bool:
    return any(entry["fig_id"] == figure.xml_id and entry["graphic_ref"] for entry in entries)


def _letters(text: str) -> str:
    return "".join(collapse(text).split())


def _common(whole: str, part: str) -> int:
    """How many of ``whole``'s characters are in ``part``, each as often as it is there; order is not asked."""
    return sum((Counter(_letters(whole)) & Counter(_letters(part))).values())
