"""The sharded loss is the loss of one big batch, gradients included."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import distributed
from torch.nn import functional

from biomedray.model.loss import contrastive_loss, sharded_loss

ROWS, WIDTH = 12, 7


def parts() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs of two small towers, their weights and the log of the scale."""
    torch.manual_seed(3)
    images, texts = torch.randn(ROWS, 5), torch.randn(ROWS, 5)
    towers = [torch.randn(5, WIDTH, requires_grad=True) for _ in range(2)]
    return images, texts, towers[0], towers[1], torch.tensor(1.5, requires_grad=True)


def features(rows: torch.Tensor, tower: torch.Tensor) -> torch.Tensor:
    return functional.normalize(rows @ tower, dim=-1)


def whole() -> list[torch.Tensor]:
    images, texts, tower, other, scale = parts()
    loss = contrastive_loss(features(images, tower), features(texts, other), scale.exp())
    loss.backward()
    return [loss.detach(), tower.grad, other.grad, scale.grad]


def worker(rank: int, world: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    images, texts, tower, other, scale = parts()
    own = slice(rank * ROWS // world, (rank + 1) * ROWS // world)
    loss = sharded_loss(features(images[own], tower), features(texts[own], other), scale.exp())
    loss.backward()
    found = [loss.detach(), tower.grad, other.grad, scale.grad]
    for value in found:
        distributed.all_reduce(value.div_(world))
    if rank == 0:
        torch.save(found, Path(folder) / "found.pt")
    distributed.destroy_process_group()


@pytest.mark.parametrize("world", [2, 3])
def test_shards_give_the_gradient_of_the_whole_batch(world, tmp_path):
    # Fresh processes: a fork of this one could inherit a lock that one of torch's threads holds.
    commands = [[sys.executable, __file__, str(rank), str(world), str(tmp_path)] for rank in range(world)]
    running = [subprocess.Popen(command) for command in commands]
    assert [process.wait() for process in running] == [0] * world
    found = torch.load(tmp_path / "found.pt")
    for mine, expected in zip(found, whole(), strict=True):
        torch.testing.assert_close(mine, expected, atol=1e-6, rtol=1e-5)


def test_golden_values():
    eye = torch.eye(4)
    assert float(contrastive_loss(eye, eye, torch.tensor(1.0))) == pytest.approx(math.log(1 + 3 / math.e))
    same = torch.ones(4, 1)
    assert float(contrastive_loss(same, same, torch.tensor(10.0))) == pytest.approx(math.log(4))
    assert float(sharded_loss(eye, eye, torch.tensor(1.0))) == pytest.approx(math.log(1 + 3 / math.e))


def test_wrong_shapes_are_errors():
    with pytest.raises(ValueError, match="is wanted"):
        contrastive_loss(torch.ones(3, 4), torch.ones(2, 4), torch.tensor(1.0))


if __name__ == "__main__":
    worker(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
