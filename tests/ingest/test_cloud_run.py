"""Whole runs from a store: the frozen inventory, a kill in the middle, a newer inventory, a store that is not there."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from biomedray.artifacts import read_manifest
from biomedray.config import merge
from biomedray.errors import UserError, WorkError
from biomedray.ingest import IngestConfig, advice, ingest, pipeline, summary_table, update

FETCH = {"backoff_s": 0.01, "read_timeout_s": 60, "connect_timeout_s": 60, "retries": 2}
CONFIG = merge(IngestConfig(articles_per_part=3, val_fraction=0.2, test_fraction=0.3), {"fetch": FETCH})
FIRST, SECOND = "2026-11-20T01-00Z", "2026-11-21T01-00Z"


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Every part in this process, unless the test is about Ray."""
    if "ray_cluster" not in request.fixturenames:
        monkeypatch.setattr(pipeline, "spread", lambda numbers, task, here=False: (task({"part": n}) for n in numbers))  # noqa: ARG005


def article(make: SimpleNamespace, servers: ModuleType, number: int, version: int = 1, seed: int = 0, **record: Any) -> Any:
    media = {f"f{n}.jpg": make.picture(seed=100 * number + 10 * seed + n) for n in (1, 2)}
    return servers.article_version(f"PMC{number}.{version}", make.article_xml(f"PMC{number}", 2), media, **record)


@pytest.fixture
def bucket(make: SimpleNamespace, servers: ModuleType, tmp_path: Path) -> Path:
    root: Path = servers.write_bucket(tmp_path / "bucket", *(article(make, servers, i) for i in range(1, 11)), snapshot=FIRST)
    return root


@pytest.fixture
def http(bucket: Path, servers: ModuleType) -> Iterator[Any]:
    with servers.running(servers.Faulty(bucket)) as server:
        yield server


def later(bucket: Path, make: SimpleNamespace, servers: ModuleType) -> None:
    """The bucket a day later: 2 was retracted, 3 has a second version, 4 other pictures, 5 is gone, 11 is new."""
    for path in bucket.glob("PMC5.1/*"):
        path.unlink()
    articles = [article(make, servers, i) for i in (1, 3, 6, 7, 8, 9, 10, 11)]
    articles += [article(make, servers, 2, is_retracted=True), article(make, servers, 3, 2), article(make, servers, 4, seed=1)]
    servers.write_bucket(bucket, *articles, snapshot=SECOND)


def rows(out: Path, name: str) -> list[dict[str, Any]]:
    paths = sorted((out / name).rglob("*.parquet"))
    found = [row for path in paths for row in pq.read_table(path, partitioning=None).to_pylist()]
    return sorted((row for row in found if row.get("reason") != "withdrawn"), key=repr)


def files(out: Path) -> dict[str, str]:
    paths = [path for name in ("data", "rejects", "ledger") for path in (out / name).rglob("*.parquet")]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_a_run_an_update_and_a_fresh_run(
    http: Any, bucket: Path, make: SimpleNamespace, servers: ModuleType, tmp_path: Path
) -> None:
    out = tmp_path / "pairs"
    manifest = ingest([http.url], out, CONFIG, progress=False)
    assert manifest.counts["pairs"] == 20
    assert (advice(manifest) is None) == all(manifest.counts["pairs_by_split"].values())
    assert manifest.inputs[-1]["snapshot"] == FIRST
    assert sorted(path.name for path in out.iterdir()) == ["data", "ledger", "manifest.json", "population", "rejects"]
    later(bucket, make, servers)
    http.log.clear()
    manifest = update([http.url], out, progress=False)
    assert manifest.inputs[-1]["snapshot"] == SECOND
    assert manifest.details["update"] == {"added": 2, "replaced": 3, "withdrawn": 1, "read": 5}
    assert manifest.counts["article_rejects_by_reason"] == {"retracted": 1, "superseded_version": 1, "withdrawn": 1}
    shown = Console(record=True, width=90, file=io.StringIO())
    shown.print(summary_table(manifest))
    assert "withdrawn" in shown.export_text()
    articles = {key.split("/")[0] for key in http.paths() if key.startswith("PMC")}
    assert articles == {"PMC3.2", "PMC4.1", "PMC11.1"}, "what did not change is not fetched again"
    ingest([http.url], tmp_path / "fresh", CONFIG, progress=False)
    assert rows(out, "data") == rows(tmp_path / "fresh", "data")
    assert rows(out, "rejects") == rows(tmp_path / "fresh", "rejects")
    assert http.listings() == []


def test_what_a_half_filled_mirror_did_not_have_is_asked_for_again(http: Any, bucket: Path, tmp_path: Path) -> None:
    """A record, an XML and a picture come later; the inventory promised them all along, with the same ETags."""
    late = ("metadata/PMC1.1.json", "PMC1.1/PMC1.1.json", "PMC2.1/PMC2.1.xml", "PMC3.1/f1.jpg")
    held = {name: (bucket / name).read_bytes() for name in late if (bucket / name).is_file()}
    for name in held:
        (bucket / name).unlink()
    out = tmp_path / "pairs"
    manifest = ingest([http.url], out, CONFIG, progress=False)
    assert manifest.counts["article_rejects_by_reason"] == {"withdrawn": 1, "no_article_xml": 1}
    assert manifest.counts["rejects_by_reason"] == {"file_missing": 1}
    for name, data in held.items():
        (bucket / name).write_bytes(data)
    http.log.clear()
    assert update([http.url], out, progress=False).details["update"]["read"] == 3
    assert {key.split("/")[0] for key in http.paths() if key.startswith("PMC")} == {"PMC1.1", "PMC2.1", "PMC3.1"}
    ingest([http.url], tmp_path / "fresh", CONFIG, progress=False)
    assert (rows(out, "data"), rows(out, "rejects")) == (rows(tmp_path / "fresh", "data"), [])
    before = {path: path.stat().st_mtime_ns for path in out.rglob("part-*.parquet")}
    assert update([http.url], out, progress=False).details["update"]["read"] == 0
    assert {path for path in before if path.stat().st_mtime_ns != before[path] and "population" not in path.parts} == set()


def test_an_outage_ends_the_run_and_the_same_command_goes_on(
    http: Any, servers: ModuleType, bucket: Path, tmp_path: Path
) -> None:
    config = merge(CONFIG, {"fetch": {"give_up_after": 3, "retries": 1}, "articles_per_part": 100})
    whole, out = tmp_path / "whole", tmp_path / "pairs"
    ingest([http.url], whole, config, progress=False)
    http.log.clear()
    for number in range(4, 11):
        for name in (f"metadata/PMC{number}.1.json", f"PMC{number}.1/PMC{number}.1.xml"):
            http.fail(name, servers.Fault("status", times=-1, status=503))
    with pytest.raises(WorkError, match="same command again"):
        ingest([http.url], out, config, progress=False)
    assert not (out / "manifest.json").exists()
    http.faults.clear()
    assert ingest([http.url], out, config, progress=False).details["resumed"] is True
    assert files(out) == files(whole)


def test_the_population_is_frozen(http: Any, bucket: Path, make: SimpleNamespace, servers: ModuleType, tmp_path: Path) -> None:
    """A run that goes on after a newer inventory appeared keeps to the one that it began with."""
    out = tmp_path / "pairs"
    staged = pipeline.extract_part
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pipeline, "extract_part", lambda *_arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            ingest([http.url], out, CONFIG, progress=False)
    assert staged is pipeline.extract_part
    servers.write_bucket(bucket, *(article(make, servers, i) for i in range(1, 15)), snapshot=SECOND)
    manifest = ingest([http.url], out, CONFIG, progress=False)
    assert (manifest.counts["pairs"], manifest.inputs[-1]["snapshot"]) == (20, FIRST)


def test_what_is_asked_for_and_not_there_is_a_reject(
    http: Any, bucket: Path, make: SimpleNamespace, servers: ModuleType, tmp_path: Path
) -> None:
    def rejected() -> dict[str, str]:
        paths = sorted((tmp_path / "pairs" / "rejects").rglob("*.parquet"))
        return {row["pmcid"]: row["reason"] for path in paths for row in pq.read_table(path).to_pylist()}

    config = merge(CONFIG, {"fetch": {"store": http.url}})
    manifest = ingest(["PMC1", "PMC404", "PMC0002.7"], tmp_path / "pairs", config, progress=False)
    assert manifest.counts["articles_with_pairs"] == 1
    assert rejected() == {"PMC404": "withdrawn", "PMC2": "withdrawn"}
    articles = [article(make, servers, i) for i in (1, 2, 404)]
    servers.write_bucket(bucket, *articles, snapshot=SECOND)
    manifest = update(["PMC1", "PMC404", "PMC0002.7"], tmp_path / "pairs", progress=False)
    assert (manifest.counts["articles_with_pairs"], rejected()) == (2, {"PMC2": "withdrawn"})


@pytest.mark.parametrize("asked", [["PMC99", "PMC98.1"], ["PMC99"]])
def test_what_no_local_source_has_is_said(make: SimpleNamespace, tmp_path: Path, asked: list[str]) -> None:
    make.write_package(tmp_path / "packages", "PMC99", figures=3, seed=9)
    config = merge(CONFIG, {"select": {"pmcids": asked}})
    manifest = ingest([str(tmp_path / "packages")], tmp_path / "pairs", config, progress=False)
    assert manifest.details.get("pmcids_not_found") == ({"number": 1, "some": ["PMC98.1"]} if len(asked) > 1 else None)
    assert ("PMC98.1" in (advice(manifest) or "")) == (len(asked) > 1)


@pytest.mark.heavy
@pytest.mark.ray
def test_through_ray_from_two_kinds_of_sources(http: Any, make: SimpleNamespace, tmp_path: Path, ray_cluster: None) -> None:
    make.write_package(tmp_path / "packages", "PMC99", figures=3, seed=9)
    manifest = ingest([http.url, str(tmp_path / "packages")], tmp_path / "pairs", CONFIG, progress=False)
    assert manifest == read_manifest(tmp_path / "pairs")
    assert manifest.counts["pairs"] == 23


def test_a_store_without_inventory_leaves_nothing_behind(servers: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with servers.running(servers.Faulty(tmp_path / "empty")) as server, pytest.raises(UserError):
        ingest([server.url], tmp_path / "pairs", CONFIG, progress=False)
    assert not (tmp_path / "pairs").exists()


def test_a_store_that_can_not_be_reached_leaves_nothing_behind(make: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(WorkError, match="can't be reached"):
        ingest(["http://127.0.0.1:9/x"], tmp_path / "pairs", CONFIG, progress=False)
    make.write_package(tmp_path / "packages", "PMC1", figures=1, seed=1)
    assert ingest([str(tmp_path / "packages")], tmp_path / "pairs", CONFIG, progress=False).counts["pairs"] == 1
    with pytest.raises(WorkError, match="can't be reached"):
        update(["http://127.0.0.1:9/x"], tmp_path / "pairs", progress=False)
    assert update([str(tmp_path / "packages")], tmp_path / "pairs", progress=False).counts["pairs"] == 1
