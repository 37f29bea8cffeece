"""The gradient gate: however a batch is taken through, its gradient is that of one big batch by the plain formula."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import distributed

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


def two(rank: int, folder: Path) -> None:
    """One of two processes: gradients of its half of the batch, for every dropout, in one piece and in two."""
    own = slice(rank * 8, rank * 8 + 8)
    found = {}
    for patch, bert in DROPOUTS:
        for way in ({}, {"micro_batch": 3, "loss_tile": 4, "grad_checkpointing": True}):
            found[patch, bert, str(way)] = gate.step_gradients(gate.make(folder / f"m{rank}", patch, bert), own, **way)
    clip = gate.make(folder / f"m{rank}", 0.5, 0.1, init_logit_bias=-3.0)
    found[0.5, 0.1, "siglip"] = gate.step_gradients(clip, own, loss="siglip", micro_batch=4, loss_tile=3)
    torch.save(found, folder / f"found-{rank}.pt")


def test_two_processes_have_the_gradient_of_one(folder):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    commands = [[sys.executable, __file__, str(rank), str(folder)] for rank in range(2)]
    running = [subprocess.Popen(command, env=environment) for command in commands]
    assert [process.wait() for process in running] == [0, 0]
    found = torch.load(folder / "found-0.pt")
    for (patch, bert, way), gradients in found.items():
        kind = "siglip" if way == "siglip" else "infonce"
        expected = gate.reference(folder / "m", patch, bert, kind)
        assert gate.difference(gradients, expected) <= LIMIT, (patch, bert, way)
    other = torch.load(folder / "found-1.pt")
    assert all(torch.equal(other[key][name], value) for key, values in found.items() for name, value in values.items())


def test_the_gate_can_fail(folder):
    found = gate.step_gradients(gate.make(folder / "m", 0.0, 0.0))
    found["logit_scale"] = found["logit_scale"] * (1 + 3e-5)
    assert gate.difference(found, gate.reference(folder / "m", 0.0, 0.0)) > LIMIT
    other = gate.step_gradients(gate.make(folder / "m", 0.5, 0.0))
    assert gate.difference(other, gate.reference(folder / "m", 0.0, 0.0)) > 0.01


if __name__ == "__main__":
    torch.set_num_threads(1)
    worker, where = int(sys.argv[1]), Path(sys.argv[2])
    distributed.init_process_group("gloo", init_method=f"file://{where}/meet", rank=worker, world_size=2)
    two(worker, where)
    distributed.destroy_process_group()
