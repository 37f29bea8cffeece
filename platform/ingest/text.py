r"""Marked-up text to one clean line: nothing glued, nothing split, nothing twice.

What a clean text leaves out or changes has a name, and the tests hold that nothing else is lost:

WHITE_SPACE  every run of white space is one space, none at the ends; blocks and <break/> stand apart by one
ZERO_WIDTH   zero-width characters, soft hyphens, byte order marks go
NFC          characters are composed
SCRIPT       a script that would melt into a number gets a sign: ``10^4``, but ``CO2``; ``Smith^12`` for a citation
FORMULA      a formula is written once: MathML in one line, or TeX without its preamble
IDENTIFIER   object ids and key words of a figure are no words of its caption
RIGHTS       permissions and attributions: they have the column ``fig_rights``
ALTERNATIVE  alt-text and long-desc describe the picture in other words
FLOAT        figures and tables inside the text have their own caption
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import accumulate, pairwise
from typing import Final

from lxml import etree

from biomedray.ingest.formula import has_mathml, mathml, tex
from biomedray.ingest.jats import Element

Span = tuple[Element, int, int]

_BLOCKS: Final = frozenset(
    (
        *("title", "subtitle", "label", "caption", "p", "sec", "list", "list-item", "def-list", "def-item", "def", "term"),
        *("disp-quote", "disp-formula", "table", "tr", "td", "th", "verse-group", "verse-line", "statement", "boxed-text"),
        *("speech", "preformat", "code", "supplementary-material", "media"),
    )
)
_FLOATS: Final = frozenset(("fig", "fig-group", "table-wrap"))
_APART: Final = _BLOCKS | _FLOATS

# Not part of the words of a caption; their own columns or none. By the rule's name above.
LEFT_OUT: Final[dict[str, frozenset[str]]] = {
    "IDENTIFIER": frozenset(("object-id", "kwd-group")),
    "RIGHTS": frozenset(("permissions", "attrib")),
    "ALTERNATIVE": frozenset(("alt-text", "long-desc", "graphic", "inline-graphic")),
    "FLOAT": _FLOATS,
}
NOT_CAPTION: Final = frozenset[str]().union(*LEFT_OUT.values())
# Of running text, files that go with it are no part either; in a caption their titles are, and marked as "supplement".
NOT_TEXT: Final = NOT_CAPTION | {"media", "supplementary-material"}

_ZERO_WIDTH: Final = "\u200b\u200c\u200d\u2060\ufeff\u00ad\ufdd0\ufdd1"
_NO_WIDTH: Final = str.maketrans("", "", _ZERO_WIDTH)
_SIGNS: Final = "+-\u2212\u2013\u00b1"
_MAX_DEPTH: Final = 200


class _Line:
    """Text gathered so far; ``script`` waits for the first character of a sub- or superscript.

    ``spans`` hold elements and where their parts begin and end; ``signs`` are the parts that are a script's sign.
    """

    __slots__ = ("parts", "reference", "rules", "script", "signs", "spans")

    def __init__(self, rules: _Rules) -> None:
        self.rules = rules
        self.parts: list[str] = []
        self.script = ""
        self.reference = False
        self.signs: set[int] = set()
        self.spans: list[Span] = []

    def add(self, text: str) -> None:
        if self.script and not text.isspace():
            if self._would_merge(text):
                self.signs.add(len(self.parts))
                self.parts.append(self.script)
            self.script = ""
        self.parts.append(text)

    def _would_merge(self, text: str) -> bool:
        last = self.parts[-1][-1] if self.parts else ""
        if self.reference:
            return last.isalnum()
        number = text[0].isdigit() or (text[0] in _SIGNS and text[1:2].isdigit())
        return last.isdigit() and number


def clean(root: Element, drop: frozenset[str] = NOT_TEXT) -> str:
    """The element's text as one line of NFC characters with single spaces."""
    if not len(root) and root.tag not in _TAG_RULES:
        return collapse(root.text or "")
    line = _Line(_rules(drop, frozenset()))
    _root(line, root)
    return collapse("".join(line.parts))


def clean_spans(
    roots: Sequence[Element],
    spanned: frozenset[str],
    drop: frozenset[str] = NOT_TEXT,
    wanted: Callable[[Element], bool] | None = None,
) -> tuple[str, list[Span]]:
    """The clean text of some elements one after the other, and where in it those with the tags ``spanned`` stand.

    Spans are in document order, outer before inner, begin and end with no space, and may be empty; ``text`` is
    what ``clean`` gives. Elements for which ``wanted`` says false have none.
    """
    line = _Line(_rules(drop, spanned))
    for number, root in enumerate(roots):
        if number:
            _space(line)
        _root(line, root)
    spans = [span for span in line.spans if wanted is None or wanted(span[0])]
    if not spans:
        return collapse("".join(line.parts)), []
    return _placed(line.parts, spans, line.signs)


def collapse(text: str) -> str:
    """NFC, zero-width characters out, every run of white space one space, none at the ends."""
    return " ".join(_normal(text).split())


def raw(root: Element) -> str:
    """All text of the element in order, as it stands."""
    if next(root.iter(etree.Entity, etree.Comment, etree.PI), None) is not None:
        return "".join(root.itertext())
    return str(etree.tostring(root, method="text", encoding="unicode", with_tail=False))  # the same in a fifth of the time


def _normal(text: str) -> str:
    if text.isascii():
        return text
    if any(map(text.__contains__, _ZERO_WIDTH)):
        text = text.translate(_NO_WIDTH)
    return unicodedata.normalize("NFC", text)


def _root(line: _Line, root: Element) -> None:
    rule = line.rules.get(root.tag, _inside)
    (_TAG_RULES.get(root.tag, _inside) if rule in (_nothing, _apart) else rule)(line, root, 0)


def _inside(line: _Line, element: Element, depth: int) -> None:
    """An element's text and that of its children: here most of the time of cleaning is spent."""
    parts, rules = line.parts, line.rules
    if text := element.text:
        line.add(text) if line.script else parts.append(text)
    if depth > _MAX_DEPTH:
        line.add(raw(element)[len(text or "") :] or " ")
        return
    for child in element:
        rule = rules.get(child.tag)
        if rule is not None:
            rule(line, child, depth + 1)
        elif len(child):
            _inside(line, child, depth + 1)
        elif text := child.text:
            line.add(text) if line.script else parts.append(text)
        if tail := child.tail:
            line.add(tail) if line.script else parts.append(tail)


def _spanned(line: _Line, element: Element, depth: int) -> None:
    start = len(line.parts)
    rule = _TAG_RULES.get(element.tag)
    if rule is None and not len(element):
        if text := element.text:
            line.add(text)
        line.spans.append((element, start, len(line.parts)))
        return
    number = len(line.spans)
    line.spans.append((element, start, start))
    (rule or _inside)(line, element, depth)
    line.spans[number] = (element, start, len(line.parts))


def _space(line: _Line) -> None:
    if line.parts and line.parts[-1] != " ":
        line.parts.append(" ")


def _block(line: _Line, element: Element, depth: int) -> None:
    _space(line)
    _inside(line, element, depth)
    _space(line)


def _break(line: _Line, element: Element, depth: int) -> None:
    _space(line)
    _inside(line, element, depth)


def _script(line: _Line, element: Element, depth: int) -> None:
    line.script = "^" if element.tag == "sup" else "_"
    line.reference = _is_reference(element)
    _inside(line, element, depth)
    line.script = ""


def _math(line: _Line, element: Element, _: int) -> None:
    if text := mathml(element):
        line.add(text)


def _tex(line: _Line, element: Element, _: int) -> None:
    if not has_mathml(element) and (text := tex(raw(element))):
        line.add(text)


def _nothing(_line: _Line, _element: Element, _depth: int) -> None:
    """Comments, processing instructions, and what is left out."""


def _apart(line: _Line, _element: Element, _depth: int) -> None:
    """What stood apart from the text around it still does when it is left out."""
    _space(line)


_Rule = Callable[[_Line, Element, int], None]
_Rules = dict[object, _Rule]
_TAG_RULES: Final[_Rules] = {
    **dict.fromkeys(_BLOCKS, _block),
    "break": _break,
    "sup": _script,
    "sub": _script,
    "math": _math,
    "tex-math": _tex,
    etree.Comment: _nothing,
    etree.PI: _nothing,
}


@cache
def _rules(drop: frozenset[str], spanned: frozenset[str]) -> _Rules:
    left_out: _Rules = {tag: _apart if tag in _APART else _nothing for tag in drop}
    marked: _Rules = dict.fromkeys(spanned, _spanned)
    return _TAG_RULES | marked | left_out


def _is_reference(script: Element) -> bool:
    """Whether a superscript is a citation number: it may not melt into the word before it."""
    if len(script) and any(child.get("ref-type") == "bibr" for child in script.iter("xref")):
        return True
    parent = script.getparent()
    return parent is not None and parent.tag == "xref" and parent.get("ref-type") == "bibr"


def _placed(parts: list[str], spans: list[Span], signs: set[int]) -> tuple[str, list[Span]]:
    """The clean text, and spans of parts as spans of it; the sign of a script belongs to nobody."""
    if signs:
        spans = [(element, start + (start in signs and start < end), end) for element, start, end in spans]
    text, at = _join(parts, spans)
    placed = []
    for element, first, last in spans:
        start, end = at[first], at[last]
        if start < end and text[start] == " ":
            start += 1
        placed.append((element, start, end))
    return text, placed


def _join(parts: list[str], spans: list[Span]) -> tuple[str, Mapping[int, int]]:
    """The clean text, and for each end of a span the length of the clean text before it, without a space at its end."""
    source = "".join(parts)
    normal = _normal(source)
    text = " ".join(normal.split())
    cuts = sorted({cut for _, *ends in spans for cut in ends})
    if len(text) != len(normal.strip()) or normal != source:
        return text, _sizes(parts, cuts, len(text))
    # Every run of white space is one character already.
    lead, most = len(source) - len(source.lstrip()), len(text)
    before = [0, *accumulate(map(len, parts))]
    sizes = [min(max(before[cut] - lead, 0), most) for cut in cuts]
    return text, {cut: size - (text[size - 1 : size] == " ") for cut, size in zip(cuts, sizes, strict=True)}


def _sizes(parts: list[str], cuts: list[int], whole: int) -> dict[int, int]:
    """The same lengths where cleaning changed the text on the way."""
    sizes: dict[int, int] = {}
    size, gap = 0, False
    for low, high in pairwise((0, *cuts, len(parts))):
        piece = _normal("".join(parts[low:high]))
        if words := " ".join(piece.split()):
            size += bool(size) * (gap or piece[0].isspace()) + len(words)
            gap = piece[-1].isspace()
        else:
            gap = gap or bool(piece)
        sizes[high] = size
    if size != whole:  # a character composes with one before the cut, and belongs to that
        return {cut: len(collapse("".join(parts[:cut]))) for cut in cuts}
    return sizes
