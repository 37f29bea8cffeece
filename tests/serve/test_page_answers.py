"""The page before answers of every kind: refusals, a busy service, keys, proxies; the service's part is stood in for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from biomedray.serve.engine import Engine

from .conftest import FakeEncoder, draw
from .pages import NEEDS_CHROMIUM, serving, watched

pytestmark = [pytest.mark.browser, NEEDS_CHROMIUM]
RED = {"name": "mine.png", "mimeType": "image/png", "buffer": draw((255, 0, 0))}
HIT = {
    "rank": 1,
    "pair_id": "PMC1.1/f1/0",
    "score": 0.61234,
    "percentile": 99.23,
    "caption": "A caption.",
    "fig_label": "Fig. 1.",
    "panel_label": "b",
    "article_title": "A title",
    "journal": "A journal",
    "year": 2020,
    "article_type": "case-report",
    "license": "CC BY",
    "license_group": "comm",
    "citation": "A title. A journal. 2020. https://doi.org/10.1/x",
    "pmcid": "PMC1",
    "doi": "10.1/x",
    "links": {"pmc": "https://pmc.ncbi.nlm.nih.gov/articles/PMC1/", "doi": "https://doi.org/10.1/x"},
    "image": {"url": "/v1/images/none", "thumbnail": "/v1/images/none", "width": 40, "height": 30},
}
FOUND = {"object": "search", "model": "fake", "generation": "1", "target": "figure", "total": 1, "took_ms": 1.0, "hits": [HIT]}
FACETS = {
    "license_group": {"comm": 7},
    "journal": {"The Lancet": 5, "Lancet Oncology": 2},
    "image_kind": {"single": 4, "panels": 3},
    "years": [2001, 2024],
}


@pytest.fixture(scope="module")
def url(encoder: FakeEncoder) -> Iterator[str]:
    with serving(Engine(encoder)) as address:
        yield address


@pytest.fixture
def opened(tab: Any, url: str) -> Iterator[Any]:
    with watched(tab, url) as watch:
        about = {
            "index": {"rows": 7, "facets": FACETS},
            "limits": {"image_bytes": 10_000_000, "k": 1000, "thumbnail_pixels": 1024},
        }
        tab.route("**/v1/info", lambda route: route.fulfill(json=about))
        yield tab, watch


def answers(page: Any, where: str, *given: tuple[int, Any, dict[str, str]]) -> None:
    """Answer a route with these in turn, the last for ever."""
    left = list(given)

    def answer(route: Any) -> None:
        code, body, headers = left.pop(0) if len(left) > 1 else left[0]
        route.fulfill(status=code, body=json.dumps(body), headers={"content-type": "application/json", **headers})

    page.route(f"**{where}", answer)


def refusal(code: str, message: str = "no") -> dict[str, Any]:
    return {"error": {"message": message, "type": "t", "param": None, "code": code, "request_id": "r"}}


def test_a_hit_is_shown_with_all_that_it_has(opened: Any) -> None:
    page, _ = opened
    answers(page, "/v1/search", (200, FOUND, {}))
    page.goto("/?q=x")
    assert page.inner_text(".hit .label") == "Fig. 1, panel b"
    assert page.inner_text(".hit .closer") == "Closer than 99.2 % of random pairs"
    page.click(".cite")
    page.wait_for_selector(".toast.up")
    assert page.evaluate("navigator.clipboard.readText()") == HIT["citation"]
    page.click("summary")
    assert "992 of 1,000 such pairs are" in page.inner_text(".scores p")


def test_facets_fill_the_filters(opened: Any) -> None:
    page, watch = opened
    answers(page, "/v1/search", (200, FOUND, {}))
    page.goto("/?q=x")
    page.wait_for_selector(".plate")
    page.click("#filters-button")
    assert page.locator("#journals option").count() == 2
    page.fill("#f-journal", "the lancet")
    page.press("#f-journal", "Enter")
    page.wait_for_selector(".chip:has-text('The Lancet')")
    page.check("label:has-text('Several panels') input")
    page.wait_for_selector(".chip:has-text('Several panels')")
    page.wait_for_url("**kind=panels")
    assert watch.bodies("/v1/search")[-1]["filters"] == {"journal": ["The Lancet"], "image_kind": ["panels"]}
    page.focus("#f-from")
    page.keyboard.press("Escape")
    assert page.is_hidden("#filters")
    assert page.evaluate("document.activeElement.id") == "filters-button"


def test_a_busy_service_is_asked_again_by_itself(opened: Any) -> None:
    page, _ = opened
    busy = (503, refusal("overloaded"), {"retry-after": "0"})
    answers(page, "/v1/search", busy, (429, refusal("rate_limited"), {"retry-after": "0"}), (200, FOUND, {}))
    page.goto("/?q=x")
    page.wait_for_selector(".plate")
    assert page.is_hidden("#problem")


def test_a_service_that_stays_busy_offers_to_try_again(opened: Any) -> None:
    page, _ = opened
    busy = (503, refusal("overloaded"), {"retry-after": "0"})
    answers(page, "/v1/search", busy, busy, busy, (200, FOUND, {}))
    page.goto("/?q=x")
    page.wait_for_selector("#problem:has-text('The service is busy')")
    assert page.get_attribute("#problem", "role") == "alert"
    page.click("#problem >> text=Try again")
    page.wait_for_selector(".plate")


@pytest.mark.parametrize(
    ("code", "body", "said"),
    [
        (401, refusal("unauthorized"), "give the key as the password"),
        (404, refusal("unknown_pair"), "This figure is not in the index."),
        (413, "not JSON of ours", "This image is too large."),
        (422, refusal("invalid_value", "k: the limit is 1000"), "K: the limit is 1000."),
        (500, refusal("internal_error", "the request failed inside the server"), "The request failed inside the server."),
        (502, None, "The service is not up."),
    ],
)
def test_refusals_are_said_with_the_next_step(opened: Any, code: int, body: Any, said: str) -> None:
    page, _ = opened
    answers(page, "/v1/search", (code, body, {}))
    page.goto("/?q=x")
    page.wait_for_selector(f"#problem:has-text('{said}')")
    offered = {401: "Reload", 500: "Try again", 502: "Try again"}.get(code)
    assert page.locator("#problem button").all_inner_texts() == ([offered] if offered else [])
    assert page.locator(".hit").count() == 0


def test_a_page_without_a_key_says_so_at_once(opened: Any) -> None:
    page, _ = opened
    answers(page, "/v1/info", (401, refusal("unauthorized"), {}))
    page.goto("/")
    page.wait_for_selector("#alone:has-text('wants a key')")


def test_a_service_that_is_gone_is_said(opened: Any) -> None:
    page, _ = opened
    page.route("**/v1/search", lambda route: route.abort())
    page.goto("/?q=x")
    page.wait_for_selector("#problem:has-text('be reached')")


def test_an_answer_that_comes_late_is_not_shown(opened: Any) -> None:
    page, _ = opened
    late: list[Any] = []

    def answer(route: Any) -> None:
        if "first" in route.request.post_data:
            late.append(route)
        else:
            route.fulfill(json=FOUND)

    page.route("**/v1/search", answer)
    page.goto("/?q=first")
    page.wait_for_selector("#hits[aria-busy]")
    page.fill("#q", "second")
    page.press("#q", "Enter")
    page.wait_for_selector(".plate")
    assert len(late) == 1
    assert page.inner_text("#status").startswith("1 figure of 1")


PROXY = {
    "rank": 1,
    "pair_id": "PMC1.1/f1/0",
    "score": 0.8,
    "percentile": 99.97,
    "license": "CC BY",
    "license_group": "comm",
    "citation": "<b>A title</b>. A journal. 2020.",
    "fig_label": "Fig 1",
    "links": HIT["links"],
    "image": HIT["image"],
}


def test_proxies_come_back_and_the_image_stays_out_of_the_address(opened: Any) -> None:
    page, watch = opened
    answers(page, "/v1/proxy", (200, {"object": "proxy", "model": "m", "generation": "1", "proxies": [PROXY], "note": ""}, {}))
    page.goto("/?tab=proxy")
    assert "neither stored nor logged" in page.inner_text(".promise")
    page.set_input_files("#p-picker-file", RED)
    page.wait_for_selector(".proxies li")
    assert page.inner_text("#p-status") == "1 public figure resembles your image."
    assert page.inner_text(".proxies .cited") == "<b>A title</b>. A journal. 2020."
    assert page.inner_text(".proxies .closer") == "Closer than 99.97 % of random pairs"
    sent = watch.bodies("/v1/proxy")[0]
    assert (sent["k"], sent["filters"]) == (5, {"license_group": ["comm", "noncomm"]})
    assert "min_score" not in sent
    page.click("text=Copy id and licence")
    page.wait_for_selector(".toast.up")
    assert page.evaluate("navigator.clipboard.readText()").startswith("PMC1.1/f1/0\tCC BY\t")
    assert page.url.endswith("?tab=proxy")
    assert page.evaluate("history.state") is None
    assert page.evaluate("localStorage.length + sessionStorage.length") == 0


def test_no_good_proxy_is_an_answer(opened: Any) -> None:
    page, _ = opened
    answers(page, "/v1/proxy", (200, {"object": "proxy", "proxies": [], "note": "No figure reaches the least similarity."}, {}))
    page.goto("/?tab=proxy")
    page.fill("#p-min", "0.9")
    page.set_input_files("#p-picker-file", RED)
    page.wait_for_selector("#p-problem:has-text('No figure reaches the least similarity.')")
    assert page.inner_text("#p-status") == "No good proxy."


def test_an_older_service_without_proxy_search_is_said(opened: Any) -> None:
    page, _ = opened
    answers(page, "/v1/proxy", (404, refusal("unknown_route"), {}))
    page.goto("/?tab=proxy")
    page.set_input_files("#p-picker-file", RED)
    page.wait_for_selector("#p-problem:has-text('can\\'t do this yet')")
