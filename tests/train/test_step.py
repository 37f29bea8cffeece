"""One optimisation step: what decays, what is bounded, and that workers together do what one would."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from open_clip.transform import PreprocessCfg
from torch import nn
from torch.nn import functional

from biomedray.model import catalogue, towers
from biomedray.train.accumulate import still_statistics
from biomedray.train.presets import LoopConfig
from biomedray.train.step import Stepper, make_optimizer, use_bf16

LOOP = LoopConfig(batch_size=8, lr=1e-3, grad_clip=1.0)
CAPTIONS = [f"{i} {'liver ' * (i % 5)}" for i in range(40)]


def new_model():
    torch.manual_seed(0)
    return towers.build(catalogue.read("tiny")["model_cfg"])


def tokenize(captions):
    """Word lengths as ids: enough for a tower to learn from."""
    tokens = torch.zeros((len(captions), 12), dtype=torch.long)
    for row, caption in enumerate(captions):
        ids = [2, *(len(word) + 5 for word in caption.split()), int(caption.split()[0]) + 20, 3]
        tokens[row, : len(ids)] = torch.tensor(ids)
    return tokens


def pixels(count=40):
    return torch.from_numpy(np.random.default_rng(0).integers(0, 255, (count, 32, 32, 3), dtype=np.uint8))


def test_gains_biases_and_the_scale_do_not_decay():
    model = new_model()
    decayed, plain = make_optimizer(model, LOOP).param_groups
    assert decayed["weight_decay"] == 0.2
    assert plain["weight_decay"] == 0
    assert all(p.ndim >= 2 for p in decayed["params"])
    assert any(p is model.logit_scale for p in plain["params"])
    assert len(decayed["params"]) + len(plain["params"]) == len(list(model.parameters()))


def test_the_scale_stays_within_its_bounds():
    for start, low, high in ((10.0, 0, math.log(100)), (-3.0, 0, 0.01)):
        stepper = Stepper(new_model(), LOOP, tokenize=tokenize)
        with torch.no_grad():
            stepper.clip.logit_scale.fill_(start)
        stepper.step(pixels(4), CAPTIONS[:4], lr=1e-3, seed=0)
        assert low <= float(stepper.clip.logit_scale.detach()) <= high + 1e-6


def test_repeated_steps_learn_a_batch():
    stepper = Stepper(new_model(), LOOP, tokenize=tokenize)
    losses = [float(stepper.step(pixels(8), CAPTIONS[:8], lr=1e-3, seed=i).loss) for i in range(12)]
    assert losses[0] == pytest.approx(math.log(8), abs=0.5)
    assert losses[-1] < 0.6 * losses[0]


def test_a_step_repeats_exactly():
    def weights():
        stepper = Stepper(new_model(), LOOP, tokenize=tokenize)
        for seed in range(3):
            stepper.step(pixels(8), CAPTIONS[:8], lr=1e-3, seed=seed)
        return stepper.clip.state_dict()

    first, again = weights(), weights()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_precision():
    assert use_bf16(LOOP, "cpu") is False
    assert use_bf16(LoopConfig(precision="bf16"), "cpu") is True
    stepper = Stepper(new_model(), LoopConfig(precision="bf16"), tokenize=tokenize)
    assert stepper.step(pixels(4), CAPTIONS[:4], lr=1e-4, seed=0).loss.dtype == torch.float32


def gradients(**changes) -> dict[str, torch.Tensor]:
    """Gradients of one step without clipping, on 40 pairs of towers that go open_clip's own way."""
    config = LOOP.model_copy(update={"grad_clip": None, **changes})
    stepper = Stepper(new_model(), config, tokenize=tokenize)
    stepper.step(pixels(), CAPTIONS, lr=0.0, seed=0)
    return {name: value.grad for name, value in stepper.clip.named_parameters()}


def test_other_towers_have_the_gradient_of_one_big_batch_too():
    clip = new_model().train()
    mean, std = (torch.tensor(values) for values in (PreprocessCfg().mean, PreprocessCfg().std))
    images = functional.normalize(clip.encode_image(((pixels().float() / 255 - mean) / std).permute(0, 3, 1, 2)), dim=-1)
    tokens = functional.pad(tokenize(CAPTIONS), (0, 96 - 12))
    texts = functional.normalize(clip.encode_text(tokens), dim=-1)
    logits = clip.logit_scale.exp() * images @ texts.T
    labels = torch.arange(40)
    ((functional.cross_entropy(logits, labels) + functional.cross_entropy(logits.T, labels)) / 2).backward()
    for changes in ({}, {"micro_batch": 10}, {"micro_batch": 16, "loss_tile": 7}, {"grad_checkpointing": True}):
        found = gradients(**changes)
        for name, parameter in clip.named_parameters():
            off = (found[name] - parameter.grad).norm() / parameter.grad.norm().clamp(min=1e-4)
            assert off < 1e-4, (changes, name)


def test_running_statistics_count_a_batch_once():
    norm = nn.BatchNorm1d(3)
    norm(torch.randn(8, 3))
    before = {name: value.clone() for name, value in norm.named_buffers()}
    with still_statistics(nn.Sequential(norm)):
        norm(torch.randn(8, 3))
    assert all(torch.equal(value, before[name]) for name, value in norm.named_buffers())
