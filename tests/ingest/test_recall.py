"""Caption character recall against an oracle that reads the XML with plain lxml: benchmarks/ingest_recall.py."""

from __future__ import annotations

import importlib.util
import sys
import unicodedata
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from biomedray.ingest.figures import read_figures
from biomedray.ingest.text import clean, collapse

ROOT = Path(__file__).parents[2]
CONFORMANCE = Path(__file__).parent / "conformance"
DATA = ROOT / ".." / "shared" / "data"
real = pytest.mark.skipif(not (DATA / "packages").is_dir(), reason="the real articles are not on this machine")


@pytest.fixture(scope="module")
def recall() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ingest_recall", ROOT / "benchmarks" / "ingest_recall.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_conformance_set_loses_nothing_but_by_rule(recall: ModuleType) -> None:
    tally = recall.measure(CONFORMANCE)
    assert tally.articles == len(list(CONFORMANCE.glob("*.xml")))
    assert (tally.lost, tally.unbalanced) == ([], [])
    assert tally.chars - tally.by_rule.total() == tally.kept
    assert tally.raw_kept >= tally.chars - tally.by_rule.total()
    assert set(tally.by_rule) == {"FORMULA", "FLOAT", "IDENTIFIER"}


def test_the_oracle_sees_a_loss(recall: ModuleType) -> None:
    fig = recall.etree.fromstring("<fig id='F1'><caption><p>A cell. <object-id>10.1/x</object-id></p></caption></fig>")
    tally = recall.Tally()
    recall.measure_figure(fig, "A cel", "A cell.", tally, "name")
    assert (tally.captions, tally.chars, tally.kept, tally.raw_kept) == (1, 12, 4, 6)
    assert tally.by_rule == Counter(IDENTIFIER=6)
    assert tally.lost == ["name F1: .l"]


@real
@pytest.mark.parametrize("source", ["packages", pytest.param("xml/articles.tar.xz", marks=pytest.mark.heavy)])
def test_real_captions_keep_every_character_but_by_rule(recall: ModuleType, source: str) -> None:
    tally = recall.measure(DATA / source)
    assert tally.captions > 700
    assert (tally.lost, tally.unbalanced) == ([], [])
    assert tally.raw_kept == tally.chars
    assert tally.kept / tally.chars > 0.995


WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Cn", "Co", "Mn", "Mc", "Me")), max_size=8)
LEFT_OUT = {
    "object-id": "IDENTIFIER",
    "kwd-group": "IDENTIFIER",
    "attrib": "RIGHTS",
    "permissions": "RIGHTS",
    "alt-text": "ALTERNATIVE",
    "long-desc": "ALTERNATIVE",
    "table-wrap": "FLOAT",
}
TAGS = st.sampled_from(
    ["bold", "italic", "sup", "sub", "xref", "break", "named-content", "list", "list-item", "p", "title", *LEFT_OUT]
)


@st.composite
def figures(draw: st.DrawFn) -> etree._Element:
    """A figure whose caption holds markup of every kind, source data, formulas, and what the rules leave out."""
    fig = etree.Element("fig", id="F1")
    caption = etree.SubElement(fig, "caption")

    def grow(parent: etree._Element, depth: int) -> None:
        parent.text = draw(WORDS)
        for _ in range(draw(st.integers(0, 3)) if depth else 0):
            kind = draw(st.sampled_from(["markup", "markup", "markup", "formula", "supplement"]))
            child = _formula(parent, draw) if kind == "formula" else etree.SubElement(parent, _tag(kind, draw))
            if kind != "formula" and child.tag != "break":
                grow(child, depth - 1)
            child.tail = draw(WORDS)

    grow(caption, 3)
    etree.SubElement(fig, "graphic").set("{http://www.w3.org/1999/xlink}href", "f1.jpg")
    return fig


def _tag(kind: str, draw: st.DrawFn) -> str:
    return "supplementary-material" if kind == "supplement" else draw(TAGS)


def _formula(parent: etree._Element, draw: st.DrawFn) -> etree._Element:
    formula = etree.SubElement(parent, "inline-formula")
    both = etree.SubElement(formula, "alternatives")
    etree.SubElement(both, "tex-math").text = (
        r"\begin{document}$$" + draw(st.sampled_from(["x^2", r"\alpha"])) + r"$$\end{document}"
    )
    if draw(st.booleans()):
        math = etree.SubElement(both, "math")
        etree.SubElement(math, "mi").text = draw(st.sampled_from(["x", "\u03b1", "p"]))
    return formula


@given(figures())
def test_no_caption_character_is_lost_but_by_a_named_rule(recall: ModuleType, fig: etree._Element) -> None:
    article = etree.Element("article")
    article.append(fig)
    [figure] = read_figures(article).figures
    tally = recall.Tally()
    text, raw = (figure.caption.text, figure.caption.raw) if figure.caption else ("", "")
    if figure.caption is None or figure.caption.flags:  # all that the caption holds is left out: others' words, or none, stand in
        text = raw = "".join(fig.find("caption").itertext())
    recall.measure_figure(fig, text, raw, tally, "")
    if unicodedata.is_normalized("NFC", raw):  # else a letter may compose with one in what is left out
        assert not tally.lost
    assert tally.raw_kept == tally.chars
    assert set(tally.by_rule) <= {*LEFT_OUT.values(), "FORMULA"}


@given(figures())
def test_markup_points_at_its_text_and_cleaning_is_done_once(fig: etree._Element) -> None:
    article = etree.Element("article")
    article.append(fig)
    caption = read_figures(article).figures[0].caption
    if caption is None:
        return
    assert collapse(caption.text) == caption.text
    again = etree.Element("p")
    again.text = caption.text
    assert clean(again) == caption.text
    for kind, start, end in caption.markup:
        inside = caption.text[start:end]
        assert inside
        assert inside == inside.strip(), kind
