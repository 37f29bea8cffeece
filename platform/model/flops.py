"""Work of a model's forward pass in floating-point operations (2 a multiply-add), counted on shapes alone.

ViT-B/16 at 224 pixels: 35.1 GFLOP; BERT-base with 256 tokens: 45.9; a training step takes three times its forward pass.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from open_clip.hf_model import HFTextEncoder
from torch.utils.flop_counter import FlopCounterMode

TRAIN_FACTOR = 3
"""Forward pass and the gradients of inputs and weights; what is computed twice to save memory does not count as work."""


@dataclass(frozen=True)
class Work:
    """Floating-point operations of one forward pass."""

    image: float
    """Of one picture, without the patches that training leaves out."""
    token: float
    """Of one token in the text tower, attention aside."""
    attention: float
    """Times the square of a text's length: its attention."""

    def text(self, length: float) -> float:
        """Of one text with so many tokens."""
        return self.token * length + self.attention * length * length

    def train_pair(self, length: float) -> float:
        """Of one pair in a training step."""
        return TRAIN_FACTOR * (self.image + self.text(length))


def count(model_cfg: dict[str, Any], bert_config: dict[str, Any] | None = None) -> Work:
    """Count a model of this configuration; no weights are made, so any size takes a second and no memory.

    ``bert_config`` is the Hugging Face configuration of its text tower, if that is a BERT.
    """
    from biomedray.model import features, towers

    with tempfile.TemporaryDirectory(prefix="biomedray-flops-") as name:
        if bert_config is not None:
            (Path(name) / "config.json").write_text(json.dumps(bert_config, default=str))
        clip: Any = towers.build(model_cfg, Path(name), device="meta").train()
    side, context = model_cfg["vision_cfg"]["image_size"], model_cfg["text_cfg"]["context_length"]
    image = _counted(lambda: clip.encode_image(torch.empty(1, 3, side, side, device="meta")))
    if not features.ignores_padding(clip):  # every text takes the whole context
        whole = _counted(lambda: clip.encode_text(torch.ones(1, context, dtype=torch.long, device="meta")))
        return Work(image, whole / context, 0.0)
    half, full = context // 2, context
    short, long = (_counted(lambda n=n: _text(clip, n)) for n in (half, full))
    attention = max(0.0, (long / full - short / half) / (full - half))
    return Work(image, long / full - attention * full, attention)


def _text(clip: Any, length: int) -> Any:
    """The tower as it is defined, without the short cuts of training."""
    from biomedray.model import features

    tokens = torch.ones(1, length, dtype=torch.long, device="meta")
    if isinstance(clip.text, HFTextEncoder):  # its own forward reads a mask, which tensors without content don't have
        return clip.text.proj(clip.text.transformer(input_ids=tokens).last_hidden_state[:, 0])
    return features.text_features(clip, tokens)


def _counted(run: Any) -> float:
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())
