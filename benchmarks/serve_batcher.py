"""Why a batcher of our own: the same app on it and on Ray's ``@serve.batch`` (10 ms), under an open load.

Method: a Serve deployment whose handler takes one item and answers with the size of the batch that it ran in. Both ways call
the same function, one call at a time on one thread, at most ``cap`` items at once; only what cuts the batches differs. Poisson
arrivals at a share of the capacity (cap items in the time of a full batch), whether or not earlier ones were answered; latency
from the moment when a request was due. Through Serve's HTTP proxy for real; the load generator is this process.

    simulated   a model of 60 ms a call and 20 ms an item, which sleeps: what other jobs on the machine do changes little
    queries     a BERT-base with random weights in bfloat16 on one thread, the first 12 words of real captions: some 35 ms a call
                and 10 ms an item on a core with AMX, in the same proportion as the simulated one
    captions    the same, whole captions: longer, so a call of one costs little more an item than a call of many
    mean_batch  items a batch, over all requests of the run
    p50_ms, p99_ms  latency; where arrivals outrun the batches they grow with the length of the run, so --seconds belongs to them
    p50_ratio   of @serve.batch over ours, at the same load

Usage: python benchmarks/serve_batcher.py [--seconds 12] [--loads 0.3,0.6,0.8] [--models simulated,queries]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import aiohttp
import numpy as np
from ray import serve

from _measure import record
from _towers import captions
from biomedray import cluster

CAP = {"simulated": 8, "queries": 16, "captions": 16}
QUERY_WORDS = 12
WAIT = 0.01
ITEMS = 500
PORT = 8765
CALL_SECONDS, ITEM_SECONDS = 0.06, 0.02


def simulated(items: Sequence[Any]) -> list[int]:
    """A model that only takes its time."""
    time.sleep(CALL_SECONDS + ITEM_SECONDS * len(items))
    return [len(items)] * len(items)


class TextModel:
    """A text tower of real size."""

    def __init__(self) -> None:
        import torch

        from _towers import encoder

        torch.set_num_threads(1)
        self._encoder = encoder("auto")

    def tokenize(self, text: str) -> Any:
        """Token ids."""
        return self._encoder.tokenize([text])[0].ids

    def __call__(self, items: Sequence[Any]) -> list[int]:
        """The batch's size for each item."""
        self._encoder.encode_tokens(list(items))
        return [len(items)] * len(items)


@serve.deployment(max_ongoing_requests=100_000, health_check_timeout_s=600, ray_actor_options={"num_cpus": 1})
class App:
    """One item a request, batched by one or the other."""

    def __init__(self, model: str, way: str) -> None:
        from biomedray.serve.batcher import Batcher, BatcherOptions

        self._pool = ThreadPoolExecutor(1)
        cap = CAP[model]
        self._model: Any = simulated if model == "simulated" else TextModel()
        self._ready: list[Any] = [0] * ITEMS
        if model != "simulated":
            words = QUERY_WORDS if model == "queries" else None
            self._ready = [self._model.tokenize(" ".join(text.split()[:words])) for text in captions(ITEMS)]

        async def prepared(items: Sequence[Any]) -> Sequence[Any]:
            return items

        if way == "ours":
            options = BatcherOptions(cap, 100_000, padding=64)
            batcher: Batcher[Any, Any, int] = Batcher(self._model, prepared, self._pool, options, np.size)

            async def one(item: Any) -> int:
                return (await batcher.submit([item]))[0]

            self._one = one
        else:
            self._batch.set_max_batch_size(cap)
            self._one = self._batch

    @serve.batch(max_batch_size=8, batch_wait_timeout_s=WAIT)
    async def _batch(self, items: list[Any]) -> list[int]:
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._model, items)

    async def capacity(self, cap: int) -> float:
        """Items a second in full batches."""
        loop, seconds = asyncio.get_running_loop(), []
        for begin in range(0, 5 * cap, cap):
            items = (self._ready * 2)[begin : begin + cap]
            started = time.perf_counter()
            await loop.run_in_executor(self._pool, self._model, items)
            seconds.append(time.perf_counter() - started)
        return cap / statistics.median(seconds[1:])

    async def __call__(self, request: Any) -> str:
        """The size of the batch that the item ran in."""
        if "cap" in request.query_params:
            return str(await self.capacity(int(request.query_params["cap"])))
        return str(await self._one(self._ready[int(request.query_params["item"])]))


async def open_loop(rate: float, seconds: float) -> list[tuple[float, int]]:
    """Latency and batch size of each request."""
    draw, found = random.Random(7), []
    loop = asyncio.get_running_loop()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(300)) as session:

        async def one(due: float, item: int) -> None:
            async with session.get(f"http://127.0.0.1:{PORT}/?item={item}") as answer:
                size = int(await answer.text())
            found.append((loop.time() - due, size))

        tasks, due, end = [], loop.time() + 0.1, loop.time() + seconds
        while (due := due + draw.expovariate(rate)) < end:
            await asyncio.sleep(max(0.0, due - loop.time()))
            tasks.append(asyncio.create_task(one(due, draw.randrange(ITEMS))))
        await asyncio.gather(*tasks)
    return found


async def get(query: str) -> str:
    """One request."""
    timeout = aiohttp.ClientTimeout(300)
    async with aiohttp.ClientSession(timeout=timeout) as session, session.get(f"http://127.0.0.1:{PORT}/?{query}") as answer:
        return await answer.text()


def row(model: str, way: str, load: float, rate: float, found: list[tuple[float, int]]) -> dict[str, Any]:
    """What a run came to."""
    latencies = sorted(latency for latency, _ in found)
    batches = sum(1 / size for _, size in found)
    return {
        "model": model,
        "way": way,
        "load": load,
        "per_s": round(rate, 1),
        "mean_batch": round(len(found) / batches, 1),
        "p50_ms": round(1000 * statistics.median(latencies)),
        "p99_ms": round(1000 * latencies[int(0.99 * (len(latencies) - 1))]),
        "requests": len(found),
    }


def main() -> None:
    """Print a row for each model, way and load."""
    options = argparse.ArgumentParser(description="Our batcher and serve.batch under an open load.")
    options.add_argument("--seconds", type=float, default=12)
    options.add_argument("--loads", default="0.3,0.6,0.8")
    options.add_argument("--models", default="simulated,queries")
    given = options.parse_args()
    os.environ.setdefault("RAY_worker_niceness", "0")  # as the service does
    cluster.start()
    serve.start(http_options={"host": "127.0.0.1", "port": PORT, "request_timeout_s": 300})
    rows: list[dict[str, Any]] = []
    capacities: dict[str, float] = {}
    for model in given.models.split(","):
        for way in ("ours", "serve.batch"):
            serve.run(App.bind(model, way), name="bench", route_prefix="/")
            if model not in capacities:
                capacities[model] = float(asyncio.run(get(f"cap={CAP[model]}")))
            asyncio.run(get("item=1"))
            for load in map(float, given.loads.split(",")):
                rate = load * capacities[model]
                rows.append(row(model, way, load, rate, asyncio.run(open_loop(rate, given.seconds))))
                print(rows[-1], flush=True)
            serve.delete("bench")
    serve.shutdown()
    ours = {(one["model"], one["load"]): one["p50_ms"] for one in rows if one["way"] == "ours"}
    for one in rows:
        one["p50_ratio"] = round(one["p50_ms"] / ours[one["model"], one["load"]], 1)
    method = f"Poisson arrivals for {given.seconds:g} s at shares of the capacity, through Serve's proxy; wait {WAIT} s"
    record("serve-batcher", method, rows, capacity_per_s={name: round(value, 1) for name, value in capacities.items()})


if __name__ == "__main__":
    main()
