"""Which articles a run is about: by their record and by their XML, before any image is read.

record (licence, retraction, OCR, manuscript) --> XML (journal, year, type, keyword, PMCID) --> images
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from biomedray.config import Config
from biomedray.errors import UserError
from biomedray.ingest.jats import Element
from biomedray.ingest.meta import ArticleMeta, license_code
from biomedray.ingest.record import Record
from biomedray.ingest.text import clean
from biomedray.records import LICENSE_GROUPS, Reason, license_group

_GROUPS = ("comm", "noncomm", "other")
_PMCID = re.compile(r"PMC(\d+)(?:\.(\d+))?", re.IGNORECASE)
_NO_LICENSE = {"NO-CC CODE", "NONE", "NULL"}


class Selection(Config):
    """What is wanted; empty lists ask for nothing. Articles that are left out are rejects ``not_selected``."""

    licenses: tuple[str, ...] = ()
    """Codes (CC BY) or groups (comm, noncomm, other); any when empty."""
    include_retracted: bool = False
    """Also what the record calls retracted."""
    include_historical_ocr: bool = False
    """Also scans, whose text is machine-read."""
    include_not_open_access: bool = False
    """Also what is in PMC's bucket without being open access: author manuscripts for text mining."""
    manuscripts: Literal["in", "out", "only"] = "in"
    """Author manuscripts, by the record."""
    all_versions: bool = False
    """Also versions that a newer one has superseded."""
    journals: tuple[str, ...] = ()
    """Titles, in any case; * stands for any characters."""
    year_from: int | None = Field(None, ge=1500, le=2100)
    """First year of publication."""
    year_to: int | None = Field(None, ge=1500, le=2100)
    """Last year of publication."""
    article_types: tuple[str, ...] = ()
    """JATS's article-type, such as research-article."""
    keywords: tuple[str, ...] = ()
    """Words or phrases, any of which stands in title, abstract or a caption; * at the end for any ending."""
    pmcids: tuple[str, ...] = ()
    """PMC123 or one version of it, PMC123.2."""

    @field_validator("licenses")
    @classmethod
    def _known_licenses(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_license_name(value) for value in values)

    @field_validator("keywords")
    @classmethod
    def _some_word(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        if not all(value.strip(" *") for value in values):
            raise ValueError("an empty keyword would be found in every article")
        return values

    @field_validator("pmcids")
    @classmethod
    def _ids(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        if bad := next((value for value in values if not is_pmcid(value)), None):
            raise ValueError(f"{bad!r} is no PMCID such as PMC123 or PMC123.2")
        return tuple(sorted({value.upper() for value in values}))

    @model_validator(mode="after")
    def _years_in_order(self) -> Self:
        if self.year_from and self.year_to and self.year_from > self.year_to:
            raise ValueError(f"year_from {self.year_from} is after year_to {self.year_to}")
        return self


def is_pmcid(text: str) -> bool:
    """Whether the text is ``PMC123`` or ``PMC123.2``."""
    return _PMCID.fullmatch(text) is not None


def plain_pmcid(text: str) -> str:
    """A PMCID as articles have it: ``PMC2.1`` for ``pmc0002.1``."""
    return "PMC" + ".".join(str(int(part)) for part in text.upper().removeprefix("PMC").split("."))


def parse_years(text: str) -> dict[str, int]:
    """``2015-2020``, ``2015-``, ``-2020`` or ``2018`` as the settings year_from and year_to.

    Raises:
        UserError: it is none of these.
    """
    match = re.fullmatch(r"(\d{4})?(-)?(\d{4})?", text.strip())
    if match is None or not (match[1] or match[3]) or (match[3] and not match[2]):
        raise UserError(f"--year {text}: write 2018, 2015-2020, 2015- or -2020")
    first, last = match[1], match[3] if match[2] else match[1]
    return {name: int(year) for name, year in (("year_from", first), ("year_to", last)) if year}


def read_pmcids(path: Path) -> tuple[str, ...]:
    """The PMCIDs of a list: one a line, or the first column of a CSV; # starts a remark. A header has no digit.

    Raises:
        UserError: it can't be read, or a line holds something else.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{path}: not a readable text file; a list of PMCIDs is wanted, one a line") from None
    found = [(number, re.split(r"[,;\t#]", line)[0].strip().strip('"')) for number, line in enumerate(lines, 1)]
    ids = [(number, text) for number, text in found if text and not (number == 1 and not re.search(r"\d", text))]
    if bad := next(((number, text) for number, text in ids if not is_pmcid(text)), None):
        raise UserError(f"{path}: line {bad[0]}: {bad[1][:40]!r} is no PMCID such as PMC123 or PMC123.2")
    if not ids:
        raise UserError(f"{path}: holds no PMCID; write one a line, such as PMC123 or PMC123.2")
    return tuple(text for _, text in ids)


def known_license(text: str | None) -> str | None:
    """A licence as others write it; one that is no Creative Commons licence keeps its own name."""
    if not text or text.upper() in _NO_LICENSE:
        return None
    return text if text in LICENSE_GROUPS else license_code(text) or text


def refused_by_record(record: Record, name: str, selection: Selection) -> tuple[Reason, str] | None:
    """Why an article isn't wanted as far as its record says, or None."""
    gates = (
        ("is_retracted", True, selection.include_retracted, Reason.RETRACTED),
        ("is_historical_ocr", True, selection.include_historical_ocr, Reason.HISTORICAL_OCR),
        ("is_pmc_openaccess", False, selection.include_not_open_access, Reason.NOT_OPEN_ACCESS),
    )
    for key, bad, included, reason in gates:
        if record.flags.get(key) is bad and not included:
            return reason, f"{key} is {str(bad).lower()} in {name}.json"
    manuscript = record.flags.get("is_manuscript", False)
    if selection.manuscripts != "in" and manuscript is not (selection.manuscripts == "only"):
        return Reason.NOT_SELECTED, f"is_manuscript is {str(manuscript).lower()} in {name}.json"
    code = known_license(record.license_code)
    if code is not None and not _license_wanted(code, selection):
        return Reason.NOT_SELECTED, f"licence: {code}"
    return None


def not_selected(
    selection: Selection, ids: tuple[str, int], code: str | None, meta: ArticleMeta, texts: Iterable[str]
) -> str | None:
    """Why an article isn't wanted by what its XML says, or None; ``texts`` are title, abstract and captions."""
    if selection == _EVERYTHING:
        return None
    if not id_wanted(selection, *ids):
        return "PMCID: not in the list"
    if not _license_wanted(code, selection):
        return f"licence: {code or 'none'}"
    if selection.journals and not any(fnmatchcase(_fold(meta.journal or ""), _fold(name)) for name in selection.journals):
        return f"journal: {meta.journal or 'none'}"
    if detail := _year_detail(meta.year, selection):
        return detail
    types = {_fold(kind) for kind in selection.article_types}
    if types and _fold(meta.article_type or "") not in types:
        return f"article type: {meta.article_type or 'none'}"
    pattern = _keyword_pattern(selection.keywords)
    if pattern is not None and not any(pattern.search(text) for text in texts):
        return "keyword: none in title, abstract or captions"
    return None


def id_wanted(selection: Selection, pmcid: str, version: int) -> bool:
    """Whether an article version is in the list of PMCIDs, where there is one."""
    wanted = _id_set(selection.pmcids)
    return not wanted or pmcid in wanted or f"{pmcid}.{version}" in wanted


def searched_texts(root: Element, title: str | None, captions: Iterable[str]) -> Iterable[str]:
    """Where keywords are looked for: the title, the abstracts, the captions."""
    yield title or ""
    front = root.find("front")
    for abstract in () if front is None else front.iter("abstract", "trans-abstract"):
        yield clean(abstract)
    yield from captions


def _license_name(text: str) -> str:
    if text.lower() in _GROUPS:
        return text.lower()
    code = known_license(text)
    if code is None or (code not in LICENSE_GROUPS and code != "TDM"):
        raise ValueError(f"{text!r} is no licence: give comm, noncomm, other, or a code such as {', '.join(LICENSE_GROUPS)}")
    return code


def _license_wanted(code: str | None, selection: Selection) -> bool:
    wanted = selection.licenses
    return not wanted or license_group(code) in wanted or (code is not None and code in wanted)


def _year_detail(year: int | None, selection: Selection) -> str | None:
    first, last = selection.year_from, selection.year_to
    if first is None and last is None:
        return None
    return None if year is not None and (first or year) <= year <= (last or year) else f"year: {year or 'none'}"


def _fold(text: str) -> str:
    return " ".join(text.casefold().split())


@lru_cache(maxsize=4)
def _id_set(pmcids: tuple[str, ...]) -> frozenset[str]:
    return frozenset(pmcids)


@lru_cache(maxsize=4)
def _keyword_pattern(keywords: tuple[str, ...]) -> re.Pattern[str] | None:
    if not keywords:
        return None
    words = [
        r"\s+".join(re.escape(part) for part in word.removesuffix("*").split()) + (r"\w*" if word.endswith("*") else "")
        for word in keywords
    ]
    return re.compile(rf"(?<!\w)(?:{'|'.join(words)})(?!\w)", re.IGNORECASE)


_EVERYTHING = Selection()
