"""Does the model still answer, and as it did at first? Asked every few seconds beside the requests, told at once.

every few seconds: one known text -> the model, ahead of what waits -> compared with its first vector
health() -> (ok, seconds since the last good answer, reason)      reads what is known, waits for nothing
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

EVERY_SECONDS = 5.0
STALE_SECONDS = 30.0
"""No answer of any kind for so long: the model hangs."""
LEAST_COSINE = 0.999

Vector = NDArray[np.float32]


class Health(NamedTuple):
    """What is known of a model."""

    ok: bool
    age: float
    """Seconds since the last good canary; infinite before the first."""
    reason: str
    """Why it is not ok, else empty."""


class Canary:
    """Asks for the vector of one known text again and again. Belongs to one event loop."""

    def __init__(self, embed: Callable[[], Awaitable[Vector]]) -> None:
        self._embed = embed
        self._first: Vector | None = None
        self._good_at = -np.inf
        self._sign_at = time.monotonic()
        self._trouble: str | None = "the model has not answered yet"
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Ask from now on, every few seconds."""
        loop = asyncio.get_running_loop()
        if self._task is None or self._task.done() or self._task.get_loop() is not loop:
            self._sign_at = time.monotonic()
            self._task = loop.create_task(self._ask_on())

    def close(self) -> None:
        """Ask no more."""
        if self._task is not None and not self._task.get_loop().is_closed():
            self._task.cancel()

    def sign_of_life(self) -> None:
        """The model has answered a request."""
        self._sign_at = time.monotonic()

    def health(self) -> Health:
        """What the last answer was like, and whether there are answers at all."""
        now = time.monotonic()
        silent = now - self._sign_at
        reason = self._trouble
        if reason is None and silent > STALE_SECONDS:
            reason = f"the model has not answered for {silent:.0f} s"
        return Health(reason is None, now - self._good_at, reason or "")

    async def ask(self) -> Health:
        """Ask now, or wait for the answer to what was asked just before."""
        asked = time.monotonic()
        async with self._lock:
            if self._good_at < asked:
                await self._ask()
        return self.health()

    async def _ask(self) -> None:
        try:
            vector = await self._embed()
        except Exception as error:  # noqa: BLE001  # whatever ails the model, it is not ready
            self._trouble = f"the model failed: {type(error).__name__}"
            return
        if not np.isfinite(vector).all() or float(vector @ (vector if self._first is None else self._first)) < LEAST_COSINE:
            self._trouble = "the model's answer to the same text has changed"
            return
        self._first = vector if self._first is None else self._first
        self._trouble, self._good_at = None, time.monotonic()
        self.sign_of_life()

    async def _ask_on(self) -> None:
        while True:
            await self.ask()
            await asyncio.sleep(EVERY_SECONDS)
