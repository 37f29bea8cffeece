"""PMC's JSON record of an article version: its flags, its licence, its files with their MD5."""

from __future__ import annotations

import json
import posixpath
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biomedray.ingest.staging import plain_md5

MAX_RECORD_BYTES = 16 * 2**20
FLAGS = ("is_retracted", "is_historical_ocr", "is_pmc_openaccess", "is_manuscript")


@dataclass(frozen=True)
class Record:
    """What the record says; None and {} where it says nothing."""

    flags: dict[str, bool]
    license_code: str | None = None
    pmid: str | None = None
    doi: str | None = None
    xml_md5: str | None = None
    """Of the article's XML; None: the record knows of no XML, "": it gives no MD5."""
    media: tuple[tuple[str, str], ...] = ()
    """Media by name within the article's prefix, each with its MD5 or ""."""


def read_record(data: bytes, name: str) -> Record:
    """The record of the article version ``name``, such as ``PMC1.2``.

    Raises:
        ValueError: it is damaged: the article's rights are unknown.
    """
    try:
        value = json.loads(data)
    except RecursionError:
        raise ValueError("RecursionError") from None
    if not isinstance(value, dict):
        raise ValueError("a JSON object is wanted")  # noqa: TRY004  # the file's content is off, not a caller's argument
    for key in FLAGS:
        if not isinstance(value.get(key), bool | None):
            raise ValueError(f"{key} is neither true nor false")  # noqa: TRY004  # same
    urls = value.get("media_urls")
    files = [found for url in (urls if isinstance(urls, list) else []) if (found := _file(url, name)) is not None]
    xml = _file(value["xml_url"], name) if "xml_url" in value else (f"{name}.xml", "")
    return Record(
        flags={key: value[key] for key in FLAGS if value.get(key) is not None},
        license_code=_text(value.get("license_code")),
        pmid=_text(value.get("pmid")),
        doi=_text(value.get("doi")),
        xml_md5=None if xml is None else xml[1],
        media=tuple(dict(files).items()),
    )


def local_record(xml: Path, name: str) -> Record | None:
    """The record beside an article on disk or in the mirror ``metadata/``; None where there is none.

    Raises:
        ValueError: it is damaged or can't be read.
    """
    for path in (xml.parent / f"{name}.json", mirrored_record(xml.parent, name)):
        if path.is_file():
            try:
                return read_record(path.read_bytes(), name)
            except OSError as error:
                raise ValueError(type(error).__name__) from None
    return None


def mirrored_record(folder: Path | str, name: str) -> Path:
    """Where a mirror of the bucket has the record of the article in ``folder``."""
    return Path(folder).parent / "metadata" / f"{name}.json"


def _file(url: Any, name: str) -> tuple[str, str] | None:
    """``s3://bucket/PMC1.1/a.jpg?md5=...`` as (``a.jpg``, MD5); None for an address outside of the article's prefix."""
    if not isinstance(url, str):
        return None
    address, _, md5 = url.partition("?md5=")
    file = address.partition(f"/{name}/")[2]
    if not file or posixpath.normpath(file) != file or file.startswith(("../", "/")):
        return None
    return file, plain_md5(md5)


def _text(value: Any) -> str | None:
    return str(value).strip() or None if isinstance(value, str | int) else None
