"""One optimisation step in pure torch, whose gradient is that of the whole global batch at any number of pieces.

uint8 pictures, captions -> Parts (micro-batches that fit memory, texts by length) -> accumulate: towers, loss, gradient
    -> guard: fine? -> clip, AdamW, bounded logit scale, moving average
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from open_clip.transform import PreprocessCfg
from torch import distributed, nn

from biomedray.errors import UserError
from biomedray.model import features
from biomedray.model.loss import sharded_loss, sigmoid_loss, world_size
from biomedray.model.preprocess import normalise
from biomedray.train import accumulate, parts
from biomedray.train.ema import Ema
from biomedray.train.guard import Guard
from biomedray.train.memory import Fit
from biomedray.train.pieces import Planner
from biomedray.train.presets import LoopConfig

MAX_LOG_SCALE = math.log(100)  # the bound of CLIP's temperature, section 2.5 of the CLIP paper


Tokenize = Callable[[list[str]], torch.Tensor]


@dataclass(frozen=True)
class StepResult:
    """What a step says of itself; ``loss`` stays on the device so that reading it is the caller's choice."""

    loss: torch.Tensor
    """[] this process' share; the mean over processes is the loss of the batch. Of a batch left out: the running mean."""
    lr: float
    grad_norm: float = 0.0
    """Of the whole batch's gradient, before any limit."""
    micro_batches: int = 1
    tokens: int = 0
    """Of this process' captions."""
    padded_tokens: int = 0
    """That the text tower computed, padding included."""
    incident: str | None = None
    """One line if the guard left this batch out, and what it did."""


class Stepper:
    """A model under training and its optimiser.

    ``tokenize`` turns captions into [n, L] token ids; it may be left out where no step is taken.

    Raises:
        UserError: the loss is SigLIP's and the model has no bias on logits.
    """

    def __init__(
        self, clip: nn.Module, config: LoopConfig, device: str = "cpu", tokenize: Callable[..., torch.Tensor] | None = None
    ):
        if config.loss == "siglip" and getattr(clip, "logit_bias", None) is None:
            raise UserError("train.loss siglip: the model has no bias on logits; set model.logit_bias=-10")
        self.clip = clip.to(device).to(memory_format=torch.channels_last).train()  # as uint8 pictures come; convolutions gain
        self.device = device
        self._config = config
        self._tokenize = tokenize
        self._towers = features.Towers(self.clip)
        if config.compile:
            self._towers.compile_layers()
        self._shared: nn.Module = _distributed(self._towers, device) if world_size() > 1 else self._towers
        self.optimizer = make_optimizer(self.clip, config)
        self.ema = None if config.ema_decay is None else Ema(self.clip, config.ema_decay)
        self._guard = Guard(config, self._whole, self._put_back)
        self._planner = Planner(self._towers, self._features_of, config, device)
        self._mean, self._std = (torch.tensor(values, device=device) for values in _mean_std(self.clip))
        self._bf16 = use_bf16(config, device)
        self._rank = distributed.get_rank() if world_size() > 1 else 0

    def step(self, pixels: torch.Tensor, captions: list[str], lr: float, seed: int) -> StepResult:
        """Learn from this process' share of a batch: [n, S, S, 3] uint8 and n captions.

        ``seed`` is that of the global batch, the same on every process. Patch dropout and a BERT's dropout follow from it
        and a sample's place in the global batch alone, so that a step can be repeated exactly, in other pieces too.

        Raises:
            UserError: too little memory for a single pair.
            WorkError: the loss was not finite, or leapt, more often than it may.
        """
        assert self._tokenize is not None, "a Stepper without a tokenizer takes no steps"
        batch = parts.Batch(pixels.to(self.device, non_blocking=True), self._tokenize(captions), seed, self._rank)
        plan = self._planner(batch)
        work = parts.split(batch, plan.pieces(len(captions)), self.clip, self.device, self._config.compile)
        self.optimizer.zero_grad(set_to_none=True)
        towers = accumulate.Towers(self._features_of, lambda part: self._run(self._shared, part), self.clip)
        loss = self._guarded_memory(lambda: accumulate.backward(towers, work.parts, self._loss(work)), plan)
        norm = self._norm()
        incident = self._guard.judge(_mean_over_processes(loss), norm)
        if incident is None:
            self._update(lr)
        else:
            loss = torch.full_like(loss, self._guard.mean)
        return StepResult(loss, lr, norm, len(work.parts), work.tokens, work.padded, incident)

    @property
    def logit_scale(self) -> float:
        """The factor on cosines now."""
        model: Any = self.clip
        return float(model.logit_scale.detach().exp().mean())

    @property
    def plan(self) -> Fit | None:
        """How the last batch was taken through; None before the first."""
        return self._planner.last

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs beside model and optimiser: the guard's memory and the moving average."""
        return {"guard": self._guard.state_dict(), **({} if self.ema is None else {"ema": self.ema.state_dict()})}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From a checkpoint; what is absent starts anew."""
        if "guard" in state:
            self._guard.load_state_dict(state["guard"])
        if self.ema is not None and "ema" in state:
            self.ema.load_state_dict(state["ema"])

    def _features_of(self, part: accumulate.Part) -> accumulate.Features:
        return self._run(self._towers, part)

    def _run(self, towers: nn.Module, part: accumulate.Part) -> accumulate.Features:
        values = normalise(part.pixels, self._mean, self._std)
        with torch.autocast(self.device.split(":")[0], dtype=torch.bfloat16, enabled=self._bf16):
            images, texts, scale, bias = towers(values, part.texts, part.keys)
        return images.float(), texts.float(), scale.float(), None if bias is None else bias.float()

    def _loss(self, work: parts.Work) -> accumulate.Loss:
        tile = self._config.loss_tile

        def loss(images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
            texts = texts if work.back is None else texts[work.back]
            if self._config.loss == "siglip":
                assert bias is not None, "seen to when the Stepper was made"
                return sigmoid_loss(images, texts, scale, bias, tile)
            # The bias of a model that comes from SigLIP is the same for all: no part of a softmax, but kept in the graph.
            value = sharded_loss(images, texts, scale, tile)
            return value if bias is None else value + 0 * bias

        return loss

    def _guarded_memory(self, work: Callable[[], torch.Tensor], plan: Fit) -> torch.Tensor:
        try:
            return work()
        except torch.OutOfMemoryError as error:
            raise self._planner.too_little(plan) from error

    def _norm(self) -> float:
        gradients = [parameter.grad for parameter in self.clip.parameters() if parameter.grad is not None]
        limit = self._config.grad_clip
        norm = nn.utils.get_total_norm(gradients)
        if limit is not None:
            nn.utils.clip_grads_with_norm_(self.clip.parameters(), limit, norm)
        return float(norm)

    def _update(self, lr: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self._bound_scale()
        if self.ema is not None:
            self.ema.update()

    def _bound_scale(self) -> None:
        model: Any = self.clip
        with torch.no_grad():
            model.logit_scale.clamp_(0, MAX_LOG_SCALE)

    def _whole(self) -> dict[str, Any]:
        ema = {} if self.ema is None else {"ema": self.ema.state_dict()}
        return {"model": self.clip.state_dict(), "optimizer": self.optimizer.state_dict(), **ema}

    def _put_back(self, state: dict[str, Any]) -> None:
        self.clip.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])


def make_optimizer(clip: nn.Module, config: LoopConfig, fused: bool = True) -> torch.optim.AdamW:
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


def _mean_over_processes(loss: torch.Tensor) -> float:
    """The loss of the whole batch, so that every process decides alike."""
    if world_size() == 1:
        return float(loss)
    total = loss.detach().clone()
    distributed.all_reduce(total)
    return float(total) / world_size()


def _mean_std(clip: Any) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The image statistics that open_clip attached to the image tower."""
    default = PreprocessCfg()
    settings = getattr(clip.visual, "preprocess_cfg", None) or {}
    return tuple(settings.get("mean", default.mean)), tuple(settings.get("std", default.std))
