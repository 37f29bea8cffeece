"""What the benchmarks of the training step share: models, caption lengths, and both sides' own step on the same batch.

Lengths: lognormal(mu 4.6, sigma 0.78) tokens, cut at the context (BIOMEDICA-6M's mean, the paper's 10 % beyond 256), or all as
long as the context. open_clip's side is open_clip_train.train.train_one_epoch of 3.3.0 on batches that lie ready: float images,
token ids. biomedray's side is Stepper.step on uint8 images, so it normalises inside. Tokenising is outside of both.
"""

from __future__ import annotations

import json
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

MU, SIGMA = 4.6, 0.78


@dataclass(frozen=True)
class Size:
    """Of the towers."""

    image: int = 224
    patch: int = 16
    width: int = 192
    depth: int = 4
    heads: int = 3
    context: int = 256
    vocabulary: int = 4096
    embed: int = 128


SMALL = Size()
TINY = Size(image=64, width=64, depth=2, heads=1, context=64)
REAL = Size(width=768, depth=12, heads=12, vocabulary=30522, embed=512)


def model(size: Size, patch_dropout: float, bert_dropout: float = 0.0) -> Any:
    """A ViT and a BERT in open_clip's layout; the same weights for the same size."""
    from timm.models.vision_transformer import VisionTransformer

    from biomedray.model import towers

    text = {"model_type": "bert", "vocab_size": size.vocabulary, "hidden_size": size.width, "num_hidden_layers": size.depth}
    text |= {"num_attention_heads": size.heads, "intermediate_size": 4 * size.width, "max_position_embeddings": size.context}
    text |= {"hidden_dropout_prob": bert_dropout, "attention_probs_dropout_prob": bert_dropout, "pad_token_id": 0}
    vision = {"timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear", "image_size": size.image}
    head = {"hf_proj_type": "mlp", "hf_pooler_type": "cls_last_hidden_state_pooler", "context_length": size.context}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(text))
        torch.manual_seed(0)
        clip: Any = towers.build(
            {"embed_dim": size.embed, "vision_cfg": vision, "text_cfg": {"hf_model_name": "x", **head}}, Path(folder)
        )
    trunk = VisionTransformer(
        img_size=size.image, patch_size=size.patch, embed_dim=size.width, depth=size.depth, num_heads=size.heads, num_classes=0,
        patch_drop_rate=patch_dropout,
    )  # fmt: skip
    clip.visual.trunk = trunk
    clip.visual.head.proj = torch.nn.Linear(size.width, size.embed, bias=False)
    return clip


def lengths(count: int, context: int, kind: str, seed: int = 1) -> np.ndarray:
    """Tokens of each caption."""
    if kind == "full":
        return np.full(count, context)
    # The distribution is that of a context of 256; a shorter one shortens every caption alike.
    drawn = np.random.default_rng(seed).lognormal(MU, SIGMA, count) * context / 256
    return np.clip(drawn.round().astype(int), 3, context)


def batch(count: int, size: Size, kind: str, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """[n, S, S, 3] uint8 and [n, context] token ids."""
    random = np.random.default_rng(seed)
    pixels = torch.from_numpy(random.integers(0, 256, (count, size.image, size.image, 3), dtype=np.uint8))
    words = random.integers(5, size.vocabulary, (count, size.context))
    words[np.arange(size.context) >= lengths(count, size.context, kind, seed)[:, None]] = 0
    return pixels, torch.from_numpy(words)


class _Loader:
    """Batches that lie ready, as open_clip's loop wants them."""

    def __init__(self, images: torch.Tensor, texts: torch.Tensor, micro: int, repeats: int) -> None:
        self._parts = [(images[at : at + micro], texts[at : at + micro]) for at in range(0, len(images), micro)]
        self._repeats = repeats
        self.num_batches = repeats * len(self._parts)
        self.num_samples = repeats * len(images)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for _ in range(self._repeats):
            yield from self._parts


def open_clip_step(
    clip: Any, pixels: torch.Tensor, tokens: torch.Tensor, micro: int | None = None, device: str = "cpu", precision: str = "fp32"
) -> Callable[[int], None]:
    """A function that takes so many steps in open_clip's own loop; ``micro``: by --accum-freq."""
    from open_clip import ClipLoss
    from open_clip.transform import PreprocessCfg
    from open_clip_train.train import train_one_epoch

    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (PreprocessCfg().mean, PreprocessCfg().std))
    images = pixels.permute(0, 3, 1, 2).float().div_(255).sub_(mean).div_(std)
    images, tokens = (_ready(part, device) for part in (images, tokens))
    clip = clip.to(device).train()
    clip.output_dict = True
    settings = Namespace(
        device=device, precision=precision, distill=False, accum_freq=len(pixels) // (micro or len(pixels)), skip_scheduler=True,
        grad_clip_norm=None, horovod=False, rank=0, local_rank=0, world_size=1, batch_size=micro or len(pixels),
        log_every_n_steps=1 << 30, wandb=False, log_local=False,
    )  # fmt: skip
    bare = [p for name, p in clip.named_parameters() if p.ndim < 2 or "bias" in name or "logit_scale" in name]
    known = {id(p) for p in bare}
    rest = [p for p in clip.parameters() if id(p) not in known]
    groups = [{"params": bare, "weight_decay": 0.0}, {"params": rest, "weight_decay": 0.2}]
    optimizer = torch.optim.AdamW(groups, lr=5e-4, betas=(0.9, 0.98), eps=1e-6)
    loss = ClipLoss(cache_labels=True)

    def steps(count: int) -> None:
        loader = _Loader(images, tokens, micro or len(pixels), count)
        train = SimpleNamespace(dataloader=loader, set_epoch=lambda _: None)
        train_one_epoch(clip, {"train": train}, loss, 0, optimizer, None, None, None, settings)

    return steps


def _ready(values: torch.Tensor, device: str) -> torch.Tensor:
    """Where both sides' loaders put a batch: page-locked memory, from which a GPU fetches."""
    return values.pin_memory() if device.startswith("cuda") else values


def our_step(clip: Any, pixels: torch.Tensor, tokens: torch.Tensor, device: str = "cpu", **settings: Any) -> Any:
    """The Stepper, and a function that takes so many steps with it."""
    from biomedray.train.presets import LoopConfig
    from biomedray.train.step import Stepper

    longest = int((tokens != 0).sum(1).max())
    ready = tokens[:, :longest]
    pixels = _ready(pixels, device)
    stepper = Stepper(clip, LoopConfig(batch_size=len(pixels), **settings), device, lambda _: ready)
    captions = [""] * len(pixels)

    def steps(count: int) -> Any:
        return [stepper.step(pixels, captions, 5e-4, seed) for seed in range(count)][-1]

    return stepper, steps
