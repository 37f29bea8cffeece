"""A micro-batcher for asyncio that drains its queue while the model is busy.

    submit -> admit (bounded) -> prepare (thread pool) -> queue -> up to max_batch at once -> run (model thread) -> results
                 |                     |                                  |
            QueueFullError     a bad item fails alone       cancelled items are dropped, a failed batch is halved

A batch is cut off the queue only when the model is free, so its size is what queued meanwhile: one
item when idle, full batches under load. (Ray's ``serve.batch`` cuts batches while one runs, and under
an open load its batches stay small and its queue grows; see docs/guides/serve.md.)
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Raw = TypeVar("Raw")
Ready = TypeVar("Ready")
Out = TypeVar("Out")

_LONGEST_WAIT = 30.0
_SMOOTHING = 0.2


class QueueFullError(Exception):
    """The queue is full; ``retry_after`` is a guess in seconds of when it will have room."""

    def __init__(self, retry_after: float) -> None:
        super().__init__("the queue is full")
        self.retry_after = retry_after


class ItemError(Exception):
    """One item of a submission failed; ``index`` says which, ``cause`` why."""

    def __init__(self, index: int, cause: BaseException) -> None:
        super().__init__(f"item {index}: {cause}")
        self.index = index
        self.cause = cause


@dataclass(frozen=True)
class BatcherOptions:
    """Bounds and hooks of a batcher; ``observe`` is called with (items, seconds) after each batch."""

    max_batch: int
    max_pending: int
    observe: Callable[[int, float], None] | None = None


@dataclass(slots=True)
class _Job(Generic[Ready, Out]):
    item: Ready
    future: asyncio.Future[Out]


class Batcher(Generic[Raw, Ready, Out]):
    """Items from many requests, run together. All methods belong to one event loop."""

    def __init__(
        self,
        run: Callable[[list[Ready]], Sequence[Out]],
        prepare: Callable[[Raw], Coroutine[Any, Any, Ready]],
        executor: Executor,
        options: BatcherOptions,
    ) -> None:
        self._run = run
        self._prepare = prepare
        self._executor = executor
        self._options = options
        self._queue: deque[_Job[Ready, Out]] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._seconds_per_item = 0.0
        self.pending = 0

    async def submit(self, items: Sequence[Raw]) -> list[Out]:
        """Results in the order of ``items``; cancelling the call drops what has not run yet.

        Raises:
            QueueFullError: more than ``max_pending`` items would wait or run.
            ItemError: the first item that failed; the other items of other callers are not touched.
        """
        with self._admitted(len(items)):
            tasks = [asyncio.ensure_future(self._one(item)) for item in items]
            try:
                return await _all(tasks)
            finally:
                for task in tasks:
                    task.cancel()

    @contextmanager
    def _admitted(self, count: int) -> Iterator[None]:
        if self.pending + count > self._options.max_pending:
            raise QueueFullError(min(_LONGEST_WAIT, max(1.0, self.pending * self._seconds_per_item)))
        self.pending += count
        try:
            yield
        finally:
            self.pending -= count

    async def _one(self, item: Raw) -> Out:
        job: _Job[Ready, Out] = _Job(await self._prepare(item), asyncio.get_running_loop().create_future())
        self._queue.append(job)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._drain())
        return await job.future

    async def _drain(self) -> None:
        while batch := self._take():
            started = time.monotonic()
            await self._run_batch(batch)
            self._account(len(batch), time.monotonic() - started)

    def _take(self) -> list[_Job[Ready, Out]]:
        batch: list[_Job[Ready, Out]] = []
        while self._queue and len(batch) < self._options.max_batch:
            job = self._queue.popleft()
            if not job.future.done():
                batch.append(job)
        return batch

    async def _run_batch(self, batch: list[_Job[Ready, Out]]) -> None:
        loop = asyncio.get_running_loop()
        try:
            results = await loop.run_in_executor(self._executor, self._run, [job.item for job in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"{len(results)} results for a batch of {len(batch)}")  # noqa: TRY301  # treated as a failed run
        except Exception as error:  # noqa: BLE001  # whatever the model raises belongs to its callers, the queue goes on
            await self._run_halves(batch, error)
            return
        for job, result in zip(batch, results, strict=True):
            if not job.future.done():
                job.future.set_result(result)

    async def _run_halves(self, batch: list[_Job[Ready, Out]], error: Exception) -> None:
        """Find the items that make a batch fail: each ends up alone, the others succeed."""
        if len(batch) == 1:
            if not batch[0].future.done():
                batch[0].future.set_exception(error)
            return
        middle = len(batch) // 2
        for half in (batch[:middle], batch[middle:]):
            await self._run_batch(half)

    def _account(self, items: int, seconds: float) -> None:
        self._seconds_per_item += _SMOOTHING * (seconds / items - self._seconds_per_item)
        if self._options.observe is not None:
            self._options.observe(items, seconds)


async def _all(tasks: Sequence[asyncio.Future[Out]]) -> list[Out]:
    if tasks:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    for index, task in enumerate(tasks):
        if task.done() and (error := task.exception()) is not None:
            raise ItemError(index, error)
    return [task.result() for task in tasks]
