"""The batcher drains while busy, isolates bad items, drops cancelled ones and refuses what it can't hold."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from biomedray.serve.batcher import Batcher, BatcherOptions, ItemError, QueueFullError


class SlowModel:
    """Doubles numbers; each call waits until the test lets it go. Negative numbers fail the whole call."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.gate = threading.Semaphore(0)

    def __call__(self, items: list[int]) -> list[int]:
        self.calls.append(items)
        assert self.gate.acquire(timeout=10)
        if any(item < 0 for item in items):
            raise ValueError("negative")
        return [2 * item for item in items]


async def _prepare(items: Sequence[int]) -> list[int]:
    if 13 in items:
        raise ValueError("unlucky")
    return list(items)


@pytest.fixture
def model() -> SlowModel:
    return SlowModel()


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def make(model: SlowModel, executor: ThreadPoolExecutor, max_batch: int = 4, max_pending: int = 100) -> Batcher[int, int, int]:
    return Batcher(model, _prepare, executor, BatcherOptions(max_batch, max_pending))


async def settle(model: SlowModel, calls: int) -> None:
    """Let the loop run until the model has been called so often."""
    while len(model.calls) < calls:
        await asyncio.sleep(0.001)


def test_what_queues_while_busy_becomes_one_batch(model: SlowModel, executor: ThreadPoolExecutor) -> None:
    async def run() -> None:
        batcher = make(model, executor)
        first = asyncio.create_task(batcher.submit([1]))
        await settle(model, 1)
        rest = [asyncio.create_task(batcher.submit([number])) for number in (2, 3, 4, 5, 6)]
        await asyncio.sleep(0.01)
        assert batcher.pending == 6
        model.gate.release(3)
        assert [await task for task in (first, *rest)] == [[2], [4], [6], [8], [10], [12]]
        assert batcher.pending == 0

    asyncio.run(run())
    assert model.calls == [[1], [2, 3, 4, 5], [6]]


def test_a_bad_item_fails_alone(model: SlowModel, executor: ThreadPoolExecutor) -> None:
    async def run() -> None:
        batcher = make(model, executor)
        model.gate.release(100)
        good = [asyncio.create_task(batcher.submit([number])) for number in (1, 2, 3)]
        bad = asyncio.create_task(batcher.submit([4, -1]))
        assert [await task for task in good] == [[2], [4], [6]]
        with pytest.raises(ItemError, match="negative") as caught:
            await bad
        assert caught.value.index == 1
        assert await batcher.submit([7]) == [14]

    asyncio.run(run())


def test_an_item_that_cannot_be_prepared_fails_alone(model: SlowModel, executor: ThreadPoolExecutor) -> None:
    async def run() -> None:
        batcher = make(model, executor)
        model.gate.release(100)
        other = asyncio.create_task(batcher.submit([1]))
        with pytest.raises(ItemError, match="unlucky"):
            await batcher.submit([13])
        assert await other == [2]
        assert batcher.pending == 0

    asyncio.run(run())


def test_cancelled_items_do_not_run(model: SlowModel, executor: ThreadPoolExecutor) -> None:
    async def run() -> None:
        batcher = make(model, executor)
        first = asyncio.create_task(batcher.submit([1]))
        await settle(model, 1)
        gone, stays = asyncio.create_task(batcher.submit([2, 3])), asyncio.create_task(batcher.submit([4]))
        await asyncio.sleep(0.01)
        gone.cancel()
        await asyncio.sleep(0.01)
        assert batcher.pending == 2
        model.gate.release(2)
        assert await first == [2]
        assert await stays == [8]

    asyncio.run(run())
    assert model.calls == [[1], [4]]


def test_a_full_queue_refuses_and_recovers(model: SlowModel, executor: ThreadPoolExecutor) -> None:
    async def run() -> None:
        batcher = make(model, executor, max_pending=3)
        held = asyncio.create_task(batcher.submit([1, 2]))
        await settle(model, 1)
        with pytest.raises(QueueFullError) as caught:
            await batcher.submit([3, 4])
        assert 1 <= caught.value.retry_after <= 30
        fits = asyncio.create_task(batcher.submit([3]))
        model.gate.release(10)
        assert await held == [2, 4]
        assert await fits == [6]
        assert await batcher.submit([5, 6, 7]) == [10, 12, 14]

    asyncio.run(run())


def test_nothing_submitted_gives_nothing(model: SlowModel, executor: ThreadPoolExecutor) -> None:
    assert asyncio.run(make(model, executor).submit([])) == []
    assert model.calls == []


def test_a_model_that_loses_results_is_an_error(executor: ThreadPoolExecutor) -> None:
    async def run() -> None:
        batcher: Batcher[int, int, int] = Batcher(lambda _: [], _prepare, executor, BatcherOptions(4, 10))
        with pytest.raises(ItemError, match="0 results for a batch of 1"):
            await batcher.submit([1])

    asyncio.run(run())
