"""Figures named in plain text: "Figure 3", "Figs. 1-3", "Figures 2A,B and 4", and the same key from a label."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

MAX_RANGE = 40

_LABEL = re.compile(r"^(.*?)(\d+)[a-z]?\.?$", re.IGNORECASE | re.DOTALL)
_PANELS = r"(?:\s?\(?[A-Za-z](?![A-Za-z])(?:\s?[-\u2013,&]\s?[A-Za-z](?![A-Za-z]))*\)?)?"
RANGE = r"(?:[-\u2010-\u2015\u2212]|to|through|until)"
_DASH = rf"\s?{RANGE}\s?"
_ONE = rf"\d{{1,3}}(?![\d.]\d){_PANELS}"
_ITEM = rf"{_ONE}(?:{_DASH}{_ONE})?"
_MORE = rf"(?:\s?(?:,|;|&|,? and)\s?{_ITEM})*"
_LIST = re.compile(rf"\W*(?:fig(?:ure)?s?\.?\s?)?({_ITEM}{_MORE})\W*", re.IGNORECASE)
_ONE_RANGE = re.compile(rf"{_ONE}{_DASH}{_ONE}", re.IGNORECASE)
_NUMBER_OR_DASH = re.compile(rf"(\d{{1,3}})|({_DASH})(?=\d)")
# Of another paper, of a supplement, or of a file: not this article's own figure.
_NOT_OURS_BEFORE = re.compile(
    r"(?:suppl\w*\.?|supporting(?: information)?|extended data|additional file \w+[:,]?|online|appendix|their|author response)"
    r"\s*$",
    re.IGNORECASE,
)
_NOT_OURS_AFTER = re.compile(r"\s?(?:\)|,)?\s?(?:of|in|from)\s+(?:refs?\b|references?\b|\[|\(?[A-Z]\w+ (?:et al|and|&))")


@dataclass(frozen=True)
class Mention:
    """``kind`` is the label's words in lower case ("fig"); ``numbers`` with those inside ranges."""

    kind: str
    numbers: tuple[int, ...]
    start: int
    end: int


def label_key(label: str | None) -> tuple[str, int] | None:
    """Kind and number of a label: ``Figure 3.`` and ``Fig. 3B`` are ("fig", 3); None for one without a number."""
    match = _LABEL.match((label or "").lower())
    return (match[1].replace("figure", "fig").replace(".", "").strip(), int(match[2])) if match and len(match[2]) < 10 else None


def find_mentions(text: str, kinds: set[str]) -> Iterator[Mention]:
    """Where a text names figures of these kinds; those of other papers and of supplements are left out."""
    for match in _pattern(tuple(sorted(kinds))).finditer(text):
        if _NOT_OURS_BEFORE.search(text, max(0, match.start() - 24), match.start()):
            continue
        if _NOT_OURS_AFTER.match(text, match.end()):
            continue
        kind = match["kind"].lower()
        kind = "fig" if kind.startswith("fig") and "fig" in kinds else kind
        yield Mention(kind, _numbers(match["numbers"]), match.start(), match.end())


@lru_cache(maxsize=256)
def _pattern(kinds: tuple[str, ...]) -> re.Pattern[str]:
    words = [r"fig(?:ure)?(?P<many>s)?\.?" if kind == "fig" else re.escape(kind) for kind in kinds if kind]
    kind = "|".join(words) or r"(?!)"
    more = rf"(?(many){_MORE})" if "fig" in kinds else ""
    return re.compile(rf"(?<![\w-])(?P<kind>{kind})\s?(?P<numbers>{_ITEM}{more})(?!\w)", re.IGNORECASE)


def listed_numbers(text: str) -> tuple[int, ...]:
    """Figures that the text of a cross-reference names: all where it is one list ("Figs. 1A-3B, 5"), else those in ranges."""
    if match := _LIST.fullmatch(text):
        return _numbers(match[1])
    return tuple(number for match in _ONE_RANGE.finditer(text) for number in _numbers(match[0]))


def _numbers(text: str) -> tuple[int, ...]:
    """Numbers in a list, and those inside its ranges; a wild range counts as its two ends."""
    found: list[int] = []
    ranged = False
    for match in _NUMBER_OR_DASH.finditer(text):
        if match[2]:
            ranged = bool(found)
            continue
        number = int(match[1])
        if ranged and 0 < number - found[-1] <= MAX_RANGE:
            found += range(found[-1] + 1, number)
        found.append(number)
        ranged = False
    return tuple(dict.fromkeys(found))
