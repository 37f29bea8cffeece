"""Each class of damage is what its expectation says, as far as standard tools can tell."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from biomedray import pixels
from biomedray.corpus.broken import CLASSES, broken_articles, classes
from biomedray.records import Reason, Stage

Truth = dict[str, Any]


@pytest.fixture(scope="session")
def damaged(truths: list[Truth]) -> dict[str, Truth]:
    return {truth["damage"]: truth for truth in truths if truth["damage"]}


def test_every_class_occurs_with_a_reason_from_the_closed_lists(damaged: dict[str, Truth]) -> None:
    assert {name for name in damaged if ":" not in name} == {kind.name for kind in CLASSES}
    for truth in damaged.values():
        verdicts = [truth["expected"], *(graphic["expected"] for figure in truth["figures"] for graphic in figure["graphics"])]
        for verdict in (verdict for verdict in verdicts if verdict["outcome"] == "reject"):
            Stage(verdict["stage"])
            Reason(verdict["reason"])


@pytest.mark.parametrize("layout", ["package", "cloud", "mixed"])
def test_classes_go_where_they_can(layout: str) -> None:
    assert all(where in kind.layouts for kind, where in classes(layout))
    assert layout != "mixed" or len(classes(layout)) == len(CLASSES)


@pytest.mark.parametrize("name", ["archive_truncated", "archive_not_gzip", "archive_zero_bytes"])
def test_unreadable_archives(corpus: Path, damaged: dict[str, Truth], name: str) -> None:
    with pytest.raises((tarfile.TarError, EOFError, OSError)), tarfile.open(corpus / damaged[name]["source"]) as tar:
        tar.getmembers()
    assert damaged[name]["expected"] == {"outcome": "reject", "stage": "source", "reason": "unreadable_archive"}


@pytest.mark.parametrize("name", ["archive_path_traversal", "archive_absolute_name", "archive_symlink", "archive_hardlink"])
def test_unsafe_members(corpus: Path, damaged: dict[str, Truth], name: str) -> None:
    with tarfile.open(corpus / damaged[name]["source"]) as tar:
        unsafe = [info.name for info in tar if info.name.startswith("/") or leaves_folder(info)]
    assert len(unsafe) == 1
    assert damaged[name]["expected"]["reason"] == "unsafe_member"


def leaves_folder(info: tarfile.TarInfo) -> bool:
    try:
        tarfile.data_filter(info, "somewhere")
    except tarfile.FilterError:
        return True
    return False


@pytest.mark.parametrize("name", ["xml_truncated", "xml_not_well_formed", "xml_empty", "xml_wrong_encoding"])
def test_malformed_xml(damaged: dict[str, Truth], read_files: Any, name: str) -> None:
    with pytest.raises(etree.XMLSyntaxError):
        etree.fromstring(read_files(damaged[name])["xml"])
    assert damaged[name]["expected"]["reason"] == "malformed_xml"


@pytest.mark.parametrize("name", ["xml_latin1", "xml_utf16"])
def test_other_encodings_are_fine(damaged: dict[str, Truth], read_files: Any, name: str) -> None:
    root = etree.fromstring(read_files(damaged[name])["xml"])
    assert {fig.get("id") for fig in root.iter("fig")} == {figure["fig_id"] for figure in damaged[name]["figures"]}
    assert damaged[name]["expected"] == {"outcome": "pairs"}


def test_the_entity_bomb_goes_off_in_an_unwary_parser(damaged: dict[str, Truth], read_files: Any) -> None:
    with pytest.raises(etree.XMLSyntaxError, match="amplification"):
        etree.fromstring(read_files(damaged["xml_entity_bomb"])["xml"])


def test_the_external_entity_is_left_alone_by_a_wary_parser(damaged: dict[str, Truth], read_files: Any) -> None:
    parser = etree.XMLParser(resolve_entities=False, no_network=True)
    root = etree.fromstring(read_files(damaged["xml_external_entity"])["xml"], parser)
    assert [entity.name for entity in root.iter(etree.Entity)] == ["leak"]


def test_image_damage_is_what_the_decoder_finds(damaged: dict[str, Truth], read_files: Any) -> None:
    checked = 0
    for name, truth in damaged.items():
        if not name.startswith("image_") or name in ("image_missing", "image_one_pixel", "image_blank", "image_thumbnail_only"):
            continue
        graphic = truth["figures"][0]["graphics"][0]
        data, verdict = read_files(truth)[graphic["file"]], graphic["expected"]
        if verdict["outcome"] == "pair":
            _, flags = pixels.decode(data)
            assert sorted(flags) == verdict["flags"], name
            assert pixels.read_header(data).format == graphic["format"], name
        else:
            with pytest.raises(pixels.PixelError) as caught:
                pixels.decode(data)
            assert caught.value.reason in (verdict["reason"], *verdict.get("also", ())), name
        checked += 1
    assert checked >= 12


def test_the_bomb_is_small(damaged: dict[str, Truth], read_files: Any) -> None:
    truth = damaged["image_png_bomb"]
    assert len(read_files(truth)[truth["figures"][0]["graphics"][0]["file"]]) < 1000


def test_missing_files_are_missing(damaged: dict[str, Truth], read_files: Any) -> None:
    graphic = damaged["image_missing"]["figures"][0]["graphics"][0]
    assert graphic["file"] is None
    assert not [name for name in read_files(damaged["image_missing"]) if name.startswith(graphic["href"].removesuffix(".jpg"))]
    only = damaged["image_thumbnail_only"]
    files = read_files(only)
    stem = only["figures"][0]["graphics"][0]["href"]
    assert f"{stem}.gif" in files
    assert f"{stem}.jpg" not in files


def test_figures_lack_what_they_should_lack(damaged: dict[str, Truth], read_files: Any) -> None:
    def first(name: str) -> etree._Element:
        return next(etree.fromstring(read_files(damaged[name])["xml"]).iter("fig"))

    assert first("fig_without_caption").find("caption") is None
    assert not "".join(first("fig_empty_caption").find("caption").itertext()).strip()
    assert first("fig_without_graphic").find("graphic") is None
    assert first("fig_without_id").get("id") is None
    assert not first("fig_without_href").find("graphic").get("{http://www.w3.org/1999/xlink}href")
    ids = [figure["fig_id"] for figure in damaged["fig_duplicate_id"]["figures"]]
    assert ids[0] == ids[1]


def test_records_of_the_cloud_say_why(corpus: Path, damaged: dict[str, Truth]) -> None:
    def record(name: str) -> dict[str, Any]:
        truth = damaged[name]
        return json.loads((corpus / "cloud" / "metadata" / f"{truth['pmcid']}.{truth['version']}.json").read_bytes())

    assert record("retracted")["is_retracted"]
    assert record("historical_ocr")["is_historical_ocr"]
    assert not record("not_open_access")["is_pmc_openaccess"]
    assert record("superseded_version:newer")["version"] == 2
    with pytest.raises(json.JSONDecodeError):
        record("json_damaged")


def test_the_copy_is_the_same_article(corpus: Path, damaged: dict[str, Truth]) -> None:
    first, copy = damaged["duplicate_article"], damaged["duplicate_article:copy"]
    assert first["pmcid"] == copy["pmcid"]
    assert (corpus / first["source"]).read_bytes() == (corpus / copy["source"]).read_bytes()
    assert copy["expected"]["reason"] == "duplicate_article"


def test_classes_take_turns_when_there_are_more_damaged_articles_than_classes() -> None:
    n = len(classes("package"))
    names = [broken_articles(0, k, "package")[0][1] for k in (0, n)]
    assert names[0] == names[1]


def test_an_undamaged_twin_would_have_pairs_only(damaged: dict[str, Truth]) -> None:
    for truth in damaged.values():
        assert [len(figure["graphics"]) for figure in truth["figures"]] == [1, 1, 1]
        assert all(graphic["expected"]["outcome"] == "pair" for figure in truth["figures"][1:] for graphic in figure["graphics"])


def test_archives_hold_one_folder(corpus: Path, whole: list[Truth]) -> None:
    for truth in (truth for truth in whole if truth["layout"] == "package"):
        with tarfile.open(fileobj=io.BytesIO((corpus / truth["source"]).read_bytes())) as tar:
            names = tar.getnames()
        assert {name.partition("/")[0] for name in names} == {truth["pmcid"]}
        assert sum(name.endswith(".nxml") for name in names) == 1
