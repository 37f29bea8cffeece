r"""Marked-up text to one clean line: nothing glued, nothing split, nothing twice.

Rules, each a test: white space of every kind is one space; block elements and <break/> stand apart;
``10<sup>4</sup>`` is ``10^4`` but ``CO<sub>2</sub>`` is ``CO2``; a formula that is there as MathML and
as TeX is written once; zero-width characters and soft hyphens go; Unicode NFC.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field

from lxml import etree

from biomedray.ingest.jats import Element

# Not allowed in running text (Unicode non-characters), so they can mark where a cross-reference stands.
MARK_START, MARK_END = "\ufdd0", "\ufdd1"

_BLOCKS = frozenset(
    [
        "title",
        "p",
        "list",
        "list-item",
        "def-list",
        "def-item",
        "def",
        "term",
        "disp-quote",
        "disp-formula",
        "sec",
        "label",
        "table",
        "tr",
        "td",
        "th",
        "caption",
        "verse-group",
        "verse-line",
        "statement",
        "boxed-text",
        "speech",
        "preformat",
        "code",
        "subtitle",
    ]
)
_ZERO_WIDTH = re.compile("[\u200b\u200c\u200d\u2060\ufeff\u00ad\ufdd0\ufdd1]")
_SPACE = re.compile(r"\s+")
_TEX_BODY = re.compile(r"\\begin\{document\}(.*?)\\end\{document\}", re.DOTALL)
_TEX_SIGN = re.compile(
    r"\\usepackage(\[[^\]]*\])?\{[^}]*\}|\\documentclass(\[[^\]]*\])?\{[^}]*\}|\\setlength\{[^}]*\}\{[^}]*\}|\${1,2}|\\[\[\]()]"
)
_SIGNS = "+-\u2212\u2013\u00b1"

# Not part of the words of a caption or paragraph; their own columns or none.
NOT_TEXT = frozenset(
    [
        "object-id",
        "permissions",
        "attrib",
        "media",
        "supplementary-material",
        "graphic",
        "inline-graphic",
        "alt-text",
        "long-desc",
        "fig",
        "fig-group",
        "table-wrap",
        "kwd-group",
    ]
)

OnXref = Callable[[Element], bool]


@dataclass
class _Line:
    """Text gathered so far; ``script`` waits for the first character of a sub- or superscript."""

    parts: list[str] = field(default_factory=list)
    last: str = ""
    script: str = ""
    reference: bool = False

    def add(self, text: str | None) -> None:
        if not text:
            return
        if self.script and text.strip():
            if self._would_merge(text):
                self.parts.append(self.script)
            self.script = ""
        self.parts.append(text)
        self.last = text[-1]

    def mark(self, sign: str) -> None:
        self.parts.append(sign)

    def _would_merge(self, text: str) -> bool:
        if self.reference:
            return self.last.isalnum()
        number = text[0].isdigit() or (text[0] in _SIGNS and text[1:2].isdigit())
        return self.last.isdigit() and number


def clean(root: Element, drop: frozenset[str] = NOT_TEXT) -> str:
    """The element's text as one line of NFC characters with single spaces."""
    return collapse("".join(_walk(root, drop, None)))


def clean_marked(root: Element, on_xref: OnXref, drop: frozenset[str] = NOT_TEXT) -> tuple[str, list[tuple[int, int]]]:
    """As ``clean``, with the span of each cross-reference for which ``on_xref`` says true, in document order."""
    return _extract_marks("".join(_walk(root, drop, on_xref)))


def collapse(text: str) -> str:
    """NFC, zero-width characters out, every run of white space one space, none at the ends."""
    return _SPACE.sub(" ", unicodedata.normalize("NFC", _ZERO_WIDTH.sub("", text))).strip()


def raw(root: Element) -> str:
    """All text of the element in order, as it stands."""
    return "".join(root.itertext())


def _walk(root: Element, drop: frozenset[str], on_xref: OnXref | None) -> list[str]:
    line = _Line()
    marked: set[Element] = set()
    walker = etree.iterwalk(root, events=("start", "end"))
    for event, element in walker:
        if event == "start":
            if element is not root and element.tag in drop:
                walker.skip_subtree()
            elif not _enter(line, element, walker):
                if on_xref is not None and element.tag == "xref" and on_xref(element):
                    marked.add(element)
                    line.mark(MARK_START)
                line.add(_strip_marks(element.text))
        else:
            _leave(line, element, root, drop, marked)
    return line.parts


def _enter(line: _Line, element: Element, walker: etree.iterwalk) -> bool:
    """What an element's start does; True when its content was written or left out already."""
    tag = element.tag
    if tag in _BLOCKS or tag == "break":
        line.add(" ")
    elif tag in ("sup", "sub"):
        line.script = "^" if tag == "sup" else "_"
        line.reference = _is_reference(element)
    elif tag in ("math", "tex-math"):
        walker.skip_subtree()
        if tag == "math":
            line.add(mathml(element))
        elif not _has_math(element):
            line.add(tex(raw(element)))
        return True
    return False


def _leave(line: _Line, element: Element, root: Element, drop: frozenset[str], marked: set[Element]) -> None:
    if element in marked:
        line.mark(MARK_END)
    if element is root:
        return
    if element.tag in _BLOCKS or (element.tag in drop and element.tag in ("fig", "table-wrap", "fig-group")):
        line.add(" ")
    elif element.tag in ("sup", "sub"):
        line.script = ""
    line.add(_strip_marks(element.tail))


def _is_reference(script: Element) -> bool:
    """Whether a superscript is a citation number: it may not melt into the word before it."""
    if any(child.get("ref-type") == "bibr" for child in script.iter("xref")):
        return True
    parent = script.getparent()
    return parent is not None and parent.tag == "xref" and parent.get("ref-type") == "bibr"


def _has_math(tex_math: Element) -> bool:
    parent = tex_math.getparent()
    return parent is not None and parent.tag == "alternatives" and next(parent.iter("math"), None) is not None


def _strip_marks(text: str | None) -> str | None:
    return text.replace(MARK_START, "").replace(MARK_END, "") if text else text


def tex(source: str) -> str:
    r"""A formula's TeX without the preamble that makes a document of it: ``\documentclass...$$R_0$$`` is ``R_0``."""
    body = _TEX_BODY.search(source)
    return _TEX_SIGN.sub("", body[1] if body else source)


def mathml(element: Element, depth: int = 0) -> str:
    """MathML in one line: ``a^b``, ``R0``, ``a/b``, ``sqrt(a)``; annotations (the same as TeX) are left out."""
    if depth > 40:
        return raw(element)
    children = [child for child in element.iterchildren("*") if not child.tag.startswith("annotation")]
    parts = [mathml(child, depth + 1) for child in children]
    if not children:
        return _leaf(element)
    joined = _MATH[element.tag](parts) if element.tag in _MATH and len(parts) == _ARITY[element.tag] else "".join(parts)
    own = (element.text or "") + "".join(child.tail or "" for child in element.iterchildren("*"))
    return joined + own.strip()


def _leaf(element: Element) -> str:
    text = element.text or ""
    if element.tag == "mtext":
        return text
    return " " if element.tag == "mspace" else text.strip()


def _group(part: str) -> str:
    return part if len(part) <= 1 or part.isalnum() else f"({part})"


def _subscript(base: str, index: str) -> str:
    """As in running text: ``R0``, but ``10_2``."""
    return f"{base}_{index}" if base[-1:].isdigit() and index[:1].isdigit() else base + index


_MATH: dict[str, Callable[[list[str]], str]] = {
    "msup": lambda p: f"{p[0]}^{_group(p[1])}",
    "msub": lambda p: _subscript(p[0], p[1]),
    "msubsup": lambda p: f"{_subscript(p[0], p[1])}^{_group(p[2])}",
    "mfrac": lambda p: f"{_group(p[0])}/{_group(p[1])}",
    "msqrt": lambda p: f"sqrt({p[0]})",
}
_ARITY = {"msup": 2, "msub": 2, "msubsup": 3, "mfrac": 2, "msqrt": 1}


def _extract_marks(text: str) -> tuple[str, list[tuple[int, int]]]:
    """Collapse marked text; a mark takes no width, and spans don't begin or end with a space."""
    pieces = re.split(f"([{MARK_START}{MARK_END}])", text)
    out = ""
    open_spans: list[int] = []
    spans: list[tuple[int, int]] = []
    for piece in pieces:
        if piece == MARK_START:
            open_spans.append(len(spans))
            spans.append((len(out), len(out)))
        elif piece == MARK_END:
            number = open_spans.pop()
            spans[number] = (spans[number][0], len(out))
        else:
            out = _append(out, piece)
    return out.rstrip(), [_trim(out, start, end) for start, end in spans]


def _append(out: str, piece: str) -> str:
    text = _SPACE.sub(" ", unicodedata.normalize("NFC", _ZERO_WIDTH.sub("", piece)))
    return out + (text.lstrip() if not out or out.endswith(" ") else text)


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    inner = text[start:end]
    return start + len(inner) - len(inner.lstrip()), end - (len(inner) - len(inner.rstrip()))
