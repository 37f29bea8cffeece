"""A Hugging Face BERT's forward pass over texts laid end to end, for encoding where no token of padding is to be computed.

    ids of n texts -> [t, D] states of all their tokens -> linear layers over all, attention within each text -> [n, D]

On its own weights, for the towers that cls_bert.py supports, and with the same features; no gradients, no dropout. ``t`` is
rounded up, by tokens that nobody looks at: for each new size oneDNN makes new kernels, which takes as long as 60 tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import scaled_dot_product_attention

from biomedray.model import cls_bert
from biomedray.model.attention import attend_first

Spans = Sequence[slice]
"""Where each text's tokens lie."""

_FEW, _FINE, _COARSE = 128, 16, 64


def encode(text: Any, rows: Sequence[npt.NDArray[np.int64]]) -> torch.Tensor:
    """Token ids of n texts -> [n, D] features, not normalised."""
    bert: Any = text.transformer
    # A text may spell the padding token, which no token attends to.
    places = [np.flatnonzero(row != text.config.pad_token_id) for row in rows]
    ends = np.cumsum([len(kept) for kept in places]).tolist()
    spans = [slice(end - len(kept), end) for kept, end in zip(places, ends, strict=True)]
    tokens = _filled([row[kept] for row, kept in zip(rows, places, strict=True)])
    states = _embed(bert.embeddings, tokens, _filled(places))
    for module in bert.encoder.layer[:-1]:
        states = cls_bert.rest(module, _attend(module.attention.self, states, spans), states)
    first = _last(bert.encoder.layer[-1], states, spans)
    pooled = bert.pooler(first[:, None]) if cls_bert.pools(text) else first
    result: torch.Tensor = text.proj(pooled)
    return result


def _filled(parts: Sequence[npt.NDArray[np.int64]]) -> torch.Tensor:
    """[t] one after the other, then zeros."""
    size = sum(map(len, parts))
    found = np.zeros(-(-size // _step(size)) * _step(size), np.int64)
    np.concatenate(parts, out=found[:size])
    return torch.from_numpy(found)


def _step(size: int) -> int:
    return _FINE if size <= _FEW else _COARSE


def _embed(embeddings: Any, tokens: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    words = embeddings.word_embeddings(tokens) + embeddings.token_type_embeddings.weight[0]
    states: torch.Tensor = embeddings.LayerNorm(words + embeddings.position_embeddings(places))
    return states


def _attend(own: Any, states: torch.Tensor, spans: Spans) -> torch.Tensor:
    """[t, D] -> [t, D]: what each token gathers from those of its own text."""
    shape = (-1, own.num_attention_heads, own.attention_head_size)
    query, key, value = (part(states).view(shape).transpose(0, 1) for part in (own.query, own.key, own.value))
    gathered = query.new_zeros(states.shape[0], *query.shape[::2])
    for span in spans:
        seen = scaled_dot_product_attention(query[None, :, span], key[None, :, span], value[None, :, span])
        gathered[span] = seen[0].transpose(0, 1)
    result: torch.Tensor = gathered.flatten(1)
    return result


def _last(module: Any, states: torch.Tensor, spans: Spans) -> torch.Tensor:
    """[t, D] -> [n, D]: each text's first token after the layer."""
    own = module.attention.self
    first = states[[span.start for span in spans]]
    query = own.query(first).view(-1, own.num_attention_heads, own.attention_head_size)
    key, value = ((part.weight, part.bias) for part in (own.key, own.value))
    gathered = [
        attend_first(states[None, span], query[number, None], key, value, None, 0.0, None, 0) for number, span in enumerate(spans)
    ]
    return cls_bert.rest(module, torch.cat(gathered), first)
