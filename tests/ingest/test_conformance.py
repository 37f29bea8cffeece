"""One article per construction of JATS: which pairs and which rejects must come of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from biomedray.ingest.articles import ArticleRows

Conform = Callable[..., ArticleRows]
FOLDER = Path(__file__).parent / "conformance"

# name: (files that are there, [(pair id after the article, graphic, caption)], {reject reason: hrefs})
CASES: dict[str, tuple[list[str], list[tuple[str, str, str]], dict[str, list[str | None]]]] = {
    "caption_blocks": (["f1.jpg"], [("F1/0", "f1.jpg", "Cell growth. First paragraph. Second a one two")], {}),
    "label_absent": (["f1.jpg"], [("F1/0", "f1.jpg", "A cell.")], {}),
    "label_panel": (["f1.jpg"], [("F1/0", "f1.jpg", "A cell.")], {}),
    "caption_absent": (["f1.jpg", "f2.jpg"], [("F1/0", "f1.jpg", "A cell."), ("F2/0", "f2.jpg", "Figure 2")], {}),
    "text_absent": (["f1.jpg"], [], {"no_caption": ["f1.jpg"]}),
    "id_absent": (["f1.jpg", "f2.jpg"], [("fig-auto-1/0", "f1.jpg", "One."), ("fig-auto-2/0", "f2.jpg", "Two.")], {}),
    "id_twice": (["f1.jpg", "f2.jpg"], [("F1/0", "f1.jpg", "One."), ("F1~2/0", "f2.jpg", "Two.")], {}),
    "alternatives": (
        ["f1-thumb.jpg", "f1.tif", "f1.jpg"],
        [("F1/0", "f1.jpg", "A cell.")],
        {"alternative_not_chosen": ["f1.tif", "f1-thumb.jpg"]},
    ),
    "several_graphics": (
        ["f1a.jpg", "f1b.jpg"],
        [("F1/0", "f1a.jpg", "Two views."), ("F1/1", "f1b.jpg", "Two views.")],
        {},
    ),
    "graphic_in_paragraph": (["f1.jpg"], [("F1/0", "f1.jpg", "A cell.")], {}),
    "attribute_order": (["f1.jpg"], [("F1/0", "f1.jpg", "A cell.")], {}),
    "nested_figure": (
        ["f1.jpg", "f1s1.jpg"],
        [("F1/0", "f1.jpg", "The whole."), ("F1s1/0", "f1s1.jpg", "The supplement.")],
        {},
    ),
    "source_data": (
        ["f1-data1.xlsx.png", "f1.jpg"],
        [("F1/0", "f1.jpg", "Counts. Mean of three. Source data 1. Raw counts.")],
        {},
    ),
    "media_image": (["f1.jpg"], [("F1/0", "f1.jpg", "A cell.")], {"no_graphic": [None]}),
    "figure_group": (
        ["f1a.jpg", "f1b.jpg"],
        [("G1a/0", "f1a.jpg", "Four days. Growth in water."), ("G1b/0", "f1b.jpg", "Second day.")],
        {},
    ),
    "floats_group": (["f1.jpg"], [("F1/0", "f1.jpg", "A cell.")], {}),
    "sub_article": (
        ["f1.jpg", "r1.jpg"],
        [("F1/0", "f1.jpg", "A cell."), ("R1/0", "r1.jpg", "For the reviewer.")],
        {},
    ),
    "places": (
        ["b1.jpg", "s1.jpg", "a1.jpg", "d1.jpg"],
        [
            ("B1/0", "b1.jpg", "In a box."),
            ("S1/0", "s1.jpg", "Supplement."),
            ("A1/0", "a1.jpg", "Appendix."),
            ("D1/0", "d1.jpg", "Displayed."),
        ],
        {},
    ),
    "table_image": (["t1.jpg"], [], {"table_graphic": ["t1.jpg"]}),
    "formula_images": (
        ["e1.jpg", "e2.gif", "f1.jpg", "c1.gif"],
        [("F1/0", "f1.jpg", "Slope k of it.")],
        {"formula_graphic": ["e1.jpg", "e2.gif", "c1.gif"]},
    ),
    "loose_graphic": (["logo.jpg"], [], {"not_in_figure": ["logo.jpg"]}),
    "graphical_abstract": (["ga.jpg"], [("GA/0", "ga.jpg", "The whole in one picture.")], {}),
    "tex_and_mathml": (["f1.jpg"], [("F1/0", "f1.jpg", r"The number R0 is above \frac{1}{2}.")], {}),
    "citances": (
        ["f1.jpg", "f2.jpg", "f3.jpg"],
        [("F1/0", "f1.jpg", "Panel 1."), ("F2/0", "f2.jpg", "Panel 2."), ("F3/0", "f3.jpg", "Panel 3.")],
        {},
    ),
    "paragraph_with_figure": (["f1.jpg"], [("F1/0", "f1.jpg", "A cell, see Fig. 1.")], {}),
    "sup_sub": (
        ["f1.jpg"],
        [
            (
                "F1/0",
                "f1.jpg",
                "CO2 at 10^4 and 10^\u22123 M, Ca2+, BRCA1\u2212/\u2212 in 10^4 CD8+ cells of Smith^12, SO4^2\u2212.",
            )
        ],
        {},
    ),
    "spaces": (
        ["f1.jpg"],
        [("F1/0", "f1.jpg", "5 mm wide, 10 s long; mitochondria, zerowidth, caf\u00e9.")],
        {},
    ),
    "comments": (["f1.jpg"], [("F1/0", "f1.jpg", "mitochondria")], {}),
    "permissions": (["f1.jpg"], [("F1/0", "f1.jpg", "A cell. Reproduced from Smith et al. with permission. It grows.")], {}),
    "languages": (["f1.jpg", "f2.jpg"], [("F1/0", "f1.jpg", "A cell."), ("F2/0", "f2.jpg", "Uma célula.")], {}),
    "alt_text": (
        ["f1.jpg", "f2.jpg"],
        [("F1/0", "f1.jpg", "A round cell. It is blue."), ("F2/0", "f2.jpg", "A cell.")],
        {},
    ),
    "object_id": (["f1.jpg"], [("F1/0", "f1.jpg", "A cell.")], {}),
    "href_missing": (["f1.jpg"], [], {"no_href": [None]}),
    "graphic_missing": ([], [], {"no_graphic": [None]}),
    "old_href": (["JCB9806103.f1.gif", "JCB9806103.jpg"], [], {"thumbnail_only": ["JCB9806103.f1"]}),
    "title_only": (["f1.jpg"], [("F1/0", "f1.jpg", "A cell")], {}),
    "no_figures": ([], [], {"no_figures": [None]}),
    "figure_notes": (["f1.jpg"], [("F1/0", "f1.jpg", "A cell.")], {}),
    "file_in_parent": (["f1.jpg"], [("F1/0", "../../f1.jpg", "Here.")], {"file_missing": ["../secret.jpg"]}),
    "oai_wrapper": (["f1.jpg"], [("F1/0", "f1.jpg", "In a namespace.")], {}),
    "entities_dtd": (["f1.jpg"], [("F1/0", "f1.jpg", "5 \u00b5m \u03b1-actin & the laboratory, a < b")], {}),
    "entities_bare": (["f1.jpg"], [("F1/0", "f1.jpg", "\u03b1\u2013\u03b2")], {}),
    "unbound_prefix": (["f1.jpg"], [("F1/0", "f1.jpg", "No namespace.")], {}),
    "truncated": (["f1.jpg"], [("F1/0", "f1.jpg", "Whole.")], {"no_graphic": [None]}),
    "new_ids": (["f1.jpg"], [("F1/0", "f1.jpg", "A cell.")], {}),
}


def test_every_article_of_the_set_has_its_expectation() -> None:
    assert {path.stem for path in FOLDER.glob("*.xml")} == set(CASES)


@pytest.mark.parametrize("name", sorted(CASES))
def test_pairs_and_rejects(name: str, conform: Conform) -> None:
    files, pairs, rejects = CASES[name]
    rows = conform(name, files)
    assert [(row["pair_id"].partition("/")[2], row["graphic_ref"], row["caption"]) for row in rows.pairs] == pairs
    found: dict[str, list[str | None]] = {}
    for row in rows.rejects:
        found.setdefault(row["reason"], []).append(row["graphic_ref"])
    assert found == rejects


@pytest.mark.parametrize("name", sorted(CASES))
@pytest.mark.parametrize("engine", ["biomedray", "pubmed_parser"])
def test_ledger_balances_with_either_engine(name: str, engine: str, conform: Conform) -> None:
    ledger = conform(name, CASES[name][0], engine).ledger
    assert ledger["graphics"] + ledger["figures_without_graphic"] == ledger["pairs"] + ledger["rejects"]


def _pairs(conform: Conform, name: str) -> dict[str, dict[str, Any]]:
    return {row["fig_id"]: row for row in conform(name, CASES[name][0]).pairs}


def test_containers(conform: Conform) -> None:
    places = {fig_id: row["container"] for fig_id, row in _pairs(conform, "places").items()}
    assert places == {"B1": "body", "S1": "body", "A1": "app", "D1": "floats"}
    assert _pairs(conform, "floats_group")["F1"]["container"] == "floats"
    assert _pairs(conform, "sub_article")["R1"]["container"] == "sub-article"
    assert _pairs(conform, "graphical_abstract")["GA"]["container"] == "abstract"


def test_flags_tell_whose_text_a_caption_is(conform: Conform) -> None:
    assert _pairs(conform, "caption_absent")["F2"]["flags"] == ["label_caption", "short_caption"]
    group = _pairs(conform, "figure_group")
    assert group["G1a"]["flags"] == ["group_caption"]
    assert group["G1b"]["flags"] == ["short_caption"]
    assert {row["fig_parent_id"] for row in group.values()} == {"G1"}
    assert _pairs(conform, "alt_text")["F1"]["flags"] == ["alt_text_caption", "short_caption"]
    assert _pairs(conform, "id_twice")["F1~2"]["flags"] == ["duplicate_fig_id", "short_caption"]
    assert _pairs(conform, "id_absent")["fig-auto-1"]["flags"] == ["generated_fig_id", "short_caption"]
    assert _pairs(conform, "truncated")["F1"]["flags"] == ["xml_recovered", "short_caption"]
    assert _pairs(conform, "unbound_prefix")["F1"]["flags"] == ["xml_recovered", "short_caption"]
    assert _pairs(conform, "entities_bare")["F1"]["flags"] == ["short_caption"]


def test_raw_caption_keeps_every_character(conform: Conform) -> None:
    assert _pairs(conform, "caption_blocks")["F1"]["caption_raw"] == "Cell growth.First paragraph.Secondaonetwo"
    assert "\u00a0mm\u2009" in _pairs(conform, "spaces")["F1"]["caption_raw"]
    assert "Raw counts." in _pairs(conform, "source_data")["F1"]["caption_raw"]


def test_title_label_and_parent(conform: Conform) -> None:
    assert _pairs(conform, "caption_blocks")["F1"]["caption_title"] == "Cell growth."
    assert _pairs(conform, "label_panel")["F1"]["fig_label"] == "Figure 1A"
    assert _pairs(conform, "nested_figure")["F1s1"]["fig_parent_id"] == "F1"


def test_rights_of_the_figure(conform: Conform) -> None:
    rights = _pairs(conform, "permissions")["F1"]["fig_rights"]
    assert rights == "Photograph: A. Smith © 2019 Publisher Reproduced from Smith et al. with permission."
    assert _pairs(conform, "spaces")["F1"]["fig_rights"] is None


def test_language(conform: Conform) -> None:
    assert {fig_id: row["lang"] for fig_id, row in _pairs(conform, "languages").items()} == {"F1": "en", "F2": "pt"}
    assert _pairs(conform, "spaces")["F1"]["lang"] is None


def test_metadata_of_the_new_layout(conform: Conform) -> None:
    row = _pairs(conform, "new_ids")["F1"]
    expected = {"pmcid": "PMC12345", "version": 3, "pmid": "99", "doi": "10.1/x", "journal": "J Cell", "year": 2020}
    assert {key: row[key] for key in expected} == expected
    assert (row["license_code"], row["license_group"]) == ("CC BY-NC", "noncomm")
    assert row["pair_id"] == "PMC12345.3/F1/0"


def test_alternatives_fall_back_to_what_is_there(conform: Conform) -> None:
    rows = conform("alternatives", ["f1.tif", "f1-thumb.jpg"])
    assert [row["graphic_ref"] for row in rows.pairs] == ["f1.tif"]
    rows = conform("alternatives", [])
    assert not rows.pairs
    assert {row["reason"] for row in rows.rejects} == {"file_missing"}


def _cites(row: dict[str, Any]) -> list[tuple[str, str]]:
    return [(c["text"], c["text"][c["start"] : c["end"]]) for c in row["citances"]]


def test_citances(conform: Conform) -> None:
    pairs = _pairs(conform, "citances")
    both, ranged, again = "Both Figs. 1, 2 show it.", "As in Fig. 1\u20133, cells grow.", "See Figs. 1-3 again."
    assert _cites(pairs["F1"]) == [(both, "Figs. 1, 2"), (ranged, "1"), (again, "1-3")]
    assert _cites(pairs["F2"]) == [(both, "Figs. 1, 2"), (ranged, "1\u20133"), (again, "1-3")]
    assert _cites(pairs["F3"]) == [(ranged, "3"), (again, "1-3")]
    assert {c["section"] for c in pairs["F1"]["citances"]} == {"Results"}


def test_citance_of_a_paragraph_with_a_figure_inside(conform: Conform) -> None:
    assert _cites(_pairs(conform, "paragraph_with_figure")["F1"]) == [("Cells grow (Fig. 1) in water.", "Fig. 1")]


def test_citance_of_a_group_reaches_its_members(conform: Conform) -> None:
    group = _pairs(conform, "figure_group")
    assert _cites(group["G1a"]) == _cites(group["G1b"]) == [("See Figure 1.", "Figure 1")]
    assert _cites(_pairs(conform, "floats_group")["F1"]) == [("Cells grow (Fig. 1).", "Fig. 1")]
