"""The whole run on Ray: the artifact's shape, resuming after kills with the same bytes, duplicates, clear refusals."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import ray
from rich.console import Console

from biomedray.artifacts import claim_output, read_manifest
from biomedray.config import override
from biomedray.errors import UserError, WorkError
from biomedray.ingest import IngestConfig, ingest, summary_table
from biomedray.ingest.count import count_artifact
from biomedray.ingest.population import fingerprint_refs, group, number_of_parts
from biomedray.ingest.sources import discover
from biomedray.records import LEDGER_SCHEMA, PAIR_SCHEMA, REJECT_SCHEMA

RunHere = Callable[..., list[int]]
SMALL = IngestConfig(articles_per_part=4, val_fraction=0.2, test_fraction=0.2)


def _files(out: Path) -> dict[str, str]:
    """Every table of an artifact by name, with its hash."""
    tables = [path for folder in ("data", "rejects", "ledger") for path in (out / folder).rglob("*.parquet")]
    return {path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in tables}


def _whole(run_here: RunHere, source: Path, tmp_path: Path) -> dict[str, str]:
    """What a run without Ray and without interruption writes."""
    run_here(source, tmp_path / "whole", SMALL)
    return _files(tmp_path / "whole")


@pytest.fixture
def source(tmp_path: Path, make: SimpleNamespace) -> Path:
    folder = tmp_path / "articles"
    for i in range(1, 9):
        make.write_package(folder, f"PMC{i}", figures=1 + i % 3, seed=i)
    (folder / "broken.tar.gz").write_bytes(b"no archive")
    return folder


@pytest.mark.ray
def test_artifact(source: Path, tmp_path: Path, ray_cluster: None, run_here: RunHere) -> None:
    out = tmp_path / "pairs"
    manifest = ingest([str(source)], out, SMALL, progress=False)
    assert manifest == read_manifest(out, "pairs")
    table = ds.dataset(sorted(map(str, (out / "data").rglob("*.parquet"))), format="parquet").to_table()
    assert table.schema.equals(PAIR_SCHEMA)
    assert table.num_rows == manifest.counts["pairs"] == sum(1 + i % 3 for i in range(1, 9))
    assert manifest.counts["pairs_by_split"] == {s: table["split"].to_pylist().count(s) for s in ("train", "val", "test")}
    assert manifest.counts["article_rejects_by_reason"] == {"unreadable_archive": 1}
    assert len(pd.read_parquet(out / "data")) == pq.read_table(out / "data").num_rows == table.num_rows
    assert ray.data.read_parquet(str(out / "data")).count() == table.num_rows
    splits = {(row["pmcid"], row["split"]) for row in table.select(["pmcid", "split"]).to_pylist()}
    assert len(splits) == 8
    for path in (out / "data").rglob("*.parquet"):
        assert set(pq.read_table(path, partitioning=None)["split"].to_pylist()) == {path.parent.name.removeprefix("split=")}
    assert pq.read_schema(next((out / "rejects").glob("*"))).equals(REJECT_SCHEMA)
    assert pq.read_schema(next((out / "ledger").glob("*"))).equals(LEDGER_SCHEMA)
    assert sorted(path.name for path in out.iterdir()) == ["data", "ledger", "manifest.json", "population", "rejects"]
    assert _files(out) == _whole(run_here, source, tmp_path)
    console = Console(record=True, width=100)
    console.print(summary_table(manifest))
    assert "unreadable_archive" in console.export_text()


def test_parquet_layout(source: Path, tmp_path: Path, run_here: RunHere) -> None:
    config = SMALL.model_copy(update={"rows_per_group": 2, "articles_per_part": 100, "val_fraction": 0.0, "test_fraction": 0.0})
    run_here(source, tmp_path / "out", config)
    [path] = (tmp_path / "out" / "data").rglob("*.parquet")
    metadata = pq.ParquetFile(path).metadata
    assert metadata.row_group(0).num_rows == 2
    columns = {
        metadata.row_group(0).column(i).path_in_schema: metadata.row_group(0).column(i) for i in range(metadata.num_columns)
    }
    assert columns["image"].compression == "UNCOMPRESSED"
    assert not any("DICT" in encoding for encoding in columns["image"].encodings)
    assert columns["caption"].compression == "ZSTD"
    ids = pq.read_table(path, columns=["pair_id"], partitioning=None)["pair_id"].to_pylist()
    assert ids == sorted(ids, key=lambda i: hashlib.sha256(i.encode()).digest())
    assert ids != sorted(ids)


def test_a_part_with_many_bytes_becomes_several_files(source: Path, tmp_path: Path, run_here: RunHere) -> None:
    config = SMALL.model_copy(update={"max_buffer_bytes": 30_000, "articles_per_part": 100})
    run_here(source, tmp_path / "out", config)
    names = _files(tmp_path / "out")
    assert any("part-00000-1.parquet" in name for name in names)
    assert count_artifact(tmp_path / "out")["pairs"] == sum(1 + i % 3 for i in range(1, 9))


@pytest.mark.ray
def test_resume_after_some_parts_gives_the_same_bytes(source: Path, tmp_path: Path, ray_cluster: None, run_here: RunHere) -> None:
    whole = _whole(run_here, source, tmp_path)
    out = tmp_path / "pairs"
    claim_output(out, "pairs", {"config": SMALL.identity(), "population": fingerprint_refs(discover([str(source)]))})
    run_here(source, out, SMALL, parts=1)
    torn = out / "staged" / "data" / ".part-00001.parquet.x.tmp"
    torn.write_bytes(b"half")
    kept = next((out / "staged" / "ledger").glob("*.parquet"))
    before = kept.stat().st_mtime_ns
    manifest = ingest([str(source)], out, SMALL, progress=False)
    assert _files(out) == whole
    assert manifest.details["resumed"] is True
    assert (out / "ledger" / kept.name).stat().st_mtime_ns == before
    assert not torn.exists()


@pytest.mark.ray
def test_copies_and_versions_of_an_article(tmp_path: Path, make: SimpleNamespace, ray_cluster: None) -> None:
    source = tmp_path / "in"
    make.write_package(source / "a", "PMC1", seed=1)
    make.write_package(source / "b", "PMC1", seed=1)
    make.write_package(source, "PMC2", figures=2)
    newer = make.article_xml("PMC2.3", 1).replace(b'"pmcid"', b'"pmcid-ver"')
    make.write_tar(source / "other-name.tar.gz", {"x/a.nxml": newer, "x/f1.jpg": make.picture()})
    (source / "loose.xml").write_bytes(make.article_xml("PMC1"))
    config = IngestConfig(articles_per_part=1)
    manifest = ingest([str(source)], tmp_path / "pairs", config, progress=False)
    assert manifest.counts["article_rejects_by_reason"] == {"duplicate_article": 2, "superseded_version": 1}
    table = ds.dataset(sorted(map(str, (tmp_path / "pairs" / "data").rglob("*.parquet"))), format="parquet").to_table()
    assert sorted(table["pair_id"].to_pylist()) == ["PMC1.1/F1/0", "PMC2.3/F1/0"]
    assert "in/a/PMC1.tar.gz" in table["source_uri"].to_pylist()


@pytest.mark.ray
def test_articles_refused_at_discovery_reach_the_rejects_through_workers(
    tmp_path: Path, make: SimpleNamespace, ray_cluster: None
) -> None:
    for version in (1, 2):
        folder = tmp_path / "cloud" / f"PMC7.{version}"
        folder.mkdir(parents=True)
        (folder / f"{folder.name}.xml").write_bytes(make.article_xml("PMC7"))
        (folder / "f1.jpg").write_bytes(make.picture())
    (tmp_path / "cloud" / "PMC8.1").mkdir()
    (tmp_path / "list.txt").write_text("cloud\nmissing.tar.gz\n")
    manifest = ingest([str(tmp_path / "list.txt")], tmp_path / "pairs", progress=False)
    assert manifest.counts["article_rejects_by_reason"] == {"no_article_xml": 1, "superseded_version": 1, "unreadable_archive": 1}
    assert manifest.counts["pairs"] == 1


@pytest.mark.ray
def test_failing_work_is_one_line_that_names_the_cause(source: Path, tmp_path: Path, ray_cluster: None) -> None:
    out = tmp_path / "pairs"
    claim_output(out, "pairs", {"config": SMALL.identity(), "population": fingerprint_refs(discover([str(source)]))})
    (out / "staged").write_text("a file where a folder must be")
    with pytest.raises(WorkError, match=r"NotADirectoryError.*staged.*to resume") as caught:
        ingest([str(source)], out, SMALL, progress=False)
    assert "\n" not in str(caught.value)
    assert not (out / "manifest.json").exists()


@pytest.mark.ray
def test_nothing_but_rejects_is_a_result(tmp_path: Path, ray_cluster: None) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "broken.tar.gz").write_bytes(b"x")
    manifest = ingest([str(source)], tmp_path / "pairs", progress=False)
    assert manifest.counts["pairs"] == 0
    assert manifest.counts["article_rejects"] == 1
    assert (tmp_path / "pairs" / "data").is_dir()


def test_output_folders_that_are_refused(source: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "file").write_text("x")
    for out, words in (
        (source / "out", "inside the source"),
        (source, "inside the source"),
        (taken, "not empty"),
        (tmp_path, "holds the source"),
    ):
        with pytest.raises(UserError, match=words):
            ingest([str(source)], out, SMALL, progress=False)
    assert sorted(path.name for path in taken.iterdir()) == ["file"]
    assert not (source / "out").exists()


def test_bad_sources_write_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError):
        ingest([str(tmp_path / "none")], tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_another_runs_parts_are_refused(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    claim_output(out, "pairs", {"config": SMALL.identity(), "population": fingerprint_refs(discover([str(source)]))})
    with pytest.raises(UserError, match="another run"):
        ingest([str(source)], out, IngestConfig(seed=1), progress=False)


def test_settings_are_checked() -> None:
    with pytest.raises(UserError, match="training"):
        override(IngestConfig(), ["val_fraction=0.5", "test_fraction=0.5"])
    with pytest.raises(UserError, match="engine"):
        override(IngestConfig(), ["engine=other"])


def test_a_ledger_that_does_not_balance_is_an_error(source: Path, tmp_path: Path, run_here: RunHere) -> None:
    out = tmp_path / "out"
    run_here(source, out, SMALL)
    next((out / "data").rglob("*.parquet")).unlink()
    with pytest.raises(WorkError, match="ledger counts"):
        count_artifact(out)


def test_parts_depend_on_the_articles_alone(source: Path) -> None:
    refs = discover([str(source)])
    parts = [(part, [ref.name for ref in of_part]) for part, of_part in group(refs, 3)]
    assert parts == [(part, [ref.name for ref in of_part]) for part, of_part in group(list(refs), 3)]
    assert sorted(name for _, names in parts for name in names) == sorted(ref.name for ref in refs)
    assert number_of_parts(len(refs)) == 1
