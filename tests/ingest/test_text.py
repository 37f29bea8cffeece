"""Marked-up text to clean text: no character lost but by a named rule, and spans that point at what they name."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from biomedray.ingest.captions import count_tokens
from biomedray.ingest.formula import mathml, tex
from biomedray.ingest.sentences import sentences
from biomedray.ingest.text import NOT_CAPTION, clean, clean_spans, collapse, raw

WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Cn", "Co")), max_size=12)
INLINE = st.sampled_from(["italic", "bold", "sup", "sub", "xref", "ext-link", "named-content", "break", "styled-content"])
BLOCK = st.sampled_from(["p", "title", "list", "list-item", "disp-quote"])


@st.composite
def captions(draw: st.DrawFn) -> etree._Element:
    root = etree.Element("caption")

    def grow(parent: etree._Element, depth: int) -> None:
        parent.text = draw(WORDS)
        for _ in range(draw(st.integers(0, 3)) if depth else 0):
            child = etree.SubElement(parent, draw(BLOCK if depth > 2 else INLINE))
            if child.tag != "break":
                grow(child, depth - 1)
            child.tail = draw(WORDS)

    grow(root, 3)
    return root


def _letters(text: str) -> Counter[str]:
    return Counter("".join(collapse(text).split()))


@given(captions())
def test_no_character_is_lost(root: etree._Element) -> None:
    missing = _letters(unicodedata.normalize("NFD", raw(root))) - _letters(unicodedata.normalize("NFD", clean(root)))
    assert not {c for c in missing if not unicodedata.combining(c)} or _letters(raw(root)) <= _letters(clean(root))


@given(captions())
def test_clean_text_is_one_normal_line(root: etree._Element) -> None:
    text = clean(root)
    assert text == collapse(text)
    assert text == " ".join(text.split())
    assert unicodedata.is_normalized("NFC", text)


MARKED = frozenset(["italic", "bold", "sup", "sub", "xref", "title", "p", "list-item"])


@given(st.lists(captions(), min_size=1, max_size=2))
def test_spans_change_nothing_and_point_at_their_text(roots: list[etree._Element]) -> None:
    text, spans = clean_spans(roots, MARKED, NOT_CAPTION)
    assert text == collapse(" ".join(clean(root) for root in roots))
    assert [element for element, _, _ in spans] == [e for root in roots for e in root.iter(*MARKED)]
    for element, start, end in spans:
        inside = text[start:end]
        assert 0 <= start <= end <= len(text)
        assert inside == inside.strip()
        if unicodedata.is_normalized("NFD", raw(roots[0]) + raw(roots[-1])):  # nothing composes across an element's edge
            assert _words(inside) == _words(clean(element))


def _words(text: str) -> str:
    """Without white space and the signs of scripts, which depend on what stands before."""
    return re.sub(r"[\s^_]", "", text)


@given(captions())
def test_spans_of_wanted_elements_alone(root: etree._Element) -> None:
    _, every = clean_spans([root], MARKED)
    text, some = clean_spans([root], MARKED, wanted=lambda element: element.tag == "xref")
    assert text == clean(root)
    assert some == [span for span in every if span[0].tag == "xref"]


def test_span_where_a_character_composes_across_its_edge() -> None:
    root = etree.fromstring("<p>caf e<italic>\u0301 a</italic> b</p>")
    text, [(_, start, end)] = clean_spans([root], frozenset(["italic"]))
    assert (text, text[start:end]) == ("caf \u00e9 a b", "a")


@given(st.text(max_size=200))
def test_sentences_cover_the_text(text: str) -> None:
    line = collapse(text)
    assert "".join(line[a:b] for a, b in sentences(line)).replace(" ", "") == line.replace(" ", "")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Cells grow (Fig. 1). They stop.", 2),
        ("Smith et al. Showed it in Fig. 2 and Figs. 3A. Then not.", 2),
        ("E. coli grows, i.e. Divides, at 3.5 h. Really? Yes.", 3),
        ("One sentence only", 1),
        ("", 0),
    ],
)
def test_sentences_know_abbreviations(text: str, number: int) -> None:
    assert len(sentences(text)) == number


@pytest.mark.parametrize(
    ("xml", "text"),
    [
        ("<p>10<sup>4</sup></p>", "10^4"),
        ("<p>10<sup>-3</sup></p>", "10^-3"),
        ("<p>CO<sub>2</sub></p>", "CO2"),
        ("<p>log<sub>10</sub></p>", "log10"),
        ("<p>p53<sup>-/-</sup></p>", "p53-/-"),
        ("<p>see<xref ref-type='bibr'><sup>12</sup></xref></p>", "see^12"),
        ("<p>(<italic>A</italic>)<bold>B</bold>c</p>", "(A)Bc"),
        ("<caption><title>One</title><p>two</p></caption>", "One two"),
        ("<p>a<break/>b</p>", "a b"),
        ("<p>a<!-- x --><?y z?>b</p>", "ab"),
        ("<p>a<fig><label>F</label></fig>b</p>", "a b"),
        ("<p> <sup> </sup> 3 </p>", "3"),
    ],
)
def test_inline_rules(xml: str, text: str) -> None:
    assert clean(etree.fromstring(xml, etree.XMLParser(remove_comments=True, remove_pis=True))) == text


@pytest.mark.parametrize(
    ("xml", "text"),
    [
        ("<math><msup><mi>x</mi><mn>2</mn></msup></math>", "x^2"),
        ("<math><mfrac><mrow><mi>a</mi><mo>+</mo><mi>b</mi></mrow><mn>2</mn></mfrac></math>", "(a+b)/2"),
        ("<math><msubsup><mi>k</mi><mi>i</mi><mrow><mi>n</mi><mo>-</mo><mn>1</mn></mrow></msubsup></math>", "ki^(n-1)"),
        ("<math><msqrt><mi>x</mi></msqrt></math>", "sqrt(x)"),
        ("<math><semantics><mi>x</mi><annotation>\\x</annotation></semantics></math>", "x"),
        ("<math><mi>a</mi><mtext> and </mtext><mi>b</mi></math>", "a and b"),
        ("<math/>", ""),
    ],
)
def test_mathml(xml: str, text: str) -> None:
    assert mathml(etree.fromstring(xml)) == text


def test_tex_loses_its_preamble() -> None:
    source = r"\documentclass[12pt]{minimal} \usepackage{amsmath} \begin{document}$$\alpha_0$$\end{document}"
    assert tex(source) == r"\alpha_0"
    assert tex(r"\(x\)") == "x"


def test_deep_markup_is_no_trouble() -> None:
    xml = "<p>" + "<italic>" * 200 + "deep" + "</italic>" * 200 + "</p>"
    assert clean(etree.fromstring(xml)) == "deep"
    math = "<math>" + "<mrow>" * 200 + "<mi>x</mi>" + "</mrow>" * 200 + "</math>"
    assert mathml(etree.fromstring(math)) == "x"


def test_token_count_is_words_and_marks() -> None:
    assert count_tokens("Cells (10^4), n = 3.") == 11
