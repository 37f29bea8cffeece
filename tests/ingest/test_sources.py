"""Where articles lie: every layout, sorted and stable, and clear words where there is none."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from biomedray.errors import UserError
from biomedray.ingest.articles import ArticleRows, extract
from biomedray.ingest.packages import open_ref
from biomedray.ingest.settings import IngestConfig
from biomedray.ingest.sources import discover, stem
from biomedray.records import Reason


def _rows(*sources: Path, config: IngestConfig | None = None) -> list[ArticleRows]:
    config = config or IngestConfig()
    refs = discover([str(source) for source in sources])
    return [rows for ref in refs for item in open_ref(ref, config) for rows in extract(item, config)]


def _ids(rows: list[ArticleRows]) -> list[str]:
    return [row["pair_id"] for article in rows for row in article.pairs]


def _reasons(rows: list[ArticleRows]) -> list[str]:
    return [row["reason"] for article in rows for row in article.rejects]


def _cloud(root: Path, make: SimpleNamespace, name: str = "PMC7.1", **metadata: object) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    xml = make.article_xml(name.split(".", maxsplit=1)[0])
    (folder / f"{name}.xml").write_bytes(xml)
    (folder / "f1.jpg").write_bytes(make.picture())
    (folder / "supplement.xml").write_text("<data/>")
    if metadata:
        (folder / f"{name}.json").write_text(json.dumps(metadata))
    return folder


OPEN = {"is_pmc_openaccess": True, "is_retracted": False, "is_historical_ocr": False}


@pytest.mark.parametrize("mode", ["w:gz", "w", "w:xz", "w:bz2"])
def test_archive_of_any_compression(tmp_path: Path, make: SimpleNamespace, mode: str) -> None:
    suffix = {"w": ".tar"}.get(mode, f".tar.{mode[2:]}")
    members = {"PMC1/a.nxml": make.article_xml(), "PMC1/f1.jpg": make.picture()}
    path = make.write_tar(tmp_path / "in" / f"PMC1{suffix}", members, mode)
    assert _ids(_rows(path)) == _ids(_rows(tmp_path / "in")) == ["PMC1.1/F1/0"]


def test_media_may_come_before_the_xml_and_in_other_folders(tmp_path: Path, make: SimpleNamespace) -> None:
    members = {"figures/f1.jpg": make.picture(), "PMC1/a.nxml": make.article_xml()}
    assert _ids(_rows(make.write_tar(tmp_path / "p.tar.gz", members))) == ["PMC1.1/F1/0"]


def test_bulk_archive_keeps_each_folders_media_apart(tmp_path: Path, make: SimpleNamespace) -> None:
    pictures = [make.picture(seed=i) for i in range(3)]
    members = {}
    for i, data in enumerate(pictures):
        members[f"all/PMC{i}/x.nxml"] = make.article_xml(f"PMC{i}")
        members[f"all/PMC{i}/f1.jpg"] = data
    members["all/PMC9/x.nxml"] = make.article_xml("PMC9")
    path = make.write_tar(tmp_path / "bulk.tar.gz", members)
    for config in (IngestConfig(), IngestConfig(max_buffer_bytes=8_000)):
        rows = _rows(path, config=config)
        assert {row["pmcid"]: row["image"] for a in rows for row in a.pairs} == {f"PMC{i}": p for i, p in enumerate(pictures)}
        assert _reasons(rows) == ["file_missing"]
        assert rows[0].ledger["source_uri"] == "bulk.tar.gz/all/PMC0/x.nxml"


def test_bulk_archive_of_xml_only_streams(tmp_path: Path, make: SimpleNamespace) -> None:
    members = {f"PMC00/PMC{i}.xml": make.article_xml(f"PMC{i}") for i in range(40)}
    rows = _rows(make.write_tar(tmp_path / "bulk.tar.gz", members), config=IngestConfig(max_buffer_bytes=2_000))
    assert sorted(row.ledger["pmcid"] for row in rows) == sorted(f"PMC{i}" for i in range(40))


def test_folder_of_an_article_and_its_subfolder(tmp_path: Path, make: SimpleNamespace) -> None:
    article = tmp_path / "in" / "10.1371_a"
    (article / "images").mkdir(parents=True)
    xml = make.article_xml("none").replace(b"f1.jpg", b"images/f1.jpg").replace(b"pmcid", b"other")
    (article / "main.nxml").write_bytes(xml)
    (article / "supplementary.xml").write_text("<data/>")
    (article / "images" / "f1.jpg").write_bytes(make.picture())
    [rows] = _rows(tmp_path / "in")
    assert rows.pairs[0]["pair_id"] == "10.1371_a.1/F1/0"
    assert rows.pairs[0]["source_uri"] == "in/10.1371_a"


def test_articles_of_one_folder_share_its_media_but_not_another_articles(tmp_path: Path, make: SimpleNamespace) -> None:
    for name in ("PMC1", "PMC2"):
        (tmp_path / f"{name}.nxml").write_bytes(make.article_xml(name))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "PMC3.nxml").write_bytes(make.article_xml("PMC3"))
    (tmp_path / "other" / "f1.jpg").write_bytes(make.picture())
    assert _ids(_rows(tmp_path)) == ["PMC3.1/F1/0"]
    (tmp_path / "f1.jpg").write_bytes(make.picture(seed=1))
    assert {row["pmcid"] for a in _rows(tmp_path) for row in a.pairs} >= {"PMC3"}


def test_single_xml_file(tmp_path: Path, make: SimpleNamespace) -> None:
    (tmp_path / "PMC1.nxml").write_bytes(make.article_xml())
    (tmp_path / "f1.jpg").write_bytes(make.picture())
    assert _ids(_rows(tmp_path / "PMC1.nxml")) == ["PMC1.1/F1/0"]


def test_cloud_layout(tmp_path: Path, make: SimpleNamespace) -> None:
    _cloud(tmp_path, make, **OPEN, license_code="CC BY-NC", doi="10.1/x", pmid=42)
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata" / "PMC7.1.json").write_text("{}")
    (tmp_path / "inventory-reports").mkdir()
    (tmp_path / "inventory-reports" / "x.xml").write_text("<x/>")
    (tmp_path / "truth.jsonl").write_text("{}")
    [rows] = _rows(tmp_path)
    row = rows.pairs[0]
    assert (row["pair_id"], row["license_code"], row["doi"], row["pmid"]) == ("PMC7.1/F1/0", "CC BY-NC", "10.1/x", "42")


def test_cloud_metadata_may_lie_in_the_mirror_or_be_absent(tmp_path: Path, make: SimpleNamespace) -> None:
    _cloud(tmp_path, make, "PMC7.1")
    assert _rows(tmp_path)[0].pairs[0]["flags"] == ["no_metadata", "short_caption"]
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata" / "PMC7.1.json").write_text(json.dumps({**OPEN, "is_retracted": True}))
    assert _reasons(_rows(tmp_path)) == ["retracted"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"is_retracted": True}, "retracted"),
        ({"is_historical_ocr": True}, "historical_ocr"),
        ({"is_pmc_openaccess": False}, "not_open_access"),
        ({"is_retracted": "maybe"}, "bad_metadata"),
    ],
)
def test_cloud_gates(tmp_path: Path, make: SimpleNamespace, change: dict[str, object], reason: str) -> None:
    _cloud(tmp_path, make, **{**OPEN, **change})
    [rows] = _rows(tmp_path)
    assert _reasons([rows]) == [reason]
    assert (rows.ledger["pmcid"], rows.ledger["version"], rows.ledger["article_rejects"]) == ("PMC7", 1, 1)


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000])
def test_damaged_cloud_metadata_means_unknown_rights(tmp_path: Path, make: SimpleNamespace, data: bytes) -> None:
    (_cloud(tmp_path, make) / "PMC7.1.json").write_bytes(data)
    assert _reasons(_rows(tmp_path)) == ["bad_metadata"]


def test_only_the_highest_version_counts_as_a_number(tmp_path: Path, make: SimpleNamespace) -> None:
    for version in (1, 2, 10):
        _cloud(tmp_path, make, f"PMC7.{version}", **OPEN)
    rows = _rows(tmp_path)
    assert _ids(rows) == ["PMC7.10/F1/0"]
    assert _reasons(rows) == ["superseded_version", "superseded_version"]


def test_cloud_folder_without_its_xml(tmp_path: Path) -> None:
    (tmp_path / "PMC7.1").mkdir()
    (tmp_path / "PMC7.1" / "other.xml").write_text("<article/>")
    assert _reasons(_rows(tmp_path)) == ["no_article_xml"]


def test_file_list_beside_packages_fills_what_the_xml_lacks(tmp_path: Path, make: SimpleNamespace) -> None:
    make.write_package(tmp_path, "PMC1")
    (tmp_path / "oa_file_list.csv").write_text(
        "File,Article Citation,Accession ID,Last Updated (YYYY-MM-DD HH:MM:SS),PMID,License\n"
        "oa_package/00/PMC1.tar.gz,X,PMC1,2020,77,CC BY-SA\n"
    )
    row = _rows(tmp_path)[0].pairs[0]
    assert (row["license_code"], row["license_group"], row["pmid"]) == ("CC BY-SA", "comm", "77")


def test_list_file(tmp_path: Path, make: SimpleNamespace) -> None:
    make.write_package(tmp_path / "a", "PMC1")
    make.write_package(tmp_path / "b", "PMC2")
    (tmp_path / "list.txt").write_text("# mine\na/PMC1.tar.gz\n\nb\nmissing.tar.gz\n")
    rows = _rows(tmp_path / "list.txt")
    assert sorted(_ids(rows)) == ["PMC1.1/F1/0", "PMC2.1/F1/0"]
    assert _reasons(rows) == ["unreadable_archive"]
    (tmp_path / "list.csv").write_text('File,PMID\n"a/PMC1.tar.gz",7\n')
    assert _ids(_rows(tmp_path / "list.csv")) == ["PMC1.1/F1/0"]


def test_same_article_named_twice_is_read_once(tmp_path: Path, make: SimpleNamespace) -> None:
    path = make.write_package(tmp_path, "PMC1")
    assert len(discover([str(tmp_path), str(path)])) == 1


def test_order_is_that_of_the_names(tmp_path: Path, make: SimpleNamespace) -> None:
    for name in ("PMC3", "PMC1", "PMC2"):
        make.write_package(tmp_path / name, name)
    refs = discover([str(tmp_path)])
    assert [ref.name for ref in refs] == ["PMC1", "PMC2", "PMC3"]
    assert refs[0].uri == f"{tmp_path.name}/PMC1/PMC1.tar.gz"


def test_hidden_files_and_links_out_are_not_followed(tmp_path: Path, make: SimpleNamespace) -> None:
    outside = tmp_path / "outside.nxml"
    outside.write_bytes(make.article_xml("PMC9"))
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(make.picture())
    source = tmp_path / "in"
    (source / "PMC1").mkdir(parents=True)
    (source / "PMC1" / "a.nxml").write_bytes(make.article_xml())
    (source / "PMC1" / "._a.nxml").write_bytes(b"resource fork")
    (source / "PMC1" / "f1.jpg").symlink_to(secret)
    (source / "PMC2").mkdir()
    (source / "PMC2" / "b.nxml").symlink_to(outside)
    rows = _rows(source)
    assert not _ids(rows)
    assert _reasons(rows) == ["unsafe_member", "unsafe_member"]


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda p: p / "none", "no such file or folder"),
        (lambda p: p, "no article found"),
        (lambda p: p / "x.png", "an archive"),
        (lambda p: p / "empty.txt", "one path a line"),
        (lambda p: p / "lost.txt", "none of the 1 paths"),
        (lambda p: p / "binary.txt", "UTF-8"),
    ],
)
def test_bad_sources_are_one_clear_line(tmp_path: Path, build: object, words: str) -> None:
    (tmp_path / "x.png").write_bytes(b"x")
    (tmp_path / "empty.txt").write_text("\n# nothing\n")
    (tmp_path / "lost.txt").write_text("nowhere.tar.gz\n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=words) as caught:
        discover([str(build(tmp_path))])  # type: ignore[operator]  # a lambda of the table
    assert "\n" not in str(caught.value)


def test_remote_sources_and_none_at_all() -> None:
    with pytest.raises(UserError, match="no such kind of address"):
        discover(["s3://pmc-oa-opendata"])
    with pytest.raises(UserError, match="no source"):
        discover([])


def test_stem_keeps_dots_of_ids() -> None:
    assert stem("10.1371_journal.pone.0115884.tar.gz") == "10.1371_journal.pone.0115884"
    assert stem("PMC1.nxml") == "PMC1"
    assert stem("JCB.f1") == "JCB.f1"


def test_reasons_are_of_the_closed_list() -> None:
    assert Reason("engine_failed") is Reason.ENGINE_FAILED
