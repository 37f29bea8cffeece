"""One optimisation step in pure torch: forward, sharded loss, backward, AdamW, bounded logit scale."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from open_clip.transform import PreprocessCfg
from torch import nn

from biomedray.model.features import Towers
from biomedray.model.loss import sharded_loss, world_size
from biomedray.model.preprocess import normalise
from biomedray.train.presets import LoopConfig

MAX_LOG_SCALE = math.log(100)  # the bound of CLIP's temperature, section 2.5 of the CLIP paper


Tokenize = Callable[[list[str]], torch.Tensor]


@dataclass(frozen=True)
class StepResult:
    """What a step says of itself; ``loss`` stays on the device so that reading it is the caller's choice."""

    loss: torch.Tensor
    """[] this process' share; the mean over processes is the loss of the batch."""
    lr: float


class Stepper:
    """A model under training and its optimiser."""

    def __init__(
        self, clip: nn.Module, config: LoopConfig, device: str = "cpu", tokenize: Callable[..., torch.Tensor] | None = None
    ):
        self.clip = clip.to(device).train()
        self.device = device
        self._config = config
        self._tokenize = tokenize
        towers = Towers(self.clip)
        self._towers: nn.Module = _distributed(towers, device) if world_size() > 1 else towers
        self.optimizer = make_optimizer(self.clip, config, fused=device.startswith("cuda"))
        self._mean, self._std = (torch.tensor(values, device=device) for values in _mean_std(self.clip))
        self._bf16 = use_bf16(config, device)
        if config.grad_checkpointing:
            model: Any = self.clip
            model.set_grad_checkpointing()

    def step(self, pixels: torch.Tensor, captions: list[str], lr: float, seed: int) -> StepResult:
        """Learn from this process' share of a batch: [n, S, S, 3] uint8 and n captions.

        ``seed`` decides dropout, so that a step can be repeated exactly.
        """
        torch.manual_seed(seed)
        loss = self._loss(pixels, captions)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own signature
        if self._config.grad_clip is not None:
            nn.utils.clip_grad_norm_(self.clip.parameters(), self._config.grad_clip)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self._bound_scale()
        return StepResult(loss.detach(), lr)

    @property
    def logit_scale(self) -> float:
        """The factor on cosines now."""
        model: Any = self.clip
        return float(model.logit_scale.detach().exp())

    def _loss(self, pixels: torch.Tensor, captions: list[str]) -> torch.Tensor:
        assert self._tokenize is not None
        tokens = self._tokenize(captions).to(self.device, non_blocking=True)
        values = normalise(pixels.to(self.device, non_blocking=True), self._mean, self._std)
        with torch.autocast(self.device.split(":")[0], dtype=torch.bfloat16, enabled=self._bf16):
            images, texts, scale = self._towers(values, tokens)
        return sharded_loss(images.float(), texts.float(), scale.float())

    def _bound_scale(self) -> None:
        model: Any = self.clip
        with torch.no_grad():
            model.logit_scale.clamp_(0, MAX_LOG_SCALE)


def make_optimizer(clip: nn.Module, config: LoopConfig, fused: bool = False) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only, as open_clip divides them."""
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in clip.named_parameters():
        if parameter.requires_grad:
            bare = parameter.ndim < 2 or "bn" in name or "ln" in name or "bias" in name or "logit_scale" in name
            (plain if bare else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=fused or None)


def use_bf16(config: LoopConfig, device: str) -> bool:
    """Whether the forward pass runs in bfloat16."""
    if config.precision == "auto":
        return device.startswith("cuda") and torch.cuda.is_bf16_supported()
    return config.precision == "bf16"


def _distributed(towers: nn.Module, device: str) -> nn.Module:
    devices = [torch.device(device)] if device.startswith("cuda") else None
    return nn.parallel.DistributedDataParallel(towers, device_ids=devices, broadcast_buffers=False)


def _mean_std(clip: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The image statistics that open_clip attached to the image tower."""
    default = PreprocessCfg()
    settings = getattr(clip.visual, "preprocess_cfg", None) or {}
    return tuple(settings.get("mean", default.mean)), tuple(settings.get("std", default.std))
