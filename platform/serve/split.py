"""The split profile: towers in replicas of their own, where the hardware of HTTP and of the model differs.

    ingress (CPUs): HTTP, decode, tokens, batches, search --- uint8 pixels, token ids ---> Towers (a GPU each) ---> vectors

A hop costs several CPU milliseconds, so whole batches travel. Which model is meant goes with every call (Serve's
multiplexing): a replica holds two at a time, so that a model is swapped while requests for the one before still run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ray import serve as ray_serve

from biomedray.errors import UserError
from biomedray.model.malloc import keep_freed
from biomedray.serve import lanes

Vectors = NDArray[np.float32]

_MODELS = 2
_MAX_ONGOING = 64


@ray_serve.deployment(name="Towers", max_ongoing_requests=_MAX_ONGOING)
class Towers:
    """A replica that holds models and nothing else; one thread runs them."""

    def __init__(self, cpus: int, precision: str, backend: str) -> None:
        import torch

        torch.set_num_threads(cpus)
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._settings = (precision, backend)
        self._thread = ThreadPoolExecutor(1, "model", lambda: torch.set_num_threads(cpus))

    async def about(self) -> dict[str, str]:
        """What the model runs on."""
        model = await self._asked()
        return {"device": model.device, "precision": model.precision, "backend": model.backend}

    async def texts(self, ids: list[NDArray[np.int64]]) -> Vectors:
        """Token ids of n texts -> [n, d]."""
        model = await self._asked()
        return await self._run(model.encode_tokens, ids)

    async def images(self, pixels: NDArray[np.uint8]) -> Vectors:
        """[n, S, S, 3] -> [n, d]."""
        import torch

        model = await self._asked()
        return await self._run(model.encode_pixels, torch.tensor(pixels))

    async def _asked(self) -> Any:
        return await self._load(ray_serve.get_multiplexed_model_id())

    @ray_serve.multiplexed(max_num_models_per_replica=_MODELS)  # type: ignore[untyped-decorator]  # Ray's
    async def _load(self, name: str) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._open, name)

    def _open(self, name: str) -> Any:
        from biomedray.model.encoder import Encoder

        fingerprint, spec = name.split(" ", 1)
        encoder = Encoder.load(spec, self._device, *self._settings)
        if encoder.fingerprint != fingerprint:
            raise UserError(f"{encoder.name}: the model was replaced while it was being loaded")
        keep_freed(self._device)
        return encoder

    async def _run(self, call: Callable[[Any], Vectors], batch: Any) -> Vectors:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, batch)


def remote_towers(handle: Any, workers: int, fingerprint: str, spec: str) -> lanes.Towers:
    """The towers of one model behind a handle of the deployment with so many replicas, for ``lanes.Lanes``."""
    asked = handle.options(multiplexed_model_id=f"{fingerprint} {spec}")

    async def texts(ids: Sequence[NDArray[np.int64]]) -> Vectors:
        vectors: Vectors = await asked.texts.remote(list(ids))
        return vectors

    async def images(pixels: Sequence[NDArray[np.uint8]]) -> Vectors:
        vectors: Vectors = await asked.images.remote(np.stack(pixels))
        return vectors

    return lanes.Towers(texts, images, None, workers)
