r"""Files beside an article on disk: those of its own folder, or of another folder that holds the media of many.

PMC1.1/ with media and XML           --> folder_media
bulk XML + DIR/PMC1/, DIR/PMC1.1/    --> that folder's files
bulk XML + DIR/*.jpg side by side    --> those that the XML's hrefs may mean; the folder, however large, is never listed
"""

from __future__ import annotations

import html
import os
import posixpath
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote

from biomedray.ingest.images import RASTER_SUFFIXES, Media, raster_stem
from biomedray.ingest.sources import XML_SUFFIXES

_MAX_LISTED = 50_000
_MAX_HREFS = 10_000
_HREF = re.compile(rb"""href\s*=\s*["']([^"'<>]{1,500})["']""")
_PMCID = re.compile(rb"""pub-id-type\s*=\s*["']pmc(?:id)?["']\s*>\s*(?:PMC)?(\d+)""")


@lru_cache(maxsize=4)
def folder_media(folder: str, max_bytes: int) -> Media:
    """The files of an article's folder and of those below it that are no article's own."""
    sizes, unsafe = _list_folder(folder)

    def read(name: str) -> bytes:
        with open(f"{folder}/{name}", "rb") as file:  # noqa: PTH123  # a Path takes as long to make as the file to read
            return file.read()

    large = frozenset(name for name, size in sizes.items() if size > max_bytes)
    return Media(frozenset(sizes), read, base="", unsafe=frozenset(unsafe), large=large)


def _list_folder(root: str) -> tuple[dict[str, int], list[str]]:
    """Files with their sizes, and links that lead out; strings, since there are many articles with many files."""
    sizes: dict[str, int] = {}
    unsafe: list[str] = []
    for name, entry in _entries(root):
        if entry.is_symlink() and _leads_out(Path(entry.path), Path(root)):
            unsafe.append(name)
        elif (found := _file_stat(entry)) is not None:
            sizes[name] = found.st_size
    return sizes, unsafe


def _entries(root: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """What an article reads of its folder, with names relative to it: no folder below that holds another article."""
    pending = [""]
    seen = 0
    while pending and seen < _MAX_LISTED:
        below = pending.pop()
        with os.scandir(f"{root}/{below}") as found:
            entries = sorted(found, key=lambda entry: entry.name)
        if below and any(entry.name.lower().endswith(XML_SUFFIXES) for entry in entries):
            continue
        for entry in entries:
            name = f"{below}/{entry.name}" if below else entry.name
            if entry.is_dir(follow_symlinks=False):
                pending.append(name)
            else:
                seen += 1
                yield name, entry


@lru_cache(maxsize=1)
def folder_facts(folder: str) -> list[tuple[str, int, int]]:
    """Name, size and time of every file that an article may read of its folder; [] for one that isn't there."""
    return _facts(folder)


def forget_folders() -> None:
    """Look into folders anew: since they were listed last, in this process, files may have come and gone."""
    folder_media.cache_clear()
    folder_facts.cache_clear()


def _facts(folder: str) -> list[tuple[str, int, int]]:
    facts = []
    with suppress(OSError):  # reading the article will say so
        for name, entry in _entries(folder):
            if (found := _file_stat(entry)) is not None:
                facts.append((name, found.st_size, found.st_mtime_ns))
    return facts


def _file_stat(entry: os.DirEntry[str]) -> os.stat_result | None:
    """None for what is no file, and for a link that leads nowhere or in a circle."""
    try:
        return entry.stat() if entry.is_file() else None
    except OSError:
        return None


def _leads_out(link: Path, root: Path) -> bool:
    try:
        return not link.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):  # a link that goes round in a circle leads nowhere
        return False


def media_elsewhere(folder: str, name: str, xml: bytes, max_bytes: int) -> Media:
    """The media of an article in a folder that holds those of many: by article, or all side by side.

    ``name`` is what the article's file is called, without suffix: PMC123.1, PMC123, or anything else.
    """
    root = Path(folder)
    for own in _folders_of(name, xml):
        if (root / own).is_dir():
            return folder_media(str(root / own), max_bytes)
    names = {found for href in _hrefs(xml) for found in _forms(href) if _is_inside(root, found)}
    large = frozenset(found for found in names if (root / found).stat().st_size > max_bytes)
    return Media(frozenset(names), lambda found: (root / found).read_bytes(), large=large)


def media_facts(folder: str, name: str) -> list[tuple[str, int, int]]:
    """As ``folder_facts``, of the folder that is an article's own by the name of its file."""
    return next((facts for own in _names_of(name) if (facts := _facts(f"{folder}/{own}"))), [])


def _names_of(name: str) -> tuple[str, ...]:
    return tuple(own for own in (name, name.partition(".")[0]) if own not in (".", ".."))


def _folders_of(name: str, xml: bytes) -> Iterator[str]:
    """An article's possible folders, by the name of its file and by the id in its XML."""
    yield from _names_of(name)
    if match := _PMCID.search(xml, 0, 100_000):
        yield f"PMC{match[1].decode()}"


def _hrefs(xml: bytes) -> Iterator[str]:
    for count, match in enumerate(_HREF.finditer(xml)):
        text = unquote(html.unescape(match[1].decode("utf-8", "replace"))).replace("\\", "/")
        if "://" not in text and count < _MAX_HREFS:
            yield posixpath.basename(text)


def _forms(name: str) -> Iterator[str]:
    """The file names that a href may mean, in lower and upper case of the suffix."""
    stem = raster_stem(name)
    yield name
    for suffix in RASTER_SUFFIXES:
        yield stem + suffix
        yield stem + suffix.upper()


def _is_inside(root: Path, name: str) -> bool:
    path = root / name
    return bool(name) and "\0" not in name and path.is_file() and path.resolve().is_relative_to(root.resolve())
