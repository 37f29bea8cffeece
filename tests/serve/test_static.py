"""The page's files by themselves: what they name exists, and nothing is fetched from elsewhere."""

from __future__ import annotations

import re

import pytest

from biomedray.serve.static import PAGE, POLICY, load_page

SCRIPTS = sorted(path.name for path in PAGE.glob("*.js"))


def imports(name: str) -> set[str]:
    return set(re.findall(r'from "\./([\w.]+)"', (PAGE / name).read_text()))


def test_every_file_is_served_with_an_etag_of_its_own() -> None:
    files = load_page()
    assert set(files) == {path.name for path in PAGE.iterdir()}
    assert len({file.etag for file in files.values()}) == len(files)


@pytest.mark.parametrize("name", SCRIPTS)
def test_what_a_script_imports_is_there(name: str) -> None:
    assert imports(name) <= set(SCRIPTS)
    text = (PAGE / name).read_text()
    for sink in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
        assert sink not in text


def test_the_page_loads_all_its_modules_at_once() -> None:
    reached, left = set[str](), ["app.js"]
    while left:
        name = left.pop()
        reached.add(name)
        left += imports(name) - reached
    named = set(re.findall(r'rel="modulepreload" href="static/([\w.]+)"', (PAGE / "index.html").read_text()))
    assert named == reached - {"app.js"}


@pytest.mark.parametrize("name", ["index.html", "docs.html"])
def test_a_page_fits_its_policy(name: str) -> None:
    text = (PAGE / name).read_text()
    assert set(re.findall(r'(?:src|href)="static/([\w.]+)"', text)) <= set(load_page())
    assert not re.search(r'\s(?:on\w+|style)="|<style|<script>|(?:src|href)="(?:https?:)?//', text)
    assert "'unsafe" not in POLICY
    assert "default-src 'none'" in POLICY
