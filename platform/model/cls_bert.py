"""A Hugging Face BERT's forward pass on its own weights, for a tower that reads out the first token only.

The last layer is computed for that token alone; dropout is per sample (dropout.py); any first layers can be recomputed
in the backward pass. Features and gradients are those of the usual forward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from open_clip.hf_model import ClsLastHiddenStatePooler, ClsPooler, HFTextEncoder
from torch.utils.checkpoint import checkpoint
from transformers.models.bert.modeling_bert import BertModel

from biomedray.model.attention import attend, attend_first
from biomedray.model.dropout import drop

_SITES = 4
"""Dropouts of a layer: attention, its output, the layer's output; one is left free."""


@dataclass(frozen=True)
class Rows:
    """What belongs to the texts of a forward pass."""

    mask: torch.Tensor | None
    """[n, 1, 1, l] True where there is a token; None: everywhere."""
    keys: torch.Tensor | None
    """[n] int64; None: torch's own generator."""


NO_DROPOUT = Rows(None, None)
Layer = Callable[[Any, torch.Tensor, Rows, int], torch.Tensor]


def supports(text: Any) -> bool:
    """Whether this is such a BERT; any other goes the usual way."""
    if not isinstance(text, HFTextEncoder) or type(text.transformer) is not BertModel or text.output_tokens:
        return False
    config: Any = text.config
    plain = not config.is_decoder and getattr(config, "position_embedding_type", "absolute") in ("absolute", None)
    return plain and isinstance(text.pooler, ClsPooler | ClsLastHiddenStatePooler)


def layers(text: Any) -> int:
    """Layers that can be recomputed: all but the last."""
    return len(text.transformer.encoder.layer) - 1


def encode(
    text: Any,
    tokens: torch.Tensor,
    keys: torch.Tensor | None = None,
    full: bool = False,
    recomputed: int = 0,
    run: Layer | None = None,
) -> torch.Tensor:
    """[n, l] token ids -> [n, D] features, not normalised; ``full``: there is no padding, as the caller knows.

    ``run`` is ``layer`` or what a compiler made of it.
    """
    run = run or layer
    mask = None if full else (tokens != text.config.pad_token_id)[:, None, None]
    rows = Rows(mask, keys)
    bert: Any = text.transformer
    states = _embed(bert.embeddings, tokens, rows)
    for number, module in enumerate(bert.encoder.layer[:-1]):
        site = 1 + number * _SITES
        if number < recomputed and torch.is_grad_enabled():
            states = checkpoint(run, module, states, rows, site, use_reentrant=False)
        else:
            states = run(module, states, rows, site)
    first = _last(bert.encoder.layer[-1], states, rows, 1 + layers(text) * _SITES)
    pooled = bert.pooler(first) if pools(text) else first[:, 0]
    result: torch.Tensor = text.proj(pooled)
    return result


def layer(module: Any, states: torch.Tensor, rows: Rows, site: int) -> torch.Tensor:
    """[n, l, D] -> [n, l, D] through one layer of the encoder."""
    own = module.attention.self
    shape = (*states.shape[:2], own.num_attention_heads, own.attention_head_size)
    query, key, value = (part(states).view(shape).transpose(1, 2) for part in (own.query, own.key, own.value))
    gathered = attend(query, key, value, rows.mask, _rate(own.dropout), rows.keys, site)
    return rest(module, gathered.transpose(1, 2).flatten(2), states, rows, site)


def _last(module: Any, states: torch.Tensor, rows: Rows, site: int) -> torch.Tensor:
    """[n, l, D] -> [n, 1, D]: the first token after the layer."""
    own = module.attention.self
    query = own.query(states[:, 0]).view(states.shape[0], own.num_attention_heads, own.attention_head_size)
    key, value = ((part.weight, part.bias) for part in (own.key, own.value))
    gathered = attend_first(states, query, key, value, rows.mask, _rate(own.dropout), rows.keys, site)
    return rest(module, gathered[:, None], states[:, :1], rows, site)


def rest(module: Any, gathered: torch.Tensor, states: torch.Tensor, rows: Rows = NO_DROPOUT, site: int = 0) -> torch.Tensor:
    """A layer after its attention: what was ``gathered`` and the states before, [..., D] -> [..., D]."""
    out, last = module.attention.output, module.output
    states = out.LayerNorm(_dropped(out.dropout, out.dense(gathered), rows, site + 1) + states)
    wide = last.dense(module.intermediate(states))
    result: torch.Tensor = last.LayerNorm(_dropped(last.dropout, wide, rows, site + 2) + states)
    return result


def _embed(embeddings: Any, tokens: torch.Tensor, rows: Rows) -> torch.Tensor:
    words = embeddings.word_embeddings(tokens) + embeddings.token_type_embeddings.weight[0]
    states = embeddings.LayerNorm(words + embeddings.position_embeddings.weight[: tokens.shape[1]])
    return _dropped(embeddings.dropout, states, rows, 0)


def pools(text: Any) -> bool:
    """Whether the tower reads out by BERT's own pooler."""
    return isinstance(text.pooler, ClsPooler) and text.pooler.use_pooler_output and text.transformer.pooler is not None


def _dropped(module: Any, states: torch.Tensor, rows: Rows, site: int) -> torch.Tensor:
    result: torch.Tensor = module(states) if rows.keys is None else drop(states, _rate(module), rows.keys, site)
    return result


def _rate(module: Any) -> float:
    return float(module.p) if module.training else 0.0
