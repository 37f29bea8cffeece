"""Towers to features: the one forward pass that training and encoding share."""

from __future__ import annotations

from typing import Any

import torch
from open_clip.hf_model import HFTextEncoder
from open_clip.transformer import TextTransformer, text_global_pool
from torch import nn
from torch.nn import functional

# Texts of a group at least, and groups of a batch at most: few enough that kernels stay busy.
_GROUP = 16
_MAX_GROUPS = 8


class Towers(nn.Module):
    """Both towers as one module, for DistributedDataParallel: pixels, tokens -> unit features."""

    def __init__(self, clip: nn.Module) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, pixels: torch.Tensor, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """[n, 3, S, S] and [n, L] -> image features [n, D], text features [n, D], logit scale []."""
        clip: Any = self.clip
        return image_features(clip, pixels), grouped_text_features(clip, tokens), clip.logit_scale.exp()


def image_features(clip: Any, pixels: torch.Tensor) -> torch.Tensor:
    """[n, 3, S, S] -> [n, D] float32 of length 1."""
    return functional.normalize(clip.encode_image(pixels).float(), dim=-1)


def text_features(clip: Any, tokens: torch.Tensor) -> torch.Tensor:
    """[n, L] token ids, L at most the context length -> [n, D] float32 of length 1."""
    text = getattr(clip, "text", None)
    short = isinstance(text, TextTransformer) and tokens.shape[1] < text.context_length
    raw = _short_text(text, tokens) if short else clip.encode_text(tokens)
    return functional.normalize(raw.float(), dim=-1)


def grouped_text_features(clip: Any, tokens: torch.Tensor) -> torch.Tensor:
    """As ``text_features``, at less cost: texts of like length go through the tower together, each group
    padded only to its own longest. Features and gradients are the same; who is in the batch does not change.
    """
    if not ignores_padding(clip) or len(tokens) < 2 * _GROUP:
        return text_features(clip, tokens)
    columns = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
    lengths = ((tokens != _pad_id(clip)) * columns).amax(dim=1)
    order = lengths.argsort(stable=True)
    groups = torch.split(order, max(_GROUP, -(-len(order) // _MAX_GROUPS)))
    parts = [text_features(clip, tokens[rows, : max(1, int(lengths[rows[-1]]))]) for rows in groups]
    return torch.cat(parts)[order.argsort()]


def _pad_id(clip: Any) -> int:
    text = clip.text
    return int(text.config.pad_token_id if isinstance(text, HFTextEncoder) else text.pad_id)


def ignores_padding(clip: Any) -> bool:
    """Whether the text tower gives the same features however far its input is padded."""
    text = getattr(clip, "text", None)
    if isinstance(text, HFTextEncoder):  # masks the padding
        return True
    if not isinstance(text, TextTransformer) or text.attn_mask is None or text.cls_emb is not None:
        return False
    return text.pool_type in ("argmax", "eos")  # causal, read at the end mark


def _short_text(text: Any, tokens: torch.Tensor) -> torch.Tensor:
    """open_clip's own causal tower on fewer tokens than its context; its forward takes no others."""
    length = tokens.shape[1]
    dtype = text.transformer.get_cast_dtype()
    states = text.token_embedding(tokens).to(dtype) + text.positional_embedding[:length].to(dtype)
    states = text.ln_final(text.transformer(states, attn_mask=text.attn_mask[:length, :length]))
    pooled = text_global_pool(states, tokens, text.pool_type, eos_token_id=text.eos_id)
    return _project(text.text_projection, pooled)


def _project(projection: Any, pooled: torch.Tensor) -> torch.Tensor:
    if projection is None:
        return pooled
    result: torch.Tensor = projection(pooled) if isinstance(projection, nn.Linear) else pooled @ projection
    return result
