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
from torch.utils._python_dispatch import TorchDispatchMode

from biomedray.model.loss import contrastive_loss, sharded_loss, sigmoid_loss

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


@pytest.mark.parametrize("world", [3])
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


class _Largest(TorchDispatchMode):
    """The most numbers that any tensor holds, forward and backward."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else [result]:
            if isinstance(value, torch.Tensor):
                self.numbers = max(self.numbers, value.numel())
        return result


@pytest.mark.parametrize("kind", ["infonce", "siglip"])
def test_tiles_give_the_same_and_never_hold_the_matrix(kind):
    def run(tile):
        torch.manual_seed(0)
        images, texts = (functional.normalize(torch.randn(96, 5), dim=1).requires_grad_() for _ in range(2))
        scale, bias = torch.tensor(30.0, requires_grad=True), torch.tensor(-4.0, requires_grad=True)
        with _Largest() as seen:
            if kind == "infonce":
                loss = contrastive_loss(images, texts, scale, tile) + 0 * bias
            else:
                loss = sigmoid_loss(images, texts, scale, bias, tile)
            loss.backward()
        return [loss.detach(), images.grad, texts.grad, scale.grad, bias.grad], seen.numbers

    (whole, most), (tiled, least) = run(None), run(10)
    assert most == 96 * 96
    assert least <= 96 * 10  # a row of tiles' sums, or the features themselves
    for mine, expected in zip(tiled, whole, strict=True):
        torch.testing.assert_close(mine, expected, atol=1e-6, rtol=1e-5)


def test_siglip_golden_values():
    eye, zero = torch.eye(4), torch.tensor(0.0)
    # 4 right ones at logit 1 and 12 wrong ones at logit 0, by 4 pairs
    expected = math.log(1 + math.exp(-1)) + 3 * math.log(2)
    assert float(sigmoid_loss(eye, eye, torch.tensor(1.0), zero)) == pytest.approx(expected)


def test_wrong_shapes_are_errors():
    with pytest.raises(ValueError, match="is wanted"):
        contrastive_loss(torch.ones(3, 4), torch.ones(2, 4), torch.tensor(1.0))


if __name__ == "__main__":
    worker(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
