"""One optimisation step: what decays, what is bounded, and that workers together do what one would."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed

from biomedray.model import catalogue, towers
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


def gradients(rank: int, world: int) -> dict[str, torch.Tensor]:
    """Gradients of one step without clipping, on this worker's share of 40 pairs."""
    config = LOOP.model_copy(update={"grad_clip": None})
    stepper = Stepper(new_model(), config, tokenize=tokenize)
    own = slice(rank * 40 // world, (rank + 1) * 40 // world)
    stepper.step(pixels()[own], CAPTIONS[own], lr=0.0, seed=0)
    return {name: value.grad for name, value in stepper.clip.named_parameters()}


def test_two_workers_have_the_gradient_of_one(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    commands = [[sys.executable, __file__, str(rank), str(tmp_path)] for rank in range(2)]
    running = [subprocess.Popen(command, env=environment) for command in commands]
    assert [process.wait() for process in running] == [0, 0]
    found, expected = torch.load(tmp_path / "found.pt"), gradients(0, 1)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    worker, folder = int(sys.argv[1]), sys.argv[2]
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=worker, world_size=2)
    mine = gradients(worker, 2)
    if worker == 0:
        torch.save(mine, Path(folder) / "found.pt")
    distributed.destroy_process_group()
