"""The search page in a real browser: what it asks and shows, by mouse and by keys; nothing leaves, nothing runs."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from biomedray.serve.access import Access
from biomedray.serve.engine import Engine
from biomedray.serve.keys import add_key
from biomedray.serve.limits import Limits

from .. import dicoms
from .conftest import COLORS, FakeEncoder, draw
from .pages import HOSTILE, NEEDS_CHROMIUM, engine_of, make_index, new_page, serving, watched

pytestmark = [pytest.mark.browser, NEEDS_CHROMIUM]
RED = {"name": "mine.png", "mimeType": "image/png", "buffer": draw((255, 0, 0))}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, encoder: FakeEncoder) -> Path:
    return make_index(tmp_path_factory.mktemp("page"), encoder)


@pytest.fixture(scope="module")
def url(index: Path, encoder: FakeEncoder) -> Iterator[str]:
    with serving(engine_of(index, encoder)) as address:
        yield address


@pytest.fixture(scope="module")
def bare_url(encoder: FakeEncoder) -> Iterator[str]:
    """A service without an index."""
    with serving(Engine(encoder)) as address:
        yield address


@pytest.fixture
def opened(tab: Any, url: str) -> Iterator[Any]:
    with watched(tab, url) as watch:
        yield tab, watch


def status(page: Any, text: str, where: str = "#status") -> None:
    """Wait until the status line says so."""
    page.wait_for_function("([where, text]) => document.querySelector(where).textContent.includes(text)", arg=[where, text])


def copied(page: Any, where: Any) -> str:
    """What a click puts into the clipboard."""
    page.evaluate("() => { document.getElementById('toast').textContent = ''; }")
    where.click()
    page.wait_for_selector(".toast:has-text('copied')")
    return str(page.evaluate("navigator.clipboard.readText()"))


def pasted(page: Any) -> str:
    """What Control+V puts into the search field; the system's clipboard may take a moment to hold it."""
    for _ in range(50):
        page.fill("#q", "")
        page.press("#q", "Control+V")
        page.wait_for_timeout(100)
        if found := str(page.input_value("#q")):
            return found
    return ""


def shell(command: str) -> Any:
    return json.loads(subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True).stdout)


def test_a_typed_query_finds_figures_and_can_be_shared(opened: Any) -> None:
    page, watch = opened
    page.goto("/")
    assert page.inner_text(".caution") == "Research use only, not for diagnosis"
    page.wait_for_function("() => document.getElementById('holdings').textContent === '60 figures, 2010\u20132019'")
    page.fill("#q", "a green field")
    page.press("#q", "Enter")
    status(page, "24 figures of 60")
    assert page.url.endswith("/?q=a+green+field")
    assert watch.bodies("/v1/search") == [{"k": 24, "target": "figure", "filters": {}, "text": "a green field"}]
    first = page.locator(".hit", has_text="number 1. ")
    assert first.locator(".label").inner_text() == "Figure 1"
    assert first.locator(".caption").inner_text() == "A green field, number 1. <b>Not bold</b>"
    assert first.locator(".source").inner_text() == "Journal 1, 2011"
    assert first.locator(".badge").inner_text() == "CC BY-NC"
    assert first.locator(".doi").get_attribute("href") == "https://doi.org/10.1234/abc.1"
    assert "similarity" in first.locator(".score").inner_text()
    page.goto(page.url)
    status(page, "24 figures of 60")
    assert page.input_value("#q") == "a green field"


def test_filters_change_the_answer_the_chips_and_the_address(opened: Any) -> None:
    page, watch = opened
    page.goto("/?q=red")
    status(page, "24 figures of 60")
    page.click("#filters-button")
    page.check("label:has-text('Non-commercial use only') input")
    status(page, "20 figures of 20 that pass the filters")
    page.fill("#f-from", "2015")
    page.press("#f-from", "Enter")
    status(page, "10 figures of 10 that pass")
    page.fill("#f-journal", "Journal 1")
    page.press("#f-journal", "Enter")
    page.wait_for_selector(".chip:has-text('Journal 1')")
    assert page.url.endswith("?q=red&from=2015&license=noncomm&journal=Journal+1")
    assert watch.bodies("/v1/search")[-1]["filters"] == {"license_group": ["noncomm"], "journal": ["Journal 1"], "year_min": 2015}
    page.wait_for_selector(".badge")
    assert set(page.locator(".badge").all_inner_texts()) == {"CC BY-NC"}
    page.click("button:has-text('Clear all')")
    status(page, "24 figures of 60")
    page.go_back()
    status(page, "10 figures of 10")
    assert page.locator(".chip").count() == 3


def test_filters_that_nothing_passes_say_what_to_do(opened: Any) -> None:
    page, _ = opened
    page.goto("/?q=red&journal=No+such+journal")
    page.wait_for_selector("#problem:has-text('No figure passes these filters')")
    page.click("#problem button")
    status(page, "24 figures of 60")


def test_words_of_articles_stay_words(opened: Any) -> None:
    page, _ = opened
    page.goto("/?q=red")
    page.wait_for_selector(".plate")
    hostile = page.locator(".hit", has_text="window.broken").first
    assert hostile.locator(".caption").inner_text() == HOSTILE
    assert hostile.locator(".title").inner_text() == "<b>Title</b>"
    assert hostile.locator(".links a").count() == 0
    hostile.locator(".plate").click()
    assert page.locator("#larger .caption").inner_text() == HOSTILE
    assert page.locator("#larger h2").inner_text() == "<u>Fig</u>"
    assert page.evaluate("window.broken") is None
    assert page.locator("main script, main i, main u, img[src='x'], [onerror]").count() == 0


def test_the_keyboard_does_everything(opened: Any) -> None:
    page, _ = opened
    page.goto("/")
    page.keyboard.press("/")
    page.keyboard.type("blue / red")
    page.keyboard.press("Enter")
    page.wait_for_selector(".plate")
    assert page.input_value("#q") == "blue / red"
    focused = "document.activeElement.closest('li')?.hit.pair_id"
    order = page.evaluate("[...document.querySelectorAll('.hits > li')].map((item) => item.hit.pair_id)")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) == order[1]
    page.keyboard.press("End")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_selector("#larger[open]")
    assert page.inner_text("#larger .place") == "2 of 24"
    for _ in range(12):  # Tab goes round inside of the dialog
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement === document.body || document.activeElement.closest('dialog') !== null")
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#larger .place") == "3 of 24"
    page.keyboard.press("Escape")
    page.wait_for_function(f"(wanted) => {focused} === wanted", arg=order[2])
    page.focus("#tab-search")
    page.keyboard.press("ArrowRight")
    assert page.is_visible("#zero-shot-panel")
    page.keyboard.press("End")
    assert page.is_visible("#proxy-panel")
    assert page.url.endswith("?tab=proxy")


def test_the_back_button_goes_back(opened: Any) -> None:
    page, _ = opened
    page.goto("/")
    page.click("text=western blot")
    page.wait_for_selector(".plate")
    page.fill("#q", "green")
    page.click(".go >> visible=true")
    page.wait_for_function("() => document.querySelector('.hit .caption')?.textContent.startsWith('A green')")
    page.locator(".like").first.click()
    page.wait_for_url("**/?like=PMC*")
    page.wait_for_selector("#q-shown:has-text('Figures like')")
    page.click("#tab-zero-shot")
    page.go_back()
    assert page.is_visible("#search-panel")
    page.go_back()
    page.wait_for_function("() => document.getElementById('q').value === 'green'")
    page.go_back()
    page.wait_for_function("() => document.getElementById('q').value === 'western blot'")
    page.go_back()
    page.wait_for_selector("#welcome", state="visible")
    assert page.locator(".hit").count() == 0


def test_an_image_is_searched_with_and_never_in_the_address(opened: Any) -> None:
    page, watch = opened
    page.goto("/")
    page.set_input_files("#q-file", RED)
    page.wait_for_selector("#q-shown:has-text('mine.png')")
    page.wait_for_selector(".plate")
    assert page.locator(".hit .caption").first.inner_text().count("red") > 0
    page.fill("#q", "green")
    page.fill("#minus", "a blue field")
    page.press("#minus", "Enter")
    page.wait_for_url("**/?q=green&without=a+blue+field")
    sent = watch.bodies("/v1/search")[-1]
    assert (sent["text"], sent["minus"], sent["target"]) == ("green", "a blue field", "figure")
    assert len(sent["image"]) > 100
    page.go_back()
    page.wait_for_function("() => document.getElementById('q').value === ''")
    assert page.is_visible("#q-shown:has-text('mine.png')")  # this page's history knows it still
    page.click("#q-shown button")
    page.wait_for_selector("#welcome", state="visible")


def test_images_are_dropped_and_pasted(opened: Any) -> None:
    page, _ = opened
    page.goto("/")
    page.evaluate(
        """(bytes) => {
          window.give = (kind) => {
            const files = new DataTransfer();
            files.items.add(new File([new Uint8Array(bytes)], "a.png", { type: "image/png" }));
            dispatchEvent(kind === "drop"
              ? new DragEvent("drop", { dataTransfer: files, cancelable: true })
              : new ClipboardEvent("paste", { clipboardData: files, cancelable: true }));
          };
        }""",
        list(draw((0, 0, 255))),
    )
    for kind in ("drop", "paste"):
        page.evaluate("(kind) => window.give(kind)", kind)
        page.wait_for_function("() => document.querySelector('.hit .caption')?.textContent.startsWith('A blue')")
        page.click("#q-shown button")
        page.wait_for_selector("#welcome", state="visible")


def test_a_dicom_file_finds_figures_without_a_preview(opened: Any) -> None:
    page, watch = opened
    page.goto("/")
    data = dicoms.dicom(np.full((30, 40, 3), COLORS["red"], np.uint8), "RGB")
    page.set_input_files("#q-file", {"name": "IM0001", "mimeType": "", "buffer": data})
    page.wait_for_selector("#q-shown:has-text('no preview')")
    page.wait_for_function("() => document.querySelector('.hit .caption')?.textContent.includes('red')")
    assert base64.b64decode(watch.bodies("/v1/search")[0]["image"]) == data
    page.set_input_files("#q-file", {"name": "broken.dcm", "mimeType": "", "buffer": data[:200]})
    page.wait_for_selector("#problem:has-text('DICOM')")


def test_more_figures_are_added_and_focused(opened: Any) -> None:
    page, _ = opened
    page.goto("/?q=red")
    status(page, "24 figures of 60")
    page.click("#more")
    status(page, "48 figures of 60")
    assert page.url.endswith("?q=red&n=48")
    assert page.evaluate("[...document.querySelectorAll('.plate')].indexOf(document.activeElement)") == 24
    page.click("#more")
    status(page, "60 figures of 60")
    assert page.is_hidden("#more")
    assert len(set(page.evaluate("[...document.querySelectorAll('.hits > li')].map((item) => item.hit.pair_id)"))) == 60


def test_low_limits_of_a_service_are_kept(browser: Any, index: Path, encoder: FakeEncoder) -> None:
    limits = Limits(k=3, thumbnail_pixels=200)
    with (
        serving(engine_of(index, encoder, limits)) as url,
        new_page(browser, url) as page,
        watched(page, url) as watch,
    ):
        page.goto("/?q=red&n=48")
        status(page, "3 figures of 60")
        assert [body["k"] for body in watch.bodies("/v1/search")] == [3]
        assert page.is_hidden("#more")
        page.wait_for_function("() => document.querySelector('.plate img').naturalWidth === 200")
        page.click(".plate >> nth=0")
        page.wait_for_function("() => document.querySelector('#larger img').naturalWidth === 200")
        page.keyboard.press("Escape")
        page.click("#tab-proxy")
        page.set_input_files("#p-picker-file", RED)
        status(page, "3 public figures", "#p-status")


def test_what_is_no_question_is_not_asked(opened: Any) -> None:
    page, watch = opened
    page.goto("/?without=tumour")
    status(page, "60 figures", "#holdings")
    assert page.input_value("#minus") == "tumour"
    assert page.is_visible("#welcome")
    page.set_input_files("#q-file", {"name": "empty.png", "mimeType": "image/png", "buffer": b""})
    page.wait_for_selector("#problem:has-text('This file is empty')")
    assert watch.bodies("/v1/search") == []


def test_an_address_with_unknown_filters_is_read_without_them(opened: Any) -> None:
    page, watch = opened
    page.goto("/?q=red&kind=foo&license=toString&license=comm")
    status(page, "20 figures of 20 that pass")
    assert [body["filters"] for body in watch.bodies("/v1/search")] == [{"license_group": ["comm"]}]


def test_a_long_caption_opens(opened: Any) -> None:
    page, _ = opened
    page.goto("/?q=red")
    long = page.locator(".hit", has_text="described at length").first
    assert long.locator(".expand").get_attribute("aria-expanded") == "false"
    before = long.locator(".caption").bounding_box()["height"]
    long.locator(".expand").click()
    assert long.locator(".caption").bounding_box()["height"] > before
    assert long.locator(".expand").inner_text() == "Show less"


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_what_is_copied_works_in_a_terminal(opened: Any, tmp_path: Path) -> None:
    page, _ = opened
    page.goto("/?q=a+%22red%22+field%27s+100+%25&license=comm")
    page.wait_for_selector(".plate")
    found = shell(copied(page, page.locator("#tools >> text=curl")))
    assert found["hits"][0]["pair_id"] == page.evaluate("document.querySelector('.hits > li').hit.pair_id")
    page.set_input_files("#q-file", RED)
    page.wait_for_selector("#mix-field:visible")
    status(page, "that pass")
    page.wait_for_selector("#tools:visible")
    (tmp_path / "IMAGE").write_bytes(RED["buffer"])
    command = copied(page, page.locator("#tools >> text=curl"))
    assert len(command) < 600
    assert shell(f"cd {tmp_path} && {command}")["hits"][0]["score"] > 0.5
    assert copied(page, page.locator(".cite").nth(1)).startswith("On red figures")


def test_copying_needs_no_https_and_long_words_stay_out_of_the_address(browser: Any, url: str) -> None:
    with new_page(browser, url) as page, watched(page, url):
        page.add_init_script("delete Navigator.prototype.clipboard")  # as on http:// of another machine
        page.goto("/?license=comm")
        page.fill("#q", "\u7ea2" * 1900)
        page.press("#q", "Enter")
        status(page, "20 figures of 20")
        assert page.url == f"{url}/?license=comm"
        page.locator(".plate").first.click()
        page.click("#larger >> text=Copy figure id")
        page.wait_for_selector("#larger .toast:has-text('Figure id copied')")
        page.keyboard.press("Escape")
        page.wait_for_function("() => document.activeElement.classList.contains('plate')")  # only then the view is closed
        expected = page.evaluate("document.querySelector('.hits > li').hit.pair_id")
        assert pasted(page) == expected


def test_zero_shot_shows_shares_as_text(opened: Any) -> None:
    page, watch = opened
    page.goto("/?tab=zero-shot&label=red&label=green&label=blue&template=a+{}+picture")
    page.set_input_files("#z-picker-file", RED)
    status(page, "Nearest: red", "#z-status")
    assert page.locator(".bars .name").all_inner_texts()[0] == "red"
    values = [float(text.split("%")[0]) for text in page.locator(".bars .value").all_inner_texts()]
    assert sum(values) == pytest.approx(100, abs=0.3)
    assert watch.bodies("/v1/classify")[0]["templates"] == ["a {} picture"]
    page.fill("#labels", "red")
    page.click("text=Classify >> visible=true")
    page.wait_for_selector("#z-problem:has-text('at least two labels')")


def test_proxies_are_public_figures_that_resemble_the_image(opened: Any) -> None:
    page, watch = opened
    page.goto("/?tab=proxy")
    page.set_input_files("#p-picker-file", RED)
    status(page, "5 public figures resemble your image.", "#p-status")
    ids = page.locator(".proxies code").all_inner_texts()
    assert all(int(name.split(".")[0].removeprefix("PMC")) % 4 == 0 for name in ids)  # the red ones
    assert set(page.locator(".proxies .badge").all_inner_texts()) <= {"CC BY", "CC BY-NC"}
    page.fill("#p-min", "1")
    page.uncheck("#p-comm")
    page.set_input_files("#p-picker-file", RED | {"buffer": draw((200, 10, 90))})
    page.wait_for_selector("#p-problem:has-text('No good proxy')")
    assert watch.bodies("/v1/proxy")[-1]["min_score"] == 1


def test_a_figure_of_the_index_can_be_classified(opened: Any) -> None:
    page, _ = opened
    page.goto("/?q=green")
    page.locator(".plate").first.click()
    page.click("#larger >> text=Classify it")
    status(page, "Nearest:", "#z-status")
    assert page.url.endswith("?tab=zero-shot")


def test_without_an_index_zero_shot_still_works(browser: Any, bare_url: str) -> None:
    with new_page(browser, bare_url) as page, watched(page, bare_url):
        page.goto("/?q=red")
        page.wait_for_selector("#alone:has-text('no index')")
        page.click("#alone button")
        page.set_input_files("#z-picker-file", RED)
        status(page, "Nearest:", "#z-status")


def test_the_browser_asks_for_a_key_itself(browser: Any, index: Path, encoder: FakeEncoder, tmp_path: Path) -> None:
    key = add_key(tmp_path / "keys", "ward-7")
    with serving(engine_of(index, encoder), Access(keys=tmp_path / "keys")) as url:
        with new_page(browser, url) as page, pytest.raises(Exception, match="ERR_INVALID_AUTH_CREDENTIALS"):
            page.goto("/?q=red")  # it would ask, but has nobody to ask; a challenge that it can't read would be a plain 401
        with new_page(browser, url, http_credentials={"username": "anyone", "password": key}) as page, watched(page, url):
            page.goto("/?q=red")
            status(page, "24 figures of 60")
            page.wait_for_function("() => document.querySelector('.plate img').naturalWidth > 0")
            command = copied(page, page.locator("#tools >> text=curl"))
            assert key not in command
            assert len(shell(f"KEY={key}; {command}")["hits"]) == 24


def test_the_colours_can_be_switched_and_stay(browser: Any, url: str) -> None:
    with new_page(browser, url, color_scheme="light") as page, watched(page, url):
        page.goto("/")
        ground = "getComputedStyle(document.body).backgroundColor"
        light = page.evaluate(ground)
        page.click("#theme")
        dark = page.evaluate(ground)
        assert dark != light
        page.reload()
        assert page.evaluate(ground) == dark
        assert page.get_attribute("#theme", "aria-pressed") == "true"
