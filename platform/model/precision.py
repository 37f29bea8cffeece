"""bfloat16 for towers that were trained in float32: where the hardware computes with it, and whether the answers stay the same.

Weights of linear layers and convolutions are kept in bfloat16, so that no call has to convert them; autocast does the
rest, and layer norms, the residual stream and the unit vectors stay in float32. benchmarks/serve_encoders.py compares this
with autocast alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from biomedray.errors import UserError

PRECISIONS = ("auto", "float32", "bfloat16")
LEAST_COSINE = 0.999
"""Between the same input's vectors in bfloat16 and in float32."""

_CPU_WORDS = ("avx512_bf16", "amx_bf16", "bf16", "arm_bf16")

Answers = Callable[[], tuple[torch.Tensor, ...]]


def wanted(precision: str, device: str) -> bool:
    """Whether to try bfloat16.

    Raises:
        UserError: there is no such precision.
    """
    if precision not in PRECISIONS:
        raise UserError(f"precision '{precision}': there are {', '.join(PRECISIONS)}")
    return precision == "bfloat16" or (precision == "auto" and computes_bfloat16(device))


def computes_bfloat16(device: str) -> bool:
    """Whether the device has instructions for it; without them it is slower than float32."""
    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device != "cpu":
        return False
    found: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    if not found:  # torch before 2.9 says only this
        return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", bool)())
    return any(found.get(word) for word in _CPU_WORDS)


def lighten(clip: nn.Module) -> Callable[[], None]:
    """Keep the weights of linear layers and convolutions in bfloat16; what is returned puts the float32 ones back."""
    before = [
        (module, name, parameter)
        for module in clip.modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.dtype is torch.float32
    ]
    for module, name, parameter in before:
        setattr(module, name, nn.Parameter(parameter.detach().to(torch.bfloat16), requires_grad=False))

    def back() -> None:
        for module, name, parameter in before:
            setattr(module, name, parameter)

    return back


def lowest_cosine(ones: tuple[torch.Tensor, ...], others: tuple[torch.Tensor, ...]) -> float:
    """Between rows [n, D] of the same input."""
    pairs = zip(ones, others, strict=True)
    return min(float(nn.functional.cosine_similarity(one.float(), other.float()).min()) for one, other in pairs)
