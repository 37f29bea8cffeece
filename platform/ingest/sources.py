r"""From the sources on a command line to a sorted list of article references; no archive is opened.

folder --walk--> archives, XML files, PMC<n>.<v>/ folders
list file -----> one source a line                        --> [ArticleRef], by uri, each path once
archive, XML --> itself
"""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal

from biomedray.errors import UserError
from biomedray.records import Reason

ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".tar", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")
XML_SUFFIXES = (".nxml", ".xml")
LIST_SUFFIXES = (".txt", ".csv")
FILE_LIST = "oa_file_list.csv"
_SKIPPED_FOLDERS = {"metadata", "inventory-reports", "__MACOSX"}
_CLOUD_NAME = re.compile(r"(PMC\d+)\.(\d+)")


@dataclass(frozen=True, slots=True)
class ArticleRef:
    """Where an article (or an archive of articles) lies, and what is known of it without opening it.

    ``uri`` is relative to the source, headed by the source's name; ``path`` is where to read it.
    ``problem`` marks one that can't be read or is not wanted: it becomes a reject.
    """

    kind: Literal["archive", "xml", "cloud"]
    path: str
    uri: str
    name: str
    size: int
    license_code: str | None = None
    pmid: str | None = None
    accession: str | None = None
    problem: Reason | None = None
    detail: str | None = None
    files: tuple[tuple[str, str], ...] = ()
    """Of an article in a store: its files' names, relative to its prefix, and their ETags."""


def discover(sources: Sequence[str]) -> list[ArticleRef]:
    """All articles of the sources, sorted by uri; older versions of an article are marked superseded.

    Raises:
        UserError: a source is missing, unreadable, of no known kind, or holds no article.
    """
    if not sources:
        raise UserError("no source given; name a folder of articles, an archive, an XML file or a list file")
    labels = _labels(sources)
    refs = [ref for source, label in zip(sources, labels, strict=True) for ref in _source(source, label)]
    unique = {ref.path: _nameable(ref) for ref in reversed(refs)}
    return _mark_superseded(sorted(unique.values(), key=lambda ref: ref.uri))


def printable(text: str) -> str:
    r"""A name with what is no UTF-8 written out (``\xff``): file systems and tar take any bytes, tables take text."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _nameable(ref: ArticleRef) -> ArticleRef:
    uri, path, name = printable(ref.uri), printable(ref.path), printable(ref.name)
    if path == ref.path:
        return ref
    detail = "its path is not UTF-8, so that no table can name it: rename it"
    return replace(ref, uri=uri, path=path, name=name, problem=Reason.UNREADABLE_ARCHIVE, detail=detail)


def cloud_version(name: str) -> tuple[str, int] | None:
    """``("PMC123", 2)`` for ``PMC123.2``, the name of an article version in the PMC Cloud layout."""
    match = _CLOUD_NAME.fullmatch(name)
    return (match[1], int(match[2])) if match else None


def stem(name: str) -> str:
    """A file's name without an archive's or XML's suffix (and only that: dots belong to ids)."""
    lowered = name.lower()
    for suffix in (*ARCHIVE_SUFFIXES, *XML_SUFFIXES):
        if lowered.endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name


def choose_xml(names: Sequence[str]) -> list[str]:
    """The articles among the XML files of one folder: beside a .nxml other XML is supplementary."""
    nxml = [name for name in names if name.lower().endswith(".nxml")]
    return sorted(nxml or names)


def _labels(sources: Sequence[str]) -> list[str]:
    """What heads each source's uris: its name, or its whole path where two sources share a name."""
    names = [Path(source).resolve().name or "root" for source in sources]
    count = Counter(names)
    return [name if count[name] == 1 else Path(source).as_posix() for name, source in zip(names, sources, strict=True)]


def _source(source: str, label: str) -> list[ArticleRef]:
    if "://" in source:
        raise UserError(f"{source}: no such kind of address; s3://, https://, http://, file:// or a local path is wanted")
    path = Path(source)
    if not path.exists():
        raise UserError(f"{source}: no such file or folder")
    if path.is_dir():
        refs = list(_walk(path.resolve(), label))
        hint = "a folder of .tar.gz packages, of unpacked articles (.nxml, .xml) or in the PMC Cloud layout is wanted"
    elif path.name.lower().endswith(LIST_SUFFIXES):
        refs = _read_list(path)
        hint = "a list file holds one path a line"
    else:
        refs = [_file_ref(path.resolve(), label)] if _is_article_name(path.name) else []
        hint = f"an archive ({', '.join(ARCHIVE_SUFFIXES[:4])} ...), an XML file or a list file (.txt, .csv) is wanted"
    if not refs:
        raise UserError(f"{source}: no article found; {hint}")
    return refs


def _is_article_name(name: str) -> bool:
    return name.lower().endswith((*ARCHIVE_SUFFIXES, *XML_SUFFIXES)) and not name.startswith(".")


def _file_ref(path: Path, uri: str) -> ArticleRef:
    kind: Literal["archive", "xml"] = "archive" if path.name.lower().endswith(ARCHIVE_SUFFIXES) else "xml"
    return ArticleRef(kind, str(path), uri, stem(path.name), path.stat().st_size)


def _walk(root: Path, label: str) -> Iterator[ArticleRef]:
    def unreadable(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be read: {error.strerror}")

    for folder, subfolders, files in os.walk(root, onerror=unreadable):
        here = Path(folder)
        uri = PurePosixPath(label, here.relative_to(root).as_posix())
        if cloud_version(here.name):
            subfolders.clear()
            yield _cloud_ref(here, str(uri), files)
            continue
        subfolders[:] = sorted(name for name in subfolders if name not in _SKIPPED_FOLDERS and not name.startswith("."))
        yield from _folder_refs(root, here, uri, files)


def _folder_refs(root: Path, here: Path, uri: PurePosixPath, files: list[str]) -> Iterator[ArticleRef]:
    names = sorted(name for name in files if _is_article_name(name) and not _is_special(here / name))
    extras = _read_file_list(here / FILE_LIST) if FILE_LIST in files else {}
    for name in names:
        if name.lower().endswith(ARCHIVE_SUFFIXES):
            ref = _checked(_link_aware(root, here / name, str(uri / name)))
            yield _with_list_row(ref, extras.get(name))
    articles = choose_xml([name for name in names if name.lower().endswith(XML_SUFFIXES)])
    for name in articles:
        alone = len(articles) == 1
        ref = _checked(_link_aware(root, here / name, str(uri if alone else uri / name)))
        yield replace(ref, name=here.name if alone and not ref.name.startswith("PMC") else ref.name)


def _is_special(path: Path) -> bool:
    """A pipe or socket under an article's name would be read for ever."""
    return not (path.is_symlink() or path.is_file())


def _link_aware(root: Path, path: Path, uri: str) -> ArticleRef:
    """A link is followed only where it leads to a file inside the source."""
    if path.is_symlink() and not (path.is_file() and path.resolve().is_relative_to(root)):
        ref = ArticleRef("xml", str(path), uri, stem(path.name), 0)
        return replace(ref, problem=Reason.UNSAFE_MEMBER, detail="a link that leads out of the source or nowhere")
    return _file_ref(path, uri)


def _checked(ref: ArticleRef) -> ArticleRef:
    if ref.problem is None and not os.access(ref.path, os.R_OK):
        return replace(ref, problem=Reason.UNREADABLE_ARCHIVE, detail="the file can't be opened: permission denied")
    return ref


def _cloud_ref(folder: Path, uri: str, files: list[str]) -> ArticleRef:
    """Only the XML named like its folder is the article; other XML there is supplementary."""
    name = f"{folder.name}.xml"
    if name in files:
        return replace(_checked(_link_aware(folder.parent, folder / name, uri)), name=folder.name)
    ref = ArticleRef("xml", str(folder), uri, folder.name, 0)
    return replace(ref, problem=Reason.NO_ARTICLE_XML, detail=f"there is no {name}")


def _read_list(path: Path) -> list[ArticleRef]:
    """The sources that a list file names, each relative to the list file or else to the current folder."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise UserError(f"{path}: not a readable UTF-8 text file; a list file holds one path a line") from None
    lines = csv.reader(text.splitlines()) if path.suffix.lower() == ".csv" else ([line] for line in text.splitlines())
    refs: list[ArticleRef] = []
    missing = 0
    for number, cells in enumerate(lines, 1):
        entry = cells[0].strip() if cells else ""
        if not entry or entry.startswith("#") or (number == 1 and entry.lower() in {"file", "path", "source", "uri"}):
            continue
        found = _list_entry(path, entry, number)
        missing += found[0].problem is not None and len(found) == 1 and found[0].size == 0
        refs += found
    if refs and missing == len(refs):
        raise UserError(f"{path}: none of the {missing} paths in this list can be read; they are relative to the list file")
    return refs


def _list_entry(path: Path, entry: str, number: int) -> list[ArticleRef]:
    uri = PurePosixPath(os.path.normpath(entry)).as_posix()
    for target in (path.parent / entry, Path(entry)):
        if target.is_dir() and (refs := list(_walk(target.resolve(), uri))):
            return refs
        if target.is_file() and _is_article_name(target.name):
            return [_checked(_file_ref(target.resolve(), uri))]
    detail = f"line {number} of {path.name}: no archive, XML file or folder of articles there"
    return [ArticleRef("archive", entry, uri, stem(Path(entry).name), 0, problem=Reason.UNREADABLE_ARCHIVE, detail=detail)]


def _read_file_list(path: Path) -> dict[str, dict[str, str]]:
    """Rows of PMC's former oa_file_list.csv by file name; a damaged list counts as none."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return {Path(row["File"]).name: row for row in csv.DictReader(file) if row.get("File")}
    except (OSError, UnicodeDecodeError, csv.Error):
        return {}


def _with_list_row(ref: ArticleRef, row: dict[str, str] | None) -> ArticleRef:
    if row is None:
        return ref
    return replace(
        ref,
        license_code=row.get("License") or None,
        pmid=row.get("PMID") or None,
        accession=row.get("Accession ID") or None,
    )


def _mark_superseded(refs: list[ArticleRef]) -> list[ArticleRef]:
    """Of the versions of an article only the highest is wanted; 10 is higher than 2."""
    highest: dict[str, int] = {}
    for ref in refs:
        if (version := cloud_version(ref.name)) and ref.problem is None:
            highest[version[0]] = max(version[1], highest.get(version[0], 0))
    return [_superseded(ref, highest) for ref in refs]


def _superseded(ref: ArticleRef, highest: dict[str, int]) -> ArticleRef:
    version = cloud_version(ref.name)
    if ref.problem is not None or version is None or version[1] == highest[version[0]]:
        return ref
    return replace(ref, problem=Reason.SUPERSEDED_VERSION, detail=f"version {highest[version[0]]} is there")
