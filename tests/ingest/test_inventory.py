"""The inventory: the newest whole snapshot, streamed, dealt to parts, the same whatever its shards look like."""

from __future__ import annotations

import asyncio
import csv
import gzip
import hashlib
import io
import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from types import ModuleType

import pytest

from biomedray.config import merge
from biomedray.errors import UserError
from biomedray.ingest import inventory as module
from biomedray.ingest.inventory import Inventory, absent_refs, cloud_sources, is_cloud, read_inventory
from biomedray.ingest.population import part_of
from biomedray.ingest.settings import FetchConfig, IngestConfig
from biomedray.ingest.snapshots import newest_snapshot
from biomedray.ingest.staging import Staging
from biomedray.ingest.store import open_store
from biomedray.records import Reason

FOLDER = "inventory-reports/pmc-oa-opendata/metadata"
Row = tuple[str, ...]


def write_snapshot(
    root: Path, day: str, shards: Sequence[Sequence[Row]], schema: str = "Bucket, Key, LastModifiedDate, ETag"
) -> Path:
    files = []
    for i, rows in enumerate(shards):
        text = io.StringIO()
        csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(rows)
        data = gzip.compress(text.getvalue().encode())
        key = f"{FOLDER}/data/{day}-{i}.csv.gz"
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).write_bytes(data)
        files.append({"key": key, "size": len(data), "MD5checksum": hashlib.md5(data).hexdigest()})
    manifest = {"sourceBucket": "pmc-oa-opendata", "fileFormat": "CSV", "fileSchema": schema, "files": files}
    path = root / FOLDER / f"{day}T01-00Z" / "manifest.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(manifest))
    return path


def record(name: str, *more: str) -> Row:
    return ("pmc-oa-opendata", f"metadata/{name}.json", "2026-11-19T08:00:00.000Z", hashlib.md5(name.encode()).hexdigest(), *more)


def read(root: Path, work: Path, config: IngestConfig | None = None, source: str | None = None) -> Inventory:
    return read_inventory(source or f"file://{root}", config or IngestConfig(), work, progress=False)


NAMES = [f"PMC{n}.1" for n in range(1, 301)] + ["PMC7.2", "PMC7.10"]


def test_parts_in_order_each_reference_in_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_snapshot(tmp_path, "2026-11-20", [[record(name) for name in NAMES]])
    whole = read(tmp_path, tmp_path / "w")
    assert (whole.n_articles, whole.n_wanted, whole.n_files, whole.n_bytes) == (302, 300, 302, None)
    groups = list(whole.groups(17))
    assert [part for part, _ in groups] == sorted({part_of(name.split(".")[0], 17) for name in NAMES})
    for part, refs in groups:
        assert [ref.uri for ref in refs] == sorted(ref.uri for ref in refs)
        assert all(part_of(ref.name.split(".")[0], 17) == part for ref in refs)
    refs = [ref for _, group in groups for ref in group]
    assert sorted(ref.name for ref in refs) == sorted(NAMES)
    assert {ref.name for ref in refs if ref.problem is Reason.SUPERSEDED_VERSION} == {"PMC7.1", "PMC7.2"}
    assert all(ref.files == ((f"{ref.name}.json", hashlib.md5(ref.name.encode()).hexdigest()),) for ref in refs)
    monkeypatch.setattr(module, "_ROWS_AT_ONCE", 20)
    assert list(whole.groups(17)) == groups, "the same, range by range"
    assert list(whole.groups(17)) == groups, "and again"


def test_the_fingerprint_is_that_of_the_content(tmp_path: Path) -> None:
    rows = [record(name) for name in NAMES]
    empty: list[Row] = []
    for day, shards in (("2026-11-20", [rows]), ("2026-11-21", [rows[100:], empty, rows[:120]]), ("2026-11-22", [rows[1:]])):
        write_snapshot(tmp_path, day, shards)
    found = [
        read(tmp_path, tmp_path / f"w{day}", merge(IngestConfig(), {"fetch": {"snapshot": f"2026-11-{day}"}}))
        for day in (20, 21, 22)
    ]
    assert found[0].fingerprint == found[1].fingerprint != found[2].fingerprint
    assert found[1].n_articles == 302, "a row that stands twice counts once"


def test_other_keys_versions_columns_and_codings(tmp_path: Path) -> None:
    def row(key: str, size: int, latest: str = "true", deleted: str = "false") -> Row:
        return ("b", key, '"' + "a" * 32 + '"', str(size), latest, deleted)

    rows = [
        row("PMC1.1/PMC1.1.xml", 10),
        row("PMC1.1/PMC1.1.json", 1),
        row("metadata/PMC1.1.json", 1),
        row("PMC1.1/fig%201%C3%A9.jpg", 100),
        row("PMC1.1/old.jpg", 5, latest="false"),
        row("PMC1.1/gone.jpg", 0, deleted="true"),
        row("README.txt", 7),
        row("metadata/list.csv", 7),
        row("inventory-reports/x/PMC1.1.json", 7),
        row("metadata/PMC99999999999999999999.1.json", 7),
    ]
    write_snapshot(tmp_path, "2026-11-20", [rows], "Bucket, Key, ETag, Size, IsLatest, IsDeleteMarker")
    found = read(tmp_path, tmp_path / "w")
    assert (found.n_articles, found.n_files, found.n_bytes) == (1, 3, 111)
    [(_, [ref])] = list(found.groups(1))
    assert dict(ref.files) == dict.fromkeys(["PMC1.1.xml", "PMC1.1.json", "fig 1é.jpg"], "a" * 32)


@pytest.mark.parametrize("harm", ["no shard", "torn shard", "no json", "no files", "not whole"])
def test_a_snapshot_that_is_not_whole_gives_way_to_the_one_before(tmp_path: Path, harm: str) -> None:
    write_snapshot(tmp_path, "2026-11-18", [[record("PMC1.1")]])
    newest = write_snapshot(tmp_path, "2026-11-20", [[record("PMC2.1")], [record("PMC3.1")]])
    shard = tmp_path / FOLDER / "data" / "2026-11-20-1.csv.gz"
    if harm == "no shard":
        shard.unlink()
    elif harm == "torn shard":
        shard.write_bytes(shard.read_bytes()[:-3])
    else:
        newest.write_text({"no json": '{"files', "no files": '{"fileFormat": "CSV"}', "not whole": "[]"}[harm])
    (tmp_path / FOLDER / "hive" / "dt=2026-11-21-01-00").mkdir(parents=True)
    assert read(tmp_path, tmp_path / "w").snapshot == "2026-11-18T01-00Z"
    named = merge(IngestConfig(), {"fetch": {"snapshot": "2026-11-20"}})
    with pytest.raises(UserError, match=r"the inventory of 2026-11-20 can't be read"):
        read(tmp_path, tmp_path / "w2", named)


def test_without_listing_days_are_tried_backwards(tmp_path: Path, servers: ModuleType) -> None:
    write_snapshot(tmp_path / "b", "2026-11-03", [[record("PMC1.1")]])

    async def find(today: date) -> str:
        store = open_store(server.url, FetchConfig())
        try:
            return (await newest_snapshot(store, FetchConfig(), Staging(tmp_path / "s"), today)).name
        finally:
            await store.close()

    with servers.running(servers.Faulty(tmp_path / "b")) as server:
        assert asyncio.run(find(date(2026, 11, 22))) == "2026-11-03T01-00Z"
        assert server.listings() == []
        assert {asked.method for asked in server.log if asked.status == 404} == {"HEAD"}
        with pytest.raises(UserError, match=r"no inventory of the last 45 days.*\(none found\).*--snapshot DATE"):
            asyncio.run(find(date(2027, 3, 1)))
        server.no_head = 405
        assert asyncio.run(find(date(2026, 11, 22))) == "2026-11-03T01-00Z"
        server.no_head = 403
        with pytest.raises(UserError, match=r"none found, HTTP 403 instead"):
            asyncio.run(find(date(2026, 11, 22)))


def test_only_the_articles_asked_for(tmp_path: Path) -> None:
    write_snapshot(tmp_path, "2026-11-20", [[record(name) for name in NAMES]])
    ids = tmp_path / "ids.txt"
    ids.write_text("PMCID\nPMC3\n# a remark\npmc7.2\nPMC7.1,and more\nPMC9999\n\n")
    config = merge(IngestConfig(), {"fetch": {"store": f"file://{tmp_path}"}})
    for source in (str(ids), "PMC3,PMC7.2,PMC7.1,PMC9999"):
        found = read(tmp_path, tmp_path / "w", config, source)
        assert sorted((ref.name, ref.problem) for _, refs in found.groups(1) for ref in refs) == [
            ("PMC3.1", None),
            ("PMC7.1", Reason.SUPERSEDED_VERSION),
            ("PMC7.2", None),
        ]
        assert [(ref.name, ref.problem) for ref in absent_refs([read(tmp_path, tmp_path / "w", config, source)], [])] == [
            ("PMC9999", Reason.WITHDRAWN)
        ]
    chosen = merge(config, {"select": {"pmcids": ["PMC7.10", "PMC3"]}})
    assert [ref.name for _, refs in read(tmp_path, tmp_path / "w", chosen).groups(1) for ref in refs] == ["PMC3.1", "PMC7.10"]
    assert read(tmp_path, tmp_path / "w", chosen, "PMC7").n_articles == 1
    with pytest.raises(UserError, match="none of the 1 articles asked for is in the inventory 2026-11-20"):
        read(tmp_path, tmp_path / "w", config, "PMC9999")
    with pytest.raises(UserError, match="both in the source and in select"):
        read(tmp_path, tmp_path / "w", chosen, "PMC1")


def test_sources_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "PMC5").mkdir()
    (tmp_path / "ids.csv").write_text("pmcid,title\nPMC1,x\n")
    (tmp_path / "paths.txt").write_text("PMC5\n")
    local, stores = cloud_sources(["PMC5", "PMC1", "s3://b", "ids.csv", "paths.txt", "PMC2.3", "articles", "https://h/x"])
    assert local == ["PMC5", "paths.txt", "articles"]
    assert stores == ["s3://b", "ids.csv", "https://h/x", "PMC1,PMC2.3"]
    assert not is_cloud("missing.txt")


@pytest.mark.parametrize("text", ["PMC1\nnonsense\n", "", "\n\n", "PMC\n", "PMC 77\nPMC1\n"])
def test_a_list_of_pmcids_must_be_one(tmp_path: Path, text: str) -> None:
    from biomedray.ingest.selection import read_pmcids

    (tmp_path / "ids.txt").write_text(text)
    with pytest.raises(UserError, match="PMCID"):
        read_pmcids(tmp_path / "ids.txt")


def test_a_sample_is_of_wanted_articles_and_the_same_each_time(tmp_path: Path) -> None:
    write_snapshot(tmp_path, "2026-11-20", [[record(name) for name in NAMES]])
    found = read(tmp_path, tmp_path / "w")
    sample = found.sample(50, 1)
    assert len({ref.name for ref in sample}) == 50
    assert all(ref.problem is None for ref in sample)
    assert sample == found.sample(50, 1) != found.sample(50, 2)
    assert len(found.sample(1000, 0)) == 300


def test_other_formats_are_refused_in_one_line(tmp_path: Path) -> None:
    path = write_snapshot(tmp_path, "2026-11-20", [[record("PMC1.1")]])
    path.write_text(path.read_text().replace('"CSV"', '"ORC"'))
    with pytest.raises(UserError, match=r"is ORC .*CSV wanted"):
        read(tmp_path, tmp_path / "w")
    with pytest.raises(UserError, match=r"write a date such as"):
        read(tmp_path, tmp_path / "w", merge(IngestConfig(), {"fetch": {"snapshot": "yesterday"}}))
