"""The truth agrees with what was written: the XML read again by other code, the images opened again."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lxml import etree
from PIL import Image

HREF = "{http://www.w3.org/1999/xlink}href"
Truth = dict[str, Any]
Files = Callable[[Truth], dict[str, bytes]]


def text_of(node: etree._Element) -> str:
    """All text but the TeX twins of formulas."""
    return re.sub(r"\s+", " ", "".join(node.xpath(".//text()[not(ancestor::tex-math)]"))).strip()


def caption_of(fig: etree._Element) -> str:
    """Title and paragraphs of a figure's caption, or of its group's; label and title of supplementary material."""
    caption = fig.find("caption")
    if caption is None:
        caption = fig.getparent().find("caption")
    blocks = [block for node in caption for block in (node.xpath(".//label|.//title") or [node])]
    return " ".join(filter(None, map(text_of, blocks)))


@pytest.fixture(scope="session")
def trees(whole: list[Truth], read_files: Files) -> list[tuple[Truth, etree._Element]]:
    return [(truth, etree.fromstring(read_files(truth)["xml"])) for truth in whole]


def test_every_graphic_of_the_xml_is_in_the_truth_once(trees: list[tuple[Truth, etree._Element]]) -> None:
    for truth, root in trees:
        told = [graphic["href"] for figure in truth["figures"] for graphic in figure["graphics"]]
        told += [stray["href"] for stray in truth["other_graphics"]]
        assert Counter(told) == Counter(node.get(HREF) for node in root.iter("graphic"))


def test_every_figure_has_its_caption_label_and_parent(trees: list[tuple[Truth, etree._Element]]) -> None:
    for truth, root in trees:
        by_id = {fig.get("id"): fig for fig in root.iter("fig")}
        assert by_id.keys() == {figure["fig_id"] for figure in truth["figures"]}
        for figure in truth["figures"]:
            fig = by_id[figure["fig_id"]]
            assert caption_of(fig) == figure["caption"]
            assert (fig.findtext("label") or None) == figure["label"]
            if figure["parent_id"]:
                assert fig.getparent().get("id") == figure["parent_id"]


def test_containers(trees: list[tuple[Truth, etree._Element]]) -> None:
    tags = {
        "floats": "floats-group",
        "boxed-text": "boxed-text",
        "app": "app",
        "sub-article": "sub-article",
        "abstract": "abstract",
    }
    for truth, root in trees:
        by_id = {fig.get("id"): fig for fig in root.iter("fig")}
        for figure in truth["figures"]:
            above = {node.tag for node in by_id[figure["fig_id"]].iterancestors()}
            assert tags.get(figure["container"], "body") in above


def test_subcaptions_are_where_the_truth_says_and_cover_the_panels(whole: list[Truth]) -> None:
    seen = 0
    for figure in (figure for truth in whole for figure in truth["figures"]):
        for part in figure["subcaptions"]:
            assert figure["caption"][part["start"] : part["end"]] == part["text"]
        if figure["subcaptions"]:
            letters = [
                panel["label"]
                for graphic in figure["graphics"]
                if graphic["expected"]["outcome"] == "pair"
                for panel in graphic["panels"]
            ]
            assert [label for part in figure["subcaptions"] for label in part["labels"]] == letters
            seen += 1
    assert seen > 10


def test_mentions_stand_in_the_text(trees: list[tuple[Truth, etree._Element]]) -> None:
    for truth, root in trees:
        text = " ".join(text_of(p) for p in root.iter("p"))
        titles = {text_of(title) for title in root.iter("title")}
        for mention in (mention for figure in truth["figures"] for mention in figure["mentions"]):
            assert mention["text"] in text
            assert mention["section"] in titles


def test_images_have_the_size_and_format_of_the_truth(whole: list[Truth], read_files: Files) -> None:
    for truth in whole:
        files = read_files(truth)
        for graphic in (graphic for figure in truth["figures"] for graphic in figure["graphics"]):
            if graphic["file"] is None:
                continue
            with Image.open(io.BytesIO(files[graphic["file"]])) as image:
                assert (image.size, image.format) == ((graphic["width"], graphic["height"]), graphic["format"])
            for panel in graphic["panels"]:
                x0, y0, x1, y1 = panel["box"]
                assert 0 <= x0 < x1 <= graphic["width"]
                assert 0 <= y0 < y1 <= graphic["height"]


def test_packages_have_hrefs_without_suffix_and_a_thumbnail_beside_each_image(whole: list[Truth], read_files: Files) -> None:
    for truth in (truth for truth in whole if truth["layout"] == "package"):
        files = read_files(truth)
        for figure in (figure for figure in truth["figures"] if figure["construct"] != "alternatives"):
            for graphic in figure["graphics"]:
                assert graphic["file"] == f"{graphic['href']}.jpg"
                with Image.open(io.BytesIO(files[f"{graphic['href']}.gif"])) as thumbnail:
                    assert max(thumbnail.size) <= 120


def test_the_corpus_is_varied(whole: list[Truth]) -> None:
    figures = [figure for truth in whole for figure in truth["figures"]]
    assert 0.15 < sum(figure["compound"] for figure in figures) / len(figures) < 0.45
    assert {figure["construct"] for figure in figures} >= {
        "plain",
        "in_paragraph",
        "alternatives",
        "several",
        "nested",
        "source_data",
    }
    assert len({panel["kind"] for figure in figures for graphic in figure["graphics"] for panel in graphic["panels"]}) >= 14
    words = sorted(len(figure["caption"].split()) for figure in figures)
    assert words[0] < 20
    assert words[-1] > 90
    assert {truth["license_group"] for truth in whole} == {"comm", "noncomm", "other"}
    assert {truth["dtd"] for truth in whole} >= {"jats1.1", "jats1.3", "jats1.4"}


def test_no_text_of_the_corpus_is_left_unexpanded(corpus: Path) -> None:
    truth = (corpus / "truth.jsonl").read_text(encoding="utf-8")
    captions = re.findall(r'"caption": "((?:[^"\\]|\\.)*)"', truth)
    assert captions
    assert not [caption for caption in captions if re.search(r"[{}<>|\[\]]|&\w+;|  ", caption.replace("< 0.0", ""))]
