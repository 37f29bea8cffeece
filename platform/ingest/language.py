r"""The language of a caption: what the XML says, held against the caption's own words.

words of English --> en      no language declared, or English declared and not one English word --> py3langid
                 \-> the declared one
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

SHORT: Final = 20
"""Letters below which a caption's language can't be told from its words."""

_ENGLISH: Final = frozenset(
    (
        *("the", "of", "and", "in", "to", "with", "for", "by", "is", "are", "was", "were", "from", "at", "on", "as", "an"),
        *("between", "each", "that", "after", "before", "this", "these", "using", "showing", "shown", "per", "which"),
    )
)
# Small words of the languages that journals in PMC are written in besides; "de novo" is why they only raise a question.
_FOREIGN: Final = frozenset(
    (
        *("de", "la", "el", "los", "las", "del", "y", "con", "por", "para", "una", "un", "da", "do", "das", "dos", "em", "com"),
        *("e", "o", "der", "die", "und", "mit", "von", "im", "den", "des", "le", "les", "du", "et", "une", "dans", "pour"),
        *("di", "della", "che", "il", "van", "het", "een", "met", "voor", "z", "w", "na", "i", "ve", "bir"),
    )
)
_MIN_WORDS: Final = 8
# Sure enough to speak where nothing is declared, and to contradict what is.
_LIKELY, _SURE = 0.6, 0.99
# Languages of journals in PMC. Among all that py3langid knows, species names are Latin and a short title is Basque.
_LANGUAGES: Final = (
    *("en", "es", "pt", "fr", "de", "it", "nl", "pl", "ru", "uk", "cs", "tr", "ar", "fa", "zh", "ja", "ko", "hu", "sv", "hr"),
)


def caption_language(text: str, declared: str | None, detect: bool = True) -> str | None:
    """Two letters (three where the XML says so), or None where nothing tells.

    English is told by its small words, which is quick and settles most captions. py3langid, offline and of about half
    a millisecond a caption, is asked where nothing is declared or the words contradict it.
    """
    if is_short(text) or not detect:
        return declared
    words = text.lower().split()
    english = sum(map(_ENGLISH.__contains__, words))
    foreign = sum(map(_FOREIGN.__contains__, words))
    if english > foreign and (not foreign or (english >= 3 and english * 7 >= len(words))):
        return "en"
    long = len(words) >= _MIN_WORDS
    asked = (foreign or long or not text.isascii()) if declared is None else (long and declared == "en" and not english)
    if not asked:
        return declared
    language, probability = _identifier().classify(text)
    return str(language) if probability >= (_LIKELY if declared is None else _SURE) else declared


def is_short(text: str) -> bool:
    """Whether a caption has fewer than 20 letters."""
    return sum(map(str.isalpha, text[:60])) < SHORT and sum(map(str.isalpha, text)) < SHORT


@cache
def _identifier() -> Any:
    """py3langid's model, read from its own wheel when it is first needed: a second of CPU time."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(list(_LANGUAGES))
    return identifier
