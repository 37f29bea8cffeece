"""The batcher drains while busy, isolates bad items, drops cancelled ones and refuses what it can't hold."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biomedray.serve.batcher import Batcher, BatcherOptions, DeadlineError, ItemError, QueueFullError


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


def lengths_batcher(model: SlowModel, executor: ThreadPoolExecutor, **options: Any) -> Batcher[int, int, int]:
    return Batcher(
        model, _prepare, executor, BatcherOptions(**{"max_batch": 4, "max_pending": 1000, **options}), lambda item: item
    )


def test_like_lengths_run_together_and_the_odd_one_is_not_left_behind(model: SlowModel, executor: ThreadPoolExecutor) -> None:
    async def run() -> None:
        batcher = lengths_batcher(model, executor, padding=5)
        first = asyncio.create_task(batcher.submit([1]))
        await settle(model, 1)
        rest = [asyncio.create_task(batcher.submit([number])) for number in (10, 500, 11, 10, 12, 10, 11)]
        await asyncio.sleep(0.01)
        model.gate.release(10)
        await asyncio.gather(first, *rest)

    asyncio.run(run())
    assert model.calls == [[1], [10, 11, 10, 10], [500], [12, 11]]


def test_a_batch_keeps_its_budget(model: SlowModel, executor: ThreadPoolExecutor) -> None:
    model.gate.release(100)
    assert asyncio.run(lengths_batcher(model, executor, budget=100).submit([50] * 5)) == [100] * 5
    assert [len(call) for call in model.calls] == [2, 2, 1]


def test_many_items_of_one_do_not_hold_up_others(model: SlowModel, executor: ThreadPoolExecutor) -> None:
    async def run() -> None:
        batcher = make(model, executor, max_pending=1000)
        many = asyncio.create_task(batcher.submit(range(100, 300)))
        await settle(model, 1)
        await asyncio.sleep(0.01)
        ones = [asyncio.create_task(batcher.submit([number])) for number in (1, 2, 3)]
        await asyncio.sleep(0.01)
        model.gate.release(2)
        assert [await task for task in ones] == [[2], [4], [6]]
        assert not many.done()
        model.gate.release(100)
        assert await many == [2 * number for number in range(100, 300)]

    asyncio.run(run())


def test_one_request_prepares_a_few_items_at_a_time(model: SlowModel, executor: ThreadPoolExecutor) -> None:
    under_way: list[int] = []
    most = 0

    async def prepare(items: Sequence[int]) -> list[int]:
        nonlocal most
        under_way.extend(items)
        most = max(most, len(under_way))
        await asyncio.sleep(0)
        for item in items:
            under_way.remove(item)
        return list(items)

    async def run() -> None:
        options = BatcherOptions(4, 100, together=2, window=3)
        batcher: Batcher[int, int, int] = Batcher(model, prepare, executor, options)
        assert await batcher.submit(range(20)) == [2 * number for number in range(20)]

    model.gate.release(100)
    asyncio.run(run())
    assert most == 6


def test_what_is_past_its_deadline_does_not_run(model: SlowModel, executor: ThreadPoolExecutor) -> None:
    async def run() -> None:
        batcher = make(model, executor)
        now = asyncio.get_running_loop().time()
        first = asyncio.create_task(batcher.submit([1], now + 100))
        await settle(model, 1)
        with pytest.raises(DeadlineError):
            await batcher.submit([2, 3], now + 0.02)
        with pytest.raises(DeadlineError):
            await batcher.submit([4], now - 1)
        model.gate.release(2)
        assert await first == [2]
        assert batcher.pending == 0
        assert await batcher.submit([5]) == [10]

    asyncio.run(run())
    assert model.calls == [[1], [5]]


def test_a_queue_that_would_take_too_long_refuses(model: SlowModel, executor: ThreadPoolExecutor) -> None:
    async def run() -> None:
        batcher: Batcher[int, int, int] = Batcher(model, _prepare, executor, BatcherOptions(1, 1000, max_seconds=0.05))
        slow = asyncio.create_task(batcher.submit([1]))
        await settle(model, 1)
        await asyncio.sleep(0.03)
        model.gate.release()
        await slow
        waiting = [asyncio.create_task(batcher.submit([number])) for number in (2, 3)]
        await settle(model, 2)
        assert batcher.full
        with pytest.raises(QueueFullError):
            await batcher.submit([4])
        model.gate.release(100)
        await asyncio.gather(*waiting)
        assert not batcher.full
        assert len(await batcher.submit(range(20, 25))) == 5

    asyncio.run(run())


def test_run_may_be_a_coroutine_function() -> None:
    calls = []

    async def far(items: list[int]) -> list[int]:
        calls.append(items)
        await asyncio.sleep(0.001)
        return [2 * item for item in items]

    async def run() -> None:
        batcher: Batcher[int, int, int] = Batcher(far, _prepare, None, BatcherOptions(2, 100, ahead=1))
        assert await batcher.submit([1, 2, 3, 4, 5]) == [2, 4, 6, 8, 10]

    asyncio.run(run())
    assert calls == [[1, 2], [3, 4], [5]]


def test_only_full_batches_are_handed_over_ahead() -> None:
    under_way, seen, go = 0, [], asyncio.Event()

    async def far(items: list[int]) -> list[int]:
        nonlocal under_way
        under_way += 1
        seen.append((under_way, len(items)))
        await go.wait()
        under_way -= 1
        return items

    async def run() -> None:
        batcher: Batcher[int, int, int] = Batcher(far, _prepare, None, BatcherOptions(2, 100, ahead=1))
        tasks = [asyncio.create_task(batcher.submit([number])) for number in range(1, 6)]
        await asyncio.sleep(0.01)
        assert seen == [(1, 2), (2, 2)]
        go.set()
        await asyncio.gather(*tasks)

    asyncio.run(run())
    assert seen[2:] == [(1, 1)]


def test_each_worker_gets_a_batch() -> None:
    seen, go = [], asyncio.Event()

    async def far(items: list[int]) -> list[int]:
        seen.append(items)
        await go.wait()
        return items

    async def run() -> None:
        batcher: Batcher[int, int, int] = Batcher(far, _prepare, None, BatcherOptions(4, 100, workers=2))
        tasks = []
        for number in range(1, 5):
            tasks.append(asyncio.create_task(batcher.submit([number])))
            await asyncio.sleep(0.005)
        assert seen == [[1], [2]]
        go.set()
        await asyncio.gather(*tasks)

    asyncio.run(run())
    assert seen[2:] == [[3, 4]]


def test_closing_gives_everyone_an_answer(model: SlowModel, executor: ThreadPoolExecutor) -> None:
    async def run() -> None:
        batcher = make(model, executor)
        tasks = [asyncio.create_task(batcher.submit([number])) for number in range(1, 9)]
        await settle(model, 1)
        batcher.close()
        for task in tasks:
            with pytest.raises(ItemError, match="going down"):
                await task
        model.gate.release(10)
        assert batcher.pending == 0

    asyncio.run(run())


CALLER = st.fixed_dictionaries(
    {
        "values": st.lists(st.integers(-3, 40), max_size=12),
        "start": st.integers(0, 5),
        "cancel": st.none() | st.integers(0, 8),
        "deadline": st.none() | st.integers(0, 30),
    }
)
Numbered = tuple[int, int]
"""An item's own number and its value."""


async def ticks(count: int) -> None:
    """Turns of the event loop stand for time."""
    for _ in range(count):
        await asyncio.sleep(0)


class Flaky:
    """Doubles values after a while; 13 fails in preparation, negative ones in the model."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.runs = Counter[int]()

    async def prepare(self, items: Sequence[Numbered]) -> list[Numbered]:
        await ticks(self.random.randrange(3))
        if any(value == 13 for _, value in items):
            raise ValueError("unlucky")
        return list(items)

    async def run(self, items: list[Numbered]) -> list[int]:
        assert len(items) <= 4
        await ticks(self.random.randrange(4))
        if any(value < 0 for _, value in items):
            raise ValueError("negative")
        self.runs.update(number for number, _ in items)
        return [2 * value for _, value in items]


async def call(batcher: Batcher[Any, Any, int], number: int, wants: dict[str, Any]) -> None:
    """One caller: it gets what it should get, or the error that it should get."""
    await ticks(wants["start"])
    items = [(1000 * number + place, value) for place, value in enumerate(wants["values"])]
    deadline = None if wants["deadline"] is None else asyncio.get_running_loop().time() + wants["deadline"] / 10_000
    task = asyncio.create_task(batcher.submit(items, deadline))
    if wants["cancel"] is not None:
        await ticks(wants["cancel"])
        task.cancel()
    (found,) = await asyncio.gather(task, return_exceptions=True)
    if isinstance(found, ItemError):
        value = items[found.index][1]
        assert str(found.cause) == ("unlucky" if value == 13 else "negative")
        assert value == 13 or value < 0
    elif isinstance(found, BaseException):
        assert wants["cancel" if isinstance(found, asyncio.CancelledError) else "deadline"] is not None
    else:
        assert found == [2 * value for _, value in items]
        assert all(value >= 0 and value != 13 for _, value in items)


@settings(max_examples=60, deadline=None)
@given(
    callers=st.lists(CALLER, min_size=1, max_size=8), together=st.integers(1, 3), ahead=st.integers(0, 1), seed=st.integers(0, 99)
)
def test_every_item_gets_exactly_one_answer_and_the_right_one(
    callers: list[dict[str, Any]], together: int, ahead: int, seed: int
) -> None:
    model, loop_errors = Flaky(seed), []

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: loop_errors.append(context))
        options = BatcherOptions(4, 1000, budget=200, padding=10, together=together, window=2, ahead=ahead)
        batcher = Batcher(model.run, model.prepare, None, options, lambda item: max(1, abs(item[1])))
        async with asyncio.timeout(5):
            await asyncio.gather(*(call(batcher, number, wants) for number, wants in enumerate(callers)))
            assert batcher.pending == 0
            assert await batcher.submit([(-1, 7)]) == [14]

    asyncio.run(run())
    assert loop_errors == []
    assert all(count == 1 for count in model.runs.values())


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 30), min_size=2, max_size=6), lengths=st.randoms(use_true_random=False))
def test_nobody_starves(sizes: list[int], lengths: Random) -> None:
    """A new request keeps arriving with every batch; those there before wait for at most a batch for each request ahead."""
    batches: list[list[tuple[int, int]]] = []

    async def run() -> None:
        extra: list[asyncio.Task[Any]] = []

        async def model(items: list[tuple[int, int]]) -> list[tuple[int, int]]:
            batches.append(items)
            if len(batches) < 50:
                extra.append(asyncio.create_task(batcher.submit([(100 + len(batches), 7)])))
            await asyncio.sleep(0)
            return items

        async def prepare(items: Sequence[tuple[int, int]]) -> Sequence[tuple[int, int]]:
            return items

        batcher: Batcher[Any, Any, Any] = Batcher(
            model, prepare, None, BatcherOptions(3, 10_000, padding=4), lambda item: item[1]
        )
        items = [[(number, lengths.randint(1, 90))] * size for number, size in enumerate(sizes)]
        await asyncio.gather(*map(batcher.submit, items))
        await asyncio.gather(*extra)

    asyncio.run(run())
    for number in range(len(sizes)):
        first = next(place for place, batch in enumerate(batches) if any(item[0] == number for item in batch))
        assert first <= len(sizes)
