r"""CPU of a GET by several HTTP clients, and by ingest's own store with its MD5, staging and retries.

Method: a server in a process of its own holds FILES files of one size; every client fetches each once, 16 at a time, in
a fresh process; CPU seconds of the client alone, medians of ROUNDS rounds in turn.

Usage: python benchmarks/ingest_fetching.py [--files 500] [--rounds 3]
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import http.server
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from _measure import in_turn, record, work

SIZES = (20_000, 120_000)
_AT_ONCE = 16

Get = Callable[[str], Awaitable[int]]


class Handler(http.server.SimpleHTTPRequestHandler):
    """Files of a folder over connections that stay open, without a log."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Nothing."""


def serve(folder: str, port: Any) -> None:
    """The server's process: says its port, then answers for ever."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
    port.value = server.server_port
    server.serve_forever()


async def fetch_all(get: Get, names: list[str]) -> dict[str, Any]:
    """Every name once, some at a time."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(name: str) -> int:
        async with gate:
            return await get(name)

    sizes = await asyncio.gather(*map(one, names))
    return {"files": len(sizes), "bytes": sum(sizes)}


async def by_aiohttp(base: str, names: list[str]) -> dict[str, Any]:
    """aiohttp, the body read whole."""
    import aiohttp

    async with aiohttp.ClientSession() as session:

        async def get(name: str) -> int:
            async with session.get(f"{base}/{name}") as answer:
                return len(await answer.read())

        return await fetch_all(get, names)


async def by_httpx(base: str, names: list[str]) -> dict[str, Any]:
    """httpx, the body read whole."""
    import httpx

    async with httpx.AsyncClient() as client:

        async def get(name: str) -> int:
            return len((await client.get(f"{base}/{name}")).content)

        return await fetch_all(get, names)


async def by_obstore(base: str, names: list[str]) -> dict[str, Any]:
    """Obstore's HTTP store, the body read whole."""
    import obstore
    from obstore.store import HTTPStore

    store = HTTPStore.from_url(base, client_options={"allow_http": True})

    async def get(name: str) -> int:
        answer = await obstore.get_async(store, name)
        return len(await answer.bytes_async())

    return await fetch_all(get, names)


async def by_ours(base: str, names: list[str]) -> dict[str, Any]:
    """Ingest's store: to a file of the staging folder, with its MD5."""
    from biomedray.ingest.settings import FetchConfig
    from biomedray.ingest.staging import Staging
    from biomedray.ingest.store import open_store

    store = open_store(base, FetchConfig())
    with tempfile.TemporaryDirectory() as folder:
        staging = Staging(Path(folder))

        async def get(name: str) -> int:
            return (await store.fetch(name, staging)).stat().st_size

        try:
            return await fetch_all(get, names)
        finally:
            await store.close()


CLIENTS = {"aiohttp": by_aiohttp, "obstore": by_obstore, "httpx": by_httpx, "ingest's store": by_ours}


def way(client: Callable[[str, list[str]], Any], base: str, size: str, files: str) -> dict[str, Any]:
    """One client over all files of a size."""
    found: dict[str, Any] = asyncio.run(client(base, [f"{size}-{number}" for number in range(int(files))]))
    return found


def main() -> None:
    """Each size, each client."""
    if sys.argv[1:2] == ["--child"]:
        ways = {f"{name}, {size:,} bytes": functools.partial(way, client) for name, client in CLIENTS.items() for size in SIZES}
        base, size, _ = sys.argv[3:6]
        return work(ways, sys.argv[2], sys.argv[3:6], (base, size, "5"))
    options = argparse.ArgumentParser(description="CPU of a GET.")
    options.add_argument("--files", type=int, default=500)
    options.add_argument("--rounds", type=int, default=3)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for size in SIZES:
            for number in range(given.files):
                Path(folder, f"{size}-{number}").write_bytes(os.urandom(size))
        port = multiprocessing.Value("i", 0)
        server = multiprocessing.Process(target=serve, args=(folder, port), daemon=True)
        server.start()
        while not port.value:
            pass
        base = f"http://127.0.0.1:{port.value}"
        ways = [(f"{name}, {size:,} bytes", base, str(size), str(given.files)) for size in SIZES for name in CLIENTS]
        found = in_turn(__file__, ways, given.rounds)
        server.kill()
    rows = [
        {"client": name, "files": entry["files"], "cpu_ms_per_get": 1000 * entry["cpu_s"] / entry["files"]}
        for name, entry in found.items()
    ]
    record("ingest-fetching", f"{given.files} files of each size, {_AT_ONCE} at a time, CPU ms, median of {given.rounds}", rows)
    return None


if __name__ == "__main__":
    main()
