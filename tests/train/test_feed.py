"""Batches are the same at any number of workers, from any starting point, with or without memory for images."""

from __future__ import annotations

import pytest
import torch

from biomedray.errors import UserError, WorkError
from biomedray.train.feed import Feed, FeedSettings, on_device
from biomedray.train.plan import Plan
from biomedray.train.presets import DataConfig, LoopConfig
from biomedray.train.rows import PairsReader, count_rows, index_rows
from biomedray.train.source import Source

SIZE = 32
DATA = DataConfig(window_row_groups=3, crop_scale=(0.5, 1.0))


def batches(pairs, seen=0, rank=0, world=1, data=DATA, epochs=2, crops=False):
    source = Source.of(pairs)
    index = index_rows(source, "train")
    plan = Plan(index.rows, LoopConfig(epochs=epochs, batch_size=24))
    with Feed(source, index, FeedSettings(data, SIZE, 0, rank, world, device_crops=crops)) as feed:
        return list(feed.batches(plan.batches(seen)))


def assert_same(found, expected):
    found = list(found)
    assert [b.captions for b in found] == [b.captions for b in expected]
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.equal(mine.pixels, theirs.pixels)


@pytest.fixture(scope="module")
def whole(pairs):
    return batches(pairs)


def test_shape_and_coverage(pairs, whole):
    assert len(whole) == 10
    assert whole[0].pixels.shape == (24, SIZE, SIZE, 3)
    assert whole[0].pixels.dtype == torch.uint8
    reader = PairsReader(Source.of(pairs), index_rows(Source.of(pairs), "train"))
    every = sorted(reader.captions(1000))
    assert sorted(caption for batch in whole[:5] for caption in batch.captions) == every
    assert [b.captions for b in whole[:5]] != [b.captions for b in whole[5:]]


def test_going_on_gives_the_rest(pairs, whole):
    assert_same(batches(pairs, seen=whole[3].spec.seen), whole[4:])


@pytest.mark.parametrize("world", [2, 3])
def test_workers_share_the_same_global_batches(pairs, whole, world):
    shares = [batches(pairs, rank=rank, world=world) for rank in range(world)]
    for parts, expected in zip(zip(*shares, strict=True), whole, strict=True):
        assert torch.equal(torch.cat([part.pixels for part in parts]), expected.pixels)
        assert [caption for part in parts for caption in part.captions] == expected.captions


def test_memory_threads_and_reading_ahead_change_nothing(pairs, whole):
    data = DATA.model_copy(update={"cache_mb": 0, "threads": 3, "prefetch_batches": 1})
    assert_same(batches(pairs, data=data), whole)


def test_crops_differ_between_epochs(pairs):
    data = DATA.model_copy(update={"window_row_groups": 99})
    found = batches(pairs, data=data)
    first, second = (torch.cat([batch.pixels for batch in part]) for part in (found[:5], found[5:]))
    assert {image.numpy().tobytes() for image in first}.isdisjoint(image.numpy().tobytes() for image in second)


def test_a_broken_image_names_its_pair(tmp_path, break_image):
    with pytest.raises(WorkError, match=r"pair PMC\d+\.1/F1/0: its image cannot be decoded"):
        batches(break_image(tmp_path / "broken"))


def test_a_file_that_is_no_parquet_is_refused(tmp_path):
    folder = tmp_path / "data" / "split=train"
    folder.mkdir(parents=True)
    (folder / "part.parquet").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(UserError, match="not a Parquet file"):
        count_rows(Source.of(tmp_path), "train")


def test_crops_on_the_device_are_the_same_to_the_bit(pairs, whole):
    """With a share of the workers, from any starting point, however many are computed together."""
    data = DATA.model_copy(update={"cache_mb": 0})
    assert_same(on_device(iter(batches(pairs, data=data, crops=True)), "cpu"), whole)
    rest = {"seen": whole[3].spec.seen, "world": 3, "crops": True}
    parts = [on_device(iter(batches(pairs, rank=rank, **rest)), "cpu") for rank in range(3)]
    for mine, expected in zip(zip(*parts, strict=True), whole[4:], strict=True):
        assert torch.equal(torch.cat([part.pixels for part in mine]), expected.pixels)


def test_a_broken_image_is_told_where_crops_wait_for_the_device(tmp_path, break_image):
    with pytest.raises(WorkError, match=r"pair PMC\d+\.1/F1/0: its image cannot be decoded"):
        batches(break_image(tmp_path / "broken"), crops=True)
