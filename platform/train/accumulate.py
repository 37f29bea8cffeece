"""The gradient of a batch that is too large for memory, exactly: two passes over micro-batches.

    pass 1   features of every micro-batch, without a graph but for the last
    loss     of all features at once, and its gradient with respect to them
    pass 2   back through the last one's graph; then each other is computed again and taken back through

GradCache (Gao et al. 2021, arXiv 2101.06983), whose graph of the last micro-batch is kept, so that k micro-batches cost
(4 - 1/k) / 3 of one. Each starts from a random state of its own, set in both passes, so masks repeat. The logit scale
gets its gradient once. Processes are asked to add up their gradients in the last backward pass only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from biomedray.model.grouping import Texts

Features = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]
"""Images [n, D], texts [m, D], scale [], bias [] if the model has one."""
Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]


@dataclass(frozen=True)
class Part:
    """A micro-batch: some pictures and as many texts, which need not be theirs."""

    pixels: torch.Tensor
    """[m, S, S, 3] uint8."""
    keys: torch.Tensor
    """[m] of the pictures' patch dropout."""
    texts: Texts
    seed: int
    """Of whatever draws from torch's own generator."""


@dataclass(frozen=True)
class Towers:
    """The two ways to run the towers on a part."""

    local: Callable[[Part], Features]
    """Its backward pass leaves gradients on this process."""
    shared: Callable[[Part], Features]
    """Its backward pass adds up what gradients all processes have then."""
    modules: nn.Module


def backward(towers: Towers, parts: Sequence[Part], loss: Loss) -> torch.Tensor:
    """Put the gradient of the loss of all parts together on the parameters; the loss []."""
    if len(parts) == 1:
        value = loss(*_seeded(towers.shared, parts[0]))
        value.backward()  # type: ignore[no-untyped-call]  # torch's own signature
        return value.detach()
    with torch.no_grad():
        known = [_seeded(towers.local, part) for part in parts[:-1]]
    kept = _seeded(towers.local, parts[-1])
    value, gradients = _of_features([*known, kept], loss)
    _back(kept, gradients.rows(len(parts) - 1))
    del known, kept
    with still_statistics(towers.modules):
        for number, part in enumerate(parts[:-1]):
            last = number == len(parts) - 2
            features = _seeded(towers.shared if last else towers.local, part)
            _back(features, gradients.rows(number), gradients.factors if last else None)
    return value


@dataclass(frozen=True)
class _Gradients:
    images: list[torch.Tensor]
    texts: list[torch.Tensor]
    factors: list[torch.Tensor]
    """Of scale and, if there is one, bias."""

    def rows(self, part: int) -> list[torch.Tensor]:
        return [self.images[part], self.texts[part]]


def _of_features(parts: list[Features], loss: Loss) -> tuple[torch.Tensor, _Gradients]:
    sides = [part[:2] for part in parts]
    images, texts = (torch.cat([part[side] for part in sides]).detach().requires_grad_() for side in (0, 1))
    factors = [value.detach().requires_grad_() for value in parts[-1][2:] if value is not None]
    value = loss(images, texts, factors[0], factors[1] if len(factors) > 1 else None)
    for_images, for_texts, *for_factors = torch.autograd.grad(value, [images, texts, *factors])
    sizes = [[len(part[side]) for part in sides] for side in (0, 1)]
    split = [list(torch.split(rows, counts)) for rows, counts in zip((for_images, for_texts), sizes, strict=True)]
    return value.detach(), _Gradients(split[0], split[1], for_factors)


def _back(features: Features, rows: list[torch.Tensor], factors: list[torch.Tensor] | None = None) -> None:
    outputs: list[torch.Tensor] = list(features[:2])
    if factors is not None:
        outputs += [value for value in features[2:] if value is not None]
    pairs = [(output, gradient) for output, gradient in zip(outputs, [*rows, *(factors or [])], strict=True)]
    wanted = [(output, gradient) for output, gradient in pairs if output.requires_grad]  # a tower may be locked
    torch.autograd.backward([output for output, _ in wanted], [gradient for _, gradient in wanted])


def _seeded(run: Callable[[Part], Features], part: Part) -> Features:
    torch.manual_seed(part.seed)
    return run(part)


@contextlib.contextmanager
def still_statistics(modules: nn.Module) -> Iterator[None]:
    """Running means of batch norms stay as they are: a part that is computed again must not count twice."""
    norms: list[Any] = [module for module in modules.modules() if isinstance(getattr(module, "running_mean", None), torch.Tensor)]
    before = [(norm.running_mean, norm.running_var, norm.num_batches_tracked) for norm in norms]
    copies = [[None if value is None else value.clone() for value in values] for values in before]
    try:
        yield
    finally:
        with torch.no_grad():
            for values, saved in zip(before, copies, strict=True):
                for value, was in zip(values, saved, strict=True):
                    if value is not None and was is not None:
                        value.copy_(was)
