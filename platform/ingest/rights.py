"""Whose picture a figure is, as far as the figure itself says: permissions, attributions, "Reproduced from ...".

The article's licence covers what its authors own. A figure that was taken or adapted from elsewhere keeps its owner,
so a licence filter that asks the article alone lets pictures through that nobody may pass on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from biomedray.ingest.jats import Element, href
from biomedray.ingest.meta import license_code
from biomedray.ingest.sentences import ends_in_abbreviation
from biomedray.ingest.text import clean, collapse

_PICTURE = (
    r"(?:figures?|images?|photo\w*|pictures?|graphics?|illustrations?|diagrams?|drawings?|maps?|schem\w+|panels?|micrographs?)"
)
_SOURCE = r"(?=[^.]{0,60}(?:\[\d|\bet al\b|\brefs?\b|https?:|www\.|\((?:19|20)\d\d|\u00a9|permission))"
# Words of others' ownership; each needs one of _HINTS, which are quicker to look for.
_TAKEN = re.compile(
    r"\bre-?(?:produced|printed|published|drawn)\s+(?:\w+\s+){0,4}?(?:from|after|with|by|under|courtesy)\b"
    r"|\b(?:adapted|modified|redrawn|copied|borrowed|excerpted)\s+(?:\w+\s+){0,3}?(?:from|after|with\s+(?:\w+\s+){0,2}permission|by\s+permission)\b"
    rf"|\b{_PICTURE}\b[^.]{{0,40}}\b(?:taken|used|obtained)\s+from\b{_SOURCE}"
    r"|\b(?:with|by)\s+(?:the\s+)?(?:\w+\s+){0,2}permission\b|\bcourtesy\s+of\b|\bby\s+courtesy\b"
    rf"|\b{_PICTURE}\s+(?:credits?|courtesy)\b|\bcredits?\s*:"
    r"|\b(?:reproduzid[oa]|reproducid[oa]|adaptad[oa]|reproduite?|adapt\u00e9e?|modifi\u00e9e?)\s+(?:d[eo']|com|con|avec|por)",
    re.IGNORECASE,
)
_COPYRIGHT = re.compile(r"\bcopyrights?\b|\u00a9|\(c\)\s*(?:19|20)\d\d", re.IGNORECASE)
_HINTS = (
    *("permission", "courtesy", "copyright", "\u00a9", "credit", "roduced", "printed", "published", "drawn", "dapted", "odified"),
    *("copied", "borrowed", "excerpted", "duzid", "ducid", "aptad", "produit", "dapt\u00e9", "odifi\u00e9"),
    *("taken from", "used from", "obtained from", "(c) 19", "(c) 20", "(c)19", "(c)20"),
)
# Between sentences, and before the text of a panel.
_GAP = re.compile(r"(?<=[.!?])\s+(?=[A-Z\u00a9]|\((?!\d{4}))")
# A patient's consent is no transfer of rights; authors' own work belongs to the article.
_CONSENT = re.compile(
    r"permission\s+(?:of|from|by|given by)\s+(?:the\s+|our\s+)?"
    r"(?:patient|parent|famil|participant|subject|volunteer|guardian|ethic|next of kin)"
    r"|patients?['\u2019]?s?\s+permission",
    re.IGNORECASE,
)
_OWN = re.compile(
    r"\b(?:authors?['\u2019]?s?['\u2019]?\s+(?:own|elaboration|work|archive|photo\w*|drawing)"
    r"|own (?:elaboration|work|source|study|data|drawing)|(?:by|of) the (?:present )?authors?\b"
    r"|elabora\w+ pr[o\u00f3]pr?i[ao]|pr[o\u00f3]pr?i[ao] autor|elabora\w+ (?:pelos?|por los?|por el|dos) autor)",
    re.IGNORECASE,
)
_CREDIT = re.compile(
    r"\W*(?:photo|image|picture|source|credit|illustration|drawing|artwork|fonte|fuente|quelle|courtesy|figure by)", re.IGNORECASE
)
_LABELLED = re.compile(r"\W*(?:abbreviation|note|key|legend|fig)", re.IGNORECASE)
_RESERVED = re.compile(r"all rights reserved|not (?:covered|included|subject)|third[- ]party|no reuse", re.IGNORECASE)
_NOISE = re.compile(r"\u00a9|\(c\)|\bcopyrights?\b|\b(?:19|20)\d\d\b|\bthe\b|\bet al\b|[^\w\s]", re.IGNORECASE)
_AUTHORS = re.compile(r"\bauthors?\b|\bautor", re.IGNORECASE)
_SHORT_CREDIT = 12


@dataclass(frozen=True)
class Rights:
    """``statement``: what the figure says of its rights; ``third_party``: whether by that it is somebody else's."""

    statement: str | None
    third_party: bool | None


class Holders:
    """Who holds the copyright of the article, for comparison with that of a figure."""

    def __init__(self, article: Element) -> None:
        self._article = article
        self._lines: dict[Element, dict[str, bool]] = {}
        self._claims: dict[str, dict[str, bool]] = {}

    @cached_property
    def names(self) -> frozenset[str]:
        """Holders that the article names, without years, signs and case."""
        found = self._article.iterfind("front/article-meta/permissions/*")
        return frozenset(
            filter(None, (_name(clean(e, frozenset())) for e in found if e.tag in ("copyright-holder", "copyright-statement")))
        )

    def own(self, words: str) -> bool:
        """Whether a copyright line names the article's own holder, or "the authors"."""
        name = _name(words)
        return bool(_AUTHORS.search(words)) or any(name and (name in own or own in name) for own in self.names)

    def lines(self, figure: Element) -> dict[str, bool]:
        """What a figure's (or group's) own elements say of its rights, and whether by that it is somebody else's."""
        if figure not in self._lines:
            found = figure.iter("permissions", "attrib")
            own = (e for e in found if next(e.iterancestors("fig", "fig-group"), None) is figure)
            self._lines[figure] = {line: _theirs(element, line, self) for element in own if (line := _line(element))}
        return self._lines[figure]

    def claims(self, caption: str) -> dict[str, bool]:
        """The same of a caption's sentences; a group's caption is that of all its members."""
        if caption not in self._claims:
            self._claims[caption] = {sentence: _claims(sentence, self) for sentence in _sentences(caption)}
        return self._claims[caption]


def read_rights(holders_of_rights: Sequence[Element], caption: str, article: Holders) -> Rights:
    """Rights of a figure from its own elements (and its group's), and from sentences of its caption.

    ``third_party`` is true for what is reproduced, reprinted, adapted or modified from elsewhere, is shown with
    somebody's permission or by courtesy, or is under another's copyright. Adapted counts, since who adapts a work
    needs its owner's leave. It is false where all that is said names the article's own authors, its own copyright
    holder, a licence, or a patient's consent; null where nothing is said.
    """
    lines: dict[str, bool] = {}
    for figure in holders_of_rights:
        lines |= article.lines(figure)
    for sentence, claim in article.claims(caption).items():
        lines.setdefault(sentence, claim)
    if not lines:
        return Rights(None, None)
    return Rights(collapse(" ".join(lines)), any(lines.values()))


def _line(element: Element) -> str:
    """The element's text; a holder who is in the copyright statement already is not said again."""
    if element.tag == "attrib":
        return clean(element, frozenset())
    parts: list[str] = []
    for child in element:
        part = clean(child, frozenset())
        link = href(child) if child.tag == "license" else None
        if link and link not in part and (not part or license_code(link) != license_code(part)):
            part = f"{part} {link}".strip()
        if not any(part in other for other in parts):
            parts.append(part)
    return " ".join(parts)


def _sentences(caption: str) -> list[str]:
    lowered = caption.lower()
    if not any(map(lowered.__contains__, _HINTS)) or not _says(caption):
        return []
    starts = (gap.end() for gap in _GAP.finditer(caption) if not _abbreviated(caption, gap.start()))
    pieces = (caption[start:end].strip() for start, end in pairwise([0, *starts, len(caption)]))
    return [piece for piece in pieces if _says(piece)]


def _abbreviated(text: str, end: int) -> bool:
    return text[end - 1] == "." and ends_in_abbreviation(text[max(0, end - 13) : end - 1])


def _says(text: str) -> bool:
    return bool(_TAKEN.search(text) or _COPYRIGHT.search(text))


def _claims(text: str, article: Holders) -> bool:
    """Whether a sentence says that the picture is somebody else's."""
    rest = _CONSENT.sub("", text)
    if _TAKEN.search(rest):
        return not _OWN.search(rest)
    copyright_line = _COPYRIGHT.search(rest)
    return copyright_line is not None and not article.own(rest[copyright_line.start() :])


def _theirs(element: Element, line: str, article: Holders) -> bool:
    if element.tag == "attrib":
        credit = _CREDIT.match(line) or (len(line.split()) <= _SHORT_CREDIT and not _LABELLED.match(line))
        return _claims(line, article) or (bool(credit) and not _OWN.search(line) and not article.own(line))
    if _TAKEN.search(line) or _RESERVED.search(line):
        return True
    named = ((e.tag, clean(e, frozenset())) for e in element.iter("copyright-holder", "copyright-statement"))
    return any(name and not article.own(name) for tag, name in named if tag == "copyright-holder" or _COPYRIGHT.search(name))


def _name(words: str) -> str:
    return " ".join(_NOISE.sub(" ", words).casefold().split())
