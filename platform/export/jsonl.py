"""JSON lines exactly as Microsoft's released PMC-15M pipeline writes them, one line an article.

    {"pmid", "pmc", "location", "figures": [{"fig_caption", "fig_id", "fig_label", "graphic_ref", "pair_id"}]}

Source of the schema: microsoft/BiomedCLIP_data_pipeline, ``generate_pmc15_pipeline_outputs`` (2025-01).
All values are strings, ``pmc`` is the number without "PMC", ``pair_id`` is ``{pmid}_{fig_id}``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from biomedray.artifacts import atomic_path, write_atomic
from biomedray.export.pictures import ALL_SUFFIXES

COLUMNS = (
    "pair_id",
    "source_uri",
    "pmcid",
    "version",
    "pmid",
    "fig_id",
    "fig_label",
    "graphic_index",
    "graphic_ref",
    "image_format",
    "image_sha256",
    "caption",
)
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_SUFFIXES = {*ALL_SUFFIXES, *ALL_SUFFIXES.values()}
_NUMBER = re.compile(r"(\d+)")

Row = dict[str, Any]


@dataclass(frozen=True)
class Article:
    """Rows of one article, figures in their order, with the file that each picture has or would have."""

    rows: list[Row]
    location: str
    files: list[str]


def articles(rows: Iterable[Row], folder: str | None) -> list[Article]:
    """Rows by article, in the order of first rows; ``folder`` is where their pictures lie, None where they have no files.

    Figures stand in the order in which people count: F2 before F10.
    """
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row["source_uri"], row["pmcid"]), []).append(row)
    return [_article(rows_of_one, folder) for rows_of_one in found.values()]


def write_lines(path: Path, found: Iterable[Article]) -> None:
    """One line for each article, whole or not at all."""
    write_atomic(path, "".join(json.dumps(line(article)) + "\n" for article in found))


def write_images(out: Path, found: Iterable[Article], tables: Iterable[pa.Table]) -> None:
    """The pictures of the articles as files of their original bytes; ``tables`` hold pair_id and image."""
    paths = {
        row["pair_id"]: out / article.location / name
        for article in found
        for row, name in zip(article.rows, article.files, strict=True)
    }
    for table in tables:
        for row in table.to_pylist():
            write_atomic(paths[row["pair_id"]], row["image"])


def join(parts: Sequence[Path], path: Path) -> None:
    """One file from the parts, in their order."""
    with atomic_path(path) as temporary, temporary.open("wb") as target:
        for part in parts:
            target.write(part.read_bytes())


def count_lines(path: Path) -> tuple[int, int]:
    """Articles and figures of a file, read back from its lines."""
    lines = figures = 0
    with path.open(encoding="utf-8") as file:
        for text in file:
            lines += 1
            figures += len(json.loads(text)["figures"])
    return lines, figures


def line(article: Article) -> Row:
    """What stands on an article's line; the second picture of ``F1`` is ``F1/1``, so that each has an id of its own."""
    first = article.rows[0]
    pmid = first["pmid"] or ""
    figures = []
    for row, name in zip(article.rows, article.files, strict=True):
        fig_id = row["fig_id"] + (f"/{row['graphic_index']}" if row["graphic_index"] else "")
        figures.append(
            {
                "fig_caption": row["caption"],
                "fig_id": fig_id,
                "fig_label": row["fig_label"] or "",
                "graphic_ref": f"{article.location}/{name}",
                "pair_id": f"{pmid}_{fig_id}",
            }
        )
    return {"pmid": pmid, "pmc": first["pmcid"].removeprefix("PMC"), "location": article.location, "figures": figures}


def _article(rows: list[Row], folder: str | None) -> Article:
    first = rows[0]
    ordered = sorted(rows, key=lambda row: (_counted(row["fig_id"]), row["graphic_index"]))
    place = first["source_uri"] if folder is None else f"{folder}/{_safe(first['pmcid'])}.{first['version']}"
    return Article(ordered, place, _files(ordered))


def _files(rows: Sequence[Row]) -> list[str]:
    """File names by graphic; two pictures that would have one name are told apart, also where case is ignored."""
    taken: dict[str, str] = {}
    names = []
    for row in rows:
        name = _file_name(row)
        if taken.setdefault(name.lower(), row["image_sha256"]) != row["image_sha256"]:
            name = f"{row['image_sha256'][:16]}-{name}"
        names.append(name)
    return names


def _file_name(row: Row) -> str:
    """The graphic's name, as it stands but for a suffix that says what the bytes are."""
    name = row["graphic_ref"].rpartition("/")[2]
    stem, dot, suffix = name.rpartition(".")
    if dot and suffix.lower() in _SUFFIXES:
        name = stem
    return f"{_safe(name)}.{ALL_SUFFIXES.get(row['image_format'], row['image_format'])}"


def _safe(name: str) -> str:
    return _UNSAFE.sub("_", name).strip(".")[-80:] or "_"


def _counted(text: str) -> list[tuple[int, int, str]]:
    """A key by which F2 comes before F10."""
    return [(0, int(word), "") if word.isdecimal() else (1, 0, word) for word in _NUMBER.split(text) if word]
