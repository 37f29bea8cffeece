"""Poisoned batches are left out, broken weights go back, and a run that can't go on ends with one line; the moving average."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from biomedray.errors import UserError, WorkError
from biomedray.model import catalogue, towers
from biomedray.train.ema import Ema
from biomedray.train.guard import Guard
from biomedray.train.presets import LoopConfig
from biomedray.train.step import Stepper


def new(**changes):
    torch.manual_seed(0)
    model_cfg = catalogue.read("tiny")["model_cfg"]
    clip = towers.build({**model_cfg, **changes.pop("model", {})})
    return Stepper(clip, LoopConfig(batch_size=8, **changes), tokenize=tokenize)


def tokenize(texts):
    return torch.tensor([[5 + int(text) % 50, 9, 3] for text in texts])


def pixels(seed=0):
    return torch.randint(0, 256, (8, 80, 80, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


CAPTIONS = [str(i) for i in range(8)]


def weights(stepper):
    return {name: value.clone() for name, value in stepper.clip.state_dict().items()}


def test_a_poisoned_batch_changes_nothing_and_is_told():
    stepper = new()
    stepper.step(pixels(), CAPTIONS, 1e-3, 0)
    before = weights(stepper)
    good = stepper._mean.clone()
    stepper._mean.fill_(math.nan)
    result = stepper.step(pixels(), CAPTIONS, 1e-3, 1)
    stepper._mean.copy_(good)
    assert result.incident == "loss nan: batch left out"
    assert torch.isfinite(result.loss)
    after = weights(stepper)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert stepper.step(pixels(), CAPTIONS, 1e-3, 2).incident is None


def test_broken_weights_go_back_to_the_last_good_copy():
    stepper = new(ema_decay=0.9)
    start = weights(stepper)
    stepper.step(pixels(), CAPTIONS, 1e-3, 0)
    with torch.no_grad():
        stepper.clip.visual.head.proj.weight.fill_(math.nan)
    assert "back" not in stepper.step(pixels(), CAPTIONS, 1e-3, 1).incident
    assert "weights back" in stepper.step(pixels(), CAPTIONS, 1e-3, 2).incident
    after = weights(stepper)
    assert all(torch.equal(after[name], value) for name, value in start.items())
    assert stepper.step(pixels(), CAPTIONS, 1e-3, 3).incident is None


def test_a_learning_rate_that_diverges_ends_with_one_line():
    stepper = new(lr=1e8, guard_skips=3)
    line = r"training diverged: .* after 3 batches left out; lower train.lr \(now 1e\+08\)"
    with pytest.raises(WorkError, match=line) as caught:
        steps(stepper, 1e8)
    assert "\n" not in str(caught.value)


def steps(stepper, lr):
    for seed in range(60):
        stepper.step(pixels(), CAPTIONS, lr, seed)


def guard(**changes):
    return Guard(LoopConfig(**changes), dict, lambda _: None)


def test_a_leap_is_measured_against_the_running_mean():
    watch = guard()
    assert all(watch.judge(0.5, 1.0) is None for _ in range(30))
    assert watch.judge(2.9, 1.0) is None
    assert "after a mean of" in watch.judge(4.0, 1.0)
    assert watch.judge(0.5, math.inf).startswith("gradient norm inf")
    assert all(guard(guard_spike=None).judge(loss, 1.0) is None for loss in [0.5] * 30 + [400.0])
    assert guard().judge(400.0, 1.0) is None, "nothing to compare with yet"


def test_old_incidents_are_forgotten_and_a_checkpoint_remembers_the_rest():
    watch = guard(guard_skips=1)
    for _ in range(3):
        assert watch.judge(math.nan, 1.0)
        assert all(watch.judge(1.0, 1.0) is None for _ in range(1000))
    assert watch.judge(math.nan, 1.0)
    again = guard(guard_skips=1)
    again.load_state_dict(watch.state_dict())
    with pytest.raises(WorkError, match="diverged"):
        again.judge(math.nan, 1.0)


def test_the_average_follows_the_weights():
    linear = nn.Linear(2, 2)
    ema = Ema(linear, 0.5)
    was = linear.weight.detach().clone()
    with torch.no_grad():
        linear.weight.add_(1.0)
    ema.update()
    slow = nn.Linear(2, 2)
    ema.copy_to(slow)
    torch.testing.assert_close(slow.weight.detach(), was + 1 - 2 / 11)
    for _ in range(60):
        ema.update()
    again = Ema(nn.Linear(2, 2), 0.5)
    again.load_state_dict(ema.state_dict())
    again.copy_to(slow)
    torch.testing.assert_close(slow.weight, linear.weight)


def test_siglip_needs_a_bias_and_learns_it():
    with pytest.raises(UserError, match=r"set model.logit_bias=-10"):
        new(loss="siglip")
    stepper = new(loss="siglip", model={"init_logit_bias": -10.0})
    losses = [float(stepper.step(pixels(), CAPTIONS, 3e-3, seed).loss) for seed in range(15)]
    assert losses[-1] < 0.7 * losses[0]
    assert float(stepper.clip.logit_bias.detach()) != -10.0
