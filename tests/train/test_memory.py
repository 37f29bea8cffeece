"""The planner takes the least work that fits, measures what is true, and says in one line when nothing fits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from biomedray.errors import UserError
from biomedray.model import catalogue, towers
from biomedray.train import memory
from biomedray.train.memory import Costs, Fit, choose
from biomedray.train.presets import LoopConfig
from biomedray.train.step import Stepper

COSTS = Costs(fixed=1000, pair=100.0, pair_recomputed=20.0, layers=8)


def test_from_plain_to_pieces_as_memory_shrinks():
    plain = choose(64, COSTS, 10**6)
    assert (plain.share, plain.pieces(64)) == (0.0, 1)
    some = choose(64, COSTS, 1000 + int(64 * 100 * 1.25 * 0.7))
    assert 0 < some.share < 1
    assert some.pieces(64) == 1
    few = choose(64, COSTS, 2000)
    assert few.pieces(64) > 1
    assert plain.work(64) < some.work(64) < few.work(64) <= 5


@settings(max_examples=200, deadline=None)
@given(batch=st.integers(1, 300), budget=st.integers(1, 60_000), saved=st.floats(0, 99), layers=st.integers(1, 12))
def test_a_plan_fits_and_no_cheaper_one_does(batch, budget, saved, layers):
    costs = Costs(500, 100.0, 100.0 - saved, layers)
    try:
        found = choose(batch, costs, budget)
    except UserError:
        assert budget < 500 + 1.25 * 100 + 1
        return
    assert found.bytes <= budget
    assert 1 <= found.micro_batch <= batch
    for share in (step / layers for step in range(layers + 1)):
        for size in range(1, batch + 1):
            other = Fit(size, share, memory._needs(size, costs, share))
            assert other.bytes > budget or other.work(batch) >= found.work(batch)


def test_what_is_set_is_kept():
    assert choose(64, COSTS, 10**6, share=1.0).share == 1.0
    assert choose(64, COSTS, 10**6, micro_batch=10).micro_batch == 10
    with pytest.raises(UserError, match=r"too little.*micro-batches of 10"):
        choose(64, COSTS, 1100, micro_batch=10)


def test_kept_bytes_are_those_that_autograd_keeps():
    linear, values = nn.Linear(8, 16), torch.randn(4, 8)
    assert memory.kept_bytes(linear, lambda: linear(values)) == values.nbytes
    chain = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 4))
    assert memory.kept_bytes(chain, lambda: chain(values)) == values.nbytes + 2 * 4 * 16 * 4


def stepper(**changes):
    torch.manual_seed(0)
    clip = towers.build(catalogue.read("tiny")["model_cfg"])
    config = LoopConfig(batch_size=16, **changes)
    return Stepper(clip, config, tokenize=lambda texts: torch.randint(5, 90, (len(texts), 20)))


def take(one, pairs=16):
    return one.step(torch.zeros(pairs, 80, 80, 3, dtype=torch.uint8), ["a"] * pairs, lr=0.0, seed=0)


def test_a_step_plans_for_itself():
    plain, tight = stepper(), stepper(memory_gb=0.06)
    assert take(plain).micro_batches == 1
    assert take(tight).micro_batches > 1
    assert tight.plan.bytes <= 0.06 * memory.GIB
    assert take(stepper(micro_batch=5)).micro_batches == 4


def test_too_little_memory_is_one_line():
    with pytest.raises(UserError, match=r"memory of 0.01 GiB a worker: too little, .* raise train.memory_gb") as caught:
        take(stepper(memory_gb=0.01))
    assert "\n" not in str(caught.value)
