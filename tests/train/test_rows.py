"""Rows come from disk, S3 and HTTP alike, in bounded memory, and a store that fails for a moment ends nothing."""

from __future__ import annotations

import json
import threading

import pytest

from biomedray.errors import UserError, WorkError
from biomedray.train import rows as rows_module
from biomedray.train.feed import Feed, FeedSettings
from biomedray.train.plan import Plan
from biomedray.train.presets import DataConfig, LoopConfig
from biomedray.train.rows import PairsReader, RowIndex, index_rows
from biomedray.train.source import Source, public

DATA = DataConfig(window_row_groups=3, crop_scale=(0.5, 1.0), cache_mb=0)


def feed_of(source, data=DATA, epochs=1, **more):
    index = index_rows(source, "train")
    plan = Plan(index.rows, LoopConfig(epochs=epochs, batch_size=24))
    with Feed(source, index, FeedSettings(data, 32, 0, **more)) as feed:
        return [(batch.pair_ids, batch.pixels.numpy().tobytes()) for batch in feed.batches(plan.batches())]


@pytest.fixture(scope="module")
def local(pairs):
    return feed_of(Source.of(pairs))


def test_the_same_batches_from_a_folder_from_s3_and_over_http(pairs, local, s3, http):
    for address in (s3(pairs.name), f"{http.url}/{pairs.name}"):
        source = Source.of(address)
        assert source.remote
        assert source.fingerprint() == Source.of(pairs).fingerprint()
        assert source.manifest() == Source.of(pairs).manifest()
        assert source.name == pairs.name
        assert feed_of(source) == local


def test_a_store_that_fails_for_a_moment_is_asked_again(pairs, local, http, monkeypatch):
    monkeypatch.setattr(rows_module, "_FIRST_WAIT", 0.01)
    source = Source.of(f"{http.url}/{pairs.name}")
    index_rows(source, "train")
    http.failures = 4
    assert feed_of(source) == local
    assert http.failures == 0


def test_a_store_that_stays_away_ends_the_run_with_one_line(pairs, http, monkeypatch):
    monkeypatch.setattr(rows_module, "_FIRST_WAIT", 0.001)
    source = Source.of(f"{http.url}/{pairs.name}")
    index = index_rows(source, "train")
    http.failures = 10_000
    try:
        with (
            PairsReader(source, index) as reader,
            pytest.raises(WorkError, match=r"cannot be read .*start the same"),
        ):
            reader.row(0, 0)
    finally:
        http.failures = 0


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("s3://figures/nowhere", "not a pairs artifact|cannot be read"),
        ("nonsense://x/y", "cannot be opened"),
        ("http://127.0.0.1:1/pairs", "cannot be read"),
    ],
)
def test_an_address_without_pairs_is_refused(s3, address, says):
    address = s3("nowhere") if address.startswith("s3") else address
    with pytest.raises(UserError, match=says) as caught:
        Source.of(address).manifest()
    assert "\n" not in str(caught.value)


def test_what_is_shown_of_an_address_holds_no_key():
    assert public("s3://user:se@cret@bucket/a/b?endpoint_override=x") == "s3://bucket/a/b"
    assert public("https://host/pairs") == "https://host/pairs"
    assert public("/data/pairs@home?") == "/data/pairs@home?"
    with pytest.raises(UserError) as caught:
        Source.of("s3://user:secret@figures/x?endpoint_override=127.0.0.1:1&scheme=http&region=us-east-1").manifest()
    assert "secret" not in str(caught.value)


def test_an_index_survives_its_file(pairs, tmp_path):
    index = index_rows(Source.of(pairs), "train")
    index.save(tmp_path / "rows.json")
    again = RowIndex.load(tmp_path / "rows.json")
    assert (again.files, again.rows) == (index.files, 120)
    for name in ("file_of", "group_of", "sizes"):
        assert getattr(again, name).tolist() == getattr(index, name).tolist()
    assert json.loads((tmp_path / "rows.json").read_text())[0] == ["data/split=train/part-00000.parquet", [16, 16, 16, 12]]


def test_memory_holds_no_more_row_groups_than_it_may(pairs):
    index = index_rows(Source.of(pairs), "train")
    with PairsReader(Source.of(pairs), index, keep=2, threads=2) as reader:
        groups = [group for group, size in enumerate(index.sizes) for _ in range(size)]
        reader.want(groups, dict.fromkeys(groups))
        most = 0
        for group, size in enumerate(index.sizes):
            for row in range(size):
                reader.row(group, row)
                reader.release(group)
                most = max(most, len(reader._held))
        assert most <= 3
        assert not reader._wanted


def test_a_row_group_is_read_once_however_many_ask(pairs, monkeypatch):
    index = index_rows(Source.of(pairs), "train")
    read, done = PairsReader._read, []

    def counted(self, name, group, columns):
        done.append((name, group))
        return read(self, name, group, columns)

    monkeypatch.setattr(PairsReader, "_read", counted)
    with PairsReader(Source.of(pairs), index, threads=2) as reader:
        reader.want([0] * 8, [0])
        threads = [threading.Thread(target=reader.row, args=(0, row)) for row in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert done == [("data/split=train/part-00000.parquet", 0)]


def test_each_worker_reads_few_row_groups(pairs, monkeypatch):
    """A worker's share of a batch lies in its own row groups; otherwise each would read the whole data set."""
    read, done = PairsReader._read, []

    def counted(self, name, group, columns):
        done.append((name, group))
        return read(self, name, group, columns)

    monkeypatch.setattr(PairsReader, "_read", counted)
    source = Source.of(pairs)
    index = index_rows(source, "train")
    data = DATA.model_copy(update={"window_row_groups": 8})
    plan = Plan(index.rows, LoopConfig(epochs=1, batch_size=120))
    for rank in range(4):
        with Feed(source, index, FeedSettings(data, 32, 0, rank, 4)) as feed:
            list(feed.batches(plan.batches()))
    assert len(done) <= 8 + 3  # eight row groups, and at most one that each border cuts
