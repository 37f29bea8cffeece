"""Attention of the first token alone, and of all, with dropout per sample."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from biomedray.model.dropout import drop


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    p: float,
    keys: torch.Tensor | None,
    site: int,
) -> torch.Tensor:
    """[n, heads, l, E] three times and a mask [n, 1, 1, l] (True: seen) -> [n, heads, l, E].

    With dropout ``p`` on the CPU the mask is the samples' own. On a GPU the fused kernel draws it from torch's
    generator, because weights of [l, l] in memory cost more than all else; the step seeds that generator.
    """
    if p == 0 or keys is None or query.is_cuda:
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=p)
    scores = (query * (1 / math.sqrt(query.shape[-1]))) @ key.transpose(-2, -1)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return drop(scores.softmax(dim=-1), p, keys, site) @ value


def attend_first(
    tokens: torch.Tensor,
    query: torch.Tensor,
    key: tuple[torch.Tensor, torch.Tensor | None],
    value: tuple[torch.Tensor, torch.Tensor | None],
    mask: torch.Tensor | None,
    p: float,
    keys: torch.Tensor | None,
    site: int,
) -> torch.Tensor:
    """What the first token gathers from ``tokens`` [n, l, D] by its query [n, heads, E] -> [n, heads * E].

    ``key`` and ``value`` are weight [heads * E, D] and bias of their projections. With one query a head they need not
    be applied to every token: q (K x) = (K'q) x, and the weighted sum of V x is V of the weighted sum of x.
    """
    heads, width = query.shape[1:]
    asked = torch.einsum("nhe,hed->nhd", query, key[0].view(heads, width, -1))
    scores = asked @ tokens.transpose(1, 2).to(asked.dtype)
    if key[1] is not None:  # the same for every token, so it changes nothing but keeps the bias in the graph
        scores = scores + (query * key[1].view(heads, width)).sum(-1, keepdim=True)
    scores = scores.float() / math.sqrt(width)
    if mask is not None:
        scores = scores.masked_fill(~mask[:, 0], -math.inf)
    weights = scores.softmax(dim=-1)
    if p:
        weights = functional.dropout(weights, p) if keys is None else drop(weights[:, :, None], p, keys, site)[:, :, 0]
    gathered = torch.einsum("nhd,hed->nhe", weights @ tokens.to(weights.dtype), value[0].view(heads, width, -1))
    if value[1] is not None:
        gathered = gathered + weights.sum(-1, keepdim=True) * value[1].view(heads, width)
    return gathered.flatten(1)
