"""The gradient gate: however a batch is taken through, its gradient is that of one big batch by the plain formula."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

from biomedray.train.step import Stepper

_spec = importlib.util.spec_from_file_location("gate", Path(__file__).with_name("gate.py"))
gate = importlib.util.module_from_spec(_spec)
sys.modules.setdefault("gate", gate)
_spec.loader.exec_module(gate)

LIMIT = 1e-5
DROPOUTS = [(patch, bert) for patch in (0.0, 0.5) for bert in (0.0, 0.1)]
WAYS = {
    "plain": {},
    "k2": {"micro_batch": 8},
    "k4": {"micro_batch": 4},
    "k8": {"micro_batch": 2},
    "uneven": {"micro_batch": 5},
    "tiled": {"loss_tile": 5},
    "tiled_k4": {"micro_batch": 4, "loss_tile": 3},
    "recomputed": {"grad_checkpointing": True},
    "recomputed_k2": {"grad_checkpointing": True, "micro_batch": 8},
}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gate")


@pytest.mark.parametrize(("patch", "bert"), DROPOUTS)
@pytest.mark.parametrize("way", WAYS)
def test_the_gradient_is_that_of_one_big_batch(way, patch, bert, folder):
    found = gate.step_gradients(gate.make(folder / "m", patch, bert), **WAYS[way])
    assert gate.difference(found, gate.reference(folder / "m", patch, bert)) <= LIMIT


@pytest.mark.parametrize("way", ["plain", "k4", "tiled_k4"])
def test_siglip_too(way, folder):
    clip = gate.make(folder / "m", 0.5, 0.1, init_logit_bias=-3.0)
    found = gate.step_gradients(clip, loss="siglip", **WAYS[way])
    assert gate.difference(found, gate.reference(folder / "m", 0.5, 0.1, "siglip")) <= LIMIT


@pytest.mark.heavy
def test_compiled_layers_too(folder, monkeypatch):
    whole = torch.compile
    # All of the compiler but the last step, which is minutes of g++.
    monkeypatch.setattr(torch, "compile", lambda *args, **options: whole(*args, **{**options, "backend": "aot_eager"}))
    for changes in ({"micro_batch": 8}, {"micro_batch": 8, "grad_checkpointing": True}):
        found = gate.step_gradients(gate.make(folder / "m", 0.5, 0.1), compile=True, **changes)
        assert gate.difference(found, gate.reference(folder / "m", 0.5, 0.1)) <= LIMIT


def losses(clip, lots, **settings):
    """Of steps that learn, each on a lot of (number of pairs, lengths of their texts); and graphs compiled after each."""
    lengths = list(gate.LENGTHS)
    found, graphs = [], []
    try:
        stepper = Stepper(clip, gate.LOOP.model_copy(update=settings), tokenize=gate.tokenize)
        for seed, (count, own) in enumerate(lots):
            gate.LENGTHS[:] = own
            result = stepper.step(gate.pixels()[:count], gate.CAPTIONS[:count], lr=1e-3, seed=seed)
            found.append(float(result.loss))
            graphs.append(counters["stats"]["unique_graphs"])
    finally:
        gate.LENGTHS[:] = lengths
    return found, graphs


@pytest.mark.heavy
def test_the_compiler_to_its_end(folder, tmp_path, monkeypatch):
    """Inductor's own kernels: steps as without it, and nothing is compiled anew when batches and texts change their sizes."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    lots = [(16, gate.LENGTHS[:]), (16, [3] * 16), (12, list(range(4, 36, 2))), (16, [40] * 16), (9, [7, 9] * 8), (14, [21] * 16)]
    expected, _ = losses(gate.make(folder / "m", 0.5, 0.0), lots)
    counters.clear()
    found, graphs = losses(gate.make(folder / "m", 0.5, 0.0), lots, compile=True)
    assert found == pytest.approx(expected, rel=LIMIT)
    assert found != expected, "these are other kernels"
    assert graphs[0] > 0
    assert graphs[1:] == [graphs[1]] * 5


@pytest.mark.heavy
def test_two_processes_have_the_gradient_of_one(folder, together):
    first, other = (found["gradients"] for found in together)
    for (patch, bert, way), gradients in first.items():
        expected = gate.reference(folder / "m", patch, bert, "siglip" if way == "siglip" else "infonce")
        assert gate.difference(gradients, expected) <= LIMIT, (patch, bert, way)
    assert all(torch.equal(other[key][name], value) for key, values in first.items() for name, value in values.items())


def test_the_gate_can_fail(folder):
    found = gate.step_gradients(gate.make(folder / "m", 0.0, 0.0))
    found["logit_scale"] = found["logit_scale"] * (1 + 3e-5)
    assert gate.difference(found, gate.reference(folder / "m", 0.0, 0.0)) > LIMIT
    other = gate.step_gradients(gate.make(folder / "m", 0.5, 0.0))
    assert gate.difference(other, gate.reference(folder / "m", 0.0, 0.0)) > 0.01
