"""Damage to the package file and to the JSON record of the cloud layout."""

from __future__ import annotations

import tarfile

from biomedray.corpus.damage import Catalogue
from biomedray.corpus.layouts import Bundle, member, members, pack
from biomedray.corpus.truth import Expected, rejected
from biomedray.records import Reason, Stage

damage = Catalogue()


@damage.on("package")
def _archive_truncated(found: Bundle) -> Expected:
    whole = pack(members(found))
    found.archive = whole[: len(whole) * 6 // 10]
    return rejected(Stage.SOURCE, Reason.UNREADABLE_ARCHIVE)


@damage.on("package")
def _archive_not_gzip(found: Bundle) -> Expected:
    found.archive = b"<html><body>404 Not Found</body></html>\n" * 20
    return rejected(Stage.SOURCE, Reason.UNREADABLE_ARCHIVE)


@damage.on("package")
def _archive_no_members(found: Bundle) -> Expected:
    found.archive = pack([])
    return rejected(Stage.SOURCE, Reason.NO_ARTICLE_XML, Reason.UNREADABLE_ARCHIVE)


@damage.on("package")
def _archive_zero_bytes(found: Bundle) -> Expected:
    found.archive = b""
    return rejected(Stage.SOURCE, Reason.UNREADABLE_ARCHIVE)


def _with_member(found: Bundle, info: tarfile.TarInfo, data: bytes = b"") -> Expected:
    found.archive = pack([*members(found), (info, data)])
    return rejected(Stage.SOURCE, Reason.UNSAFE_MEMBER)


@damage.on("package")
def _archive_path_traversal(found: Bundle) -> Expected:
    return _with_member(found, member("../../outside.txt", 5), b"stray")


@damage.on("package")
def _archive_absolute_name(found: Bundle) -> Expected:
    return _with_member(found, member("/outside/absolute.txt", 5), b"stray")


@damage.on("package")
def _archive_symlink(found: Bundle) -> Expected:
    info = member(f"{found.article.pmcid}/link.jpg")
    info.type, info.linkname = tarfile.SYMTYPE, "../../../outside.jpg"
    return _with_member(found, info)


@damage.on("package")
def _archive_hardlink(found: Bundle) -> Expected:
    info = member(f"{found.article.pmcid}/link.jpg")
    info.type, info.linkname = tarfile.LNKTYPE, "/outside/absolute.jpg"
    return _with_member(found, info)


@damage.on("package")
def _duplicate_article(_found: Bundle) -> Expected:
    return Expected("article")


@damage.on("cloud")
def _retracted(found: Bundle) -> Expected:
    found.metadata["is_retracted"] = True
    return rejected(Stage.ARTICLE, Reason.RETRACTED)


@damage.on("cloud")
def _historical_ocr(found: Bundle) -> Expected:
    found.metadata["is_historical_ocr"] = True
    return rejected(Stage.ARTICLE, Reason.HISTORICAL_OCR)


@damage.on("cloud")
def _not_open_access(found: Bundle) -> Expected:
    found.metadata.update(is_pmc_openaccess=False, is_manuscript=True, license_code="TDM")
    return rejected(Stage.ARTICLE, Reason.NOT_OPEN_ACCESS)


@damage.on("cloud")
def _superseded_version(_found: Bundle) -> Expected:
    return rejected(Stage.ARTICLE, Reason.SUPERSEDED_VERSION)


@damage.on("cloud")
def _json_damaged(found: Bundle) -> Expected:
    found.json = b'{"pmcid": "PMC1", "version": 1, "title": "cut o'
    return rejected(Stage.ARTICLE, Reason.BAD_METADATA)
