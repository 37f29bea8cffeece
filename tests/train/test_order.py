"""The order of rows: each row once an epoch, the same for any cut into batches, another each epoch."""

from __future__ import annotations

import tracemalloc

import numpy as np
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


@settings(max_examples=60, deadline=None)
@given(sizes=SIZES, window=st.integers(1, 14), data=st.data())
def test_arranging_a_batch_keeps_its_members_and_their_positions(sizes, window, data):
    start = data.draw(st.integers(0, sum(sizes)))
    stop = data.draw(st.integers(start, sum(sizes)))
    order = EpochOrder(sizes, window, 1, 2)
    positions, rows = order.arranged(start, stop)
    whole = order.rows(0, sum(sizes))
    assert sorted(positions.tolist()) == list(range(start, stop))
    assert [tuple(row) for row in rows.tolist()] == [whole[position] for position in positions]
    groups = rows[:, 0].tolist()
    assert groups == sorted(groups)


@settings(max_examples=60, deadline=None)
@given(sizes=SIZES, window=st.integers(1, 14), data=st.data())
def test_substitutes_are_of_the_window_and_not_of_the_batch(sizes, window, data):
    total = sum(sizes)
    position = data.draw(st.integers(0, total - 1))
    start, stop = data.draw(st.integers(0, position)), data.draw(st.integers(position + 1, total))
    order = EpochOrder(sizes, window, 1, 2)
    begin, end = order.window_of(position)
    found = order.substitutes(position, start, stop, 5)
    assert found == EpochOrder(sizes, window, 1, 2).substitutes(position, start, stop, 5)
    assert len(set(found)) == len(found) > 0
    others = {*order.rows(begin, max(begin, min(start, end))), *order.rows(min(max(stop, begin), end), end)}
    assert set(found) <= (others or set(order.rows(begin, end)))


def test_all_of_pmc_needs_no_permutation_of_its_rows():
    sizes = np.full(360_000, 128)  # 46 million rows
    order = EpochOrder(sizes, 64, 0, 3)
    order.at(0, 1)
    tracemalloc.start()
    for start in (45_000_000, 11, 23_000_000):
        rows = EpochOrder(sizes, 64, 0, 3).at(start, start + 4096)
        assert len(set(map(tuple, rows.tolist()))) == 4096
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50 * 2**20
    assert order.rows(45_000_000, 45_000_001) == EpochOrder(sizes, 64, 0, 3).rows(44_999_990, 45_000_001)[10:]
