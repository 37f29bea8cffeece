"""What an article says of itself: ids, title, journal, year, licence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote

from biomedray.ingest.jats import Element, href
from biomedray.ingest.text import clean

_CC_URL = re.compile(
    r"creative\s?commons\.org/+(?:licen[cs]es|publicdomain)/+(?:cc-)?(by(?:[-_]*\s?(?:nc|nd|sa))*(?![a-z-])|zero|cc0|mark)",
    re.IGNORECASE,
)
# Dashes of print are hyphens; what has no width, as a soft hyphen, is nothing.
_PLAIN = str.maketrans(
    dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2043\u2212\ufe63\uff0d", "-")
    | dict.fromkeys("\u00ad\u200b\u200c\u200d\u2060\ufeff")
)
_ENDS = r"(?=nc|nd|sa|[^a-z]|$)"
_TERMS = {
    "NC": rf"nc{_ENDS}|non[\s-]*commercial",
    "SA": rf"sa{_ENDS}|share[\s-]*alike",
    "ND": rf"(?<!a)nd{_ENDS}|no[\s-]*deriv\w*",  # but not "and"
}
_TERM = re.compile("|".join(f"(?P<{code}>{words})" for code, words in _TERMS.items()), re.IGNORECASE)
_TERM_GAP = r"(?:[\s/,&+()_-]|v?\d(?:\.\d)?(?![\d.])|\b(?:and|international|unported|generic)\b)*"
_CC_CODE = re.compile(
    r"\b(?:cc|creative[\s-]*commons)[\s_-]*(?:attribution|by)"
    rf"((?:{_TERM_GAP}(?:{'|'.join(_TERMS.values())}))*)",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.;]\s")
_CC_ZERO = re.compile(r"\bcc[\s-]?0\b|creative commons (?:zero|cc0|public domain)|\bpublic domain dedication\b", re.IGNORECASE)
_PMCID = re.compile(r"(?:PMC)?(\d+)(?:\.(\d+))?", re.IGNORECASE)
# Related works that may show the same figures; comments and reviews don't.
_SAME_WORK = re.compile(r"preprint|correct|retract|republi|updated?|addend|original|companion-version", re.IGNORECASE)
_DOI = re.compile(r"10\.\d{4,9}/\S+")
_LATE_DATES = ("pmc-release", "nihms-submitted", "retraction", "corrected")


@dataclass(frozen=True)
class ArticleMeta:
    """Metadata of one article; ``pmcid`` and ``version`` are None where the XML doesn't name them."""

    pmcid: str | None
    version: int | None
    pmid: str | None
    doi: str | None
    title: str | None
    journal: str | None
    year: int | None
    article_type: str | None
    license_code: str | None
    related_dois: tuple[str, ...] = ()
    """Of preprints, corrections and other forms of the same work."""


def read_meta(article: Element) -> ArticleMeta:
    """The article's own metadata; that of its sub-articles is not asked."""
    front = article.find("front")
    meta = front.find("article-meta") if front is not None else None
    if front is None or meta is None:
        return ArticleMeta(None, None, None, None, None, None, None, article.get("article-type"), None)
    ids = {e.get("pub-id-type"): value for e in reversed(meta.findall("article-id")) if (value := clean(e))}
    pmcid, version = _pmcid(ids)
    return ArticleMeta(
        pmcid=pmcid,
        version=version,
        pmid=ids.get("pmid"),
        doi=ids.get("doi"),
        title=_first(meta, "title-group/article-title"),
        journal=_first(front, "journal-meta//journal-title") or _first(front, "journal-meta/journal-id"),
        year=_year(meta),
        article_type=article.get("article-type"),
        license_code=_license(meta),
        related_dois=_related(meta),
    )


def _related(meta: Element) -> tuple[str, ...]:
    """DOIs of ``<related-article>`` that are the same work in another form, lower case."""
    found = [e for e in meta.findall("related-article") if _SAME_WORK.search(e.get("related-article-type") or "")]
    dois = [match[0].rstrip(".,;").lower() for e in found for text in (href(e), clean(e)) if (match := _DOI.search(text or ""))]
    return tuple(sorted(set(dois)))


def _pmcid(ids: dict[str | None, str]) -> tuple[str | None, int | None]:
    """``PMC123`` and a version from the ids of the old kind (``pmc``) and the new (``pmcid``, ``pmcid-ver``)."""
    pmcid: str | None = None
    version: int | None = None
    for kind in ("pmcid-ver", "pmcid", "pmc"):
        match = _PMCID.fullmatch(ids.get(kind, ""))
        if match:
            pmcid = pmcid or f"PMC{match[1]}"
            version = version or (int(match[2]) if match[2] else None)
    return pmcid, version


def _first(root: Element, path: str) -> str | None:
    return next((text for e in root.iterfind(path) if (text := clean(e, frozenset(("fn", "xref"))))), None)


def _year(meta: Element) -> int | None:
    """The earliest year of publication in any form; a later release in PMC counts only where nothing else is known."""
    dates = [(e.get("pub-type") or e.get("date-type") or "", year) for e in meta.findall("pub-date") for year in _years_of(e)]
    years = [(kind, int(year)) for kind, year in dates if re.fullmatch(r"1[5-9]\d\d|20\d\d", year)]
    published = [year for kind, year in years if kind not in _LATE_DATES]
    return min(published or [year for _, year in years], default=None)


def _years_of(date: Element) -> list[str]:
    """As its elements say, else in the attribute or in a line of text."""
    if found := [clean(year) for year in date.findall("year")]:
        return found
    told = [date.get("iso-8601-date") or "", *(clean(e) for e in date.findall("string-date"))]
    return [match[0] for text in told if (match := re.search(r"(?<!\d)\d{4}(?!\d)", text))][:1]


def _license(meta: Element) -> str | None:
    """The code of the article's licence: links first, then the attribute, then the words."""
    for permissions in meta.findall("permissions"):
        codes = (code for text in _license_texts(permissions) if (code := license_code(text)))
        first = next(codes, None)
        if first:
            return first if first != "CC0" else next((code for code in codes if code != "CC0"), first)
    return None


def _license_texts(permissions: Element) -> Iterator[str]:
    licenses = list(permissions.iter("license", "license_ref", "copyright-statement"))
    for element in licenses:
        for node in element.iter("*"):
            if link := href(node) or (node.text if node.tag == "license_ref" else None):
                yield str(link)
    yield from (element.get("license-type") or "" for element in licenses)
    yield from (clean(element, frozenset()) for element in licenses)


def license_code(text: str) -> str | None:
    """``CC BY-NC`` and the like from a URL, a code of any spelling, or a sentence; None where none is named.

    Where one sentence names several, the strictest holds: "Attribution License (CC BY-NC)" is CC BY-NC.
    """
    plain = (unquote(text) if "%" in text else text).translate(_PLAIN)
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", plain)
    if match := _CC_URL.search(plain) or _CC_CODE.search(plain):
        return _strictest(_sentence_around(plain, match))
    return "CC0" if _CC_ZERO.search(plain) else None


def _sentence_around(text: str, match: re.Match[str]) -> str:
    before = [gap.end() for gap in _SENTENCE_END.finditer(text, 0, match.start())]
    after = _SENTENCE_END.search(text, match.end())
    return text[before[-1] if before else 0 : after.start() if after else len(text)]


def _strictest(sentence: str) -> str:
    named = [match[1] for pattern in (_CC_URL, _CC_CODE) for match in pattern.finditer(sentence)]
    return max(map(_code, named), key=lambda code: [part in code for part in ("NC", "ND", "SA", "BY")])


def _code(terms: str) -> str:
    """In the order of the code: ``by-nd-nc``, as the first version was called, is ``CC BY-NC-ND``."""
    if terms.lower() in ("zero", "cc0", "mark"):
        return "CC0"
    found = {match.lastgroup for match in _TERM.finditer(terms)}
    return "-".join(["CC BY", *(code for code in _TERMS if code in found)])
