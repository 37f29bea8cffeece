"""Articles of a store: the same rows from everywhere, only what is needed, and a reason for whatever can't be had."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from biomedray.config import merge
from biomedray.ingest.articles import extract
from biomedray.ingest.inventory import read_inventory
from biomedray.ingest.packages import Package, open_refs
from biomedray.ingest.settings import IngestConfig
from biomedray.ingest.sources import ArticleRef, discover
from biomedray.ingest.store import StoreDownError

# Timeouts are long except where one is wanted: a starved machine must not make faults of its own.
QUICK = {"backoff_s": 0.01, "read_timeout_s": 60, "connect_timeout_s": 60, "retries": 2, "snapshot": "2026-11-20"}
BUCKET = "pmc-oa-opendata"


def config_of(**fetch: Any) -> IngestConfig:
    return merge(IngestConfig(), {"fetch": QUICK | fetch})


def refs_of(source: str, config: IngestConfig, work: Path) -> list[ArticleRef]:
    return [ref for _, refs in read_inventory(source, config, work, progress=False).groups(3) for ref in refs]


def rows_of(refs: list[ArticleRef], config: IngestConfig, staging: Path) -> list[tuple[str, dict[str, Any]]]:
    found = [rows for item in open_refs(refs, config, staging) for rows in extract(item, config)]
    return [(kind, row) for rows in found for kind in ("pairs", "rejects") for row in getattr(rows, kind)]


def without_address(rows: list[tuple[str, dict[str, Any]]], head: str) -> list[str]:
    return sorted(f"{kind} {row | {'source_uri': row['source_uri'].replace(head, '')}}" for kind, row in rows)


@pytest.fixture(scope="module")
def moto(mirror: Path, servers: ModuleType) -> Iterator[str]:
    with servers.moto_bucket(mirror, BUCKET) as address:
        yield address


def test_s3_http_and_folder_give_the_same_rows(mirror: Path, moto: str, servers: ModuleType, tmp_path: Path) -> None:
    local = rows_of(discover([str(mirror)]), config_of(), tmp_path)
    found = {"cloud/": without_address(local, "cloud/")}
    with servers.running(servers.Faulty(mirror)) as http, servers.running(servers.Faulty(upstream=moto)) as s3:
        for source in (f"file://{mirror}", http.url, f"s3://{BUCKET}"):
            config = config_of(endpoint=s3.url, read_timeout_s=60, connect_timeout_s=60)
            rows = rows_of(refs_of(source, config, tmp_path / "work"), config, tmp_path / source[:5])
            found[source] = without_address(rows, f"{source}/")
        assert all(rows == found["cloud/"] for rows in found.values())
        assert {row["reason"] for kind, row in local if kind == "rejects"} >= {"superseded_version", "retracted", "bad_metadata"}
        for server in (http, s3):
            keys = [key.removeprefix(f"{BUCKET}/") for key in server.paths()]
            assert server.listings() == []
            assert max(Counter(keys).values()) == 1, "nothing is fetched twice"
            fetched = {key for key in keys if key.startswith("PMC")}
            pairs = {f"{row['source_uri'].removeprefix('cloud/')}" for kind, row in local if kind == "pairs"}
            assert {key.split("/")[0] for key in fetched} >= pairs
            assert not [key for key in fetched if key.endswith((".pdf", ".txt", ".json", ".xlsx"))]
            needed = sum(kind == "pairs" or row["stage"] == "image" for kind, row in local)
            assert len([key for key in fetched if not key.endswith(".xml")]) <= needed


@pytest.fixture
def bucket(make: SimpleNamespace, servers: ModuleType, tmp_path: Path) -> Path:
    """Five articles with two figures each, a table's picture, thumbnails and supplements."""
    articles = []
    for i in range(1, 6):
        table = '<table-wrap><graphic xlink:href="t1.jpg"/></table-wrap>'
        media = {f"f{n}.jpg": make.picture(seed=10 * i + n) for n in (1, 2)} | {
            "f1.gif": make.picture("gif", (200, 150)),
            "t1.jpg": b"x",
        }
        media["data.xlsx"] = b"PK"
        articles.append(servers.article_version(f"PMC{i}.1", make.article_xml(f"PMC{i}", 2, body=table), media))
    root: Path = servers.write_bucket(tmp_path / "bucket", *articles)
    return root


@pytest.fixture
def http(bucket: Path, servers: ModuleType) -> Iterator[Any]:
    with servers.running(servers.Faulty(bucket)) as server:
        yield server


@pytest.fixture
def ingest(http: Any, tmp_path: Path) -> Callable[..., Any]:
    """Ingest the bucket; pair ids, and rejects by (reason, article or graphic)."""

    def run(config: IngestConfig | None = None, staging: str = "staging") -> Any:
        config = config or config_of()
        rows = rows_of(refs_of(http.url, config, tmp_path / "work"), config, tmp_path / staging)
        pairs = sorted(row["pair_id"] for kind, row in rows if kind == "pairs")
        lost = {(row["reason"], row["graphic_ref"] or row["pmcid"]): row for kind, row in rows if kind == "rejects"}
        return pairs, {key: row for key, row in lost.items() if key[0] != "table_graphic"}

    return run


ALL = sorted(f"PMC{i}.1/F{n}/0" for i in range(1, 6) for n in (1, 2))


def test_only_the_pictures_of_figures_are_fetched(http: Any, ingest: Callable[..., Any]) -> None:
    assert ingest() == (ALL, {})
    keys = [key for key in http.paths() if key.startswith("PMC")]
    assert sorted(keys) == sorted(f"PMC{i}.1/{name}" for i in range(1, 6) for name in (f"PMC{i}.1.xml", "f1.jpg", "f2.jpg"))


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "status", "times": 2, "headers": (("Retry-After", "0"),)},
        {"kind": "stall", "seconds": 3.0},
        {"kind": "cut", "at": 50},
        {"kind": "reset", "at": 50},
        {"kind": "wrong"},
    ],
    ids=lambda fault: fault["kind"],
)
@pytest.mark.parametrize("key", ["metadata/PMC2", r"PMC2.1/PMC2\.1\.xml", "PMC2.1/f2"])
def test_passing_faults_lose_nothing(http: Any, servers: ModuleType, ingest: Callable[..., Any], fault: Any, key: str) -> None:
    http.fail(key, servers.Fault(**fault))
    impatient = config_of(read_timeout_s=1, retries=10) if fault["kind"] == "stall" else None
    assert ingest(impatient) == (ALL, {})


@pytest.mark.parametrize(
    ("key", "fault", "reason", "what"),
    [
        ("/metadata/PMC2.1|PMC2.1.json", {"status": 404}, "withdrawn", "PMC2"),
        ("/metadata/PMC2.1", {"status": 503}, "fetch_failed", "PMC2"),
        ("/metadata/PMC2.1", {"kind": "changed"}, "checksum_mismatch", "PMC2"),
        ("PMC2.1.xml", {"status": 404}, "no_article_xml", "PMC2"),
        ("PMC2.1.xml", {"kind": "wrong"}, "checksum_mismatch", "PMC2"),
        ("PMC2.1.xml", {"status": 403}, "fetch_failed", "PMC2"),
        ("PMC2.1/f2", {"status": 404}, "file_missing", "f2.jpg"),
        ("PMC2.1/f2", {"kind": "wrong"}, "checksum_mismatch", "f2.jpg"),
        ("PMC2.1/f2", {"status": 500}, "fetch_failed", "f2.jpg"),
    ],
)
def test_lasting_faults_are_rejects_with_a_reason(
    http: Any, servers: ModuleType, ingest: Callable[..., Any], key: str, fault: Any, reason: str, what: str
) -> None:
    http.fail(key, servers.Fault(**{"kind": "status", "times": -1} | fault))
    pairs, rejects = ingest()
    assert list(rejects) == [(reason, what)]
    lost = {"PMC2.1/F2/0"} if what == "f2.jpg" else {"PMC2.1/F1/0", "PMC2.1/F2/0"}
    assert set(ALL) - set(pairs) == lost
    assert rejects[reason, what]["pmcid"] == "PMC2"
    assert rejects[reason, what]["detail"]


def test_the_second_best_file_is_fetched_when_the_first_is_no_use(
    http: Any, servers: ModuleType, ingest: Callable[..., Any]
) -> None:
    http.fail("PMC2.1/f1.jpg", servers.Fault("status", -1, status=404))
    pairs, rejects = ingest()
    assert (pairs, rejects) == (ALL, {})
    assert "PMC2.1/f1.gif" in http.paths()


def test_files_that_are_no_pictures_are_not_fetched(make: SimpleNamespace, servers: ModuleType, tmp_path: Path) -> None:
    xml = make.article_xml().replace(b"f1.jpg", b"film.mp4")
    root = servers.write_bucket(tmp_path / "b", servers.article_version("PMC1.1", xml, {"film.mp4": b"film"}))
    with servers.running(servers.Faulty(root)) as server:
        [(_, row)] = rows_of(refs_of(server.url, config_of(), tmp_path / "w"), config_of(), tmp_path / "s")
        assert row["reason"] == "unsupported_format"
        assert "PMC1.1/film.mp4" not in server.paths()


def test_a_picture_over_the_limit(http: Any, ingest: Callable[..., Any]) -> None:
    pairs, rejects = ingest(config_of().model_copy(update={"max_image_bytes": 100}))
    assert pairs == []
    assert {reason for reason, _ in rejects} == {"image_too_large"}


def test_a_store_that_goes_away_stops_the_run_instead_of_rejecting(bucket: Path, servers: ModuleType, tmp_path: Path) -> None:
    with servers.running(servers.Faulty(bucket)) as server:
        refs = refs_of(server.url, config_of(), tmp_path / "work")
    with pytest.raises(StoreDownError, match="start the same command again to resume"):
        rows_of(refs, config_of(), tmp_path / "staging")


def test_an_outage_in_the_middle_stops_the_run_and_the_next_one_goes_on(
    http: Any, servers: ModuleType, ingest: Callable[..., Any]
) -> None:
    http.fail(r"PMC[345]|metadata/$", servers.Fault("status", -1, status=503))
    with pytest.raises(StoreDownError):
        ingest()
    http.faults.clear()
    served = set(http.paths())
    http.log.clear()
    assert ingest() == (ALL, {})
    assert not served & {key for key in http.paths() if "inventory" not in key}


def test_a_store_that_goes_away_while_a_picture_is_read_is_no_fault_of_the_article(
    http: Any, servers: ModuleType, tmp_path: Path
) -> None:
    refs = refs_of(http.url, config_of(), tmp_path / "w")
    http.fail(f"{refs[0].name}/f1.jpg", servers.Fault("status", -1, status=404))
    items = open_refs(refs[:1], config_of(), tmp_path / "s")
    item = next(items)
    http.fail("", servers.Fault("status", -1))
    with pytest.raises(StoreDownError):
        list(extract(item, config_of()))


KILLED = """
import sys, time
from pathlib import Path
from biomedray.config import merge
from biomedray.ingest.inventory import read_inventory
from biomedray.ingest.packages import open_refs
from biomedray.ingest.settings import IngestConfig
source, work, staging = sys.argv[1:]
config = merge(IngestConfig(), {"fetch": {"concurrency": 1, "snapshot": "2026-11-20"}})
refs = [ref for _, refs in read_inventory(source, config, Path(work), False).groups(3) for ref in refs]
for number, item in enumerate(open_refs(refs, config, Path(staging))):
    if number == 2:
        print("three are there", flush=True)
        time.sleep(600)
"""


def test_a_killed_part_fetches_nothing_twice(http: Any, ingest: Callable[..., Any], tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, http.url, str(tmp_path / "w2"), str(tmp_path / "staging")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "three are there\n"
        os.kill(process.pid, signal.SIGKILL)
    before = {key for key in http.paths() if "inventory" not in key}
    assert len(before) == 3 * 4
    http.log.clear()
    assert ingest() == (ALL, {})
    after = [key for key in http.paths() if "inventory" not in key]
    assert not before & set(after)
    assert len(after) == 2 * 4


def test_versions(make: SimpleNamespace, servers: ModuleType, tmp_path: Path) -> None:
    def version(n: int) -> dict[str, bytes]:
        xml = make.article_xml("PMC1", front=f'<article-id pub-id-type="pmcid-ver">PMC1.{n}</article-id>')
        found: dict[str, bytes] = servers.article_version(f"PMC1.{n}", xml, {"f1.jpg": make.picture(seed=n)})
        return found

    root = servers.write_bucket(tmp_path / "b", version(2), version(10))
    source = f"file://{root}"
    for config, expected in (
        (config_of(), [("rejects", "PMC1.2"), ("pairs", "PMC1.10")]),
        (merge(config_of(), {"select": {"all_versions": True}}), [("pairs", "PMC1.2"), ("pairs", "PMC1.10")]),
        (merge(config_of(), {"select": {"pmcids": ["PMC1.2"]}}), [("pairs", "PMC1.2")]),
    ):
        rows = rows_of(refs_of(source, config, tmp_path / "w"), config, tmp_path / "s")
        assert sorted((kind, row["source_uri"].rpartition("/")[2]) for kind, row in rows) == sorted(expected)


def test_an_article_withdrawn_since_its_inventory(mirror: Path, tmp_path: Path) -> None:
    config = config_of(snapshot="2026-11-13")
    rows = rows_of(refs_of(f"file://{mirror}", config, tmp_path / "w"), config, tmp_path / "s")
    [row] = [row for kind, row in rows if kind == "rejects" and row["reason"] == "withdrawn"]
    assert (row["pmcid"], row["version"], row["stage"]) == ("PMC10990001", 1, "article")
    assert not any(row["reason"] == "superseded_version" for kind, row in rows if kind == "rejects"), "the old one is the newest"


def test_what_the_record_rules_out_costs_one_request_and_what_the_xml_does_two(http: Any, ingest: Callable[..., Any]) -> None:
    for select, reasons, fetched in (
        ({"licenses": ["noncomm"]}, {"not_selected"}, ["metadata"]),
        ({"keywords": ["caption 1 of PMC3"]}, {"not_selected"}, ["metadata", "PMC"]),
    ):
        http.log.clear()
        pairs, rejects = ingest(merge(config_of(), {"select": select}), staging=str(select))
        assert {reason for reason, _ in rejects} == reasons
        keys = [key for key in http.paths() if "inventory" not in key]
        if fetched == ["metadata"]:
            assert pairs == []
            assert all(key.startswith("metadata/") for key in keys)
        else:
            assert pairs == ["PMC3.1/F1/0", "PMC3.1/F2/0"]
            assert {key for key in keys if key.endswith(".jpg")} == {"PMC3.1/f1.jpg", "PMC3.1/f2.jpg"}


def test_named_versions_need_no_inventory(http: Any, tmp_path: Path) -> None:
    config = merge(config_of(), {"fetch": {"store": http.url}})
    inventory = read_inventory("PMC2.1,pmc4.1,PMC77.1", config, tmp_path / "w", progress=False)
    assert inventory.n_articles == 3
    refs = [ref for _, refs in inventory.groups(2) for ref in refs]
    rows = rows_of(refs, config, tmp_path / "s")
    assert sorted(row["pair_id"] for kind, row in rows if kind == "pairs") == [i for i in ALL if i.startswith(("PMC2", "PMC4"))]
    assert [row["reason"] for kind, row in rows if kind == "rejects" and not row["fig_id"] and not row["graphic_ref"]] == [
        "withdrawn"
    ]
    assert not [key for key in http.paths(served=False) if "inventory" in key]


def test_packages_come_in_the_order_of_the_references_whatever_arrives_first(
    http: Any, servers: ModuleType, tmp_path: Path
) -> None:
    config = config_of()
    refs = refs_of(http.url, config, tmp_path / "w")
    http.fail(refs[0].name, servers.Fault("stall", seconds=0.3))
    tight = merge(config, {"fetch": {"window_bytes": 1}})
    for settings in (config, tight):
        items = list(open_refs(refs, settings, tmp_path / f"s{settings.fetch.window_bytes}"))
        assert [item.uri for item in items] == [ref.uri for ref in refs]
        assert all(isinstance(item, Package) and item.trees for item in items)


def test_leaving_in_the_middle_leaves_no_thread_behind(http: Any, tmp_path: Path) -> None:
    import threading

    iterator = open_refs(refs_of(http.url, config_of(), tmp_path / "w"), config_of(), tmp_path / "s")
    next(iterator)
    iterator.close()  # type: ignore[attr-defined]  # a generator
    assert not [thread for thread in threading.enumerate() if thread.name == "biomedray-fetch"]


@pytest.mark.parametrize(
    "record", [b"", b"[1]", b'{"is_retracted": "no"}', b'{"media_urls": 5, "xml_url": 7}', b"\xff", b"[" * 99_999]
)
def test_damaged_records_are_rejects(servers: ModuleType, make: SimpleNamespace, tmp_path: Path, record: bytes) -> None:
    article = servers.article_version("PMC1.1", make.article_xml(), {})
    root = servers.write_bucket(tmp_path / "b", article | {"metadata/PMC1.1.json": record})
    [(kind, row)] = rows_of(refs_of(f"file://{root}", config_of(), tmp_path / "w"), config_of(), tmp_path / "s")
    assert (kind, row["pmcid"]) == ("rejects", "PMC1")
    assert row["reason"] == ("no_article_xml" if b"media_urls" in record else "bad_metadata")


@pytest.mark.parametrize("name", ["../PMC2.1/f1.jpg", "/etc/f1.jpg", "a/../../f1.jpg"])
def test_a_record_can_t_point_out_of_its_article(servers: ModuleType, make: SimpleNamespace, tmp_path: Path, name: str) -> None:
    url = f"s3://pmc-oa-opendata/PMC1.1/{name}?md5=0"
    article = servers.article_version("PMC1.1", make.article_xml(), {}, media_urls=[url, "s3://pmc-oa-opendata/PMC2.1/f1.jpg"])
    root = servers.write_bucket(tmp_path / "b", article, servers.article_version("PMC2.1", None, {"f1.jpg": b"other"}))
    rows = rows_of(refs_of(f"file://{root}", config_of(), tmp_path / "w"), config_of(), tmp_path / "s")
    assert [row["reason"] for _, row in rows if row["pmcid"] == "PMC1"] == ["file_missing"]


def test_the_signed_way_works_too(moto: str, servers: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with servers.running(servers.Faulty(upstream=moto)) as server:
        inventory = read_inventory(f"s3://{BUCKET}", config_of(endpoint=server.url, signed=True), tmp_path, progress=False)
        assert inventory.n_articles > 6
        assert all("X-Amz-Signature=" in asked.query for asked in server.log)


def test_the_record_of_pmc_as_documented() -> None:
    from biomedray.ingest.record import read_record

    record = read_record(
        json.dumps(
            {
                "pmcid": "PMC1",
                "version": 2,
                "mid": None,
                "license_code": "CC BY-NC",
                "is_pmc_openaccess": True,
                "pmid": 123,
                "xml_url": "s3://pmc-oa-opendata/PMC1.2/PMC1.2.xml?md5=" + "a" * 32,
                "media_urls": ["s3://pmc-oa-opendata/PMC1.2/a b?c.jpg?md5=" + "b" * 32, None, "https://elsewhere/x.jpg"],
            }
        ).encode(),
        "PMC1.2",
    )
    assert (record.pmid, record.xml_md5, record.license_code) == ("123", "a" * 32, "CC BY-NC")
    assert record.media == (("a b?c.jpg", "b" * 32),)
