"""The index: exact search, filters before top-k, duplicates, ids, and what it refuses to open."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from biomedray.artifacts import MANIFEST
from biomedray.errors import UserError
from biomedray.serve import segment as segment_module
from biomedray.serve.generation import Source
from biomedray.serve.images import ImageStore, ImageUnavailableError
from biomedray.serve.reading import read_rows
from biomedray.serve.rows import METADATA, PLACES, STORED, Records, Table
from biomedray.serve.search import Filters, Query, SearchIndex

from .conftest import FakeEncoder, pair_row, write_index, write_pairs


@pytest.fixture(scope="module")
def index(index_folder: Path, encoder: FakeEncoder) -> SearchIndex:
    return SearchIndex.open(index_folder, encoder.fingerprint)


def query(encoder: FakeEncoder, text: str, k: int = 5, **settings: object) -> Query:
    return Query(encoder.encode_texts([text])[0], k, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("target", ["figure", "caption"])
def test_the_named_color_is_found(index: SearchIndex, encoder: FakeEncoder, target: str) -> None:
    hits, total = index.search(query(encoder, "green", 6, target=target))
    assert total == 24
    assert {hit.record["pair_id"].split("fig-")[1] for hit in hits} == {f"{n}/0" for n in (1, 5, 9, 13, 17, 21)}
    assert hits[0].score == pytest.approx(1.0, abs=1e-3)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_duplicates_are_shown_once_and_the_best_of_them(index: SearchIndex, encoder: FakeEncoder) -> None:
    collapsed, _ = index.search(query(encoder, "red", 24))
    everything, _ = index.search(query(encoder, "red", 24, collapse=False))
    assert len(everything) == 24
    assert len(collapsed) == 22
    same = [hit.row for hit in everything if hit.record["dup_cluster"] == "same-red"]
    assert [hit.row for hit in collapsed if hit.record["dup_cluster"] == "same-red"] == same[:1]


def test_collapsing_still_fills_k(tmp_path: Path, encoder: FakeEncoder) -> None:
    rows = [pair_row(number, color="red", dup_cluster="one") for number in range(60)]
    rows += [pair_row(number, color="blue") for number in range(60, 70)]
    pairs = write_pairs(tmp_path / "pairs", rows)
    index = SearchIndex.open(write_index(tmp_path / "index", pairs, encoder), encoder.fingerprint)
    hits, _ = index.search(query(encoder, "red", 5))
    assert len(hits) == 5
    assert [hit.record["dup_cluster"] for hit in hits].count("one") == 1


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"license_group": ["comm"]}, lambda row: row["license_group"] == "comm"),
        ({"license_group": ["comm", "other"]}, lambda row: row["license_group"] != "noncomm"),
        ({"year_min": 2015}, lambda row: row["year"] >= 2015),
        ({"year_max": 2012, "journal": ["Journal 1"]}, lambda row: row["year"] <= 2012 and row["journal"] == "Journal 1"),
        (
            {"split": ["test"], "year_min": 2012, "year_max": 2013},
            lambda row: row["split"] == "test" and 2012 <= row["year"] <= 2013,
        ),
        ({"journal": ["No Such"]}, lambda _: False),
        ({"article_type": ["research-article"]}, lambda _: True),
        ({"journal": []}, lambda _: False),
    ],
)
@pytest.mark.parametrize("exact_rows", [0, 20_000])
def test_filters_come_before_top_k(
    index: SearchIndex, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch, filters: dict, expected: object, exact_rows: int
) -> None:
    monkeypatch.setattr(segment_module, "EXACT_ROWS", exact_rows)
    everything = [index.record(row) for row in range(len(index))]
    wanted = {record["pair_id"] for record in everything if expected(record)}  # type: ignore[operator]
    hits, total = index.search(query(encoder, "blue", 24, filters=Filters(**filters), collapse=False))
    assert {hit.record["pair_id"] for hit in hits} == wanted
    assert total == len(wanted)


def test_a_filtered_search_equals_the_search_of_the_filtered_rows(index: SearchIndex, encoder: FakeEncoder) -> None:
    asked = query(encoder, "an unrelated text", 24, collapse=False)
    everything, _ = index.search(asked)
    filtered, _ = index.search(query(encoder, "an unrelated text", 3, collapse=False, filters=Filters(license_group=["noncomm"])))
    expected = [hit for hit in everything if hit.record["license_group"] == "noncomm"][:3]
    assert [hit.row for hit in filtered] == [hit.row for hit in expected]


def test_a_row_without_a_year_passes_no_year_filter(tmp_path: Path, encoder: FakeEncoder) -> None:
    pairs = write_pairs(tmp_path / "pairs", [pair_row(0, year=None, journal=None), pair_row(1)])
    index = SearchIndex.open(write_index(tmp_path / "index", pairs, encoder), encoder.fingerprint)
    for filters in (Filters(year_max=2100), Filters(year_min=0)):
        assert [hit.record["pmcid"] for hit in index.search(query(encoder, "red", filters=filters))[0]] == ["PMC0000001"]
    assert index.facets["years"] == [2011, 2011]


def test_more_like_this_leaves_out_the_figure_and_its_duplicates(index: SearchIndex) -> None:
    row = index.row_of("PMC0000004.1/fig-4/0")
    assert row is not None
    hits, _ = index.search(Query(index.vector(row, "figure"), 24, exclude=row))
    assert "same-red" not in {hit.record["dup_cluster"] for hit in hits}
    hits, _ = index.search(Query(index.vector(row, "figure"), 24, exclude=row, collapse=False))
    assert len(hits) == 23


def test_rows_are_found_by_pair_id(index: SearchIndex) -> None:
    for row in range(len(index)):
        assert index.row_of(index.record(row)["pair_id"]) == row
    assert index.row_of("PMC9999999.1/fig-0/0") is None
    assert index.row_of("") is None


def test_an_index_of_another_encoder_is_refused(index_folder: Path) -> None:
    with pytest.raises(UserError, match="another encoder"):
        SearchIndex.open(index_folder, "other-0001")


def test_a_damaged_index_is_refused(tmp_path: Path, index_folder: Path, encoder: FakeEncoder) -> None:
    copy = shutil.copytree(index_folder, tmp_path / "copy")
    path = copy / "generations" / "000001" / "base-000" / "image.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(UserError, match="checksum differs"):
        SearchIndex.open(copy, encoder.fingerprint)
    path.unlink()
    with pytest.raises(UserError, match="missing"):
        SearchIndex.open(copy, encoder.fingerprint)
    (copy / "CURRENT").unlink()
    with pytest.raises(UserError, match="no usable index generation"):
        SearchIndex.open(copy, encoder.fingerprint)
    with pytest.raises(UserError, match="no such folder"):
        SearchIndex.open(tmp_path / "nowhere", encoder.fingerprint)


def test_the_same_input_gives_the_same_bytes(
    tmp_path: Path, index_folder: Path, pairs_folder: Path, encoder: FakeEncoder
) -> None:
    again = write_index(tmp_path / "again", pairs_folder, encoder)
    folder = index_folder / "generations" / "000001"
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        assert path.read_bytes() == (again / "generations" / "000001" / path.relative_to(folder)).read_bytes(), path.name


def test_images_are_read_by_reference(index: SearchIndex, pairs_folder: Path) -> None:
    store = ImageStore(index.generation)
    assert store.available
    for row in range(len(index)):
        record = index.record(row)
        assert store.original(record).data[:4] == b"\x89PNG"
        assert store.thumbnail(record, 100).media_type == "image/jpeg"
    assert store.thumbnail(index.record(0), 64).etag == store.thumbnail(index.record(0), 64).etag


def test_a_moved_pairs_artifact_is_named_or_missing(
    tmp_path: Path, index: SearchIndex, pairs_folder: Path, encoder: FakeEncoder
) -> None:
    moved = shutil.copytree(pairs_folder, tmp_path / "moved")
    assert ImageStore(index.generation, moved).available
    gone = Source(uri=(tmp_path / "gone").as_uri(), fingerprint="0")
    lost = ImageStore(index.generation.model_copy(update={"sources": [gone]}))
    assert not lost.available
    with pytest.raises(ImageUnavailableError):
        lost.original(index.record(0))
    (moved / MANIFEST).write_text(json.dumps({**json.loads((moved / MANIFEST).read_text()), "name": "other"}))
    with pytest.raises(UserError, match="not the pairs artifact"):
        ImageStore(index.generation, moved)


def test_pairs_of_an_older_version_are_refused_in_words(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    pairs = write_pairs(tmp_path / "pairs", [pair_row(number) for number in range(6)])
    path = next((pairs / "data").rglob("*.parquet"))
    pq.write_table(pq.ParquetFile(path).read().drop_columns(["compound_hint"]), path)
    with pytest.raises(UserError, match="no compound_hint; an older version wrote it"):
        list(read_rows(pairs, ("train", "val", "test")))


def test_metadata_lies_in_arrow_and_as_lines_of_json(index_folder: Path) -> None:
    import pyarrow as pa

    folder = index_folder / "generations" / "000001" / "base-000"
    with pa.ipc.open_file(folder / METADATA) as reader:
        rows = reader.read_all().to_pylist()
    records = Records(folder)
    assert [records.record(number) for number in range(24)] == rows
    assert set(rows[0]) == set(STORED)
    before = pa.total_allocated_bytes()
    places = Table(folder / PLACES)
    assert pa.total_allocated_bytes() - before < 4096
    assert {"file", "row_group", "row"} <= set(places.record(3))
    assert np.load(folder / "image.npy", mmap_mode="r").shape == (24, 8)
