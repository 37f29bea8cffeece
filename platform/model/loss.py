"""InfoNCE over the whole batch, also when the batch is spread over processes.

The sharded form computes the similarities of the local rows only and lets gradients flow back
through the gather, so that the mean over processes is exactly the gradient of one big batch
(open_clip's local_loss with gather_with_grad; Supplementary methods of the BiomedCLIP paper).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed
from torch.nn import functional


def contrastive_loss(images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Mean of image-to-text and text-to-image cross entropy for one process.

    ``images`` and ``texts`` are [n, D] unit features, ``scale`` the factor [] on cosines.
    """
    return _two_way(images, texts, images, texts, scale, first=0)


def sharded_loss(images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """This process' share of the loss over all processes' pairs; average it (or its gradients) over them.

    Every process must hold the same number of pairs. Without a process group this is ``contrastive_loss``.
    """
    if world_size() == 1:
        return contrastive_loss(images, texts, scale)
    both = _Gather.apply(torch.cat([images, texts], dim=1))
    all_images, all_texts = both.split(images.shape[1], dim=1)
    first = distributed.get_rank() * len(images)
    return _two_way(images, texts, all_images, all_texts, scale, first)


def world_size() -> int:
    """Processes that share a batch."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def _two_way(
    images: torch.Tensor, texts: torch.Tensor, all_images: torch.Tensor, all_texts: torch.Tensor, scale: torch.Tensor, first: int
) -> torch.Tensor:
    if images.shape != texts.shape or images.ndim != 2:
        raise ValueError(f"features of shape {tuple(images.shape)} and {tuple(texts.shape)}: [n, D] twice is wanted")
    labels = torch.arange(first, first + len(images), device=images.device)
    to_text = functional.cross_entropy(scale * images @ all_texts.T, labels)
    to_image = functional.cross_entropy(scale * texts @ all_images.T, labels)
    return (to_text + to_image) / 2


class _Gather(torch.autograd.Function):
    """[n, K] of each process -> [world * n, K]; its gradient sums what every process wants of a row."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor) -> torch.Tensor:
        ctx.count = len(rows)
        parts = [torch.empty_like(rows) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        (gradient,) = gradients
        total = gradient.contiguous().clone()
        distributed.all_reduce(total)
        first = distributed.get_rank() * ctx.count
        return total[first : first + ctx.count]
