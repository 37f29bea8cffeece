"""Hostile and damaged archives: nothing leaves the archive, nothing grows without bound, every failure is a reject."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from biomedray.ingest.articles import ArticleRows, extract
from biomedray.ingest.packages import open_ref
from biomedray.ingest.settings import IngestConfig
from biomedray.ingest.sources import discover


def _rows(path: Path, config: IngestConfig | None = None) -> list[ArticleRows]:
    config = config or IngestConfig()
    return [r for ref in discover([str(path)]) for item in open_ref(ref, config) for r in extract(item, config)]


def _reasons(rows: list[ArticleRows]) -> list[str]:
    return [row["reason"] for article in rows for row in article.rejects]


def _tar(path: Path, members: list[tuple[tarfile.TarInfo, bytes]]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for info, data in members:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def _link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


def _cloud_members(make: SimpleNamespace, name: str, record: bytes) -> dict[str, bytes]:
    """An article of the Cloud layout with supplementary JATS beside and below it."""
    pmcid = name.partition(".")[0]
    return {
        f"{name}/{name}.xml": make.article_xml(pmcid),
        f"{name}/{name}.json": record,
        f"{name}/f1.jpg": make.picture(),
        f"{name}/a.xml": make.article_xml("PMC777"),
        f"{name}/more/b.xml": make.article_xml("PMC778"),
    }


def test_the_cloud_layout_in_an_archive_is_read_as_on_disk(tmp_path: Path, make: SimpleNamespace) -> None:
    retracted, free = b'{"is_retracted": true}', b'{"license_code": "CC BY-NC", "doi": "10.1/x"}'
    one = make.write_tar(tmp_path / "x.tar.gz", _cloud_members(make, "PMC9.2", retracted))
    assert _reasons(_rows(one)) == ["retracted"]
    several = [("PMC9.2", retracted), ("PMC8.1", free), ("PMC7.1", b"[]")]
    members = {key: data for name, record in several for key, data in _cloud_members(make, name, record).items()}
    bulk = make.write_tar(tmp_path / "bulk.tar.gz", members)
    for config in (IngestConfig(), IngestConfig(max_buffer_bytes=5000)):
        rows = _rows(bulk, config)
        assert sorted(_reasons(rows)) == ["bad_metadata", "retracted"]
        [pair] = [row for article in rows for row in article.pairs]
        assert (pair["pmcid"], pair["version"], pair["license_code"], pair["doi"]) == ("PMC8", 1, "CC BY-NC", "10.1/x")


@pytest.mark.parametrize("name", ["../f1.jpg", "/f1.jpg", "PMC1/../../f1.jpg"])
def test_a_figure_under_an_unsafe_name_is_rejected(tmp_path: Path, make: SimpleNamespace, name: str) -> None:
    members = [(tarfile.TarInfo("PMC1/a.nxml"), make.article_xml()), (tarfile.TarInfo(name), make.picture())]
    rows = _rows(_tar(tmp_path / "p.tar.gz", members))
    assert _reasons(rows) == ["unsafe_member"]
    assert rows[0].rejects[0]["fig_id"] == "F1"


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_not_followed(tmp_path: Path, make: SimpleNamespace, kind: bytes) -> None:
    members = [(tarfile.TarInfo("PMC1/a.nxml"), make.article_xml()), _link("PMC1/f1.jpg", "/etc/passwd", kind)]
    assert _reasons(_rows(_tar(tmp_path / "p.tar.gz", members))) == ["unsafe_member"]
    assert _reasons(_rows(_tar(tmp_path / "q.tar.gz", [_link("PMC1/a.nxml", "/etc/passwd", kind)]))) == ["unsafe_member"]


def test_unsafe_members_that_nothing_names_are_ignored(tmp_path: Path, make: SimpleNamespace) -> None:
    members = [
        _link("PMC1/loop", "loop"),
        (tarfile.TarInfo("../../evil.sh"), b"x"),
        (tarfile.TarInfo("PMC1/a.nxml"), make.article_xml()),
        (tarfile.TarInfo("PMC1/f1.jpg"), make.picture()),
    ]
    rows = _rows(_tar(tmp_path / "p.tar.gz", members))
    assert [row["fig_id"] for row in rows[0].pairs] == ["F1"]
    assert not rows[0].rejects
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.tar.gz"]


def test_cut_and_broken_archives(tmp_path: Path, make: SimpleNamespace) -> None:
    whole = make.write_package(tmp_path / "whole", "PMC1").read_bytes()
    for name, data in {
        "cut": whole[: len(whole) // 2],
        "garbage": b"not a tar at all" * 100,
        "empty": b"",
        "flipped": whole[:200] + bytes(b ^ 0xFF for b in whole[200:260]) + whole[260:],
        "gzip-of-nothing": gzip.compress(b""),
        "gzip-of-text": gzip.compress(b"hello" * 500),
    }.items():
        path = tmp_path / f"{name}.tar.gz"
        path.write_bytes(data)
        rows = _rows(path)
        assert not any(row.pairs for row in rows), name
        assert _reasons(rows) in (["unreadable_archive"], ["no_article_xml"]), name


def test_a_cut_bulk_archive_keeps_the_articles_before_the_cut(tmp_path: Path, make: SimpleNamespace) -> None:
    members = {
        f"PMC{i}/{n}": d for i in range(4) for n, d in (("a.nxml", make.article_xml(f"PMC{i}")), ("f1.jpg", make.picture(seed=i)))
    }
    path = make.write_tar(tmp_path / "b.tar", members, "w")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * 0.7)])
    rows = _rows(path)
    assert [row["pmcid"] for article in rows for row in article.pairs][:2] == ["PMC0", "PMC1"]
    assert _reasons(rows)[-1] == "unreadable_archive"


def test_bombs_are_given_up(tmp_path: Path, make: SimpleNamespace) -> None:
    members = {"PMC1/a.nxml": make.article_xml(), "PMC1/zeros.bin": bytes(5_000_000)}
    path = make.write_tar(tmp_path / "p.tar.gz", members)
    assert path.stat().st_size < 20_000
    assert _reasons(_rows(path, IngestConfig(max_archive_bytes=1_000_000))) == ["source_too_large"]
    images = {"PMC1/a.nxml": make.article_xml(), **{f"PMC1/f{i}.jpg": make.picture(seed=i) for i in range(9)}}
    path = make.write_tar(tmp_path / "q.tar.gz", images)
    assert _reasons(_rows(path, IngestConfig(max_buffer_bytes=4_000))) == ["source_too_large"]


def test_large_members_are_not_read(tmp_path: Path, make: SimpleNamespace) -> None:
    path = make.write_package(tmp_path, "PMC1")
    assert _reasons(_rows(path, IngestConfig(max_image_bytes=100))) == ["image_too_large"]
    assert _reasons(_rows(path, IngestConfig(max_xml_bytes=100))) == ["xml_too_large"]
    folder = tmp_path / "PMC2"
    folder.mkdir()
    (folder / "a.nxml").write_bytes(make.article_xml("PMC2"))
    (folder / "f1.jpg").write_bytes(make.picture())
    assert _reasons(_rows(folder, IngestConfig(max_image_bytes=100))) == ["image_too_large"]
    assert _reasons(_rows(folder, IngestConfig(max_xml_bytes=100))) == ["xml_too_large"]


def test_archive_without_an_article(tmp_path: Path, make: SimpleNamespace) -> None:
    assert _reasons(_rows(make.write_tar(tmp_path / "p.tar.gz", {"a.jpg": b"x"}))) == ["no_article_xml"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=40))
def test_no_damage_crashes_the_reader(tmp_path: Path, make: SimpleNamespace, where: int, junk: bytes) -> None:
    plain = tmp_path / "p.tar"
    if not plain.exists():
        make.write_tar(plain, {"PMC1/a.nxml": make.article_xml(), "PMC1/f1.jpg": make.picture()}, "w")
    data = plain.read_bytes()
    at = where % len(data)
    damaged = tmp_path / "damaged.tar"
    damaged.write_bytes(data[:at] + junk + data[at + len(junk) :])
    for rows in _rows(damaged):
        ledger = rows.ledger
        assert ledger["graphics"] + ledger["figures_without_graphic"] == ledger["pairs"] + ledger["rejects"]
