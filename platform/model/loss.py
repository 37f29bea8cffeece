"""InfoNCE and SigLIP's loss over the whole batch, also when it is spread over processes or too large for one matrix.

The sharded form computes the similarities of the local rows only and lets gradients flow back through the gather, so
that the mean over processes is exactly the gradient of one big batch (open_clip's local_loss with gather_with_grad;
Supplementary methods of the BiomedCLIP paper). The tiled form never holds more than a tile of the matrix: what a row
needs of a tile is one number, and the tile is computed again in the backward pass (as Inf-CLIP does, arXiv 2410.17243).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


def contrastive_loss(images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor, tile: int | None = None) -> torch.Tensor:
    """Mean of image-to-text and text-to-image cross entropy for one process.

    ``images`` and ``texts`` are [n, D] unit features, ``scale`` the factor [] on cosines.
    With ``tile`` no more than tile * tile similarities are in memory at a time.
    """
    return _two_way(images, texts, images, texts, scale, 0, tile)


def sharded_loss(images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor, tile: int | None = None) -> torch.Tensor:
    """This process' share of the loss over all processes' pairs; average it (or its gradients) over them.

    Every process must hold the same number of pairs. Without a process group this is ``contrastive_loss``.
    """
    if world_size() == 1:
        return contrastive_loss(images, texts, scale, tile)
    all_images, all_texts, first = _everyone(images, texts)
    return _two_way(images, texts, all_images, all_texts, scale, first, tile)


def sigmoid_loss(
    images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, tile: int | None = None
) -> torch.Tensor:
    """SigLIP's loss (arXiv 2303.15343): every picture with every text is a yes or no; sum over all, by pair.

    ``bias`` [] is added to the scaled cosines. Shares over processes as in ``sharded_loss``.
    """
    _check(images, texts)
    all_texts, first = texts, 0
    if world_size() > 1:
        all_texts, first = _Gather.apply(texts), distributed.get_rank() * len(images)
    own = _diagonal(images, all_texts, first, scale) + bias
    # -log sigmoid(-z) of everything, then for the right ones -log sigmoid(z) in its place
    wrong = _by_tiles(_softplus_sum, images, all_texts, scale, bias, tile)
    return (wrong + (functional.softplus(-own) - functional.softplus(own)).sum()) / len(images)


def world_size() -> int:
    """Processes that share a batch."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def _two_way(
    images: torch.Tensor,
    texts: torch.Tensor,
    all_images: torch.Tensor,
    all_texts: torch.Tensor,
    scale: torch.Tensor,
    first: int,
    tile: int | None,
) -> torch.Tensor:
    _check(images, texts)
    if tile is not None and len(images) * len(all_images) > tile * tile:
        own = _diagonal(images, all_texts, first, scale)
        to_text = _log_sum(images, all_texts, scale, tile)
        to_image = _log_sum(texts, all_images, scale, tile)
        return ((to_text + to_image) / 2 - own).mean()
    labels = torch.arange(first, first + len(images), device=images.device)
    to_text = functional.cross_entropy(scale * images @ all_texts.T, labels)
    to_image = functional.cross_entropy(scale * texts @ all_images.T, labels)
    return (to_text + to_image) / 2


def _check(images: torch.Tensor, texts: torch.Tensor) -> None:
    if images.shape != texts.shape or images.ndim != 2:
        raise ValueError(f"features of shape {tuple(images.shape)} and {tuple(texts.shape)}: [n, D] twice is wanted")


def _everyone(images: torch.Tensor, texts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
    """All processes' features, in one exchange, and where this process' begin."""
    both = _Gather.apply(torch.cat([images, texts], dim=1))
    all_images, all_texts = both.split(images.shape[1], dim=1)
    return all_images, all_texts, distributed.get_rank() * len(images)


def _diagonal(queries: torch.Tensor, targets: torch.Tensor, first: int, scale: torch.Tensor) -> torch.Tensor:
    """[n] logits of what belongs together."""
    return scale * (queries * targets[first : first + len(queries)]).sum(dim=1)


def _log_sum(queries: torch.Tensor, targets: torch.Tensor, scale: torch.Tensor, tile: int) -> torch.Tensor:
    """[n] log of the sum of exponentials of each query's logits over all targets."""
    rows = []
    for some in _rows(queries, tile):
        parts = [checkpoint(_tile_log_sum, some, others, scale, use_reentrant=False) for others in _rows(targets, tile)]
        rows.append(torch.stack(parts).logsumexp(dim=0))
    return torch.cat(rows)


def _rows(values: torch.Tensor, size: int) -> list[torch.Tensor]:
    return [values[start : start + size] for start in range(0, len(values), size)]


def _tile_log_sum(queries: torch.Tensor, targets: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return (scale * queries @ targets.T).logsumexp(dim=1)


def _softplus_sum(queries: torch.Tensor, targets: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return functional.softplus(scale * queries @ targets.T + bias).sum()


def _by_tiles(
    work: Any, queries: torch.Tensor, targets: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor, tile: int | None
) -> torch.Tensor:
    """Sum of ``work`` over tiles, each computed again in the backward pass."""
    if tile is None or len(queries) * len(targets) <= tile * tile:
        result: torch.Tensor = work(queries, targets, scale, bias)
        return result
    parts = [
        checkpoint(work, some, others, scale, bias, use_reentrant=False)
        for some in _rows(queries, tile)
        for others in _rows(targets, tile)
    ]
    return torch.stack(parts).sum()


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
