"""The page is for everybody (WCAG 2.2 AA): names, contrast in both colours, targets, narrow screens, and axe's opinion."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from .conftest import FakeEncoder, draw
from .pages import NEEDS_CHROMIUM, engine_of, make_index, new_page, serving, watched

pytestmark = [pytest.mark.browser, NEEDS_CHROMIUM]
RED = {"name": "mine.png", "mimeType": "image/png", "buffer": draw((255, 0, 0))}
PROXY = {"rank": 1, "pair_id": "PMC1.1/f1/0", "score": 0.8, "percentile": 99.9, "license": "CC BY-NC", "license_group": "noncomm"}
PROXY |= {"citation": "A title. A journal. 2020.", "fig_label": "Fig 1", "links": {"pmc": None, "doi": "https://doi.org/10.1/x"}}
PROXY |= {"image": {"url": "/v1/images/none", "thumbnail": "/v1/images/none"}}

# Contrast of each text node with what lies behind it, colours blended: 4.5:1, large text 3:1 (1.4.3).
CONTRAST = """() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = color; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255];
  };
  const over = (top, under) => top.slice(0, 3).map((value, i) => value * top[3] + under[i] * (1 - top[3]));
  const behind = (element) => {
    if (!element) return rgba(getComputedStyle(document.documentElement).colorScheme === "dark" ? "black" : "white");
    const color = rgba(getComputedStyle(element).backgroundColor);
    return color[3] === 1 ? color : [...over(color, behind(element.parentElement)), 1];
  };
  const light = (color) => color.slice(0, 3).map((value) => value / 255)
    .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
    .reduce((sum, value, i) => sum + value * [0.2126, 0.7152, 0.0722][i], 0);
  const poor = [];
  const root = document.querySelector("dialog[open]") ?? document.body;
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  let count = 0;
  const judge = (element, color, text) => {
    count += 1;
    const style = getComputedStyle(element);
    const under = behind(element);
    const [a, b] = [light(over(rgba(color), under)), light(under)].sort((x, y) => y - x);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < (large ? 3 : 4.5)) poor.push(`${text.trim().slice(0, 40)}: ${ratio.toFixed(2)}`);
  };
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const seen = element.checkVisibility({ opacityProperty: true, visibilityProperty: true });
    if (!seen || !walker.currentNode.data.trim()) continue;
    if (element.closest("script, option, :disabled, .toast, .drop")) continue;
    judge(element, getComputedStyle(element).color, walker.currentNode.data);
  }
  for (const field of root.querySelectorAll("input[placeholder]")) {
    if (field.checkVisibility()) judge(field, getComputedStyle(field, "::placeholder").color, field.placeholder);
  }
  return { poor, count };
}"""

# Fields without a name, images without alt, ids that stand twice.
NAMES = """() => {
  const faults = [];
  const said = (element) => (element.ariaLabel ?? "") + (element.labels?.[0]?.textContent ?? "") + element.textContent;
  for (const element of document.querySelectorAll("input, select, textarea, button")) {
    if (element.checkVisibility() && !said(element).trim()) faults.push(element.outerHTML.slice(0, 80));
  }
  for (const image of document.querySelectorAll("img:not([alt])")) faults.push(image.outerHTML.slice(0, 80));
  for (const name of ["aria-controls", "aria-labelledby", "aria-describedby", "for"]) {
    for (const element of document.querySelectorAll(`[${name}]`)) {
      const known = document.getElementById(element.getAttribute(name)) || element.matches("dialog:not([open])");
      if (!known) faults.push(`${name} of ${element.id}`);
    }
  }
  const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
  return [...faults, ...ids.filter((id, place) => ids.indexOf(id) !== place)];
}"""

# Targets below 24 x 24 CSS pixels, but for links within a line of text (2.5.8).
TARGETS = """() => [...document.querySelectorAll("button, select, input, textarea, summary, a, label.pick, label.zone")]
  .filter((element) => element.checkVisibility() && !element.matches(".hidden, .skip, p:not(.links) > a"))
  .map((element) => [element, (element.type === "checkbox" ? element.labels[0] : element).getBoundingClientRect()])
  .filter(([, box]) => Math.min(box.width, box.height) < 23.5)
  .map(([element, box]) => `${element.outerHTML.slice(0, 80)}: ${box.width} x ${box.height}`)"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, encoder: FakeEncoder) -> Iterator[str]:
    with serving(engine_of(make_index(tmp_path_factory.mktemp("page"), encoder), encoder)) as address:
        yield address


def empty(page: Any) -> None:
    page.goto("/")
    page.wait_for_selector("#holdings:not(:empty)")
    page.click("#filters-button")


def found(page: Any) -> None:
    page.goto("/?q=red&license=comm&license=noncomm&from=2011&journal=Journal+1")
    page.wait_for_selector(".plate")
    page.click("summary")


def larger(page: Any) -> None:
    page.goto("/?q=red")
    page.locator(".plate").nth(1).click()
    page.wait_for_selector("#larger[open]")


def refused(page: Any) -> None:
    page.goto("/?like=none")
    page.wait_for_selector("#problem:visible")


def named(page: Any) -> None:
    page.goto("/?tab=zero-shot&label=red&label=green")
    page.set_input_files("#z-picker-file", RED)
    page.wait_for_selector(".bars li")


def replaced(page: Any) -> None:
    page.route("**/v1/proxy", lambda route: route.fulfill(json={"object": "proxy", "proxies": [PROXY], "note": ""}))
    page.goto("/?tab=proxy")
    page.set_input_files("#p-picker-file", RED)
    page.wait_for_selector(".proxies li")


def routes(page: Any) -> None:
    page.goto("/docs")
    page.wait_for_selector("h2")


STATES = [empty, found, larger, refused, named, replaced, routes]


@pytest.mark.heavy
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_and_everything_has_a_name(browser: Any, url: str, scheme: str) -> None:
    with new_page(browser, url, color_scheme=scheme, reduced_motion="reduce") as page, watched(page, url):
        for state in STATES:
            state(page)
            contrast = page.evaluate(CONTRAST)
            assert contrast["poor"] == [], state.__name__
            assert contrast["count"] > 5
            assert page.evaluate(NAMES) == [], state.__name__


def test_a_page_that_is_hard_to_read_would_be_noticed(browser: Any, url: str) -> None:
    with new_page(browser, url) as page:
        empty(page)
        page.evaluate("document.querySelector('.lede').style.color = '#ccc'")
        page.evaluate("document.getElementById('theme').replaceChildren()")
        page.evaluate("document.querySelector('main').style.width = '3000px'")
        assert len(page.evaluate(CONTRAST)["poor"]) == 1
        assert len(page.evaluate(NAMES)) == 1
        assert overflow(page) > 0


def overflow(page: Any) -> int:
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


@pytest.mark.heavy
@pytest.mark.parametrize("width", [360, pytest.param(320, marks=pytest.mark.heavy)])  # a phone; 1280 pixels at 400 % (1.4.10)
def test_narrow_screens_scroll_one_way_and_can_be_tapped(browser: Any, url: str, width: int) -> None:
    with new_page(browser, url, viewport={"width": width, "height": 640}, reduced_motion="reduce") as page:
        for state in STATES[:-1]:
            state(page)
            assert overflow(page) == 0, state.__name__
            dialog = "(document.querySelector('dialog[open]') ?? document.body)"
            assert page.evaluate(f"{dialog}.scrollWidth - {dialog}.clientWidth") <= 0, state.__name__
            assert page.evaluate(TARGETS) == [], state.__name__
            assert page.evaluate("getComputedStyle(document.querySelector('.caution')).visibility") == "visible"


def test_landmarks_and_live_regions(browser: Any, url: str) -> None:
    with new_page(browser, url) as page:
        page.goto("/")
        page.keyboard.press("Tab")
        assert page.inner_text(":focus") == "Skip to the content"
        page.keyboard.press("Tab")
        assert page.evaluate("getComputedStyle(document.activeElement).outlineWidth") == "3px"
        found(page)
        for selector in ("header", "main", "footer", "[role=search]", "#status[role=status]", "#problem[role=alert]", "h1"):
            assert page.locator(selector).count() >= 1, selector
        assert page.locator("html[lang=en]").count() == 1


TREE = """\
- figure "Figure 12, On red figures, part 12":
  - 'button "Larger view. Figure 12: A red field, number 12. <b>Not bold</b>"':
    - 'img "Figure 12: A red field, number 12. <b>Not bold</b>"'
  - paragraph: Figure 12 similarity 1.000
  - paragraph: Closer than 77.0 % of random pairs
  - paragraph: A red field, number 12. <b>Not bold</b>
  - paragraph: On red figures, part 12
  - paragraph: Journal 0, 2012
  - paragraph:
    - text: CC BY
    - 'link "PMC: Article PMC0000012 at PubMed Central"':
      - /url: https://pmc.ncbi.nlm.nih.gov/articles/PMC0000012/
      - text: PMC
    - link "DOI 10.1234/abc.12":
      - /url: https://doi.org/10.1234/abc.12
      - text: DOI
  - paragraph:
    - button "Cite Figure 12, On red figures, part 12": Cite
    - 'button "More like this: Figure 12, On red figures, part 12"': More like this"""


def test_what_a_screen_reader_is_given_of_a_hit(browser: Any, url: str) -> None:
    with new_page(browser, url) as page:
        page.goto("/?q=red")
        hit = page.locator(".hit", has_text="number 12.")
        hit.wait_for()
        assert hit.aria_snapshot() == TREE


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """axe-core's script, from the npm registry; it is no part of the project."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("needs npm")
    folder = tmp_path_factory.mktemp("axe")
    command = [npm, "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder), "axe-core@4"]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=120)
    except (subprocess.SubprocessError, OSError):
        pytest.skip("the npm registry can't be reached")
    return (folder / "node_modules" / "axe-core" / "axe.min.js").read_text()


@pytest.mark.heavy
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("state", STATES, ids=lambda state: str(state.__name__))
def test_axe_finds_nothing(browser: Any, url: str, axe: str, state: Callable[[Any], None], scheme: str) -> None:
    with new_page(browser, url, color_scheme=scheme, reduced_motion="reduce") as page, watched(page, url):
        state(page)
        page.evaluate(axe)
        tags = json.dumps({"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]})
        found = page.evaluate(f"async () => (await axe.run(document, {tags})).violations")
        assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found] == []
