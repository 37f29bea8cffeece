"""A micro-batcher for asyncio that drains its queue while the model is busy.

    submit -> admit (bounded) -> prepare (a few of each request at a time) -> queue -> batch -> run -> results
                 |                   |                                          |
            QueueFullError    a bad item fails alone        in turn over requests, like lengths together (picking.py);
                                                            what its caller gave up is dropped, a failed batch is halved

A batch is cut off the queue only when the model is free, so its size is what queued meanwhile: one
item when idle, full batches under load. (Ray's ``serve.batch`` cuts batches while one runs, and under
an open load its batches stay small and its queue grows; benchmarks/serve_batcher.py measures it.)

Each batch begins with the first item of the request whose turn it is, whatever its length; then the request goes to the
end of the line. So a request waits for at most one batch for each request before it, and one with many items can't hold
up those with one.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast

from biomedray.serve.picking import Bounds, is_full, pick

Raw = TypeVar("Raw")
Ready = TypeVar("Ready")
Out = TypeVar("Out")

_LONGEST_WAIT = 30.0
_SMOOTHING = 0.05
_LOOK = 4
"""How many times a batch's items are looked at for those of like length."""


class QueueFullError(Exception):
    """The queue is full; ``retry_after`` is a guess in seconds of when it will have room."""

    def __init__(self, retry_after: float) -> None:
        super().__init__("the queue is full")
        self.retry_after = retry_after


class DeadlineError(Exception):
    """The caller's deadline passed before all items had run."""


class ItemError(Exception):
    """One item of a submission failed; ``index`` says which, ``cause`` why."""

    def __init__(self, index: int, cause: BaseException) -> None:
        super().__init__(f"item {index}: {cause}")
        self.index = index
        self.cause = cause


@dataclass(frozen=True)
class BatcherOptions:
    """Bounds and hooks of a batcher."""

    max_batch: int
    """Items of a batch."""
    max_pending: int
    """Items that are prepared, wait or run."""
    budget: int | None = None
    """Cost of a batch: items times the longest one's length, or without padding the sum of lengths."""
    padding: int | None = 0
    """Most of that cost that may be padding; None: nothing is padded."""
    max_seconds: float | None = None
    """Refuse what would have to wait longer, by the speed measured so far."""
    together: int = 1
    """Items of a request that are prepared in one call."""
    window: int = 4
    """Such calls of one request at a time, so that others get their turn."""
    workers: int = 1
    """Batches that ``run`` can take at a time, each by a model of its own."""
    ahead: int = 0
    """Further batches that are handed over before one that runs has ended, if they are full: for a device with a queue."""
    observe: Callable[[int, float], None] | None = None
    """Called with (items, seconds) after each batch."""
    waited: Callable[[float], None] | None = None
    """Called for each item with its seconds from prepared to handed over."""

    @property
    def bounds(self) -> Bounds:
        """Of one batch."""
        return Bounds(self.max_batch, self.budget, self.padding)


@dataclass(slots=True, eq=False)
class _Job(Generic[Raw, Ready, Out]):
    raw: Raw
    call: _Call[Raw, Ready, Out]
    future: asyncio.Future[Out]
    item: Ready | None = None
    length: int = 1
    since: float = 0.0

    def fail(self, error: BaseException) -> None:
        if not self.future.done():
            self.future.set_exception(error)

    def answer(self, result: Out) -> None:
        if not self.future.done():
            self.future.set_result(result)


@dataclass(slots=True, eq=False)
class _Call(Generic[Raw, Ready, Out]):
    """What one submission has in the queue."""

    waiting: list[_Job[Raw, Ready, Out]] = field(default_factory=list)


class Batcher(Generic[Raw, Ready, Out]):
    """Items from many requests, run together. All methods belong to one event loop.

    ``run`` is a plain function that is called on ``executor``, or without one a coroutine function.
    """

    def __init__(
        self,
        run: Callable[[list[Ready]], Sequence[Out] | Awaitable[Sequence[Out]]],
        prepare: Callable[[Sequence[Raw]], Awaitable[Sequence[Ready]]],
        executor: Executor | None,
        options: BatcherOptions,
        length: Callable[[Ready], int] = lambda _: 1,
    ) -> None:
        self._run = run
        self._prepare = prepare
        self._executor = executor
        self._options = options
        self._bounds = options.bounds
        self._length = length
        self._turns: list[_Call[Raw, Ready, Out]] = []
        self._running: set[asyncio.Task[None]] = set()
        self._woken = False
        self._each = 0.0
        self._busy_since = 0.0
        self.pending = 0

    @property
    def full(self) -> bool:
        """Whether another item would be refused now."""
        seconds = self._options.max_seconds
        return self.pending >= self._options.max_pending or (seconds is not None and self.pending * self._each > seconds)

    @property
    def retry_after(self) -> float:
        """Seconds until what is pending will have run, by the speed measured so far; from 1 to 30."""
        return min(_LONGEST_WAIT, max(1.0, self.pending * self._each))

    async def submit(self, items: Sequence[Raw], deadline: float | None = None) -> list[Out]:
        """Results in the order of ``items``; cancelling the call drops what has not run yet.

        ``deadline`` is a time of the event loop's clock.

        Raises:
            QueueFullError: more than ``max_pending`` items would wait or run, or they would wait too long.
            DeadlineError: not all had run in time; what has not run yet is dropped.
            ItemError: the first item that failed; the other items of other callers are not touched.
        """
        with self._admitted(len(items)):
            call: _Call[Raw, Ready, Out] = _Call()
            loop = asyncio.get_running_loop()
            jobs = [_Job(item, call, loop.create_future()) for item in items]
            feeder = asyncio.create_task(self._feed(jobs))
            try:
                return await _all([job.future for job in jobs], deadline)
            finally:
                feeder.cancel()
                for job in jobs:
                    _settle(job.future)

    def close(self) -> None:
        """Give up what waits and runs; its callers get an error."""
        turns, self._turns = self._turns, []
        with contextlib.suppress(RuntimeError):  # a loop that is closed has nobody left who waits
            for task in self._running:
                task.cancel()
            for call in turns:
                for job in call.waiting:
                    job.fail(RuntimeError("the service is going down"))

    @contextmanager
    def _admitted(self, count: int) -> Iterator[None]:
        if self.pending + count > self._options.max_pending or (count and self.full):
            raise QueueFullError(self.retry_after)
        if self.pending == 0:
            self._busy_since = time.monotonic()
        self.pending += count
        try:
            yield
        finally:
            self.pending -= count

    # ---- prepare

    async def _feed(self, jobs: list[_Job[Raw, Ready, Out]]) -> None:
        """Prepare the items of one submission, a few at a time."""
        gate, size = asyncio.Semaphore(self._options.window), self._options.together

        async def some(part: list[_Job[Raw, Ready, Out]]) -> None:
            async with gate:
                await self._prepare_some(part)

        await asyncio.gather(*(some(jobs[start : start + size]) for start in range(0, len(jobs), size)))

    async def _prepare_some(self, jobs: list[_Job[Raw, Ready, Out]]) -> None:
        try:
            ready = await self._prepare([job.raw for job in jobs])
            _check_count(len(ready), len(jobs))
        except Exception as error:  # noqa: BLE001  # whatever is wrong with an item belongs to its caller
            if len(jobs) == 1:
                jobs[0].fail(error)
                return
            for job in jobs:
                await self._prepare_some([job])
            return
        for job, item in zip(jobs, ready, strict=True):
            self._enqueue(job, item)

    def _enqueue(self, job: _Job[Raw, Ready, Out], item: Ready) -> None:
        if job.future.done():
            return
        job.item, job.length, job.since = item, self._length(item), time.monotonic()
        if not job.call.waiting:
            self._turns.append(job.call)
        job.call.waiting.append(job)
        self._wake_soon()

    # ---- batches

    def _wake_soon(self) -> None:
        """At the loop's next turn, so that what arrives in this one runs together."""
        if not self._woken:
            self._woken = True
            asyncio.get_running_loop().call_soon(self._wake)

    def _wake(self) -> None:
        self._woken = False
        workers, most = self._options.workers, self._options.workers + self._options.ahead
        while len(self._running) < most and (batch := self._take(full=len(self._running) >= workers)):
            task = asyncio.create_task(self._run_to_end(batch))
            self._running.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._wake_soon()

    def _take(self, full: bool) -> list[_Job[Raw, Ready, Out]]:
        """The next batch, [] if nothing waits; with ``full`` only one without room for more."""
        seen = self._in_turn()
        if not seen:
            return []
        batch = [seen[position] for position in pick([job.length for job in seen], self._bounds)]
        if full and not is_full([job.length for job in batch], self._bounds):
            return []
        taken = set(map(id, batch))
        served = {id(job.call) for job in batch}
        for call in self._turns:
            if id(call) in served:
                call.waiting = [job for job in call.waiting if id(job) not in taken]
        later = [call for call in self._turns if id(call) in served and call.waiting]
        self._turns = [call for call in self._turns if id(call) not in served] + later
        return batch

    def _in_turn(self) -> list[_Job[Raw, Ready, Out]]:
        """What waits: the first item of each request, then the second of each; what was given up is dropped."""
        for call in self._turns:
            call.waiting = [job for job in call.waiting if not job.future.done()]
        self._turns = [call for call in self._turns if call.waiting]
        rounds = itertools.zip_longest(*(call.waiting for call in self._turns))
        in_turn = (job for jobs in rounds for job in jobs if job is not None)
        return list(itertools.islice(in_turn, _LOOK * self._options.max_batch))

    async def _run_to_end(self, batch: list[_Job[Raw, Ready, Out]]) -> None:
        started = time.monotonic()
        if self._options.waited is not None:
            for job in batch:
                self._options.waited(started - job.since)
        try:
            await self._run_batch(batch)
        except asyncio.CancelledError:  # the executor or the loop is going down
            for job in batch:
                job.fail(RuntimeError("the service is going down"))
            raise
        self._account(len(batch), started)

    async def _run_batch(self, batch: list[_Job[Raw, Ready, Out]]) -> None:
        try:
            results = await self._results([cast("Ready", job.item) for job in batch])
            _check_count(len(results), len(batch))
        except Exception as error:  # noqa: BLE001  # whatever the model raises belongs to its callers, the queue goes on
            await self._run_halves(batch, error)
            return
        for job, result in zip(batch, results, strict=True):
            job.answer(result)

    async def _results(self, items: list[Ready]) -> Sequence[Out]:
        run: Any = self._run
        if self._executor is None:
            return cast("Sequence[Out]", await run(items))
        return cast("Sequence[Out]", await asyncio.get_running_loop().run_in_executor(self._executor, run, items))

    async def _run_halves(self, batch: list[_Job[Raw, Ready, Out]], error: Exception) -> None:
        """Find the items that make a batch fail: each ends up alone, the others succeed."""
        if len(batch) == 1:
            batch[0].fail(error)
            return
        middle = len(batch) // 2
        for half in (batch[:middle], batch[middle:]):
            if live := [job for job in half if not job.future.done()]:
                await self._run_batch(live)

    def _account(self, items: int, started: float) -> None:
        """Seconds that an item takes while there is work, waiting for other lanes included."""
        now = time.monotonic()
        each, self._busy_since = (now - self._busy_since) / items, now
        weight = 1 - (1 - _SMOOTHING) ** items if self._each else 1.0
        self._each += weight * (each - self._each)
        if self._options.observe is not None:
            self._options.observe(items, now - started)


def _check_count(found: int, wanted: int) -> None:
    if found != wanted:
        raise RuntimeError(f"{found} results for a batch of {wanted}")


def _settle(future: asyncio.Future[Any]) -> None:
    """No longer wanted; its failure is nobody's any more."""
    if not future.cancel() and not future.cancelled():
        future.exception()


async def _all(futures: Sequence[asyncio.Future[Out]], deadline: float | None) -> list[Out]:
    if futures:
        left = None if deadline is None else deadline - asyncio.get_running_loop().time()
        _, unfinished = await asyncio.wait(futures, timeout=left, return_when=asyncio.FIRST_EXCEPTION)
        for index, future in enumerate(futures):
            if future.done() and (error := future.exception()) is not None:
                raise ItemError(index, error)
        if unfinished:
            raise DeadlineError("the deadline has passed")
    return [future.result() for future in futures]
