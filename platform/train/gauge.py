"""What a step says of the machine: model FLOPs utilisation and how much of the text tower's work was padding."""

from __future__ import annotations

from typing import Any

import torch
from open_clip.hf_model import HFTextEncoder

from biomedray.model.flops import Work, count
from biomedray.train.step import StepResult

# Dense bf16 (V100: fp16) peak in TFLOP/s, from the makers' data sheets; the first name that the device's holds counts.
PEAKS = {
    "B200": 2250,
    "H200": 989,
    "GH200": 989,
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "A100": 312,
    "A40": 150,
    "A10": 125,
    "L40S": 362,
    "L40": 181,
    "L4": 121,
    "V100": 125,
    "T4": 65,
    "4090": 165,
    "3090": 71,
}


class Gauge:
    """Turns pace and tokens into shares; MFU is None where the device's peak is not known."""

    def __init__(self, clip: Any, model_cfg: dict[str, Any], device: str, world: int, peak_tflops: float | None) -> None:
        self._peak = peak_tflops or device_peak(device)
        self._world = world
        self._work = work_of(clip, model_cfg) if self._peak is not None else None

    def read(self, result: StepResult, pairs: int, pairs_per_second: float) -> dict[str, float]:
        """``mfu`` where it can be known, and ``pad_waste``; ``pairs`` is this worker's share of the batch."""
        found = {}
        if result.padded_tokens:
            found["pad_waste"] = round(1 - result.tokens / result.padded_tokens, 4)
        if self._work is not None and self._peak is not None:
            done = self._work.train_pair(result.tokens / max(1, pairs)) * pairs_per_second
            found["mfu"] = round(done / (self._world * self._peak * 1e12), 6)
        return found


def work_of(clip: Any, model_cfg: dict[str, Any]) -> Work:
    """Work of a loaded model."""
    text = getattr(clip, "text", None)
    return count(model_cfg, text.config.to_dict() if isinstance(text, HFTextEncoder) else None)


def device_peak(device: str) -> float | None:
    """Dense peak of a device in TFLOP/s; None for those that the table doesn't know, and for CPUs."""
    if not device.startswith("cuda") or not torch.cuda.is_available():
        return None
    return peak_of(torch.cuda.get_device_name(device))


def peak_of(name: str) -> float | None:
    """The peak of a device by its name."""
    return next((float(peak) for key, peak in PEAKS.items() if key in name), None)
