"""Untrusted XML: bombs, outside entities, damage, foreign roots; and what an article says of itself."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from biomedray.ingest.jats import XmlError, href, parse_articles, replace_html_entities
from biomedray.ingest.meta import license_code, read_meta
from biomedray.records import Reason

LAUGHS = b"".join(b'<!ENTITY l%d "%s">' % (i, b"&l%d;" % (i - 1) * 10) for i in range(1, 12))


@pytest.mark.parametrize(
    "where", [b'<article x="&l11;"><fig/></article>', b"<article><fig><caption>&l11;</caption></fig></article>"]
)
def test_entity_bomb_costs_nothing(where: bytes) -> None:
    bomb = b'<?xml version="1.0"?><!DOCTYPE article [<!ENTITY l0 "ha">' + LAUGHS + b"]>" + where
    start = time.process_time()
    try:
        [tree] = parse_articles(bomb)
        size = len(etree.tostring(tree.root))
    except XmlError:
        size = 0
    assert size < 10_000
    assert time.process_time() - start < 5  # seconds of CPU, not of the clock: expanded it would be hours


DECLARED = b'<!DOCTYPE article [<!ENTITY a "' + b"x" * 200_000 + b'">]>'


@pytest.mark.parametrize(
    "xml",
    [
        DECLARED + b"<article><fig><caption>" + b"&a;" * 50_000 + b"</caption></fig></article>",  # quadratic blow-up
        b'<!DOCTYPE article [<!ENTITY % p SYSTEM "http://192.0.2.1/x.dtd"> %p;]><article><fig/></article>',
        b'<!DOCTYPE article PUBLIC "-//NLM//DTD" "http://192.0.2.1/journalpublishing.dtd"><article><fig/></article>',
        b'<article><fig id="' + b"x" * 12_000_000 + b'"><caption>a</caption></fig></article>',
        b"<article><fig>" + b"<b>" * 100_000 + b"deep" + b"</b>" * 100_000 + b"</fig></article>",
        b"<article><fig " + b" ".join(b'a%d="1"' % i for i in range(100_000)) + b"/></article>",
        b"<article>"
        + b"<p>" * 200
        + b"<fig><caption>"
        + b"<bold>" * 40
        + b"a"
        + b"</bold>" * 40
        + b"</caption></fig>"
        + b"</p>" * 200
        + b"</article>",
    ],
)
def test_hostile_xml_costs_little_and_ends_in_rows(xml: bytes, make: SimpleNamespace) -> None:
    start = time.process_time()
    [rows] = make.rows_of(xml, {})
    assert time.process_time() - start < 10  # seconds of CPU, not of the clock
    assert not rows.pairs
    assert rows.rejects
    assert not [row for row in rows.rejects if row["reason"] == "engine_failed"]
    assert sum(len(str(row)) for row in rows.rejects) < 100_000


def test_external_entity_is_not_read(tmp_path: object) -> None:
    xml = b'<!DOCTYPE article [<!ENTITY e SYSTEM "file:///etc/hostname">]><article><fig><caption>&e;!</caption></fig></article>'
    [tree] = parse_articles(xml)
    assert "".join(tree.root.itertext()) == "&e;!"
    assert tree.flags == ("unresolved_entity",)


@pytest.mark.parametrize(
    ("xml", "reason"),
    [
        (b"", Reason.MALFORMED_XML),
        (b"   ", Reason.MALFORMED_XML),
        (b"\x00\x01garbage", Reason.MALFORMED_XML),
        (b"<html><body>404", Reason.MALFORMED_XML),
        (b"<article><body><p>cut", Reason.MALFORMED_XML),
        (b"<html><body/></html>", Reason.NOT_AN_ARTICLE),
        (b"<TEI/>", Reason.NOT_AN_ARTICLE),
        ("<?xml version='1.0' encoding='utf-16'?><TEI/>".encode("utf-16"), Reason.NOT_AN_ARTICLE),
        (b'<?xml version="1.0" encoding="no-such"?><article/>', Reason.MALFORMED_XML),
    ],
)
def test_what_is_no_article(xml: bytes, reason: Reason) -> None:
    with pytest.raises(XmlError) as caught:
        parse_articles(xml)
    assert caught.value.reason is reason


def outcome(xml: bytes) -> set[str] | Reason:
    """The roots' tags, or why there is none."""
    try:
        return {tree.root.tag for tree in parse_articles(xml)}
    except XmlError as error:
        return error.reason


@given(st.binary(max_size=300))
def test_no_bytes_crash_the_parser(data: bytes) -> None:
    for xml in (data, b"<article>" + data, b"<article><fig>" + data + b"</fig></article>"):
        assert outcome(xml) in ({"article"}, Reason.MALFORMED_XML, Reason.XML_TOO_LARGE, Reason.NOT_AN_ARTICLE)


@pytest.mark.parametrize(
    ("inside", "text"),
    [
        (b"caf\xe9 1\xe2\x80\x933 H&amp;E, p &lt; 0.05", "caf\u00e9 1\u20133 H&E, p < 0.05"),
        (b"p < 0.05 & H&amp;E", "p < 0.05 & H&E"),
        (b"<b x:y='1'>bold</b> H&amp;E", "bold H&E"),
        (b"<![CDATA[x & y < z &#0; &amp;]]> 1 < 2<!-- & < -->", "x & y < z &#0; &amp; 1 < 2"),
    ],
)
def test_recovery_loses_no_signs(inside: bytes, text: str) -> None:
    [tree] = parse_articles(b"<article><fig><caption>" + inside + b"</caption></fig></article>")
    assert "".join(tree.root.itertext()) == text
    assert tree.flags == ("xml_recovered",)


def test_several_articles_in_one_file() -> None:
    trees = parse_articles(b"<pmc-articleset><article><sub-article/></article><article/></pmc-articleset>")
    assert [tree.root.tag for tree in trees] == ["article", "article"]


def test_html_entities_leave_cdata_comments_and_declared_names_alone() -> None:
    xml = b'<!DOCTYPE a [<!ENTITY alpha "A">]><a>&nbsp;&alpha;&nosuch;<![CDATA[&nbsp;]]><!-- &nbsp; -->&amp;&#65;</a>'
    expected = b'<!DOCTYPE a [<!ENTITY alpha "A">]><a>&#160;&alpha;&nosuch;<![CDATA[&nbsp;]]><!-- &nbsp; -->&amp;&#65;</a>'
    assert replace_html_entities(xml) == expected


def test_href_under_any_prefix() -> None:
    assert href(etree.fromstring('<g xmlns:l="urn:other" l:href=" a.jpg "/>')) == "a.jpg"
    assert href(etree.fromstring('<g href="a.jpg"/>')) == "a.jpg"
    assert href(etree.fromstring('<g href=" "/>')) is None


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("http://creativecommons.org/licenses/by/4.0/", "CC BY"),
        ("https://creativecommons.org/licenses/CC-BY/4.0", "CC BY"),
        ("https://creativecommons.org/licenses/by-nc-nd/4.0/", "CC BY-NC-ND"),
        ("http://creativecommons.org/publicdomain/zero/1.0/", "CC0"),
        ("creativeCommonsBy-nc", "CC BY-NC"),
        ("cc-by", "CC BY"),
        ("CC BY-NC-SA 4.0", "CC BY-NC-SA"),
        ("CC0", "CC0"),
        ("the Creative Commons Attribution License, which permits", "CC BY"),
        ("a Creative Commons Attribution-NonCommercial-NoDerivatives 4.0 licence", "CC BY-NC-ND"),
        ("Creative Commons Attribution-Non Commercial-Share Alike", "CC BY-NC-SA"),
        ("Creative Commons Public Domain Dedication", "CC0"),
        ("open-access", None),
        ("All rights reserved", None),
        ("Creative Commons Attribution\u2013NonCommercial 4.0 License", "CC BY-NC"),
        ("CC BY\u2011NC\u2010ND", "CC BY-NC-ND"),
        ("Creative Commons Attribution\u00adNonCommercial", "CC BY-NC"),
        ("Creative Commons Attribution, Non-Commercial License", "CC BY-NC"),
        ("Creative Commons Attribution and NonCommercial", "CC BY-NC"),
        ("Creative Commons Attribution 4.0 International Non-Commercial", "CC BY-NC"),
        ("CC BY 4.0 NC", "CC BY-NC"),
        ("Creative Commons Attribution License (CC BY-NC-ND), which", "CC BY-NC-ND"),
        ("the Creative Commons Attribution License (http://creativecommons.org/licenses/by-nc/3.0/)", "CC BY-NC"),
        ("https://creativecommons.org/licenses/by-nd-nc/1.0/", "CC BY-NC-ND"),
        ("https://creativecommons.org/licenses/by%2Dnc/4.0/", "CC BY-NC"),
        ("https://creativecommons.org/licenses/by- nc/4.0/", "CC BY-NC"),
        ("CC BY and no other. Of the data: CC BY-NC", "CC BY"),
    ],
)
def test_license_code(text: str, code: str | None) -> None:
    assert license_code(text) == code


@pytest.mark.parametrize(
    ("ids", "pmcid", "version"),
    [
        ('<article-id pub-id-type="pmc">123</article-id>', "PMC123", None),
        ('<article-id pub-id-type="pmcid">PMC123</article-id>', "PMC123", None),
        ('<article-id pub-id-type="pmcid-ver">PMC123.10</article-id>', "PMC123", 10),
        ('<article-id pub-id-type="pmc">not one</article-id>', None, None),
    ],
)
def test_pmcid(ids: str, pmcid: str | None, version: int | None) -> None:
    meta = read_meta(etree.fromstring(f"<article><front><article-meta>{ids}</article-meta></front></article>"))
    assert (meta.pmcid, meta.version) == (pmcid, version)


def test_hostile_ids_make_safe_rows(make: SimpleNamespace) -> None:
    xml = make.article_xml("PMC1").replace(b'id="F1"', b'id="../a b/c"')
    [rows] = make.rows_of(xml, {"f1.jpg": make.picture()})
    assert rows.pairs[0]["pair_id"] == "PMC1.1/.._a_b_c/0"


def test_fallback_id_of_an_article_without_pmcid(make: SimpleNamespace) -> None:
    xml = make.article_xml("none").replace(b"pmcid", b"other")
    [rows] = make.rows_of(xml, {"f1.jpg": make.picture()}, name="10.1371 journal.pone/1")
    assert rows.pairs[0]["pmcid"] == "10.1371_journal.pone_1"
    assert rows.pairs[0]["flags"] == ["no_pmcid", "short_caption"]


@pytest.mark.parametrize("system", ["http://dtd.example.org/journalpublishing3.dtd", "articles.dtd", "{folder}/articles.dtd"])
def test_the_dtd_that_an_article_names_is_never_opened(system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "articles.dtd").write_text("<!BROKEN <<<")
    doctype = f'<!DOCTYPE article SYSTEM "{system.format(folder=tmp_path.as_uri())}">'
    [tree] = parse_articles(f"{doctype}<article><fig id='f'/></article>".encode())
    assert tree.flags == ()
    assert tree.root[0].get("id") == "f"


@pytest.mark.parametrize(
    ("date", "year"),
    [
        ('<pub-date iso-8601-date="2017-05-04"/>', 2017),
        ("<pub-date><string-date>May 2014</string-date></pub-date>", 2014),
        ('<pub-date iso-8601-date="2016-01-01"><year>2017</year></pub-date>', 2017),
        ("<pub-date><string-date>12345</string-date></pub-date>", None),
    ],
)
def test_the_year_in_every_form_of_a_date(date: str, year: int | None) -> None:
    assert read_meta(etree.fromstring(f"<article><front><article-meta>{date}</article-meta></front></article>")).year == year
