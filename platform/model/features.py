"""Towers to features: the one forward pass that training and encoding share.

A timm ViT and a BERT that read out one token go by ``cls_vit`` and ``cls_bert`` (less work, same features and gradients); any
other tower goes the way that open_clip wrote it.
"""

from __future__ import annotations

from typing import Any

import torch
from open_clip.hf_model import HFTextEncoder
from open_clip.transformer import PatchDropout, TextTransformer, text_global_pool
from timm.layers.patch_dropout import PatchDropout as TimmPatchDropout
from torch import nn
from torch.nn import functional

from biomedray.model import cls_bert, cls_vit, grouping
from biomedray.model.dropout import SampledPatchDropout


class Towers(nn.Module):
    """Both towers as one module, for DistributedDataParallel: pixels, texts -> unit features."""

    def __init__(self, clip: nn.Module) -> None:
        super().__init__()
        self.clip = clip
        sample_patches(clip)
        self.own = (cls_vit.supports(_part(clip, "visual")), cls_bert.supports(_part(clip, "text")))
        """Whether image and text tower go by ``cls_vit`` and ``cls_bert``."""
        self.recomputed = (0, 0)
        """First layers of each that are recomputed in the backward pass."""
        self._run: tuple[cls_vit.Layer, cls_bert.Layer] = (cls_vit.layer, cls_bert.layer)

    def forward(
        self, pixels: torch.Tensor, texts: grouping.Texts, keys: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """[n, 3, S, S] with the pictures' keys [n], and m texts -> features [n, D] and [m, D], scale [], bias []."""
        clip: Any = self.clip
        bias = getattr(clip, "logit_bias", None)
        scale = clip.logit_scale.exp().mean()  # some of open_clip's models keep [1]
        bias = None if bias is None else bias.mean()
        return image_features(clip, pixels, keys, self.recomputed[0], self._run[0]), self._texts(texts), scale, bias

    def _texts(self, texts: grouping.Texts) -> torch.Tensor:
        parts = [self._group(one) for one in texts.groups]
        joined = parts[0] if len(parts) == 1 else torch.cat(parts)
        return joined if texts.back is None else joined[texts.back]

    def _group(self, one: grouping.Group) -> torch.Tensor:
        clip: Any = self.clip
        if not self.own[1]:
            return text_features(clip, one.tokens)
        raw = cls_bert.encode(clip.text, one.tokens, one.keys, one.full, self.recomputed[1], self._run[1])
        return functional.normalize(raw.float(), dim=-1)

    def compile_layers(self) -> None:
        """torch.compile for one layer of each tower, whose code all layers share; of other image towers for the whole.

        Sizes are symbols, so micro-batches and texts of any length take the same code: what is compiled anew is a layer
        with and without padding, with and without a graph. Validation of towers that go by ``cls_vit`` and ``cls_bert``
        isn't compiled.
        """
        clip: Any = self.clip
        self._run = torch.compile(cls_vit.layer, dynamic=True), torch.compile(cls_bert.layer, dynamic=True)
        if not self.own[0]:
            clip.visual.compile()
        if not self.own[1] and isinstance(text := _part(clip, "text"), TextTransformer):
            for block in text.transformer.resblocks:
                block.compile(dynamic=True)

    @property
    def layers(self) -> tuple[int, int]:
        """How many layers of each tower can be recomputed one by one; -1: all or none of them."""
        clip: Any = self.clip
        return cls_vit.layers(clip.visual) if self.own[0] else -1, cls_bert.layers(clip.text) if self.own[1] else -1

    def recompute(self, share: float) -> None:
        """Recompute this share of the layers in the backward pass; of other towers all of them at 1, else none."""
        clip: Any = self.clip
        image, text = (max(0, round(share * count)) for count in self.layers)
        self.recomputed = image, text
        for own, tower in zip(self.own, (_part(clip, "visual"), _part(clip, "text")), strict=True):
            if not own:
                _recompute_all(clip if tower is None else tower, share >= 1)


def image_features(
    clip: Any, pixels: torch.Tensor, keys: torch.Tensor | None = None, recomputed: int = 0, run: cls_vit.Layer | None = None
) -> torch.Tensor:
    """[n, 3, S, S] -> [n, D] float32 of length 1; ``keys`` [n] decide patch dropout while training."""
    visual = _part(clip, "visual")
    if cls_vit.supports(visual):
        raw = cls_vit.encode(visual, pixels, keys, recomputed, run)
    else:
        for module in clip.modules():
            if isinstance(module, SampledPatchDropout):
                module.keys = keys
        raw = clip.encode_image(pixels)
    return functional.normalize(raw.float(), dim=-1)


def text_features(clip: Any, tokens: torch.Tensor) -> torch.Tensor:
    """[n, L] token ids, L at most the context length -> [n, D] float32 of length 1."""
    text = _part(clip, "text")
    if cls_bert.supports(text):
        raw = cls_bert.encode(text, tokens)
    elif isinstance(text, TextTransformer) and tokens.shape[1] < text.context_length:
        raw = _short_text(text, tokens)
    else:
        raw = clip.encode_text(tokens)
    return functional.normalize(raw.float(), dim=-1)


def pad_id(clip: Any) -> int:
    """The token that fills texts up."""
    text = clip.text
    return int(text.config.pad_token_id if isinstance(text, HFTextEncoder) else text.pad_id)


def ignores_padding(clip: Any) -> bool:
    """Whether the text tower gives the same features however far its input is padded."""
    text = _part(clip, "text")
    if isinstance(text, HFTextEncoder):  # masks the padding
        return True
    if not isinstance(text, TextTransformer) or text.attn_mask is None or text.cls_emb is not None:
        return False
    return text.pool_type in ("argmax", "eos")  # causal, read at the end mark


def sample_patches(clip: nn.Module) -> None:
    """Let patch dropout draw for each picture by its key, in place of a draw for the batch."""
    for module in list(clip.modules()):
        for name, child in module.named_children():
            if isinstance(child, TimmPatchDropout):
                setattr(module, name, SampledPatchDropout(child.prob, child.num_prefix_tokens))
            elif isinstance(child, PatchDropout) and child.exclude_first_token:
                setattr(module, name, SampledPatchDropout(child.prob, 1))


def _part(clip: Any, name: str) -> Any:
    """A tower of the model, None where it has no module of that name (OpenAI's own CLIP layout has no ``text``)."""
    found = getattr(clip, name, None)
    return found if isinstance(found, nn.Module) else None


def _recompute_all(tower: Any, on: bool) -> None:
    """open_clip's own switch; its BERT has no way back, so it is touched only to switch on."""
    if on or getattr(tower, "biomedray_recomputes", False):
        tower.set_grad_checkpointing(on)
        tower.biomedray_recomputes = on


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
