"""pubmed_parser as second engine and in the comparison: what it loses is counted, what it raises is a reject."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from biomedray.errors import UserError
from biomedray.ingest import compare, comparison_table
from biomedray.ingest.articles import ArticleRows

Conform = Callable[..., ArticleRows]


def test_plain_article_is_the_same_with_both(conform: Conform) -> None:
    ours, theirs = (conform("object_id", ["f1.jpg"], engine).pairs[0] for engine in ("biomedray", "pubmed_parser"))
    assert theirs["graphic_ref"] == ours["graphic_ref"]
    theirs = conform("label_absent", ["f1.jpg"], "pubmed_parser").pairs[0]
    assert theirs["caption"] == "A cell."


def test_nested_text_is_lost(conform: Conform) -> None:
    caption = conform("sup_sub", ["f1.jpg"], "pubmed_parser").pairs[0]["caption"]
    assert "BRCA1" in caption
    assert "\u2212/\u2212" not in caption.partition("BRCA1")[2][:6]


def test_caption_of_the_figure_before(conform: Conform) -> None:
    pairs = conform("caption_absent", ["f1.jpg", "f2.jpg"], "pubmed_parser").pairs
    assert [row["caption"] for row in pairs] == ["A cell.", "A cell."]


@pytest.mark.parametrize(
    ("name", "reason"),
    [("text_absent", "UnboundLocalError"), ("id_absent", "KeyError"), ("caption_blocks", "AttributeError")],
)
def test_what_it_raises_is_a_reject_that_balances(conform: Conform, name: str, reason: str) -> None:
    rows = conform(name, ["f1.jpg", "f2.jpg"], "pubmed_parser")
    assert not rows.pairs
    assert {row["reason"] for row in rows.rejects} == {"engine_failed"}
    assert reason in rows.rejects[0]["detail"]
    assert rows.ledger["rejects"] == rows.ledger["graphics"]


def test_alternatives_and_second_graphics_are_lost(conform: Conform) -> None:
    assert not conform("alternatives", ["f1.jpg"], "pubmed_parser").pairs
    rows = conform("several_graphics", ["f1a.jpg", "f1b.jpg"], "pubmed_parser")
    assert [row["graphic_ref"] for row in rows.pairs] == ["f1a.jpg"]
    assert [row["reason"] for row in rows.rejects] == ["engine_failed"]


def test_comparison_over_the_conformance_set(capsys: pytest.CaptureFixture[str]) -> None:
    result = compare([str(Path(__file__).parent / "conformance")], progress=False)
    assert result.totals["articles"] == len(list((Path(__file__).parent / "conformance").glob("*.xml")))
    assert result.totals["crashed"] >= 4
    assert result.totals["theirs_chars"] < result.totals["ours_chars"] <= result.totals["caption_chars"]
    assert result.totals["mispaired"] >= 1
    console = Console(record=True, width=140)
    console.print(comparison_table(result))
    text = console.export_text()
    assert "UnboundLocal" in text
    assert f"all {result.totals['articles']} articles" in text
    assert capsys.readouterr().out.count("Error: it was not able") == 0


def test_nothing_to_compare(tmp_path: Path, make: SimpleNamespace) -> None:
    (tmp_path / "a.xml").write_text("<html/>")
    with pytest.raises(UserError, match="no readable article"):
        compare([str(tmp_path)], progress=False)
