"""An index brought up to newer pairs: what is embedded, what is withdrawn, what stays on disk, and runs that are killed."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from biomedray.artifacts import manifest_fingerprint, read_manifest
from biomedray.errors import UserError, WorkError
from biomedray.model.encoder import Encoder
from biomedray.serve import index as index_module
from biomedray.serve import writing
from biomedray.serve.generation import current_name, read_current
from biomedray.serve.images import ImageStore
from biomedray.serve.index import Settings, Update, update_index
from biomedray.serve.reading import EmbeddedRows, NewPairs
from biomedray.serve.search import Filters, Query, SearchIndex

from .conftest import COLORS, FakeEncoder, draw, pair_row, write_index, write_pairs


class Embedder:
    """Embeds new pairs by the fake encoder, through files as a run does, and remembers which."""

    def __init__(self, folder: Path, encoder: FakeEncoder, unreadable: Sequence[str] = ()) -> None:
        self.seen: list[str] = []
        self._folder = folder
        self._encoder = encoder
        self._unreadable = set(unreadable)

    def __call__(self, data: NewPairs) -> tuple[EmbeddedRows, set[str]]:
        self._folder.mkdir(exist_ok=True)
        parts = [data.read(split, *stretch) for split in data.splits for stretch in data.stretches(split)]
        assert sum(map(len, parts)) == sum(data.size(split) for split in data.splits)
        for number, samples in enumerate(parts):
            self.seen += [sample.id for sample in samples]
            good = [sample for sample in samples if sample.id not in self._unreadable]
            images = self._encoder.encode_images([sample.image for sample in good]) if good else np.empty((0, 8))
            texts = self._encoder.encode_texts([sample.caption for sample in good]) if good else np.empty((0, 8))
            columns = {"id": [sample.id for sample in good], "image_embedding": list(images), "text_embedding": list(texts)}
            schema = pa.schema(
                [("id", pa.string()), *((f"{stem}_embedding", pa.list_(pa.float32(), 8)) for stem in ("image", "text"))]
            )
            pq.write_table(pa.table(columns, schema), self._folder / f"part-{number:06d}.parquet")
        return EmbeddedRows(self._folder), self._unreadable


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    return [pair_row(number) for number in range(24)]


@pytest.fixture
def out(tmp_path: Path, rows: list[dict[str, Any]], encoder: FakeEncoder) -> Path:
    return write_index(tmp_path / "index", write_pairs(tmp_path / "pairs", rows), encoder)


def bring_up(out: Path, rows: list[dict[str, Any]], encoder: FakeEncoder, **update: Any) -> tuple[SearchIndex, list[str]]:
    pairs = out.parent / f"pairs-{len(list(out.parent.iterdir()))}"
    ledger = update.pop("ledger", ())
    unreadable = update.pop("unreadable", ())
    write_pairs(pairs, rows)
    if ledger:
        (pairs / "ledger").mkdir()
        pq.write_table(pa.table({"pmcid": pa.array(ledger, pa.string())}), pairs / "ledger" / "part-00000.parquet")
    return again(out, pairs, encoder, unreadable, **update)


def again(
    out: Path, pairs: Path, encoder: FakeEncoder, unreadable: Sequence[str] = (), **update: Any
) -> tuple[SearchIndex, list[str]]:
    embedder = Embedder(out.parent / f"{pairs.name}-embeddings", encoder, unreadable)
    update_index(pairs, out, encoder.fingerprint, embedder, Settings(), Update(**update))
    return SearchIndex.open(out, encoder.fingerprint), embedder.seen


def shown(index: SearchIndex) -> dict[str, dict[str, Any]]:
    """All records by pair id, through a search for everything."""
    found = {}
    for target in ("figure", "caption"):
        hits, total = index.search(Query(index.vector(0, "figure"), 10_000, target, collapse=False))
        records = {hit.record["pair_id"]: index.record(hit.row) for hit in hits}
        assert total == len(hits) == len(records) == len(index)
        assert not found or set(found) == set(records)
        found = records
    return found


def ids(rows: Sequence[dict[str, Any]]) -> set[str]:
    return {row["pair_id"] for row in rows}


def test_only_new_rows_are_embedded_and_the_base_is_linked(out: Path, rows: list[dict[str, Any]], encoder: FakeEncoder) -> None:
    everything = [*rows, *(pair_row(number) for number in range(24, 29))]
    index, seen = bring_up(out, everything, encoder)
    assert set(seen) == ids(everything[24:])
    assert set(shown(index)) == ids(everything)
    assert current_name(out) == index.generation.name == "000002"
    first, second = (out / "generations" / name for name in ("000001", "000002"))
    for name in ("image.npy", "text.npy", "metadata.arrow", "columns.arrow"):
        assert (first / "base-000" / name).samefile(second / "base-000" / name)
    hits, _ = index.search(Query(encoder.encode_texts(["red"])[0], 40, filters=Filters(year_min=2014, year_max=2014)))
    assert {hit.record["pair_id"] for hit in hits} == {row["pair_id"] for row in everything if row["year"] == 2014}
    manifest = read_manifest(out, "index")
    assert manifest.counts["rows"] == 29
    assert manifest.details["generation"] == "000002"


def test_figures_come_from_the_newer_artifact(out: Path, rows: list[dict[str, Any]], encoder: FakeEncoder) -> None:
    index, _ = bring_up(out, [*rows[6:], pair_row(30)], encoder)
    store = ImageStore(index.generation)
    shutil.rmtree(out.parent / "pairs")
    store = ImageStore(index.generation)
    there = {name: record for name, record in shown(index).items() if name in ids(rows[6:])}
    assert {record["source"] for record in there.values()} == {1}
    assert all(store.original(record).data for record in there.values())


def test_a_further_artifact_withdraws_nothing(out: Path, rows: list[dict[str, Any]], encoder: FakeEncoder) -> None:
    further = [pair_row(number) for number in range(50, 54)]
    index, seen = bring_up(out, further, encoder)
    assert set(seen) == ids(further)
    assert set(shown(index)) == ids(rows) | ids(further)


def test_rows_of_articles_that_the_artifact_rejects_are_withdrawn(
    out: Path, rows: list[dict[str, Any]], encoder: FakeEncoder
) -> None:
    index, seen = bring_up(out, rows[3:], encoder, ledger=["PMC0000001", "PMC0000777"])
    assert seen == []
    assert set(shown(index)) == ids([rows[0], *rows[2:]])
    assert index.row_of(rows[1]["pair_id"]) is None
    assert index.row_of(rows[0]["pair_id"]) is not None
    assert index.generation.dead == 1
    assert sum(index.facets["license_group"].values()) == 23
    hits, total = index.search(Query(encoder.encode_texts(["green"])[0], 24, filters=Filters(journal=["Journal 1"])))
    assert total == len(hits) == sum(row["journal"] == "Journal 1" for row in rows) - 1


def test_a_withdrawn_article_never_comes_back(out: Path, rows: list[dict[str, Any]], encoder: FakeEncoder) -> None:
    gone = [rows[5]["pmcid"], rows[6]["pmcid"]]
    index, seen = again(out, out.parent / "pairs", encoder, withdraw=gone)
    left = ids(rows) - {rows[5]["pair_id"], rows[6]["pair_id"]}
    assert set(shown(index)) == left
    assert seen == []
    index, seen = bring_up(out, rows, encoder)
    assert set(shown(index)) == left
    assert seen == []
    assert index.generation.withdrawn == gone


def test_changed_rows_replace_the_old(out: Path, rows: list[dict[str, Any]], encoder: FakeEncoder) -> None:
    changed = [dict(row) for row in rows]
    changed[2] |= {"license_group": "other", "license_code": None}
    changed[3] |= {"caption": "A red field after all"}
    changed[4] |= {"image": draw(COLORS["blue"]), "image_sha256": "0" * 64}
    before = SearchIndex.open(out, encoder.fingerprint)
    vector = before.vector(before.row_of(rows[2]["pair_id"]) or 0, "figure")
    index, seen = bring_up(out, changed, encoder)
    assert set(seen) == ids(changed[3:5])
    records = shown(index)
    assert set(records) == ids(rows)
    assert records[rows[2]["pair_id"]]["license_group"] == "other"
    assert records[rows[3]["pair_id"]]["caption"] == "A red field after all"
    row = index.row_of(rows[2]["pair_id"])
    assert row is not None
    assert np.allclose(index.vector(row, "figure"), vector)
    blue = index.row_of(rows[4]["pair_id"])
    assert blue is not None
    assert index.vector(blue, "figure") @ encoder.encode_texts(["blue"])[0] == pytest.approx(1, abs=1e-3)


def test_nothing_new_writes_nothing(out: Path, rows: list[dict[str, Any]], encoder: FakeEncoder) -> None:
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    _, seen = again(out, out.parent / "pairs", encoder)
    index, _ = again(out, out.parent / "pairs", encoder)
    assert seen == []
    assert index.generation.name == "000001"
    unchanged = {path: stamp for path, stamp in before.items() if path.is_file() and path.name != "manifest.json"}
    assert {path: path.stat().st_mtime_ns for path in unchanged} == unchanged


def test_pictures_that_cannot_be_read_are_left_out(out: Path, rows: list[dict[str, Any]], encoder: FakeEncoder) -> None:
    new = [pair_row(number) for number in range(24, 28)]
    index, _ = bring_up(out, [*rows, *new], encoder, unreadable=[new[1]["pair_id"]])
    assert set(shown(index)) == ids(rows) | ids(new) - {new[1]["pair_id"]}


def test_deltas_and_tombstones_are_compacted(out: Path, rows: list[dict[str, Any]], encoder: FakeEncoder) -> None:
    everything = [*rows, *(pair_row(number) for number in range(24, 27))]
    index, _ = bring_up(out, everything, encoder)
    assert [card.name for card in index.generation.segments] == ["base-000", "delta-000002"]
    vector = index.vector(index.row_of(everything[25]["pair_id"]) or 0, "caption")
    index, _ = bring_up(out, everything[5:], encoder, ledger=[row["pmcid"] for row in everything])
    assert [card.name for card in index.generation.segments] == ["base-000"]
    assert index.generation.dead == 0
    assert set(shown(index)) == ids(everything[5:])
    assert np.allclose(index.vector(index.row_of(everything[25]["pair_id"]) or 0, "caption"), vector)
    assert sorted(path.name for path in (out / "generations").iterdir()) == ["000002", "000003"]
    index, seen = again(out, out.parent / "pairs", encoder, compact=True)
    assert len(seen) == 5
    assert set(shown(index)) == ids(everything)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_history_shows_what_the_rules_say(
    tmp_path_factory: pytest.TempPathFactory, encoder: FakeEncoder, data: st.DataObject
) -> None:
    base = tmp_path_factory.mktemp("history")
    start = data.draw(st.sets(st.integers(0, 20), min_size=1))
    living = {number: pair_row(number)["caption"] for number in start}
    out = write_index(base / "index", write_pairs(base / "pairs", [pair_row(number) for number in sorted(start)]), encoder)
    withdrawn: set[int] = set()
    for _ in range(data.draw(st.integers(1, 3))):
        newer = data.draw(st.dictionaries(st.integers(0, 24), st.sampled_from(["A red field", "A blue field"]), min_size=1))
        known = data.draw(st.sets(st.integers(0, 24)))
        withdrawn |= data.draw(st.sets(st.integers(0, 24), max_size=1))
        expected = {number: caption for number, caption in living.items() if number not in known}
        expected = {number: caption for number, caption in (expected | newer).items() if number not in withdrawn}
        if not expected:
            break
        rows = [pair_row(number, caption=caption) for number, caption in sorted(newer.items())]
        index, _ = bring_up(
            out,
            rows,
            encoder,
            ledger=[f"PMC{number:07d}" for number in sorted(known)],
            withdraw=[f"PMC{number:07d}" for number in sorted(withdrawn)],
        )
        living = expected
        assert {name: record["caption"] for name, record in shown(index).items()} == {
            pair_row(number)["pair_id"]: caption for number, caption in living.items()
        }


@pytest.mark.parametrize("step", ["write_draft", "set_current", "_prune", "write_manifest"])
@pytest.mark.parametrize("before", [True, False])
def test_a_killed_update_ends_the_same_when_it_is_started_again(
    out: Path, rows: list[dict[str, Any]], encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch, step: str, before: bool
) -> None:
    everything = [*rows[2:], *(pair_row(number) for number in range(24, 28))]
    pairs = write_pairs(out.parent / "newer", everything)
    (pairs / "ledger").mkdir()
    pq.write_table(pa.table({"pmcid": [rows[0]["pmcid"]]}), pairs / "ledger" / "part-00000.parquet")
    whole = shutil.copytree(out, out.parent / "whole")
    again(whole, pairs, encoder)
    real = getattr(index_module, step)

    def dying(*arguments: Any) -> Any:
        if not before:
            real(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(index_module, step, dying)
    with pytest.raises(KeyboardInterrupt):
        again(out, pairs, encoder)
    monkeypatch.setattr(index_module, step, real)
    index, _ = again(out, pairs, encoder)
    assert index.generation.name == "000002"
    assert set(shown(index)) == ids([rows[1], *everything])
    for path in (whole / "generations" / "000002").rglob("*"):
        if path.is_file():
            other = out / "generations" / "000002" / path.relative_to(whole / "generations" / "000002")
            assert other.read_bytes() == path.read_bytes(), path.name
    assert read_manifest(out).counts == read_manifest(whole).counts
    assert read_manifest(out).details == read_manifest(whole).details
    assert [path.name for path in (out / "generations").iterdir() if path.name.startswith(".")] == []


def test_an_update_that_is_refused_stands_in_no_others_way(
    out: Path, rows: list[dict[str, Any]], encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Encoder, "load", lambda *_: encoder)
    pairs, everything = out.parent / "pairs", [row["pmcid"] for row in rows]
    with pytest.raises(UserError, match="nothing would be left"):
        index_module.add_to_index(pairs, "fake", out, update=Update(withdraw=everything))
    index_module.add_to_index(pairs, "fake", out, update=Update(withdraw=everything[:1]))
    assert set(shown(SearchIndex.open(out, encoder.fingerprint))) == ids(rows[1:])


def test_a_run_killed_while_it_writes_leaves_the_old_generation(
    out: Path, rows: list[dict[str, Any]], encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = out / "generations" / ".000002.left" / "000002"
    left.mkdir(parents=True)
    (left / "image.npy").write_bytes(b"half")
    real = writing.mean_recall

    def full(*_: Any) -> Any:
        raise WorkError("the disk is full")

    monkeypatch.setattr(writing, "mean_recall", full)
    with pytest.raises(WorkError):
        bring_up(out, [*rows, pair_row(30)], encoder)
    monkeypatch.setattr(writing, "mean_recall", real)
    assert read_current(out)[1].name == "000001"
    index, _ = bring_up(out, [*rows, pair_row(30)], encoder)
    assert len(index) == 25
    assert not left.exists()


def test_another_model_and_wrong_ids_are_refused(out: Path, rows: list[dict[str, Any]], encoder: FakeEncoder) -> None:
    with pytest.raises(UserError, match="another encoder"):
        update_index(out.parent / "pairs", out, "other-0001", Embedder(out.parent / "e", encoder))
    with pytest.raises(UserError, match="neither a PMCID"):
        index_module._articles(["PMC12", "12"])
    picture = out.parent / "a.png"
    picture.write_bytes(draw(COLORS["red"]))
    for odd_name in (str(picture), "x" * 300, str(out.parent), "a\0b"):
        with pytest.raises(UserError, match="neither a PMCID"):
            index_module._articles([odd_name])
    listed = out.parent / "withdrawn.txt"
    listed.write_text("PMC3\nPMC2 PMC3\n")
    assert index_module._articles([str(listed), "PMC1"]) == ["PMC1", "PMC2", "PMC3"]
    for odd in (Settings(layout="hnsw"), Settings(shards=0)):
        with pytest.raises(UserError):
            odd.check()
    assert manifest_fingerprint(out.parent / "pairs") == read_current(out)[1].pairs_fingerprint
