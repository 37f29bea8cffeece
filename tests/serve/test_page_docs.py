"""The API page in a real browser: code that runs when it is copied, requests that can be tried, a phone's width."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from biomedray.serve.engine import Engine

from .conftest import COLORS, FakeEncoder, draw
from .pages import NEEDS_CHROMIUM, browsing, new_page, serving, watched

pytestmark = [pytest.mark.browser, pytest.mark.heavy, NEEDS_CHROMIUM]


@pytest.fixture(scope="module")
def url(encoder: FakeEncoder) -> Iterator[str]:
    with serving(Engine(encoder)) as address:
        yield address


@pytest.fixture(scope="module")
def page(url: str) -> Iterator[Any]:
    with browsing() as browser, new_page(browser, url, viewport={"width": 390, "height": 844}) as page, watched(page, url):
        page.goto("/docs")
        page.wait_for_selector("h2:has-text('/metrics')")
        yield page


def copied(page: Any, section: Any) -> str:
    """What the copy button of a route puts into the clipboard."""
    page.evaluate("() => { document.getElementById('toast').textContent = ''; }")
    section.locator("button:has-text('Copy')").click()
    page.wait_for_selector(".toast:has-text('copied')")
    return str(page.evaluate("navigator.clipboard.readText()"))


def test_a_phone_need_not_scroll_sideways(page: Any) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_copied_curl_runs(page: Any) -> None:
    section = page.locator("#post-v1-embeddings")
    section.locator("select").select_option(label="text and image")
    command = copied(page, section)
    answer = json.loads(subprocess.run(["sh", "-c", f"{command} -s"], check=True, capture_output=True).stdout)
    assert len(answer["data"]) == 3


@pytest.mark.parametrize("language", ["Python", "OpenAI"])
def test_copied_python_runs(page: Any, language: str) -> None:
    section = page.locator("#post-v1-embeddings")
    section.locator(f".languages button:has-text('{language}')").click()
    assert section.locator(f".languages button:has-text('{language}')").get_attribute("aria-pressed") == "true"
    found: dict[str, Any] = {}
    exec(copied(page, section), found)
    assert len(found["vectors"]) == 2


def test_a_request_can_be_tried(page: Any) -> None:
    section = page.locator("#post-v1-classify")
    section.locator("summary:has-text('Try it')").click()
    section.locator(".go").click()
    section.locator(".said:has-text('200 done')").wait_for()
    assert '"probability"' in section.locator(".trial pre").inner_text()
    section.locator("textarea").fill('{"image": "*"}')
    section.locator(".go").click()
    section.locator(".said:has-text('422 refused')").wait_for()
    assert '"param": "labels"' in section.locator(".trial pre").inner_text()


def test_a_file_can_be_tried(page: Any) -> None:
    section = page.locator("#post-v1-embeddings-image")
    section.locator("summary:has-text('Try it')").click()
    section.locator("input[type=file]").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": draw(COLORS["red"])})
    section.locator(".go").click()
    section.locator(".said:has-text('200 done')").wait_for()
    assert "… 8 numbers" in section.locator(".trial pre").inner_text()
