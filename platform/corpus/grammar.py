"""A small text grammar: ``{slot}`` is replaced, ``[one|other]`` is chosen, markup is kept and can be stripped.

Texts are XML fragments: they may hold tags such as ``<italic>`` and escaped ``&lt;``.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence

from biomedray.corpus.draw.canvas import Rng

_SLOT = re.compile(r"\{(\w+)\}")
_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_TAG = re.compile(r"<[^<>]+>")
_TEX = re.compile(r"<tex-math>.*?</tex-math>")
_SPACE = re.compile(r"\s+")
_MAX_DEPTH = 4

NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine"}


def expand(rng: Rng, template: str, slots: Mapping[str, str]) -> str:
    """A text of the template: slots first (their values may hold slots and choices), then choices, innermost first."""
    text = template
    for _ in range(_MAX_DEPTH):
        if "{" not in text:
            break
        text = _SLOT.sub(lambda match: slots[match[1]], text)
    while match := _CHOICE.search(text):
        text = text[: match.start()] + pick(rng, match[1].split("|")) + text[match.end() :]
    return _SPACE.sub(" ", text).strip()


def pick(rng: Rng, items: Sequence[str]) -> str:
    """One of the items."""
    return items[int(rng.integers(len(items)))]


def chance(rng: Rng, probability: float) -> bool:
    """True with the given probability."""
    return bool(rng.random() < probability)


def number(count: int) -> str:
    """A choice between the word and the digits of a count."""
    return f"[{NUMBERS[count]}|{NUMBERS[count]}|{count}]" if count in NUMBERS else str(count)


def sentence(text: str) -> str:
    """The text with a capital first letter and a full stop."""
    start = 0
    while text.startswith("<", start):
        start = text.index(">", start) + 1
    capital = text[:start] + text[start : start + 1].upper() + text[start + 1 :]
    return capital if capital.endswith((".", "?", "!")) else capital + "."


def plain(fragment: str) -> str:
    """The text of an XML fragment: no tags, no TeX twin of a formula, entities resolved, single spaces."""
    return _SPACE.sub(" ", html.unescape(_TAG.sub("", _TEX.sub("", fragment)))).strip()
