"""The search page in a real browser: a shared address searches, captions stay text, errors are said."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn

from biomedray.serve.engine import Engine
from biomedray.serve.images import ImageStore
from biomedray.serve.routes import create_app
from biomedray.serve.search import SearchIndex

from .conftest import FakeEncoder

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")]


@pytest.fixture(scope="module")
def url(index_folder: Path, encoder: FakeEncoder) -> Iterator[str]:
    index = SearchIndex.open(index_folder, encoder.fingerprint)
    listener = socket.create_server(("127.0.0.1", 0))
    app = create_app(Engine(encoder, index, ImageStore(index.generation)))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()


def dom(address: str, profile: Path) -> str:
    """The page's document after its scripts have run."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    command = [str(CHROMIUM), *flags, f"--user-data-dir={profile}", "--virtual-time-budget=8000", "--dump-dom", address]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def test_a_shared_address_searches(url: str, tmp_path: Path) -> None:
    page = dom(f"{url}/?q=a+green+field&license=noncomm&k=12", tmp_path)
    assert page.count('<article class="hit">') - 1 == 8  # one more stands in the template
    assert "8 figures of 8 that pass the filters" in page
    assert "&lt;b&gt;Not bold&lt;/b&gt;" in page
    assert "24 figures, 2010" in page
    assert 'href="https://doi.org/10.1234/abc.1"' in page


def test_an_unknown_figure_is_said(url: str, tmp_path: Path) -> None:
    page = dom(f"{url}/?like=PMC9.1/none/0", tmp_path)
    assert "This figure is not in the index." in page
    assert page.count('<article class="hit">') == 1


def test_the_route_list_is_made_from_the_description(url: str, tmp_path: Path) -> None:
    page = dom(f"{url}/docs", tmp_path)
    assert "/v1/embeddings/image" in page
    assert "encoding_format" in page
