"""What runs together: the first always, like lengths, within items, budget and padding, in turn."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from biomedray.serve.picking import Bounds, is_full, pick

LENGTHS = st.lists(st.integers(1, 300), min_size=1, max_size=60)
PADDING = st.none() | st.integers(0, 200)
BOUNDS = st.builds(Bounds, items=st.integers(1, 20), budget=st.none() | st.integers(1, 3000), padding=PADDING)


@given(lengths=LENGTHS, bounds=BOUNDS)
def test_a_batch_keeps_its_bounds(lengths: list[int], bounds: Bounds) -> None:
    chosen = pick(lengths, bounds)
    assert chosen[0] == 0
    assert chosen == sorted(set(chosen))
    of_batch = [lengths[position] for position in chosen]
    cost = sum(of_batch) if bounds.padding is None else len(chosen) * max(of_batch)
    assert len(chosen) <= bounds.items
    if len(chosen) > 1:
        assert bounds.budget is None or cost <= bounds.budget
        assert bounds.padding is None or cost - sum(of_batch) <= bounds.padding


@given(lengths=LENGTHS, bounds=BOUNDS)
def test_nothing_that_costs_nothing_more_is_left_behind(lengths: list[int], bounds: Bounds) -> None:
    chosen = pick(lengths, bounds)
    of_batch = [lengths[position] for position in chosen]
    same = [length for position, length in enumerate(lengths) if position not in chosen and length == max(of_batch)]
    assert not same or is_full(of_batch, bounds)


@pytest.mark.parametrize(
    ("lengths", "padding", "wanted"),
    [
        ([30, 31, 90, 29, 33, 30], 20, [0, 1, 3, 4, 5]),
        ([30, 200, 30, 30], 100, [0, 2, 3]),
        ([200, 30, 30, 190], 50, [0, 3]),
        ([40, 38, 44], 0, [0]),
        ([40, 38, 44], 64, [0, 1, 2]),
        ([1, 1, 1, 1], 0, [0, 1, 2, 3]),
    ],
)
def test_like_lengths_run_together(lengths: list[int], padding: int, wanted: list[int]) -> None:
    assert pick(lengths, Bounds(16, 4096, padding)) == wanted


def test_without_padding_any_lengths_go_together_and_the_budget_counts_their_sum() -> None:
    assert pick([100, 3, 300, 50, 40], Bounds(64, 200, None)) == [0, 1, 3, 4]
    assert is_full([100, 50, 40], Bounds(64, 200, None))
    assert not is_full([50, 40], Bounds(64, 200, None))


def test_the_budget_counts_padding() -> None:
    assert pick([100] * 10, Bounds(64, 500, 50)) == [0, 1, 2, 3, 4]
    assert is_full([100] * 5, Bounds(64, 500, 50))
    assert not is_full([100] * 4, Bounds(64, 500, 50))
    assert pick([1000, 1000], Bounds(64, 500, 50)) == [0]
