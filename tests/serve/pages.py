"""The service in a thread and the page in a real browser, for the tests of the search page.

Playwright's sync interface keeps an event loop running in its thread, so a browser is a module's and not
the session's: tests of other modules call asyncio.run.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from biomedray.serve.access import Access
from biomedray.serve.engine import Engine
from biomedray.serve.images import ImageStore
from biomedray.serve.limits import Limits
from biomedray.serve.routes import create_app
from biomedray.serve.search import SearchIndex

from .conftest import FakeEncoder, pair_row, write_index, write_pairs

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NEEDS_CHROMIUM = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
HOSTILE = '<img src="x" onerror="window.broken=1"><script>window.broken=1</script> A red field'
LONG = "A red field that is described at length. " * 20
# A test that does not wait for what it looks at fails sooner or later; these make it sooner.
SLOWER = float(os.environ.get("PAGE_SLOWER", "1"))  # the browser's own work, times
LATER = float(os.environ.get("PAGE_LATER", "0"))  # the service's answers, seconds
PATIENCE = 15_000  # ms; the machine may be busy with other tests


def make_index(folder: Path, encoder: FakeEncoder) -> Path:
    """60 pairs; the first three are red ones whose words want to be markup, scripts and addresses of scripts."""
    rows = [pair_row(number) for number in range(60)]
    hostile = {"caption": HOSTILE, "article_title": "<b>Title</b>", "journal": "<i>Journal</i>", "fig_label": "<u>Fig</u>"}
    rows[0] |= hostile | {"doi": "javascript:window.broken=1", "pmcid": "PMC1<script>"}
    rows[4] |= {"caption": LONG}
    rows[8] |= {"fig_label": None, "journal": None, "year": None, "doi": None, "article_title": None}
    return write_index(folder / "index", write_pairs(folder / "pairs", rows), encoder)


def engine_of(index_folder: Path, encoder: FakeEncoder, limits: Limits | None = None) -> Engine:
    index = SearchIndex.open(index_folder, encoder.fingerprint)
    return Engine(encoder, index, ImageStore(index.generation), limits)


def late(app: Any) -> Any:
    """The application, whose answers to the page's questions are late by LATER."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        if scope.get("path", "").startswith("/v1/"):
            await asyncio.sleep(LATER)
        await app(scope, receive, send)

    return answer if LATER else app


@contextmanager
def serving(engine: Engine, access: Access | None = None) -> Iterator[str]:
    """The plain application on a free port; its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(late(create_app(engine, access=access)), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def browsing() -> Iterator[Any]:
    """A Chromium under Playwright's control."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


class Watch:
    """What a page must never do: ask another host, break its own policy, throw."""

    def __init__(self, page: Any, origin: str) -> None:
        self.requests: list[Any] = []
        self.faults: list[str] = []
        self._page = page
        self._origin = origin
        self._ears = {"request": self._hear, "console": self._note, "pageerror": self._fail}
        for event, ear in self._ears.items():
            page.on(event, ear)

    def _hear(self, request: Any) -> None:
        self.requests.append(request)

    def _note(self, message: Any) -> None:
        if "Content Security Policy" in message.text:
            self.faults.append(message.text)

    def _fail(self, error: Any) -> None:
        self.faults.append(str(error))

    def check(self) -> None:
        for event, ear in self._ears.items():
            self._page.remove_listener(event, ear)
        own = (f"{self._origin}/", f"blob:{self._origin}/", "data:")
        assert [request.url for request in self.requests if not request.url.startswith(own)] == []
        assert self.faults == []

    def bodies(self, route: str) -> list[Any]:
        """The JSON bodies that were sent to a route."""
        return [request.post_data_json for request in self.requests if request.url.endswith(route) and request.method == "POST"]


@contextmanager
def new_page(browser: Any, url: str, **options: Any) -> Iterator[Any]:
    """A page of its own context."""
    context = browser.new_context(base_url=url, permissions=["clipboard-read", "clipboard-write"], **options)
    context.set_default_timeout(PATIENCE * max(1, SLOWER / 4))
    page = context.new_page()
    context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": SLOWER})
    yield page
    context.close()


@contextmanager
def watched(page: Any, url: str) -> Iterator[Watch]:
    """A page that is listened to; what it has done is checked at the end."""
    watch = Watch(page, url)
    yield watch
    page.unroute_all(behavior="ignoreErrors")
    watch.check()
