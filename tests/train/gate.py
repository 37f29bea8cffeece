"""For the gradient gate: a small ViT + BERT, open_clip's own forward pass of it with the same masks, and the plain formula."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from biomedray.model import towers
from biomedray.model.dropout import SampledPatchDropout, drop, row_keys
from biomedray.train.presets import LoopConfig
from biomedray.train.step import Stepper

PAIRS, CONTEXT, SIDE, SEED = 16, 40, 48, 11
LENGTHS = [5, 40, 12, 7, 33, 5, 9, 40, 21, 3, 16, 8, 28, 11, 6, 40]
CAPTIONS = [str(i) for i in range(PAIRS)]
BERT = {"model_type": "bert", "vocab_size": 90, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
BERT |= {"intermediate_size": 64, "max_position_embeddings": CONTEXT, "pad_token_id": 0}
LOOP = LoopConfig(batch_size=PAIRS, lr=1e-3, grad_checkpointing=False, micro_batch=PAIRS)

Gradients = dict[str, torch.Tensor]


def make(folder: Path, patch_dropout: float, bert_dropout: float, **model: Any) -> nn.Module:
    folder.mkdir(parents=True, exist_ok=True)
    rates = {"hidden_dropout_prob": bert_dropout, "attention_probs_dropout_prob": bert_dropout}
    (folder / "config.json").write_text(json.dumps({**BERT, **rates}))
    vision = {"timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear", "image_size": SIDE}
    text = {
        "hf_model_name": "x",
        "hf_proj_type": "mlp",
        "hf_pooler_type": "cls_last_hidden_state_pooler",
        "context_length": CONTEXT,
    }
    torch.manual_seed(1)
    clip: Any = towers.build({"embed_dim": 24, "vision_cfg": vision, "text_cfg": text, **model}, folder)
    trunk = {"img_size": SIDE, "patch_size": 8, "embed_dim": 64, "depth": 3, "num_heads": 4, "num_classes": 0}
    clip.visual.trunk = VisionTransformer(**trunk, patch_drop_rate=patch_dropout)
    with torch.no_grad():  # larger than at the start of training, so that no part of the gradient is near nothing
        for parameter in clip.parameters():
            parameter.mul_(1.5) if parameter.ndim > 1 else parameter
    return clip


def pixels() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 255, (PAIRS, SIDE, SIDE, 3), dtype=np.uint8))


def tokenize(captions: list[str]) -> torch.Tensor:
    words = np.random.default_rng(2).integers(5, 90, (PAIRS, CONTEXT))
    for row, length in enumerate(LENGTHS):
        words[row, length:] = 0
    found = torch.from_numpy(words[[int(caption) for caption in captions]])
    return found[:, : int((found != 0).sum(1).max())]


def step_gradients(clip: nn.Module, own: slice = slice(None), **changes: Any) -> Gradients:
    """What ``Stepper`` puts on the parameters."""
    stepper = Stepper(clip, LOOP.model_copy(update=changes), tokenize=tokenize)
    stepper.step(pixels()[own], CAPTIONS[own], lr=0.0, seed=SEED)
    return {name: parameter.grad.clone() for name, parameter in clip.named_parameters()}


@cache
def reference(folder: Path, patch_dropout: float, bert_dropout: float, kind: str = "infonce") -> Gradients:
    """One big batch through open_clip's, timm's and transformers' own code, all texts padded to the context, plain formula."""
    bias = {"init_logit_bias": -3.0} if kind == "siglip" else {}
    clip: Any = make(folder, patch_dropout, bert_dropout, **bias).train()
    image_keys, text_keys = (row_keys(2 * SEED + side, 0, PAIRS) for side in (0, 1))
    _same_masks(clip, image_keys, text_keys)
    settings = clip.visual.preprocess_cfg if hasattr(clip.visual, "preprocess_cfg") else {}
    mean = torch.tensor(settings.get("mean", (0.48145466, 0.4578275, 0.40821073)))
    std = torch.tensor(settings.get("std", (0.26862954, 0.26130258, 0.27577711)))
    values = ((pixels().float() / 255 - mean) / std).permute(0, 3, 1, 2)
    tokens = tokenize(CAPTIONS)
    images = functional.normalize(clip.encode_image(values), dim=-1)
    texts = functional.normalize(clip.encode_text(tokens), dim=-1)
    logits = clip.logit_scale.exp() * images @ texts.T
    if kind == "siglip":
        signs = 2 * torch.eye(PAIRS) - 1
        loss = -functional.logsigmoid(signs * (logits + clip.logit_bias)).sum() / PAIRS
    else:
        labels = torch.arange(PAIRS)
        loss = (functional.cross_entropy(logits, labels) + functional.cross_entropy(logits.T, labels)) / 2
    loss.backward()
    return {name: parameter.grad for name, parameter in clip.named_parameters()}


class _Sampled(nn.Module):
    """In the place of one of BERT's dropouts."""

    def __init__(self, p: float, keys: torch.Tensor, site: int) -> None:
        super().__init__()
        self.p, self.keys, self.site = p, keys, site

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return drop(values, self.p, self.keys, self.site)


def _attention(
    module: Any, query: Any, key: Any, value: Any, mask: Any, dropout: float = 0.0, scaling: float = 1.0, **_: Any
) -> Any:
    scores = query @ key.transpose(2, 3) * scaling
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    weights = drop(scores.softmax(-1), dropout, module.dropout.keys, module.dropout.site)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def _same_masks(clip: Any, image_keys: torch.Tensor, text_keys: torch.Tensor) -> None:
    from biomedray.model.features import sample_patches

    sample_patches(clip)
    for module in clip.modules():
        if isinstance(module, SampledPatchDropout):
            module.keys = image_keys
    AttentionInterface.register("gate", _attention)
    AttentionMaskInterface.register("gate", sdpa_mask)
    bert = clip.text.transformer
    bert.config._attn_implementation = "gate"
    rate = bert.config.hidden_dropout_prob
    bert.embeddings.dropout = _Sampled(rate, text_keys, 0)
    for number, layer in enumerate(bert.encoder.layer):
        layer.attention.self.dropout = _Sampled(rate, text_keys, 1 + 4 * number)
        layer.attention.output.dropout = _Sampled(rate, text_keys, 2 + 4 * number)
        layer.output.dropout = _Sampled(rate, text_keys, 3 + 4 * number)


def difference(found: Gradients, expected: Gradients) -> float:
    """Largest relative difference: of the whole gradient, of the logit scale, and of each tensor that is not next to nothing."""
    assert found.keys() == expected.keys()
    whole = torch.cat([value.flatten() for value in expected.values()]).norm()
    apart = torch.cat([(found[name] - value).flatten() for name, value in expected.items()]).norm() / whole
    names = [name for name, value in expected.items() if value.norm() > 1e-3 * whole or name.startswith("logit")]
    each = [float((found[name] - expected[name]).norm() / expected[name].norm()) for name in names]
    return max(float(apart), *each)
