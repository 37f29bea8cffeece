"""Real articles, where they are at hand: balanced, complete, nothing crashes."""

from __future__ import annotations

from pathlib import Path

import pytest
from lxml import etree

from biomedray.ingest.articles import ArticleRows, extract
from biomedray.ingest.packages import Package, open_ref
from biomedray.ingest.settings import IngestConfig
from biomedray.ingest.sources import discover

DATA = Path(__file__).parents[3] / "shared" / "data"
pytestmark = pytest.mark.skipif(not (DATA / "packages").is_dir(), reason="the real articles are not on this machine")


def _run(source: Path, config: IngestConfig) -> list[tuple[bytes, ArticleRows]]:
    out = []
    for ref in discover([str(source)]):
        for item in open_ref(ref, config):
            xml = item.xml if isinstance(item, Package) else b""
            out += [(xml, rows) for rows in extract(item, config)]
    return out


def _units(xml: bytes) -> int:
    root = etree.fromstring(xml, etree.XMLParser(resolve_entities=False, load_dtd=False, huge_tree=True))
    graphics = list(root.iter("{*}graphic"))
    bare = [fig for fig in root.iter("{*}fig") if next(fig.iter("{*}graphic"), None) is None]
    return len(graphics) + len(bare)


def test_packages_are_accounted_for_article_by_article() -> None:
    results = _run(DATA / "packages", IngestConfig())
    assert len(results) == 178
    for xml, rows in results:
        assert len(rows.pairs) + rows.ledger["rejects"] == _units(xml), rows.ledger["source_uri"]
    assert sum(len(rows.pairs) for _, rows in results) >= 700
    assert not [row for _, rows in results for row in rows.rejects if row["reason"] == "engine_failed"]
    for row in (row for _, rows in results for row in rows.pairs):
        assert row["caption"]
        for citance in row["citances"]:
            assert citance["text"][citance["start"] : citance["end"]].strip()


@pytest.mark.parametrize("engine", ["biomedray", "pubmed_parser"])
def test_odd_files_end_in_rejects(engine: str) -> None:
    results = _run(DATA / "xml" / "odd.tar.xz", IngestConfig(engine=engine))  # type: ignore[arg-type]  # pydantic checks it
    assert len(results) > 50
    assert all(rows.rejects and not rows.pairs for _, rows in results)


@pytest.mark.heavy
def test_articles_of_many_journals_balance() -> None:
    results = _run(DATA / "xml" / "articles.tar.xz", IngestConfig())
    assert len(results) == 641
    for _, rows in results:
        ledger = rows.ledger
        assert ledger["graphics"] + ledger["figures_without_graphic"] == ledger["pairs"] + ledger["rejects"]
        assert not any(row["reason"] == "engine_failed" for row in rows.rejects)
