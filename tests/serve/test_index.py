"""Inverted lists with measured settings: recall, filters at every selectivity, and what a segment refuses."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biomedray.artifacts import Manifest, write_manifest
from biomedray.errors import UserError, WorkError
from biomedray.serve import recall as recall_module
from biomedray.serve import search as search_module
from biomedray.serve import segment as segment_module
from biomedray.serve import vectors as vectors_module
from biomedray.serve.filters import Filters
from biomedray.serve.generation import Source, set_current
from biomedray.serve.ivf import FLAT_ROWS, choose_layout, list_count
from biomedray.serve.rows import PLACE, STORED
from biomedray.serve.search import Ask, Query, SearchIndex, join_tops
from biomedray.serve.shards import share_out
from biomedray.serve.updates import fresh
from biomedray.serve.vectors import StoredRows
from biomedray.serve.writing import Block, Draft, sizes, write_draft

from .conftest import pair_row

ROWS, DIM = 3_000, 32
MARK = "fake-0001"


def vectors(rows: int, seed: int, gap: float) -> np.ndarray:
    """Clusters of some 30 rows each; ``gap`` moves the whole modality."""
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(max(1, rows // 30), DIM))
    own = centres[np.arange(rows) % len(centres)] + 0.4 * np.random.default_rng(seed).normal(size=(rows, DIM)) + gap
    return (own / np.linalg.norm(own, axis=1, keepdims=True)).astype(np.float32)


def metadata(rows: int, clusters: int | None = None) -> pa.Table:
    """Journals go with the clusters of ``vectors``; years do not. ``clusters`` duplicate clusters, by default as many as rows."""
    one = {name: pair_row(1).get(name) for name in STORED} | {"image_kind": "single", "source": 0, "file": "f", "row_group": 0}
    lines = []
    for row in range(rows):
        name = f"PMC{row // 3:07d}"
        changed = {"pair_id": f"{name}.1/f{row % 3}/0", "pmcid": name, "journal": f"Journal {row % (rows // 30) % 50}"}
        changed |= {"year": 2000 + (row * 7919) % 100, "row": row, "split": "test" if row % 5 == 0 else "train"}
        lines.append(one | changed | {"dup_cluster": f"c{row % clusters if clusters else row}"})
    return pa.Table.from_pylist(lines).select([*STORED, *PLACE])


def build(out: Path, layout: str, shards: int = 1, rows: int = ROWS, clusters: int | None = None) -> Path:
    draft = Draft(
        name="000001",
        encoder="fake",
        encoder_fingerprint=MARK,
        dim=DIM,
        sources=[Source(uri="file:///nowhere", fingerprint="none")],
        new=fresh(rows, shards),
        layout=layout,
    )
    block = Block(metadata(rows, clusters), {"image": vectors(rows, 2, 0.5), "text": vectors(rows, 3, -0.2)})
    halves = [block.slice(0, rows // 2), block.slice(rows // 2, rows)]
    set_current(out, write_draft(out, draft, halves))
    write_manifest(out, Manifest(kind="index", name=out.name))
    return out


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> SearchIndex:
    return SearchIndex.open(build(tmp_path_factory.mktemp("flat") / "index", "flat"), MARK)


@pytest.fixture(scope="module")
def lists_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recall_module, "EXACT_ROWS", 20)
        yield build(tmp_path_factory.mktemp("lists") / "index", "rabitq")


@pytest.fixture(scope="module")
def lists(lists_folder: Path) -> SearchIndex:
    return SearchIndex.open(lists_folder, MARK)


@pytest.fixture
def no_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment_module, "EXACT_ROWS", 0)


def asked(kind: str = "text", count: int = 40) -> np.ndarray:
    return vectors(ROWS, 9, -0.2 if kind == "text" else 0.5)[:: ROWS // count][:count]


def recall(index: SearchIndex, exact: SearchIndex, **query: object) -> float:
    found = []
    for vector in asked(str(query.get("kind", "text"))):
        mine, total = index.search(Query(vector, 10, **query))  # type: ignore[arg-type]
        wanted, same = exact.search(Query(vector, 10, **query))  # type: ignore[arg-type]
        assert total == same
        assert len(mine) == len(wanted) == min(10, total)
        found.append(len({hit.row for hit in mine} & {hit.row for hit in wanted}) / max(len(wanted), 1))
    return float(np.mean(found))


def test_the_layout_goes_by_size() -> None:
    assert choose_layout(FLAT_ROWS) == "flat"
    assert choose_layout(FLAT_ROWS + 1) == "rabitq"
    assert choose_layout(1000, "sq8") == "sq8"
    assert choose_layout(10, "rabitq") == "flat"
    assert (list_count(3_000), list_count(100_000), list_count(1_000_000)) == (128, 512, 4096)
    assert sizes(10, 3) == [4, 3, 3]
    assert sizes(2, 5) == [1, 1]


@pytest.mark.parametrize("kind", ["text", "image"])
@pytest.mark.parametrize("target", ["figure", "caption"])
def test_most_of_the_exact_answer_is_found(lists: SearchIndex, flat: SearchIndex, kind: str, target: str) -> None:
    assert recall(lists, flat, kind=kind, target=target) >= 0.93
    assert lists.generation.recall[f"{kind}/{target}"] >= 0.93
    assert flat.generation.recall[f"{kind}/{target}"] == 1.0
    assert lists.card()["recall"] == lists.generation.recall
    assert lists.card()["index_key"] == "IVF128,RaBitQ"


@pytest.mark.parametrize(
    "filters",
    [
        {"year_min": 2050},
        {"year_min": 2010, "year_max": 2019},
        {"year_min": 2007, "year_max": 2007},
        {"journal": ["Journal 3"]},
        {"journal": ["Journal 3", "Journal 30"], "split": ["train"]},
        {"split": ["test"]},
    ],
)
def test_filters_keep_recall_without_comparing_all(
    lists: SearchIndex, flat: SearchIndex, no_exact: None, filters: dict[str, object]
) -> None:
    assert recall(lists, flat, filters=Filters(**filters)) >= 0.93  # type: ignore[arg-type]


def test_scores_are_exact_and_ordered(lists: SearchIndex, flat: SearchIndex) -> None:
    for vector in asked(count=10):
        hits, _ = lists.search(Query(vector, 20))
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        for hit in hits:
            assert hit.score == pytest.approx(float(flat.vector(hit.row, "figure") @ vector), abs=1e-3)
            assert hit.percentile is not None
            assert 0 <= hit.percentile <= 100


def test_k_is_filled_up_to_all_rows_that_pass(lists: SearchIndex, no_exact: None) -> None:
    filters = Filters(journal=["Journal 7"])
    _, total = lists.search(Query(asked()[0], 1, filters=filters))
    for k in (total - 1, total, total + 50):
        hits, _ = lists.search(Query(asked()[0], k, filters=filters))
        assert len(hits) == min(k, total)
        assert all(hit.record["journal"] == "Journal 7" for hit in hits)
    assert len(lists.search(Query(asked()[0], ROWS))[0]) == ROWS


@pytest.mark.parametrize("layout", ["flat", "rabitq"])
def test_many_duplicates_still_fill_k(tmp_path: Path, layout: str) -> None:
    index = SearchIndex.open(build(tmp_path / "index", layout, rows=900, clusters=12), MARK)
    hits, _ = index.search(Query(asked()[0], 12))
    assert len({hit.record["dup_cluster"] for hit in hits}) == len(hits) == 12
    best = {}
    for hit in index.search(Query(asked()[0], 900, collapse=False))[0]:
        best.setdefault(hit.record["dup_cluster"], hit.row)
    assert layout == "rabitq" or {hit.row for hit in hits} == set(best.values())


def test_one_hit_an_article(flat: SearchIndex) -> None:
    everything, _ = flat.search(Query(asked()[0], 200))
    grouped, _ = flat.search(Query(asked()[0], 30, group_by="article"))
    first: dict[str, int] = {}
    for hit in everything:
        first.setdefault(hit.record["pmcid"], hit.row)
    assert [hit.row for hit in grouped] == list(first.values())[:30]


def test_many_queries_at_once_answer_as_one_by_one(lists: SearchIndex) -> None:
    queries = [Query(vector, k, exclude=row) for vector, k, row in zip(asked(), (3, 10, 25), (None, 5, 7), strict=False)]
    together = lists.search_many(queries)
    assert [[hit.row for hit in found.hits] for found in together] == [
        [hit.row for hit in lists.search(query)[0]] for query in queries
    ]
    assert not any(found.partial for found in together)
    assert lists.search_many([]) == []


# ---- shards: sharded == unsharded


@settings(max_examples=40, deadline=None)
@given(
    shards=st.integers(1, 6),
    k=st.integers(1, 40),
    collapse=st.booleans(),
    exclude=st.one_of(st.none(), st.integers(0, ROWS - 1)),
    number=st.integers(0, 39),
    year=st.one_of(st.none(), st.integers(2000, 2099)),
)
def test_sharded_is_unsharded(
    sharded: SearchIndex,
    flat: SearchIndex,
    shards: int,
    k: int,
    collapse: bool,
    exclude: int | None,
    number: int,
    year: int | None,
) -> None:
    query = Query(asked()[number], k, filters=Filters(year_min=year), collapse=collapse, exclude=exclude)
    ask = Ask(query, None if exclude is None else flat.cluster(exclude))
    whole = flat.tops([ask], k)[0]
    opened = [
        [segment for segment in sharded.segments() if segment.card in part] for part in share_out(sharded.generation, shards)
    ]
    assert sorted(segment.card.start for part in opened for segment in part) == sorted(s.card.start for s in sharded.segments())
    found = join_tops([search_module._top(part, ask, k) for part in opened], ask, k)
    assert found.part.rows.tolist() == whole.part.rows.tolist()
    assert found.part.scores == pytest.approx(whole.part.scores, abs=1e-5)
    assert found.total == whole.total


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> SearchIndex:
    return SearchIndex.open(build(tmp_path_factory.mktemp("sharded") / "index", "flat", shards=5), MARK)


@pytest.mark.ray
def test_a_shard_that_is_down_is_left_out_and_counted(tmp_path: Path, flat: SearchIndex, ray_cluster: None) -> None:
    import ray

    from biomedray.serve.shards import ShardedIndex

    out = build(tmp_path / "index", "flat", shards=3)
    index = ShardedIndex.open(out, MARK, 2, seconds=30)
    try:
        query = Query(asked()[0], 10)
        whole = index.search_many([query])[0]
        assert [hit.row for hit in whole.hits] == [hit.row for hit in flat.search(query)[0]]
        assert (whole.shards, whole.answered, whole.partial) == (2, 2, False)
        row = index.row_of(whole.hits[0].record["pair_id"])
        assert row == whole.hits[0].row
        assert np.allclose(index.vector(row, "figure"), flat.vector(row, "figure"))
        ray.kill(index._actors[0])
        found = index.search_many([query])[0]
        assert (found.answered, found.partial) == (1, True)
        assert 0 < found.total < whole.total
        assert found.hits
    finally:
        index.close()


# ---- files: checks, memory, closing


def test_a_damaged_file_is_never_parsed(tmp_path: Path, lists_folder: Path) -> None:
    plain = ("text.npy", "metadata.arrow", "records.jsonl", "records.npy")
    for name in ("image.faiss", "columns.arrow", "keys.npy", "text.lists.npy", *plain):
        copy = shutil.copytree(lists_folder, tmp_path / name)
        path = copy / "generations" / "000001" / "base-000" / name
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 0xFF
        path.write_bytes(data)
        with pytest.raises(UserError, match="checksum differs"):
            SearchIndex.open(copy, MARK)


def test_large_vectors_are_checked_while_it_serves(tmp_path: Path, lists_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_module, "_CHECKED_AT_ONCE", 0)
    index = SearchIndex.open(lists_folder, MARK)
    assert index.wait_verified() == "verified"
    copy = shutil.copytree(lists_folder, tmp_path / "copy")
    path = copy / "generations" / "000001" / "base-000" / "text.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    index = SearchIndex.open(copy, MARK)
    assert index.wait_verified() == "damaged"
    assert index.card()["verified"] == "damaged"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="not as long"):
        SearchIndex.open(copy, MARK)


def test_vectors_of_a_large_segment_are_float16_and_mapped(lists_folder: Path, lists: SearchIndex, flat: SearchIndex) -> None:
    stored = np.load(lists_folder / "generations" / "000001" / "base-000" / "image.npy", mmap_mode="r")
    assert stored.dtype == np.float16
    assert flat.segments()[0].searchers["figure"].vectors.take(np.array([1])).dtype == np.float32
    assert np.allclose(lists.vector(7, "figure"), flat.vector(7, "figure"), atol=1e-3)


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_rows_of_large_files_are_read_and_never_mapped(tmp_path: Path, kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = np.random.default_rng(0).normal(size=(40_000, 16)).astype(kind)
    np.save(tmp_path / "rows.npy", stored)
    small = StoredRows(tmp_path / "rows.npy")
    monkeypatch.setattr(vectors_module, "_SMALL", 0)
    large = StoredRows(tmp_path / "rows.npy")
    exact = stored.astype(np.float32)
    for rows in ([], [7], [0, 1, 2], [39_999, 5, 6, 6, 3], range(0, 40_000, 3)):
        asked = np.array(rows, np.int64)
        assert np.array_equal(large.take(asked), exact[asked])
        assert np.array_equal(small.take(asked), exact[asked])
        assert large.take(asked).dtype == np.float32
    assert np.array_equal(np.concatenate([block for _, block in large.blocks()]), exact)
    assert np.allclose(large.dots(exact[3]), small.dots(exact[3]), rtol=1e-5, atol=1e-5)
    os.truncate(tmp_path / "rows.npy", 4096)
    with pytest.raises(OSError, match="shorter"):
        large.take(np.array([39_999]))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_closed_index_gives_its_files_back(lists_folder: Path) -> None:
    index = SearchIndex.open(lists_folder, MARK)
    name = str(lists_folder)
    held = Path("/proc/self/maps").read_text().count(name)
    index.search(Query(asked()[0], 3))
    assert held > 0
    other = SearchIndex.open(lists_folder, MARK)
    index.close()
    other.close()
    del other
    gc.collect()
    with pytest.raises(WorkError, match="closed"):
        index.search(Query(asked()[0], 3))


def test_threads_search_while_it_is_closed(lists_folder: Path) -> None:
    index = SearchIndex.open(lists_folder, MARK)
    odd: list[BaseException] = []

    def ask() -> None:
        try:
            while True:
                assert len(index.search(Query(asked()[1], 10))[0]) == 10
        except WorkError:
            pass
        except BaseException as error:  # noqa: BLE001  # whatever it is, the test shall show it
            odd.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    index.search(Query(asked()[2], 10))
    index.close()
    for thread in threads:
        thread.join(30)
    assert odd == []
    assert not any(thread.is_alive() for thread in threads)
