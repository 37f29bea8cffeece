"""Bulk archives of XML with their pictures in a folder, by article or all side by side."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from biomedray.ingest.articles import ArticleRows, extract
from biomedray.ingest.packages import open_refs
from biomedray.ingest.settings import IngestConfig
from biomedray.ingest.sources import discover


@pytest.fixture
def bulk(make: SimpleNamespace, tmp_path: Path) -> Path:
    """An archive as PMC's bulk packages were: XML only, many articles a folder."""
    members = {f"PMC000xxxxxx/PMC{i}.xml": make.article_xml(f"PMC{i}", 2) for i in range(1, 4)}
    path: Path = make.write_tar(tmp_path / "in" / "oa_comm_xml.PMC000xxxxxx.tar.gz", members)
    return path


def rows_of(source: Path, media: Path | None, tmp_path: Path) -> list[ArticleRows]:
    config = IngestConfig(media=str(media) if media else None)
    return [rows for item in open_refs(discover([str(source)]), config, tmp_path / "s") for rows in extract(item, config)]


def pairs(rows: list[ArticleRows]) -> list[str]:
    return [row["pair_id"] for article in rows for row in article.pairs]


@pytest.mark.parametrize("name", ["PMC{}", "PMC{}.1"])
def test_by_article(bulk: Path, make: SimpleNamespace, tmp_path: Path, name: str) -> None:
    for i in (1, 2):
        folder = tmp_path / "media" / name.format(i)
        folder.mkdir(parents=True)
        (folder / "f1.jpg").write_bytes(make.picture(seed=i))
        (folder / "f2.png").write_bytes(make.picture("png", seed=i))
    if name.endswith(".1"):  # the XML is named with its version then, as in PMC's bucket
        members = {f"all/PMC{i}.1.xml": make.article_xml(f"PMC{i}", 2) for i in range(1, 4)}
        bulk = make.write_tar(bulk.with_name("versions.tar.gz"), members)
    rows = rows_of(bulk, tmp_path / "media", tmp_path)
    assert pairs(rows) == ["PMC1.1/F1/0", "PMC1.1/F2/0", "PMC2.1/F1/0", "PMC2.1/F2/0"]
    assert [row["reason"] for article in rows for row in article.rejects] == ["file_missing"] * 2
    assert [row["image"] for row in rows[1].pairs] == [make.picture(seed=2), make.picture("png", seed=2)]


def test_side_by_side(bulk: Path, make: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "f1.JPG").write_bytes(make.picture())
    (tmp_path / "media" / "other.jpg").write_bytes(make.picture())
    (tmp_path / "secret.jpg").write_bytes(make.picture())
    (tmp_path / "media" / "f2.jpg").symlink_to(tmp_path / "secret.jpg")
    rows = rows_of(bulk, tmp_path / "media", tmp_path)
    assert pairs(rows) == [f"PMC{i}.1/F1/0" for i in (1, 2, 3)], "a link that leads out is not followed"


def test_by_the_id_in_the_xml(make: SimpleNamespace, tmp_path: Path) -> None:
    source = make.write_tar(tmp_path / "in" / "a.tar.gz", {"x/article-1.nxml": make.article_xml("PMC77")})
    (tmp_path / "media" / "PMC77").mkdir(parents=True)
    (tmp_path / "media" / "PMC77" / "f1.jpg").write_bytes(make.picture())
    assert pairs(rows_of(source, tmp_path / "media", tmp_path)) == ["PMC77.1/F1/0"]


def test_own_pictures_come_first_and_no_folder_changes_nothing(make: SimpleNamespace, bulk: Path, tmp_path: Path) -> None:
    package = make.write_package(tmp_path / "in2", "PMC9")
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "f1.jpg").write_bytes(make.picture(seed=99))
    [own] = rows_of(package, tmp_path / "media", tmp_path)
    assert own.pairs == rows_of(package, None, tmp_path)[0].pairs
    assert pairs(rows_of(bulk, None, tmp_path)) == pairs(rows_of(bulk, tmp_path / "nowhere", tmp_path)) == []


@pytest.mark.parametrize("href", ["../secret.jpg", "/etc/passwd", "a&#x0;b.jpg", "%2e%2e/secret.jpg", "", "."])
def test_hrefs_do_not_lead_out(make: SimpleNamespace, tmp_path: Path, href: str) -> None:
    (tmp_path / "secret.jpg").write_bytes(make.picture())
    (tmp_path / "media").mkdir()
    xml = make.article_xml().replace(b"f1.jpg", href.encode())
    source = make.write_tar(tmp_path / "in" / "a.tar.gz", {"x/PMC1.xml": xml})
    assert pairs(rows_of(source, tmp_path / "media", tmp_path)) == []
