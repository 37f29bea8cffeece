"""The plan of batches, counted in pairs."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biomedray.errors import UserError
from biomedray.train.plan import Plan
from biomedray.train.presets import LoopConfig


def test_batches_of_two_epochs():
    plan = Plan(10, LoopConfig(epochs=2, batch_size=4))
    found = [(b.epoch, b.start, b.stop, b.seen, b.ends_epoch) for b in plan.batches()]
    assert found == [(0, 0, 4, 4, False), (0, 4, 8, 8, True), (1, 0, 4, 12, False), (1, 4, 8, 16, True)]
    assert (plan.total_steps, plan.total_samples) == (4, 16)


def test_the_batch_size_may_change_between_epochs():
    plan = Plan(20, LoopConfig(epochs=4, batch_size=4, batch_schedule=((1, 10), (3, 20))))
    assert plan.batch_sizes == [4, 10, 10, 20]
    assert plan.total_steps == 5 + 2 + 2 + 1
    assert [b.stop - b.start for b in plan.batches(60)] == [20]


@settings(max_examples=50, deadline=None)
@given(rows=st.integers(8, 60), size=st.integers(2, 8), epochs=st.integers(1, 4), cut=st.integers(0, 30))
def test_going_on_is_the_rest_of_the_whole(rows, size, epochs, cut):
    plan = Plan(rows, LoopConfig(epochs=epochs, batch_size=size))
    whole = list(plan.batches())
    cut = min(cut, len(whole) - 1)
    assert list(plan.batches(whole[cut].seen)) == whole[cut + 1 :]
    assert whole[-1].seen == plan.total_samples


def test_the_learning_rate_rises_and_falls():
    plan = Plan(1000, LoopConfig(epochs=1, batch_size=10, warmup_steps=20, lr=1.0))
    rates = [plan.learning_rate(b.seen - 10) for b in plan.batches()]
    assert rates[0] == pytest.approx(1 / 20)
    assert max(rates) == pytest.approx(1.0, abs=1e-3)
    assert rates.index(max(rates)) in (19, 20)
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[-1] < 0.001
    assert plan.learning_rate(500, time_share=1.0) == pytest.approx(0.0)


def test_a_batch_larger_than_the_split_is_refused():
    with pytest.raises(UserError, match=r"train\.batch_size 4096: larger than the train split \(100 pairs\)"):
        Plan(100, LoopConfig())
