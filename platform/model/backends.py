"""What computes the towers: torch, or Intel's OpenVINO where it is installed (``pip install biomedray[openvino]``).

Both take [n, 3, S, S] float32 pixels and [n, L] int64 tokens, and give [n, D] float32 unit vectors. On a CPU torch computes
no token of padding (packed_bert.py).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from biomedray.errors import UserError
from biomedray.model import cls_bert, features, packed_bert
from biomedray.model.precision import lighten

BACKENDS = ("torch", "openvino")


def check(backend: str, device: str) -> None:
    """Refuse a backend that there is not.

    Raises:
        UserError: there is no such backend, or not on this device.
    """
    if backend not in BACKENDS:
        raise UserError(f"backend '{backend}': there are {', '.join(BACKENDS)}")
    if backend == "openvino" and device != "cpu":
        raise UserError(f"backend 'openvino' on {device}: it runs on the CPU only; use torch")


def open_towers(
    clip: nn.Module, device: str, backend: str, bfloat16: bool, shape: tuple[int, int | None]
) -> tuple[Backend, Callable[[], None]]:
    """The towers in such a backend, and what undoes the change to ``clip``; ``shape`` as ``OpenVino``.

    Raises:
        UserError: as ``OpenVino``.
    """
    if backend == "openvino":
        return OpenVino(clip, shape, bfloat16), lambda: None
    undo = lighten(clip) if bfloat16 else lambda: None
    return Torch(clip, device, bfloat16), undo


class Backend(Protocol):
    """Both towers on one device."""

    packs: bool
    """Whether there is ``packed`` for texts of any lengths; else they are padded to the longest of them."""

    def images(self, pixels: torch.Tensor) -> torch.Tensor:
        """[n, 3, S, S] float32 -> [n, D]."""
        ...

    def texts(self, tokens: torch.Tensor) -> torch.Tensor:
        """[n, L] int64 -> [n, D]."""
        ...

    def packed(self, rows: Sequence[npt.NDArray[np.int64]]) -> torch.Tensor:
        """Token ids of n texts, none of them padding -> [n, D]."""
        ...


class Torch:
    """The towers as they are, by autocast where ``bfloat16``."""

    def __init__(self, clip: nn.Module, device: str, bfloat16: bool = False) -> None:
        self._clip, self._device, self._bfloat16 = clip, device, bfloat16
        # A GPU has kernels to launch for each text, and no lack of power for some padding.
        self.packs = device == "cpu" and cls_bert.supports(getattr(clip, "text", None))

    def images(self, pixels: torch.Tensor) -> torch.Tensor:
        """[n, 3, S, S] float32 -> [n, D]."""
        with torch.inference_mode(), self._autocast():
            return features.image_features(self._clip, pixels.to(self._device))

    def texts(self, tokens: torch.Tensor) -> torch.Tensor:
        """[n, L] int64 -> [n, D]."""
        with torch.inference_mode(), self._autocast():
            return features.text_features(self._clip, tokens.to(self._device))

    def packed(self, rows: Sequence[npt.NDArray[np.int64]]) -> torch.Tensor:
        """Token ids of n texts, none of them padding -> [n, D]."""
        clip: Any = self._clip
        with torch.inference_mode(), self._autocast():
            return functional.normalize(packed_bert.encode(clip.text, rows).float(), dim=-1)

    def _autocast(self) -> AbstractContextManager[Any]:
        # Not entered for float32, where the caller's own holds.
        kind = self._device.split(":")[0]
        return torch.autocast(kind, dtype=torch.bfloat16) if self._bfloat16 else torch.no_grad()


class OpenVino:
    """The towers compiled for the CPU, for batches and texts of any size.

    Raises:
        UserError: OpenVINO is not installed, or it can't convert the towers.
    """

    packs = False

    def __init__(self, clip: nn.Module, shape: tuple[int, int | None], bfloat16: bool) -> None:
        """``shape``: the pictures' side, and the one length of texts that the tower takes, None if it takes any."""
        try:
            import openvino
        except ImportError:
            raise UserError("backend 'openvino': not installed; pip install 'biomedray[openvino]'") from None
        settings = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        size, length = shape
        pixels, tokens = torch.zeros(2, 3, size, size), torch.ones(2, length or 9, dtype=torch.int64)
        core = openvino.Core()

        def compiled(tower: Callable[[Any, torch.Tensor], torch.Tensor], example: torch.Tensor, shape: list[int]) -> Any:
            try:
                with torch.no_grad(), warnings.catch_warnings():  # in inference mode nothing is traced
                    warnings.simplefilter("ignore")  # of the tracer, on Python numbers; the encoder compares vectors
                    graph = openvino.convert_model(Tower(clip, tower), example_input=example, input=[shape])
                return core.compile_model(graph, "CPU", settings)
            except Exception as error:  # noqa: BLE001  # whatever the converter finds in a tower that it doesn't know
                line = (str(error) or type(error).__name__).strip().splitlines()[0]
                raise UserError(f"backend 'openvino': it can't take this model ({line}); use torch") from None

        self._images = compiled(features.image_features, pixels, [-1, 3, size, size])
        self._texts = compiled(features.text_features, tokens, [-1, length or -1])

    def images(self, pixels: torch.Tensor) -> torch.Tensor:
        """[n, 3, S, S] float32 -> [n, D]."""
        return _call(self._images, pixels)

    def texts(self, tokens: torch.Tensor) -> torch.Tensor:
        """[n, L] int64 -> [n, D]."""
        return _call(self._texts, tokens)

    def packed(self, rows: Sequence[npt.NDArray[np.int64]]) -> torch.Tensor:
        """Not here: a graph has no attention within parts of it."""
        raise NotImplementedError


class Tower(nn.Module):
    """One tower as a module of its own, for what exports modules."""

    def __init__(self, clip: nn.Module, run: Callable[[Any, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.clip, self._run = clip, run

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        """Pixels or tokens -> [n, D]."""
        return self._run(self.clip, given)


def _call(model: Any, given: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.array(model(given.numpy())[0]))
