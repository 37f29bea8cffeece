"""The records that rooms hand over and their Arrow schemas: pairs, rejects, the ledger.

The pairs table follows the row schema of docs/reference/pairs.md. A unit of account is one
``<graphic>`` of the article's XML, or one ``<fig>`` that holds no graphic; each unit ends as
exactly one pair or one reject.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal, get_args

import pyarrow as pa

SCHEMA_VERSION = 2

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

LicenseGroup = Literal["comm", "noncomm", "other"]

CITANCE = pa.struct(
    [
        pa.field("section", pa.string()),
        pa.field("text", pa.string()),
        pa.field("start", pa.int32()),
        pa.field("end", pa.int32()),
    ]
)

MARKUP = pa.struct([pa.field("kind", pa.string()), pa.field("start", pa.int32()), pa.field("end", pa.int32())])

PAIR_SCHEMA = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("pmcid", pa.string(), nullable=False),
        pa.field("version", pa.int32(), nullable=False),
        pa.field("pmid", pa.string()),
        pa.field("doi", pa.string()),
        pa.field("article_title", pa.string()),
        pa.field("journal", pa.string()),
        pa.field("year", pa.int32()),
        pa.field("article_type", pa.string()),
        pa.field("license_code", pa.string()),
        pa.field("license_group", pa.string(), nullable=False),
        pa.field("fig_rights", pa.string()),
        pa.field("fig_third_party", pa.bool_()),
        pa.field("fig_id", pa.string(), nullable=False),
        pa.field("fig_label", pa.string()),
        pa.field("fig_parent_id", pa.string()),
        pa.field("container", pa.string(), nullable=False),
        pa.field("graphic_index", pa.int32(), nullable=False),
        pa.field("n_graphics", pa.int32(), nullable=False),
        pa.field("graphic_ref", pa.string(), nullable=False),
        pa.field("image", pa.large_binary(), nullable=False),
        pa.field("image_format", pa.string(), nullable=False),
        # A PNG or JPEG of it where browsers and other people's loaders can't read the original (TIFF, BMP, 16 bit, CMYK).
        pa.field("image_copy", pa.large_binary()),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("image_mode", pa.string()),
        pa.field("n_frames", pa.int32()),
        pa.field("flags", pa.list_(pa.string()), nullable=False),
        pa.field("image_sha256", pa.string(), nullable=False),
        pa.field("phash", pa.string()),
        pa.field("phash_fine", pa.string()),
        pa.field("entropy", pa.float32()),
        pa.field("colourfulness", pa.float32()),
        pa.field("blankness", pa.float32()),
        pa.field("compound_hint", pa.float32()),
        pa.field("chart_hint", pa.float32()),
        pa.field("caption", pa.string(), nullable=False),
        pa.field("caption_raw", pa.string(), nullable=False),
        pa.field("caption_title", pa.string()),
        pa.field("caption_markup", pa.list_(MARKUP), nullable=False),
        pa.field("citances", pa.list_(CITANCE), nullable=False),
        pa.field("n_tokens", pa.int32(), nullable=False),
        pa.field("lang", pa.string()),
        # A dictionary, as pyarrow and pandas infer it from the folder name split=..., so that both read the whole folder.
        pa.field("split", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("dup_cluster", pa.string(), nullable=False),
        pa.field("article_cluster", pa.string(), nullable=False),
        pa.field("source_uri", pa.string(), nullable=False),
        pa.field("source_md5", pa.string()),
        pa.field("extractor_version", pa.string(), nullable=False),
    ]
)

REJECT_SCHEMA = pa.schema(
    [
        pa.field("pmcid", pa.string()),
        pa.field("version", pa.int32()),
        pa.field("source_uri", pa.string(), nullable=False),
        pa.field("fig_id", pa.string()),
        pa.field("graphic_ref", pa.string()),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string()),
    ]
)

LEDGER_SCHEMA = pa.schema(
    [
        pa.field("source_uri", pa.string(), nullable=False),
        pa.field("pmcid", pa.string()),
        pa.field("version", pa.int32()),
        pa.field("split", pa.string()),
        pa.field("figures", pa.int32(), nullable=False),
        pa.field("graphics", pa.int32(), nullable=False),
        pa.field("figures_without_graphic", pa.int32(), nullable=False),
        pa.field("pairs", pa.int32(), nullable=False),
        pa.field("rejects", pa.int32(), nullable=False),
        pa.field("article_rejects", pa.int32(), nullable=False),
        # What tells copies, versions and related works apart; null for what holds no readable article.
        pa.field("doi", pa.string()),
        pa.field("article_title", pa.string()),
        pa.field("related_dois", pa.list_(pa.string())),
        pa.field("source_md5", pa.string()),
    ]
)


class Stage(StrEnum):
    """Where a reject happened; ``source`` and ``article`` rejects stand for a whole article."""

    SOURCE = "source"
    ARTICLE = "article"
    FIGURE = "figure"
    IMAGE = "image"


class Reason(StrEnum):
    """The closed list of reasons for a reject; docs/reference/rejects.md explains each."""

    # source: the file itself
    UNREADABLE_ARCHIVE = "unreadable_archive"
    UNSAFE_MEMBER = "unsafe_member"
    SOURCE_TOO_LARGE = "source_too_large"
    NO_ARTICLE_XML = "no_article_xml"
    # source or image: what could not be fetched
    FETCH_FAILED = "fetch_failed"
    CHECKSUM_MISMATCH = "checksum_mismatch"
    # article: the XML as a whole
    MALFORMED_XML = "malformed_xml"
    XML_TOO_LARGE = "xml_too_large"
    NOT_AN_ARTICLE = "not_an_article"
    NO_FIGURES = "no_figures"
    DUPLICATE_ARTICLE = "duplicate_article"
    SUPERSEDED_VERSION = "superseded_version"
    RETRACTED = "retracted"
    HISTORICAL_OCR = "historical_ocr"
    NOT_OPEN_ACCESS = "not_open_access"
    BAD_METADATA = "bad_metadata"
    NOT_SELECTED = "not_selected"
    WITHDRAWN = "withdrawn"
    # article or figure: the engine that reads captions raised, or gave nothing for a figure that is there
    ENGINE_FAILED = "engine_failed"
    # figure: one <fig> or <graphic> of a readable article
    NO_GRAPHIC = "no_graphic"
    NO_CAPTION = "no_caption"
    NO_HREF = "no_href"
    ALTERNATIVE_NOT_CHOSEN = "alternative_not_chosen"
    TABLE_GRAPHIC = "table_graphic"
    FORMULA_GRAPHIC = "formula_graphic"
    NOT_IN_FIGURE = "not_in_figure"
    FILTERED = "filtered"
    # image: the file that the graphic names
    FILE_MISSING = "file_missing"
    UNSUPPORTED_FORMAT = "unsupported_format"
    EMPTY_IMAGE = "empty_image"
    IMAGE_TOO_LARGE = "image_too_large"
    UNDECODABLE = "undecodable"
    BLANK_IMAGE = "blank_image"
    THUMBNAIL_ONLY = "thumbnail_only"


LICENSE_GROUPS: dict[str, LicenseGroup] = {
    "CC0": "comm",
    "CC BY": "comm",
    "CC BY-SA": "comm",
    "CC BY-ND": "comm",
    "CC BY-NC": "noncomm",
    "CC BY-NC-SA": "noncomm",
    "CC BY-NC-ND": "noncomm",
}


def license_group(license_code: str | None) -> LicenseGroup:
    """Group of a licence code as PMC's former bulk folders had it (comm, noncomm, other)."""
    return LICENSE_GROUPS.get(license_code or "", "other")


def make_pair_id(pmcid: str, version: int, fig_id: str, graphic_index: int) -> str:
    """``{pmcid}.{version}/{fig_id}/{n}``: unique within a pairs artifact, stable between runs."""
    return f"{pmcid}.{version}/{fig_id}/{graphic_index}"
