"""Where the sentences of a clean text begin and end: not after Fig., et al., i.e. nor after an initial."""

from __future__ import annotations

import re

_END = re.compile(r"([.!?][\"'\u201d\u2019)\]]*)\s+(?=[\"'\u201c\u2018(\[]?[A-Z0-9\u0391-\u03a9])")
_CAPITALS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_LAST_WORD = re.compile(r"\b(?:e\.g|i\.e|i\.v|i\.p|s\.c|\w+)$", re.IGNORECASE)
_ABBREVIATIONS = frozenset(
    "fig figs figure figures tab tabs eq eqs eqn eqns ref refs supp suppl al approx ca cf vs resp no nos vol p pp dr prof mr "  # noqa: SIM905  # a list of words reads as words
    "mrs ms st sp spp var subsp inc ltd co corp dept univ etc viz e.g i.e i.v i.p s.c".split()
)


def sentences(text: str) -> list[tuple[int, int]]:
    """Spans of the sentences of a clean text; they cover it but for the spaces between."""
    spans: list[tuple[int, int]] = []
    start = 0
    for match in _END.finditer(text):
        stop = match.start()
        if text[stop] == "." and ends_in_abbreviation(text[max(start, stop - 12) : stop]):
            continue
        spans.append((start, match.end(1)))
        start = match.end()
    if start < len(text):
        spans.append((start, len(text)))
    return spans


def ends_in_abbreviation(text: str) -> bool:
    """Whether a dot after this text may be that of an abbreviation or an initial."""
    last = text.rpartition(" ")[2].lstrip("([")
    if not last.isalnum():
        word = _LAST_WORD.search(text)
        last = word[0] if word else ""
    return last.lower() in _ABBREVIATIONS or last in _CAPITALS
