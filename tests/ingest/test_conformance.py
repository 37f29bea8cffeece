"""One article per construction of JATS, each with its expected result in a JSON file beside it: conformance/README.md."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from biomedray.ingest.articles import ArticleRows

Conform = Callable[..., ArticleRows]
FOLDER = Path(__file__).parent / "conformance"
CASES = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
CAPTION_FROM = {
    "group_caption": "group",
    "paragraph_caption": "paragraph",
    "alt_text_caption": "alt-text",
    "label_caption": "label",
}


def _figure(row: dict[str, Any]) -> dict[str, Any]:
    """A pair in the words of the conformance set."""
    return {
        "id": row["fig_id"],
        "label": row["fig_label"],
        "caption": row["caption"],
        "caption_from": next((CAPTION_FROM[flag] for flag in row["flags"] if flag in CAPTION_FROM), "figure"),
        "title": row["caption_title"],
        "part": row["container"],
        "group": row["fig_parent_id"],
        "lang": row["lang"],
        "rights": row["fig_rights"],
        "third_party": row["fig_third_party"],
        "markup": [[m["kind"], m["start"], m["end"]] for m in row["caption_markup"]],
        "citances": [[c["section"], c["text"], c["start"], c["end"]] for c in row["citances"]],
        "flags": row["flags"],
    }


def test_every_article_of_the_set_has_its_expectation_and_says_what_it_is() -> None:
    assert {path.stem for path in FOLDER.glob("*.xml")} == set(CASES)
    assert all(case["about"] for case in CASES.values())
    readme = (FOLDER / "README.md").read_text()
    assert [name for name in CASES if f"`{name}`" not in readme] == []


@pytest.mark.parametrize("name", sorted(CASES))
def test_conformance(name: str, conform: Conform) -> None:
    case = CASES[name]
    rows = conform(name, case["files"])
    pairs: dict[str, dict[str, Any]] = {}
    for row in rows.pairs:
        pairs.setdefault(row["fig_id"], {**_figure(row), "graphics": []})["graphics"].append(row["graphic_ref"])
        assert {key: row[key] for key in case.get("article", {})} == case.get("article", {})
    assert list(pairs.values()) == case["figures"]
    assert [{"figure": r["fig_id"], "graphic": r["graphic_ref"], "reason": r["reason"]} for r in rows.rejects] == case["rejects"]


@pytest.mark.parametrize("name", sorted(CASES))
def test_expectations_are_sound(name: str) -> None:
    """Spans of the expected results lie within their texts, and one figure's text stands in no other figure's caption."""
    figures = CASES[name]["figures"]
    for figure in figures:
        assert all(0 <= start < end <= len(figure["caption"]) for _, start, end in figure["markup"])
        assert all(0 <= start < end <= len(text) for _, text, start, end in figure["citances"])
    own = [figure["caption"] for figure in figures if figure["caption_from"] == "figure"]
    assert len(own) == len(set(own))


@pytest.mark.parametrize("name", sorted(CASES))
@pytest.mark.parametrize("engine", ["biomedray", "pubmed_parser"])
def test_ledger_balances_with_either_engine(name: str, engine: str, conform: Conform) -> None:
    ledger = conform(name, CASES[name]["files"], engine).ledger
    assert ledger["graphics"] + ledger["figures_without_graphic"] == ledger["pairs"] + ledger["rejects"]


def _pairs(conform: Conform, name: str) -> dict[str, dict[str, Any]]:
    return {row["fig_id"]: row for row in conform(name, CASES[name]["files"]).pairs}


def test_raw_caption_keeps_every_character(conform: Conform) -> None:
    assert _pairs(conform, "caption_blocks")["F1"]["caption_raw"] == "Cell growth.First paragraph.Secondaonetwo"
    assert "\u00a0mm\u2009" in _pairs(conform, "spaces")["F1"]["caption_raw"]
    assert "Raw counts." in _pairs(conform, "source_data")["F1"]["caption_raw"]


def test_metadata_of_the_new_layout(conform: Conform) -> None:
    row = _pairs(conform, "new_ids")["F1"]
    assert (row["license_code"], row["license_group"]) == ("CC BY-NC", "noncomm")
    assert row["pair_id"] == "PMC12345.3/F1/0"


def test_alternatives_fall_back_to_what_is_there(conform: Conform) -> None:
    rows = conform("alternatives", ["f1.tif", "f1-thumb.jpg"])
    assert [row["graphic_ref"] for row in rows.pairs] == ["f1.tif"]
    rows = conform("alternatives", [])
    assert not rows.pairs
    assert {row["reason"] for row in rows.rejects} == {"file_missing"}


def test_a_version_in_another_language_is_better_than_none(conform: Conform) -> None:
    rows = conform("graphic_languages", ["f1-en.jpg"])
    assert [row["graphic_ref"] for row in rows.pairs] == ["f1-en.jpg"]
