"""Citances: the sentences of an article's text that cite a figure, and where in the sentence they do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from biomedray.ingest.figures import Figure
from biomedray.ingest.jats import Element
from biomedray.ingest.text import NOT_TEXT, clean, clean_marked

_OUTSIDE = frozenset(
    ["fig", "fig-group", "table-wrap", "caption", "front", "front-stub", "ref-list", "supplementary-material", "media"]
)
_RANGE_WORD = re.compile(r"\s*(?:[-\u2010-\u2015\u2212]|to|through|until)\s*")
_RANGE = re.compile(r"(\d+)\s*(?:[-\u2010-\u2015\u2212]|to)\s*(\d+)")
_NUMBER = re.compile(r"^(.*?)(\d+)[a-z]?\.?$", re.IGNORECASE | re.DOTALL)
_MAX_RANGE = 40
_DROP = NOT_TEXT | {"boxed-text"}

_END = re.compile(r"[.!?][\"'\u201d\u2019)\]]*\s+(?=[\"'\u201c\u2018(\[]?[A-Z0-9\u0391-\u03a9])")
_ABBREVIATION = re.compile(
    r"(?:(?i:\b(?:figs?|figures?|tabs?|eqs?|eqns?|refs?|suppl?|al|approx|ca|cf|vs|resp|nos?|vol|pp?|dr|prof|mrs?|ms|st|spp?|var|"
    r"subsp|inc|ltd|co|corp|dept|univ|e\.g|i\.e|etc|viz|i\.v|i\.p|s\.c))|\b[A-Z])\.$"
)


@dataclass(frozen=True)
class Citance:
    """One sentence that cites a figure: ``text[start:end]`` is the citation itself."""

    section: str | None
    text: str
    start: int
    end: int


def find_citances(article: Element, figures: Sequence[Figure]) -> dict[str, list[Citance]]:
    """The citances of each figure by ``fig_id``, in document order, each sentence once.

    A cross-reference with several ids cites all of them; ``Figs. 1-3`` cites the figure between; one to
    a group cites its members. Captions, tables and references are not asked.
    """
    index = _Index(figures)
    found: dict[str, list[Citance]] = {figure.fig_id: [] for figure in figures}
    for paragraph in _paragraphs(article, index):
        for fig_id, citance in _of_paragraph(paragraph, index):
            if not any(_same_sentence(citance, other) for other in found[fig_id]):
                found[fig_id].append(citance)
    return found


class _Index:
    """Figures by the ids that cross-references use, and by the number in their label."""

    def __init__(self, figures: Sequence[Figure]) -> None:
        self.by_rid: dict[str, list[str]] = {}
        self.by_number: dict[tuple[str, int], str] = {}
        self.number: dict[str, tuple[str, int]] = {}
        self.order = [figure.fig_id for figure in figures if not figure.nested]
        for figure in figures:
            for rid in {figure.xml_id, figure.parent_id if not figure.nested else None} - {None}:
                self.by_rid.setdefault(str(rid), []).append(figure.fig_id)
            match = _NUMBER.match((figure.label or "").lower())
            if match and not figure.nested:
                key = (match[1].replace("figure", "fig").replace(".", "").strip(), int(match[2]))
                self.by_number.setdefault(key, figure.fig_id)
                self.number[figure.fig_id] = key

    def cited(self, xref: Element) -> list[str]:
        """Figures that a cross-reference names, with those inside a range in its own text."""
        rids = (xref.get("rid") or "").split()
        ids = [fig_id for rid in rids for fig_id in self.by_rid.get(rid, ())]
        if ids and ids[0] in self.number and (match := _RANGE.search("".join(xref.itertext()))):
            ids += self.span(self.number[ids[0]][0], int(match[1]), int(match[2]))
        return list(dict.fromkeys(ids))

    def between(self, first: Element, last: Element) -> list[str]:
        """Figures numbered between those of two references; where they have no numbers, those that stand between."""
        a, b = self._numbered(first), self._numbered(last)
        kind = a[0] or b[0]
        if kind is None:
            ids = self.cited(first)[-1], self.cited(last)[0]
            low, high = (self.order.index(i) if i in self.order else -1 for i in ids)
            return self.order[low + 1 : high][:_MAX_RANGE] if low >= 0 else []
        if {a[0], b[0]} <= {kind, None} and a[1] is not None and b[1] is not None:
            return self.span(kind, a[1] + 1, b[1] - 1)
        return []

    def _numbered(self, xref: Element) -> tuple[str | None, int | None]:
        """Kind and number of the figure that a reference names; a group's member has its number in the reference."""
        for fig_id in self.cited(xref):
            if fig_id in self.number:
                return self.number[fig_id]
        digits = re.search(r"\d+", "".join(xref.itertext()))
        return None, int(digits[0]) if digits else None

    def span(self, kind: str, low: int, high: int) -> list[str]:
        if not 0 <= high - low <= _MAX_RANGE:
            return []
        return [fig_id for n in range(low, high + 1) if (fig_id := self.by_number.get((kind, n)))]


def _paragraphs(article: Element, index: _Index) -> list[Element]:
    """Paragraphs of running text that hold a cross-reference to a figure."""
    paragraphs: dict[Element, None] = {}
    for xref in article.iter("xref"):
        if index.cited(xref):
            above = list(xref.iterancestors())
            paragraph = next((e for e in above if e.tag == "p"), None)
            if paragraph is not None and not any(e.tag in _OUTSIDE for e in above):
                paragraphs[paragraph] = None
    return list(paragraphs)


def _of_paragraph(paragraph: Element, index: _Index) -> list[tuple[str, Citance]]:
    xrefs: list[Element] = []

    def note(xref: Element) -> bool:
        wanted = bool(index.cited(xref))
        if wanted:
            xrefs.append(xref)
        return wanted

    text, spans = clean_marked(paragraph, note, _DROP)
    section = _section(paragraph)
    bounds = sentences(text)
    out: list[tuple[str, Citance]] = []
    for position, (xref, (start, end)) in enumerate(zip(xrefs, spans, strict=True)):
        low, high = next(((a, b) for a, b in bounds if a <= start < b), (0, len(text)))
        ids = index.cited(xref)
        out += [(fig_id, Citance(section, text[low:high], start - low, min(end, high) - low)) for fig_id in ids]
        if position and spans[position - 1][1] <= start and _RANGE_WORD.fullmatch(text[spans[position - 1][1] : start]):
            first = spans[position - 1][0]
            low = min(low, next((a for a, b in bounds if a <= first < b), low))
            middle = index.between(xrefs[position - 1], xref)
            out += [(fig_id, Citance(section, text[low:high], first - low, min(end, high) - low)) for fig_id in middle]
    return [(fig_id, citance) for fig_id, citance in out if citance.start < citance.end]


def sentences(text: str) -> list[tuple[int, int]]:
    """Spans of the sentences of a clean text; they cover it but for the spaces between."""
    spans: list[tuple[int, int]] = []
    start = 0
    for match in _END.finditer(text):
        stop = len(text[: match.end()].rstrip())
        if _ABBREVIATION.search(text[max(start, match.start() - 12) : match.start() + 1]):
            continue
        spans.append((start, stop))
        start = match.end()
    if start < len(text):
        spans.append((start, len(text)))
    return spans


def _same_sentence(a: Citance, b: Citance) -> bool:
    return a.text == b.text and a.section == b.section


def _section(paragraph: Element) -> str | None:
    """Titles of the sections around a paragraph, outermost first: ``Results > Cell growth``."""
    titles = [clean(title) for above in paragraph.iterancestors("sec") if (title := above.find("title")) is not None]
    return " > ".join(filter(None, reversed(titles))) or None
