"""What stands under a figure: caption, title, label, rights; and where it comes from when there is none of its own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NamedTuple

from biomedray.ingest.jats import XML_LANG, Element
from biomedray.ingest.rights import Holders, Rights, read_rights
from biomedray.ingest.text import NOT_CAPTION, Span, clean, clean_spans, collapse, raw

_WORD = re.compile(r"\w+")
_MARKS: Final = bytes(code for code in range(128) if not (_WORD.match(chr(code)) or chr(code).isspace()))
_APART: Final = _MARKS + b"\x1c\x1d\x1e\x1f"  # white space to str, but not to bytes
_MARKS_APART: Final = bytes.maketrans(_APART, b" " * len(_APART))

# Elements of a caption whose place in the clean text is worth knowing, and what the column calls them.
MARKUP_KINDS: Final[dict[str, str]] = {
    **{tag: tag for tag in ("bold", "italic", "sup", "sub", "underline", "overline", "strike", "sc", "monospace", "roman")},
    **{tag: tag for tag in ("sans-serif", "xref", "title", "p")},
    "list-item": "list_item",
    "math": "formula",
    "tex-math": "formula",
    "supplementary-material": "supplement",
    "media": "supplement",
}
_MARKED: Final = frozenset(MARKUP_KINDS)


class Markup(NamedTuple):
    """``caption[start:end]`` is what an element of this kind holds."""

    kind: str
    start: int
    end: int


@dataclass(frozen=True)
class Caption:
    """A figure's text: ``text`` clean, ``raw`` all characters of the caption elements in order.

    Flags say that it is not the figure's own caption: group_caption, paragraph_caption, alt_text_caption, label_caption.
    """

    text: str
    raw: str
    title: str | None
    rights: str | None
    flags: tuple[str, ...] = ()
    third_party: bool | None = None
    markup: tuple[Markup, ...] = ()


class CaptionText(NamedTuple):
    """What ``<caption>`` elements side by side hold."""

    text: str
    raw: str
    title: str | None
    markup: tuple[Markup, ...]


def read_caption(figure: Element, holders: Holders, known: dict[Element, CaptionText]) -> Caption | None:
    """The caption of a ``<fig>`` (or ``<fig-group>`` with graphics); None where no text at all belongs to it.

    Its own caption, else that of the group or figure around it, else paragraphs that stand in it without ``<caption>``,
    else its alternative text, else its label. ``known`` keeps the captions of groups, read once for all their members.
    """
    around = groups_around(figure)
    groups = [group for group in around if group.tag == "fig-group"]
    for holder in (figure, *around):
        own = holder is figure
        found = known.get(holder) or _caption_text(holder)
        if not own:
            known[holder] = found
        if found.text:
            rights = read_rights([figure, *dict.fromkeys([*groups, *([] if own else [holder])])], found.text, holders)
            flags = () if own else ("group_caption",)
            return Caption(found.text, found.raw, found.title, *_columns(rights, flags), found.markup)
    found = _text_of(figure.findall("p"))
    if found.text:
        rights = read_rights([figure, *groups], found.text, holders)
        return Caption(found.text, found.raw, None, *_columns(rights, ("paragraph_caption",)), found.markup)
    for flag, words in (("alt_text_caption", _alt_text(figure)), ("label_caption", read_label(figure))):
        if words:
            rights = read_rights([figure, *groups], words, holders)
            return Caption(words, _caption_text(figure).raw, None, *_columns(rights, (flag,)))
    return None


def _caption_text(holder: Element) -> CaptionText:
    return _text_of(holder.findall("caption"))


def _text_of(captions: list[Element]) -> CaptionText:
    text, spans = clean_spans(captions, _MARKED, NOT_CAPTION) if captions else ("", [])
    return CaptionText(text, "".join(map(raw, captions)), _title(captions), _markup(spans))


def _columns(rights: Rights, flags: tuple[str, ...]) -> tuple[str | None, tuple[str, ...], bool | None]:
    return rights.statement, flags, rights.third_party


def _markup(spans: list[Span]) -> tuple[Markup, ...]:
    return tuple(Markup(MARKUP_KINDS[element.tag], start, end) for element, start, end in spans if start < end)


def read_label(figure: Element) -> str | None:
    """The figure's label, or that of the group around it."""
    for holder in (figure, *groups_around(figure)):
        label = holder.find("label")
        if label is not None and (text := clean(label)):
            return text
    return None


def count_tokens(text: str) -> int:
    """Words and punctuation marks: a proxy for a tokenizer's count that needs no model."""
    if text.isascii():  # the same as below in a third of the time
        data = text.encode()
        return len(data) - len(data.translate(None, _MARKS)) + len(data.translate(_MARKS_APART).split())
    words = _WORD.findall(text)
    return len(words) + len("".join(text.split())) - len("".join(words))


def language(element: Element) -> str | None:
    """The nearest xml:lang: two or three letters, lower case."""
    node: Element | None = element
    while node is not None:
        if value := (node.get(XML_LANG) or "").strip():
            return re.split(r"[-_]", value)[0].lower() or None
        node = node.getparent()
    return None


def groups_around(figure: Element) -> list[Element]:
    """The groups and figures directly around a figure, nearest first."""
    around = []
    node = figure.getparent()
    while node is not None and node.tag in ("fig-group", "fig", "p", "alternatives", "block-alternatives", "floats-wrap"):
        if node.tag in ("fig-group", "fig"):
            around.append(node)
        node = node.getparent()
    return around


def _title(captions: list[Element]) -> str | None:
    titles = (clean(title) for caption in captions for title in caption.findall("title"))
    return next((title for title in titles if title), None)


def _alt_text(figure: Element) -> str:
    """Alternative text of the figure and its graphics, each text once."""
    found = [clean(e) for e in figure.iter("alt-text", "long-desc") if _nearest_figure(e) is figure]
    return collapse(" ".join(dict.fromkeys(filter(None, found))))


def _nearest_figure(element: Element) -> Element | None:
    return next(element.iterancestors("fig", "fig-group"), None)
