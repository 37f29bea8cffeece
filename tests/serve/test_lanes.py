"""Lanes: stages are measured, tokens counted once, deadlines and full queues are 503, and health tells the truth at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import numpy as np
import pytest

from biomedray.serve import canary
from biomedray.serve.inputs import ImageSource
from biomedray.serve.lanes import Lanes, Towers
from biomedray.serve.limits import Limits
from biomedray.serve.metrics import Metrics
from biomedray.serve.problems import Problem

from .conftest import COLORS, FakeEncoder, draw

CANARY = "chest radiograph"


class Gated(FakeEncoder):
    """Waits in each call until the test lets it go on, once it is shut."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Event()
        self.reads = threading.Event()
        self.reads.set()
        self.order: list[str] = []
        self.sign = 1
        self.broken = False

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        self.entered.set()
        assert self.open.wait(10)
        if self.broken:
            raise RuntimeError("/secret/path: no memory")
        return self.sign * super().encode_texts(texts)

    def tokenize(self, texts: Sequence[str]) -> Any:
        assert self.reads.wait(10)
        self.order += texts
        return super().tokenize(texts)


def play(scene: Callable[[Lanes, Gated], Coroutine[Any, Any, None]], **limits: Any) -> None:
    async def run() -> None:
        encoder = Gated()
        lanes = Lanes(encoder, Limits(**limits), Metrics())
        try:
            async with asyncio.timeout(20):
                await scene(lanes, encoder)
        finally:
            encoder.open.set()
            encoder.reads.set()
            lanes.close()

    asyncio.run(run())


def test_texts_and_images_in_order_with_their_tokens() -> None:
    async def scene(lanes: Lanes, encoder: Gated) -> None:
        await lanes.canary()
        texts = ["a red field", "green", "a much longer text of the blue color " * 4]
        (vectors, tokens), images = await asyncio.gather(
            lanes.texts_counted(texts), lanes.images([ImageSource(draw(COLORS[name])) for name in COLORS], list(COLORS))
        )
        np.testing.assert_allclose(vectors, encoder.encode_texts(texts))
        assert tokens == sum(len(text.split()) + 2 for text in texts)
        assert [text for text in encoder.order if text != CANARY] == texts  # each of them once
        np.testing.assert_allclose(images, encoder.encode_images([draw(color) for color in COLORS.values()]), atol=1e-6)
        assert (await lanes.texts([])).shape == (0, encoder.embed_dim)
        metrics = lanes._metrics.text().decode()
        for stage in ("decode", "queue", "model"):
            assert f'biomedray_stage_seconds_count{{stage="{stage}"}}' in metrics
        assert lanes.pending() == {"text": 0, "image": 0}

    play(scene)


def test_a_full_lane_says_when_to_come_again() -> None:
    async def scene(lanes: Lanes, encoder: Gated) -> None:
        await lanes.canary()
        encoder.open.clear()
        held = asyncio.create_task(lanes.texts(["a", "b"]))
        await asyncio.sleep(0.01)
        assert lanes.full("text")
        assert not lanes.full("image")
        assert lanes.wait("image") is None
        assert 1 <= lanes.retry_after("text") == lanes.wait("text") <= 30
        with pytest.raises(Problem) as caught:
            await lanes.texts(["c"])
        assert (caught.value.status_code, caught.value.code) == (503, "overloaded")
        assert int(caught.value.headers["retry-after"]) >= 1
        encoder.open.set()
        assert len(await held) == 2
        assert not lanes.full("text")

    play(scene, queue_texts=2)


def test_what_is_not_done_in_time_is_503() -> None:
    async def scene(lanes: Lanes, encoder: Gated) -> None:
        await lanes.canary()
        encoder.open.clear()
        with pytest.raises(Problem) as caught:
            await lanes.texts(["a"])
        assert (caught.value.status_code, caught.value.code) == (503, "timeout")
        with pytest.raises(Problem):
            await lanes.texts(["b"], deadline=asyncio.get_running_loop().time() - 1)

    play(scene, request_seconds=0.05)


def test_health_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canary, "EVERY_SECONDS", 0.01)
    monkeypatch.setattr(canary, "STALE_SECONDS", 0.2)

    async def until(lanes: Lanes, ok: bool) -> str:
        while (health := lanes.health()).ok is not ok:
            await asyncio.sleep(0.005)
        return health.reason

    async def scene(lanes: Lanes, encoder: Gated) -> None:
        health = lanes.health()
        assert not health.ok
        assert health.age == np.inf
        assert "not answered yet" in health.reason
        assert await until(lanes, ok=True) == ""
        assert lanes.health().age < 10
        encoder.open.clear()  # the model hangs
        assert "has not answered for" in await until(lanes, ok=False)
        encoder.open.set()
        await until(lanes, ok=True)
        encoder.sign = -1
        assert "has changed" in await until(lanes, ok=False)
        encoder.sign = 1
        await until(lanes, ok=True)
        encoder.broken = True
        reason = await until(lanes, ok=False)
        assert reason == "the model failed: RuntimeError"
        with pytest.raises(RuntimeError, match="the model failed"):
            await lanes.canary()

    play(scene)


def test_a_tokenizer_that_hangs_is_not_ready_though_pictures_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canary, "EVERY_SECONDS", 0.01)
    monkeypatch.setattr(canary, "STALE_SECONDS", 0.2)

    async def scene(lanes: Lanes, encoder: Gated) -> None:
        await lanes.canary()
        encoder.reads.clear()
        while lanes.health().reason != "the model failed: TimeoutError":
            await lanes.images([ImageSource(draw(COLORS["red"]))], ["image"])
        encoder.reads.set()
        while not lanes.health().ok:
            await asyncio.sleep(0.005)

    play(scene)


def test_the_canary_is_tokenized_ahead_of_what_waits() -> None:
    async def scene(lanes: Lanes, encoder: Gated) -> None:
        await lanes.canary()
        encoder.reads.clear()
        waiting = [asyncio.create_task(lanes.texts([f"text {number}"])) for number in range(20)]
        await asyncio.sleep(0.02)
        encoder.order.clear()
        asked = asyncio.create_task(lanes.canary())
        await asyncio.sleep(0.02)
        encoder.reads.set()
        await asyncio.gather(asked, *waiting)
        assert len([text for text in encoder.order if text != CANARY]) == 20
        assert encoder.order.index(CANARY) <= 2

    play(scene)


def test_a_thread_that_is_gone_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canary, "EVERY_SECONDS", 0.01)

    async def scene(lanes: Lanes, encoder: Gated) -> None:
        await lanes.canary()
        assert lanes.health().ok
        lanes._towers.executor.shutdown()
        while lanes.health().ok:
            await asyncio.sleep(0.005)
        with pytest.raises(RuntimeError):
            await lanes.texts(["a"])

    play(scene)


def test_the_canary_goes_ahead_of_what_waits() -> None:
    async def scene(lanes: Lanes, encoder: Gated) -> None:
        await lanes.canary()
        encoder.open.clear()
        encoder.entered.clear()
        waiting = [asyncio.create_task(lanes.texts([f"text {number}"])) for number in range(20)]
        await asyncio.get_running_loop().run_in_executor(None, encoder.entered.wait)
        asked = asyncio.create_task(lanes.canary())
        await asyncio.sleep(0.02)
        encoder.open.set()
        await asked
        assert sum(not task.done() for task in waiting) >= 10
        await asyncio.gather(*waiting)

    play(scene, batch_texts=2)


def test_the_model_may_live_in_another_process() -> None:
    encoder = FakeEncoder()

    async def texts(rows: list[np.ndarray]) -> np.ndarray:
        await asyncio.sleep(0.001)
        return encoder.encode_tokens(rows)

    async def images(batch: list[np.ndarray]) -> np.ndarray:
        raise ConnectionError("gone")

    async def run() -> None:
        lanes = Lanes(encoder, Limits(), Metrics(), Towers(texts, images, None))
        np.testing.assert_allclose(await lanes.texts(["red", "blue"]), encoder.encode_texts(["red", "blue"]))
        with pytest.raises(ConnectionError):
            await lanes.images([ImageSource(draw(COLORS["red"]))], ["image"])
        await lanes.canary()
        lanes.close()

    asyncio.run(run())


def test_images_are_bounded_by_pixels() -> None:
    class Large(FakeEncoder):
        image_size = 512

    assert Lanes(Large(), Limits(batch_images=16, batch_pixels=1 << 20), Metrics())._image_options().max_batch == 4
    assert Lanes(Large(), Limits(batch_pixels=1), Metrics())._image_options().max_batch == 1


@pytest.mark.parametrize(("packs", "wanted"), [(True, [[9, 90, 9, 90]]), (False, [[9, 9], [90, 90]])])
def test_lengths_are_mixed_only_where_nothing_is_padded(packs: bool, wanted: list[list[int]]) -> None:
    seen: list[list[int]] = []

    class Counting(FakeEncoder):
        def encode_tokens(self, rows: Sequence[np.ndarray]) -> np.ndarray:
            seen.append([len(row) for row in rows])
            return super().encode_tokens(rows)

    async def run() -> None:
        encoder = Counting()
        encoder.packs = packs
        lanes = Lanes(encoder, Limits(), Metrics())
        await lanes.texts(["a" * 9, "b" * 90, "c" * 9, "d" * 90])
        lanes.close()

    asyncio.run(run())
    assert [batch for batch in seen if len(batch) > 1] == wanted


def test_the_budget_of_tokens_goes_with_the_device() -> None:
    def budget(device: str, **limits: Any) -> int | None:
        encoder = FakeEncoder()
        encoder.device = device
        return Lanes(encoder, Limits(**limits), Metrics())._text_options().budget

    assert budget("cpu") < budget("cuda:1")
    assert budget("cpu", batch_tokens=77) == budget("cuda", batch_tokens=77) == 77
