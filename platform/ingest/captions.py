"""What stands under a figure: caption, title, label, rights; and where it comes from when there is none of its own."""

from __future__ import annotations

import re
from dataclasses import dataclass

from biomedray.ingest.jats import XML_LANG, Element
from biomedray.ingest.text import clean, collapse, raw

_RIGHTS = re.compile(
    r"\b(?:re(?:produced|printed|used|published|drawn)|adapted|modified|redrawn|taken|used)\s+(?:with\s+(?:\w+\s+)?permission|from\b|by\s+permission)"
    r"|\bwith permission\b|\bcourtesy\b|\bcopyright\b|\u00a9|\(c\) (?:19|20)\d\d",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z(\u00a9])")
_TOKEN = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Caption:
    """A figure's text: ``text`` clean, ``raw`` all characters of the caption elements in order.

    Flags say that it is not the figure's own caption: group_caption, alt_text_caption, label_caption.
    """

    text: str
    raw: str
    title: str | None
    rights: str | None
    flags: tuple[str, ...] = ()


def read_caption(figure: Element) -> Caption | None:
    """The caption of a ``<fig>`` (or ``<fig-group>`` with graphics); None where no text at all belongs to it.

    Its own caption, else that of the group or figure around it, else its alternative text, else its label.
    """
    rights = _rights(figure)
    own = figure.findall("caption")
    for holder, flags in [(figure, ()), *((above, ("group_caption",)) for above in _holders(figure))]:
        captions = own if holder is figure else holder.findall("caption")
        if text := _join(captions):
            all_rights = [*rights, *_rights(holder)] if holder is not figure else rights
            return Caption(text, "".join(map(raw, captions)), _title(captions), _statement(all_rights, text), flags)
    for flag, words in (("alt_text_caption", _alt_text(figure)), ("label_caption", read_label(figure))):
        if words:
            return Caption(words, "".join(map(raw, own)), None, _statement(rights, words), (flag,))
    return None


def read_label(figure: Element) -> str | None:
    """The figure's label, or that of the group around it."""
    for holder in (figure, *_holders(figure)):
        label = holder.find("label")
        if label is not None and (text := clean(label)):
            return text
    return None


def count_tokens(text: str) -> int:
    """Words and punctuation marks: a proxy for a tokenizer's count that needs no model."""
    return len(_TOKEN.findall(text))


def language(element: Element) -> str | None:
    """The nearest xml:lang: two or three letters, lower case."""
    node: Element | None = element
    while node is not None:
        if value := (node.get(XML_LANG) or "").strip():
            return re.split(r"[-_]", value)[0].lower() or None
        node = node.getparent()
    return None


def _holders(figure: Element) -> list[Element]:
    """The groups and figures directly around a figure, nearest first."""
    holders = []
    node = figure.getparent()
    while node is not None and node.tag in ("fig-group", "fig", "p", "alternatives", "floats-wrap"):
        if node.tag in ("fig-group", "fig"):
            holders.append(node)
        node = node.getparent()
    return holders


def _join(captions: list[Element]) -> str:
    return collapse(" ".join(clean(caption) for caption in captions))


def _title(captions: list[Element]) -> str | None:
    titles = (clean(title) for caption in captions for title in caption.findall("title"))
    return next((title for title in titles if title), None)


def _alt_text(figure: Element) -> str:
    """Alternative text of the figure and its graphics, each text once."""
    found = [clean(e) for e in figure.iter("alt-text", "long-desc") if _nearest_figure(e) is figure]
    return collapse(" ".join(dict.fromkeys(filter(None, found))))


def _nearest_figure(element: Element) -> Element | None:
    return next((above for above in element.iterancestors() if above.tag in ("fig", "fig-group")), None)


def _rights(figure: Element) -> list[str]:
    """Permission and attribution lines that belong to this figure."""
    found = (e for e in figure.iter("permissions", "attrib") if _nearest_figure(e) is figure)
    return [line for e in found if (line := clean(e, frozenset()))]


def _statement(lines: list[str], caption: str) -> str | None:
    """Those lines and the caption's own sentences of the kind 'Reproduced from ...'; None where there are none."""
    sentences = [s for s in _SENTENCE.split(caption) if _RIGHTS.search(s)] if _RIGHTS.search(caption) else []
    return collapse(" ".join(dict.fromkeys([*lines, *sentences]))) or None
