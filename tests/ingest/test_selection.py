"""Which articles are wanted: by record, by XML, from every source alike."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from biomedray.config import merge, override
from biomedray.errors import UserError
from biomedray.ingest.articles import extract
from biomedray.ingest.packages import open_refs
from biomedray.ingest.record import Record
from biomedray.ingest.selection import Selection, parse_years, refused_by_record
from biomedray.ingest.settings import IngestConfig
from biomedray.ingest.sources import discover
from biomedray.records import Reason

FRONT = (
    "<title-group><article-title>On mice</article-title></title-group>"
    '<pub-date pub-type="epub"><year>2018</year></pub-date>'
    '<permissions><license><license-p>cc by-nc</license-p><ext-link xlink:href="https://creativecommons.org/licenses/by-nc/4.0/"/>'
    "</license></permissions><abstract><p>Wistar rats, too.</p></abstract>"
)


@pytest.fixture
def article(make: SimpleNamespace, tmp_path: Path) -> Path:
    xml = make.article_xml("PMC5", 1, front=FRONT).replace(
        b"<front>", b"<front><journal-meta><journal-title>PLoS  One</journal-title></journal-meta>"
    )
    xml = xml.replace(b"<article ", b'<article article-type="research-article" ')
    path: Path = make.write_tar(tmp_path / "in" / "PMC5.tar.gz", {"PMC5/a.nxml": xml, "PMC5/f1.jpg": make.picture()})
    return path


def outcome(source: Path, tmp_path: Path, **select: Any) -> str | None:
    """The detail of the reject not_selected, or None where the pair is there."""
    config = merge(IngestConfig(), {"select": select})
    items = open_refs(discover([str(source)]), config, tmp_path / "staging")
    [rows] = [rows for item in items for rows in extract(item, config)]
    if rows.pairs:
        return None
    [reject] = rows.rejects
    assert (reject["reason"], reject["stage"], reject["pmcid"], reject["fig_id"]) == ("not_selected", "article", "PMC5", None)
    assert (rows.ledger["pairs"], rows.ledger["article_rejects"]) == (0, 1)
    return str(reject["detail"])


@pytest.mark.parametrize(
    ("select", "detail"),
    [
        ({}, None),
        ({"licenses": ["noncomm"]}, None),
        ({"licenses": ["cc-by-nc", "CC0"]}, None),
        ({"licenses": ["comm", "other"]}, "licence: CC BY-NC"),
        ({"journals": ["plos one"]}, None),
        ({"journals": ["PLOS*"]}, None),
        ({"journals": ["plos"]}, "journal: PLoS One"),
        ({"year_from": 2018, "year_to": 2018}, None),
        ({"year_from": 2019}, "year: 2018"),
        ({"year_to": 2017}, "year: 2018"),
        ({"article_types": ["Research-Article"]}, None),
        ({"article_types": ["case-report"]}, "article type: research-article"),
        ({"keywords": ["MICE"]}, None),
        ({"keywords": ["wistar rats"]}, None),
        ({"keywords": ["caption 1"]}, None),
        ({"keywords": ["rat*"]}, None),
        ({"keywords": ["rat"]}, "keyword: none in title, abstract or captions"),
        ({"keywords": ["a.c", "(", "mic"]}, "keyword: none in title, abstract or captions"),
        ({"pmcids": ["pmc5"]}, None),
        ({"pmcids": ["PMC5.1"]}, None),
        ({"pmcids": ["PMC5.2", "PMC50"]}, "PMCID: not in the list"),
        ({"year_from": 2010, "journals": ["PLoS One"], "keywords": ["fish"]}, "keyword: none in title, abstract or captions"),
    ],
    ids=str,
)
def test_by_the_xml(article: Path, tmp_path: Path, select: dict[str, Any], detail: str | None) -> None:
    assert outcome(article, tmp_path, **select) == detail


def test_no_picture_of_an_unwanted_article_is_read(make: SimpleNamespace, article: Path) -> None:
    config = merge(IngestConfig(), {"select": {"year_to": 2000}})
    from dataclasses import replace

    [package] = open_refs(discover([str(article)]), config, Path("unused"))

    def read(name: str) -> bytes:
        raise AssertionError(name)

    [rows] = extract(replace(package, media=replace(package.media, read=read)), config)  # type: ignore[type-var,union-attr]  # a Package
    assert [row["reason"] for row in rows.rejects] == ["not_selected"]


@pytest.mark.parametrize(
    ("flags", "code", "select", "reason"),
    [
        ({}, None, {}, None),
        ({"is_retracted": True}, None, {}, Reason.RETRACTED),
        ({"is_retracted": True}, None, {"include_retracted": True}, None),
        ({"is_historical_ocr": True}, None, {}, Reason.HISTORICAL_OCR),
        ({"is_historical_ocr": True}, None, {"include_historical_ocr": True}, None),
        ({"is_pmc_openaccess": False}, "TDM", {}, Reason.NOT_OPEN_ACCESS),
        ({"is_pmc_openaccess": False}, "TDM", {"include_not_open_access": True}, None),
        ({"is_manuscript": True}, None, {}, None),
        ({"is_manuscript": True}, None, {"manuscripts": "out"}, Reason.NOT_SELECTED),
        ({"is_manuscript": False}, None, {"manuscripts": "only"}, Reason.NOT_SELECTED),
        ({}, None, {"manuscripts": "only"}, Reason.NOT_SELECTED),
        ({"is_manuscript": True}, None, {"manuscripts": "only"}, None),
        ({}, "CC BY-NC", {"licenses": ["comm"]}, Reason.NOT_SELECTED),
        ({}, None, {"licenses": ["comm"]}, None),
        ({}, "NO-CC CODE", {"licenses": ["comm"]}, None),
        ({}, "TDM", {"licenses": ["other"]}, None),
    ],
    ids=str,
)
def test_by_the_record(flags: dict[str, bool], code: str | None, select: dict[str, Any], reason: Reason | None) -> None:
    found = refused_by_record(Record(flags, code), "PMC1.1", Selection(**select))
    assert (found and found[0]) == reason


def test_folders_in_the_cloud_layout_are_selected_by_their_record(make: SimpleNamespace, tmp_path: Path) -> None:
    folder = tmp_path / "in" / "PMC5.1"
    folder.mkdir(parents=True)
    (folder / "PMC5.1.xml").write_bytes(make.article_xml("PMC5"))
    (folder / "f1.jpg").write_bytes(make.picture())
    (folder / "PMC5.1.json").write_text(json.dumps({"license_code": "CC BY-NC-ND", "is_manuscript": True}))
    assert outcome(tmp_path / "in", tmp_path) is None
    assert outcome(tmp_path / "in", tmp_path, licenses=["comm"]) == "licence: CC BY-NC-ND"
    assert outcome(tmp_path / "in", tmp_path, manuscripts="out") == "is_manuscript is true in PMC5.1.json"


@pytest.mark.parametrize(
    ("text", "years"),
    [
        ("2018", {"year_from": 2018, "year_to": 2018}),
        ("2015-2020", {"year_from": 2015, "year_to": 2020}),
        ("2015-", {"year_from": 2015}),
        ("-2020", {"year_to": 2020}),
    ],
)
def test_years(text: str, years: dict[str, int]) -> None:
    assert parse_years(text) == years


@pytest.mark.parametrize("text", ["", "-", "20", "2015-20", "2015 to 2020", "x"])
def test_years_that_are_none(text: str) -> None:
    with pytest.raises(UserError, match="--year"):
        parse_years(text)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"licenses": ["free"]}, "is no licence"),
        ({"pmcids": ["123"]}, "no PMCID"),
        ({"keywords": [" *"]}, "empty keyword"),
        ({"year_from": 2020, "year_to": 2010}, "after year_to"),
        ({"manuscripts": "maybe"}, "manuscripts"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_selections_that_make_no_sense(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Selection(**values)
    with pytest.raises(UserError):
        merge(IngestConfig(), {"select": values})


def test_selection_is_part_of_a_runs_identity_and_fetching_is_not() -> None:
    config = IngestConfig()
    assert override(config, ["fetch.concurrency=3", "plan.mb_per_s=1"]).identity() == config.identity()
    assert override(config, ["select.licenses=[comm]"]).identity() != config.identity()
