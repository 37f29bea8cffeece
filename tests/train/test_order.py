"""The order of rows: each row once an epoch, the same for any cut into batches, another each epoch."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from biomedray.train.order import EpochOrder, generator

SIZES = st.lists(st.integers(1, 20), min_size=1, max_size=12).map(tuple)


@settings(max_examples=100, deadline=None)
@given(sizes=SIZES, window=st.integers(1, 14), seed=st.integers(0, 5), epoch=st.integers(0, 5))
def test_an_epoch_sees_every_row_once(sizes, window, seed, epoch):
    rows = EpochOrder(sizes, window, seed, epoch).rows(0, sum(sizes))
    assert sorted(rows) == [(group, row) for group, size in enumerate(sizes) for row in range(size)]


@settings(max_examples=100, deadline=None)
@given(sizes=SIZES, window=st.integers(1, 14), data=st.data())
def test_any_stretch_is_a_part_of_the_whole(sizes, window, data):
    total = sum(sizes)
    start = data.draw(st.integers(0, total))
    stop = data.draw(st.integers(start, total))
    whole = EpochOrder(sizes, window, 1, 2).rows(0, total)
    assert EpochOrder(sizes, window, 1, 2).rows(start, stop) == whole[start:stop]


def test_epochs_and_seeds_differ_and_repeat():
    orders = [EpochOrder((50, 50), 2, seed, epoch).rows(0, 100) for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 0))]
    assert orders[0] == orders[3]
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_golden_start():
    """Another order would make unfinished runs go on with other batches."""
    assert EpochOrder((4, 4, 4), 2, 0, 0).rows(0, 6) == [(2, 0), (0, 3), (0, 2), (2, 3), (2, 2), (0, 1)]
    assert generator(0, 1).integers(0, 100, 3).tolist() == [11, 60, 52]


def test_windows_bound_what_is_in_use():
    sizes = (10,) * 9
    rows = EpochOrder(sizes, 3, 0, 0).rows(0, 90)
    for window in range(3):
        assert len({group for group, _ in rows[window * 30 : (window + 1) * 30]}) == 3
