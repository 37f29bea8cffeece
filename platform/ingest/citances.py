"""Citances: the sentences of an article's text that cite a figure, and where in the sentence they do."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from biomedray.ingest.figures import Figure, Inventory, Survey
from biomedray.ingest.jats import Element, bound_text
from biomedray.ingest.mentions import MAX_RANGE, RANGE, Mention, find_mentions, label_key, listed_numbers
from biomedray.ingest.sentences import sentences
from biomedray.ingest.text import NOT_TEXT, clean, clean_spans

_OUTSIDE = frozenset(
    ["fig", "fig-group", "table-wrap", "caption", "front", "front-stub", "ref-list", "supplementary-material", "media"]
)
# Between two cross-references that are the ends of a range: "1" A) to ( "3".
_RANGE_WORD = re.compile(rf"(?:\s?\(?[A-Za-z](?:\s?[-\u2013,&]\s?[A-Za-z])*(?![A-Za-z]))?\)?\s*{RANGE}\s*\(?\s*")
_RANGE_WORD_SIZE = 16
_SEVERAL = re.compile(r"\d\D+\d")
_DIGITS = re.compile(r"\d+")
_DROP = NOT_TEXT | {"boxed-text"}
_SECTIONS = ("sec", "app", "abstract")
_XREF = frozenset(("xref",))


class Citance(NamedTuple):
    """One sentence that cites a figure: ``text[start:end]`` is the citation itself."""

    section: str | None
    text: str
    start: int
    end: int


@dataclass
class _Found:
    """Citances by figure, each sentence of a section once; section paths are made once."""

    citances: dict[str, list[Citance]]
    size: int = 0
    seen: set[tuple[str, str | None, str]] = field(default_factory=set)
    titles: dict[Element, str] = field(default_factory=dict)
    paths: dict[Element, str | None] = field(default_factory=dict)

    def add(self, fig_id: str, citance: Citance) -> None:
        key = (fig_id, citance.section, citance.text)
        if citance.start < citance.end and key not in self.seen:
            self.seen.add(key)
            self.size += len(citance.text)
            bound_text(self.size)
            self.citances[fig_id].append(citance)

    def section(self, paragraph: Element) -> str | None:
        """Titles of the sections around a paragraph, outermost first: ``Results > Cell growth``."""
        parent = paragraph.getparent()
        if parent not in self.paths:
            around = reversed([*paragraph.iterancestors(*_SECTIONS)])
            self.paths[parent] = " > ".join(filter(None, map(self._title, around))) or None
        return self.paths[parent]

    def _title(self, section: Element) -> str:
        if section not in self.titles:
            title = section.find("title")
            self.titles[section] = "" if title is None else clean(title)
        return self.titles[section]


def find_citances(inventory: Inventory) -> dict[str, list[Citance]]:
    """The citances of each figure by ``fig_id``, those by cross-reference in document order, each sentence once.

    A cross-reference with several ids cites all of them; ``Figs. 1-3`` cites the figure between; one to a group cites
    its members; in a sub-article an id or a number means its own figure before the article's. Captions, tables and
    references are not asked. A figure that no cross-reference in the article cites gets the sentences that name it
    by its label ("Figure 3").

    Raises:
        XmlError: they are too much text, as when hundreds of figures are cited in one sentence of a book's length.
    """
    found = _Found({figure.fig_id: [] for figure in inventory.figures})
    if not inventory.figures:
        return found.citances
    index = _Index(inventory.figures, inventory.survey)
    for paragraph, xrefs in _paragraphs(index).items():
        _read_paragraph(paragraph, xrefs, index, found)
    _add_mentions(index, found)
    return found.citances


class _Index:
    """Figures by the ids that cross-references use, and by the number in their label."""

    def __init__(self, figures: Sequence[Figure], survey: Survey) -> None:
        self.survey = survey
        self._several_parts = len({figure.scope for figure in figures}) > 1
        self.by_rid: dict[str, list[Figure]] = {}
        self.by_number: dict[tuple[int, str, int], str] = {}
        self.number: dict[str, tuple[int, str, int]] = {}
        self.order = [figure.fig_id for figure in figures if not figure.nested]
        for figure in figures:
            for rid in {figure.xml_id, figure.parent_id if not figure.nested else None} - {None}:
                self.by_rid.setdefault(str(rid), []).append(figure)
            key = label_key(figure.label)
            if key and not figure.nested:
                self.by_number.setdefault((figure.scope, *key), figure.fig_id)
                self.number[figure.fig_id] = (figure.scope, *key)

    def cited(self, xref: Element) -> list[str]:
        """Figures that a cross-reference names, with those inside a range in its own text."""
        rid = xref.get("rid") or ""
        figures = self.by_rid.get(rid) or [figure for part in rid.split() for figure in self.by_rid.get(part, ())]
        if not figures:
            return []
        if self._several_parts and len(figures) > 1:
            figures = self._nearest(figures, xref)
        ids = [figure.fig_id for figure in figures]
        text = "".join(xref.itertext()) if len(xref) else xref.text or ""
        if ids[0] in self.number and _SEVERAL.search(text):
            ids += self._listed(self.number[ids[0]], text)
        return list(dict.fromkeys(ids)) if len(ids) > 1 else ids

    def _listed(self, named: tuple[int, str, int], text: str) -> list[str]:
        """Figures of the same kind as the one named, by the numbers beside its own."""
        numbers = listed_numbers(text)
        kind = named[:2]
        return [fig_id for n in numbers if named[2] in numbers and (fig_id := self.by_number.get((*kind, n)))]

    def _nearest(self, figures: list[Figure], xref: Element) -> list[Figure]:
        """Where a sub-article uses the ids of its article again, those of the innermost part around the reference."""
        for scope in self.survey.scopes(xref):
            own = [figure for figure in figures if figure.scope == scope]
            if own:
                return own
        return figures

    def between(self, first: Element, last: Element) -> list[str]:
        """Figures numbered between those of two references; where they have no numbers, those that stand between."""
        a, b = self._numbered(first), self._numbered(last)
        kind = a[0] or b[0]
        if kind is None:
            ids = self.cited(first)[-1], self.cited(last)[0]
            low, high = (self.order.index(i) if i in self.order else -1 for i in ids)
            return self.order[low + 1 : high][:MAX_RANGE] if low >= 0 else []
        if {a[0], b[0]} <= {kind, None} and a[1] is not None and b[1] is not None:
            return self.span(kind, a[1] + 1, b[1] - 1)
        return []

    def _numbered(self, xref: Element) -> tuple[tuple[int, str] | None, int | None]:
        """Kind and number of the figure that a reference names; a group's member has its number in the reference."""
        for fig_id in self.cited(xref):
            if fig_id in self.number:
                scope, kind, number = self.number[fig_id]
                return (scope, kind), number
        digits = _DIGITS.search("".join(xref.itertext()))
        return None, int(digits[0]) if digits else None

    def span(self, kind: tuple[int, str], low: int, high: int) -> list[str]:
        if not 0 <= high - low <= MAX_RANGE:
            return []
        return [fig_id for n in range(low, high + 1) if (fig_id := self.by_number.get((*kind, n)))]


def _paragraphs(index: _Index) -> dict[Element, dict[Element, list[str]]]:
    """Paragraphs of running text with their own cross-references to figures, and the figures that each cites."""
    paragraphs: dict[Element, dict[Element, list[str]]] = {}
    known: dict[Element, Element | None] = {}
    for xref in index.survey.by_tag["xref"]:
        rid = xref.get("rid")
        if rid in index.by_rid or (rid and (" " in rid or not rid.isprintable()) and rid.split() != [rid]):
            parent = xref.getparent()
            if parent not in known:
                known[parent] = _paragraph_of(parent)
            if (paragraph := known[parent]) is not None and (ids := index.cited(xref)):
                paragraphs.setdefault(paragraph, {})[xref] = ids
    return paragraphs


def _paragraph_of(element: Element) -> Element | None:
    """The paragraph of running text that an element is in or is; None in captions, tables, front matter and references."""
    paragraph = None
    for above in (element, *element.iterancestors()):
        if above.tag in _OUTSIDE:
            return None
        if paragraph is None and above.tag == "p":
            paragraph = above
    return paragraph


def _read_paragraph(paragraph: Element, xrefs: dict[Element, list[str]], index: _Index, found: _Found) -> None:
    text, spans = clean_spans([paragraph], _XREF, _DROP, xrefs.__contains__)
    section = found.section(paragraph)
    bounds = sentences(text)
    before: tuple[Element, int, int] | None = None
    for xref, start, end in spans:
        low, high = _sentence(bounds, start, len(text))
        for fig_id in xrefs[xref]:
            found.add(fig_id, Citance(section, text[low:high], start - low, min(end, high) - low))
        if before and 0 <= start - before[2] <= _RANGE_WORD_SIZE and _RANGE_WORD.fullmatch(text, before[2], start):
            first = before[1]
            low = min(low, _sentence(bounds, first, len(text))[0])
            for fig_id in index.between(before[0], xref):
                found.add(fig_id, Citance(section, text[low:high], first - low, min(end, high) - low))
        before = (xref, start, end)


def _sentence(bounds: list[tuple[int, int]], at: int, size: int) -> tuple[int, int]:
    place = bisect_right(bounds, (at, size + 1)) - 1
    return bounds[place] if place >= 0 and at < bounds[place][1] else (0, size)


def _add_mentions(index: _Index, found: _Found) -> None:
    """Sentences that name a figure by its label, for figures that no cross-reference cites."""
    wanted = {key: fig_id for key, fig_id in index.by_number.items() if not found.citances[fig_id]}
    if not wanted:
        return
    for paragraph in index.survey.article.iter("p"):
        scope = next(index.survey.scopes(paragraph))
        for text, bounds, mention in _mentions(paragraph, {kind for s, kind, _ in wanted if s == scope}):
            low, high = _sentence(bounds, mention.start, len(text))
            for number in mention.numbers:
                if fig_id := wanted.get((scope, mention.kind, number)):
                    citance = Citance(found.section(paragraph), text[low:high], mention.start - low, min(mention.end, high) - low)
                    found.add(fig_id, citance)


def _mentions(paragraph: Element, kinds: set[str]) -> Iterator[tuple[str, list[tuple[int, int]], Mention]]:
    spoken = "".join(paragraph.itertext()).lower() if kinds else ""
    if any(kind in spoken for kind in kinds) and _paragraph_of(paragraph) is not None:
        text = clean(paragraph, _DROP | {"p"})
        bounds: list[tuple[int, int]] = []
        for mention in find_mentions(text, kinds):
            bounds = bounds or sentences(text)
            yield text, bounds, mention
