r"""From an article reference to the bytes of an article and the files beside it; nothing is unpacked to disk.

archive --stream--> members held in memory, bounded --> one package, or many of a bulk archive
XML file ---------> its folder's files, read when asked for
"""

from __future__ import annotations

import lzma
import posixpath
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import IO, cast

from biomedray.ingest.figures import Inventory
from biomedray.ingest.images import RASTER_SUFFIXES, Media, is_raster_name
from biomedray.ingest.jats import ArticleTree
from biomedray.ingest.media import folder_media, forget_folders, media_elsewhere
from biomedray.ingest.record import MAX_RECORD_BYTES, local_record, read_record
from biomedray.ingest.selection import refused_by_record
from biomedray.ingest.settings import IngestConfig
from biomedray.ingest.sources import XML_SUFFIXES, ArticleRef, choose_xml, cloud_version, printable, stem
from biomedray.ingest.staging import Staging
from biomedray.ingest.streams import TooLargeError, open_stream
from biomedray.records import Reason, Stage

# What the decompressors and tarfile raise on damaged archives.
_ARCHIVE_ERRORS = (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError, ValueError, OverflowError, RecursionError)
# What a name costs in memory; an archive of millions of empty files is large as well.
_NAME_BYTES = 300
_MAX_UNSAFE = 100_000


@dataclass(frozen=True)
class Package:
    """One article's XML, its media, and what its surroundings say of it (the XML is asked first for ids)."""

    uri: str
    fallback_id: str
    xml: bytes
    media: Media
    version: int | None = None
    license_code: str | None = None
    """Of the cloud JSON: it wins over the XML."""
    fallback_license: str | None = None
    """Of oa_file_list.csv: used where the XML names none."""
    pmid: str | None = None
    doi: str | None = None
    flags: tuple[str, ...] = ()
    trees: list[ArticleTree] | None = None
    """The parsed XML, where it had to be looked into already,"""
    figures: list[Inventory] | None = None
    """and what was found in each tree."""


@dataclass(frozen=True)
class Refused:
    """An article or archive that yields nothing, and why."""

    uri: str
    reason: Reason
    detail: str
    stage: Stage = Stage.SOURCE
    pmcid: str | None = None
    version: int | None = None


def open_refs(refs: Iterable[ArticleRef], config: IngestConfig, staging: Path) -> Iterator[Package | Refused]:
    """The articles of a part's references, in their order; ``staging`` keeps what was fetched until the part is committed.

    Raises:
        StoreDownError: a store doesn't answer; nothing is said of its articles.
    """
    forget_folders()
    for cloud, some in groupby(refs, key=lambda ref: ref.kind == "cloud"):
        if cloud:
            from biomedray.ingest.cloud import open_cloud

            yield from open_cloud(list(some), config, Staging(staging))
        else:
            for ref in some:
                yield from open_ref(ref, config)


def open_ref(ref: ArticleRef, config: IngestConfig) -> Iterator[Package | Refused]:
    """The article of a reference, or the articles of a bulk archive, or why there is none; never raises for bad input."""
    try:
        yield from _open_local(ref, config)
    except Exception as error:  # noqa: BLE001  # one source's surprise must not end a run of millions; the reject says what it was
        yield Refused(ref.uri, Reason.UNREADABLE_ARCHIVE, f"{type(error).__name__}: {error}"[:200])


def _open_local(ref: ArticleRef, config: IngestConfig) -> Iterator[Package | Refused]:
    if ref.problem is not None:
        yield _refused_ref(ref)
        return
    found = _open_archive(ref, config) if ref.kind == "archive" else iter([_open_file(ref, config)])
    yield from found if config.media is None else (_lend_media(item, config) for item in found)


def _lend_media(item: Package | Refused, config: IngestConfig) -> Package | Refused:
    """An article without any picture of its own takes those of the folder of media."""
    if isinstance(item, Refused) or any(map(is_raster_name, item.media.names)):
        return item
    name = stem(posixpath.basename(item.uri))
    return replace(item, media=media_elsewhere(config.media or "", name, item.xml, config.max_image_bytes))


def _refused_ref(ref: ArticleRef) -> Refused:
    assert ref.problem is not None
    pmcid, version = cloud_version(ref.name) or (None, None)
    stage = Stage.ARTICLE if ref.problem is Reason.SUPERSEDED_VERSION else Stage.SOURCE
    return Refused(ref.uri, ref.problem, ref.detail or "", stage, pmcid, version)


# ---- an XML file in a folder


def _open_file(ref: ArticleRef, config: IngestConfig) -> Package | Refused:
    path = Path(ref.path)
    pmcid, version = cloud_version(ref.name) or (None, None)
    try:
        record = local_record(path, ref.name) if pmcid else None
    except ValueError as error:
        return Refused(ref.uri, Reason.BAD_METADATA, f"{ref.name}.json: {error}", Stage.ARTICLE, pmcid, version)
    if record is not None and (refusal := refused_by_record(record, ref.name, config.select)):
        return Refused(ref.uri, *refusal, Stage.ARTICLE, pmcid, version)
    if path.stat().st_size > config.max_xml_bytes:
        detail = f"{path.stat().st_size} bytes, the limit is {config.max_xml_bytes}"
        return Refused(ref.uri, Reason.XML_TOO_LARGE, detail, Stage.ARTICLE, pmcid, version)
    try:
        xml = path.read_bytes()
    except OSError as error:
        return Refused(ref.uri, Reason.UNREADABLE_ARCHIVE, f"cannot be read: {error.strerror}", Stage.SOURCE, pmcid, version)
    return Package(
        uri=ref.uri,
        fallback_id=pmcid or ref.accession or ref.name,
        xml=xml,
        media=folder_media(str(path.parent), config.max_image_bytes),
        version=version,
        license_code=record.license_code if record else None,
        pmid=(record.pmid if record else None) or ref.pmid,
        doi=record.doi if record else None,
        flags=("no_metadata",) if pmcid and record is None else (),
    )


# ---- an archive


@dataclass
class _Held:
    """Members of an archive kept in memory until their article is complete."""

    files: dict[str, bytes] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    unsafe: set[str] = field(default_factory=set)
    large: set[str] = field(default_factory=set)
    size: int = 0

    def xml(self) -> list[str]:
        """The articles among the members, folder by folder, in sorted order."""
        folders: dict[str, list[str]] = {}
        for name in self.names:
            if _is_xml(name) and not self._beside_article(name):
                folders.setdefault(posixpath.dirname(name), []).append(name)
        return [name for folder in sorted(folders) for name in choose_xml(folders[folder])]

    def _beside_article(self, name: str) -> bool:
        """Whether it lies in or below a folder of the Cloud layout; there only the one named like the folder is an article."""
        folder = posixpath.dirname(name)
        while folder:
            own = posixpath.basename(folder)
            if cloud_version(own) and (article := f"{folder}/{own}.xml") != name and article in self.names:
                return True
            folder = posixpath.dirname(folder)
        return False

    def drop(self, names: list[str]) -> None:
        for name in names:
            self.size -= len(self.files.pop(name, b"")) + _NAME_BYTES
            self.names.discard(name)

    def note(self, name: str, among: set[str]) -> None:
        """Add a name to one of the sets; what went under the same name before is forgotten, as tar does."""
        self.size -= len(self.files.pop(name, b""))
        if name not in among:
            among.add(name)
            self.size += _NAME_BYTES


def _open_archive(ref: ArticleRef, config: IngestConfig) -> Iterator[Package | Refused]:
    held = _Held()
    bulk = False
    try:
        for name in _members(Path(ref.path), held, config):
            if held.size > config.max_buffer_bytes:
                bulk = True
                yield from _flush_complete(ref, held, posixpath.dirname(name), config)
    except TooLargeError as error:
        yield Refused(ref.uri, Reason.SOURCE_TOO_LARGE, str(error))
        return
    except _ARCHIVE_ERRORS as error:
        detail = (str(error) or type(error).__name__).splitlines()[0][:200]
        if bulk or len(held.xml()) > 1:
            yield from _flush(ref, held, held.xml(), bulk=True, config=config)
        yield Refused(ref.uri, Reason.UNREADABLE_ARCHIVE, detail)
        return
    articles = held.xml()
    if not articles and not bulk:
        yield _no_article(ref, held)
    yield from _flush(ref, held, articles, bulk or len(articles) > 1, config)


def _no_article(ref: ArticleRef, held: _Held) -> Refused:
    for name in sorted(held.unsafe):
        if _is_xml(name):
            return Refused(ref.uri, Reason.UNSAFE_MEMBER, f"{name}: a link or a name that leads out of the archive")
    return Refused(ref.uri, Reason.NO_ARTICLE_XML, f"{len(held.names)} files, none of them .nxml or .xml")


def _members(path: Path, held: _Held, config: IngestConfig) -> Iterator[str]:
    """Read the archive once, front to back; yields each file's name after it was taken into ``held``."""
    with open_stream(path, config.max_archive_bytes) as stream, tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r|") as tar:
        for member in tar:
            tar.members = []  # type: ignore[attr-defined]  # tarfile would keep every header of the archive in memory
            stream.allow(member.size)
            name = posixpath.normpath(member.name)
            if member.isdir():
                continue
            if not member.isfile() or name.startswith(("/", "../")) or ".." in member.name.split("/"):
                held.note(name.lstrip("/"), held.unsafe)
                if len(held.unsafe) > _MAX_UNSAFE:
                    raise TooLargeError(f"more than {_MAX_UNSAFE} links and names that lead out")
            elif not posixpath.basename(name).startswith("."):
                _take(tar, member, name, held, config)
                yield name


def _take(tar: tarfile.TarFile, member: tarfile.TarInfo, name: str, held: _Held, config: IngestConfig) -> None:
    held.note(name, held.names)
    record = _is_record(name)
    limit = config.max_xml_bytes if _is_xml(name) else MAX_RECORD_BYTES if record else config.max_image_bytes
    if member.size > limit:
        held.large.add(name)
    elif _is_xml(name) or record or name.lower().endswith(RASTER_SUFFIXES):
        file = tar.extractfile(member)
        held.files[name] = file.read() if file else b""
        held.size += len(held.files[name])


def _flush_complete(ref: ArticleRef, held: _Held, current: str, config: IngestConfig) -> Iterator[Package | Refused]:
    """Hand out the articles of folders that the archive has left; XML without any media goes at once."""
    articles = held.xml()
    media = any(not (_is_xml(name) or _is_record(name)) for name in held.files)
    at_once = not media and not cloud_version(posixpath.basename(current))  # there its record may come yet
    ready = [name for name in articles if at_once or not _inside(current, posixpath.dirname(name))]
    yield from _flush(ref, held, ready, bulk=True, config=config)
    folders = {posixpath.dirname(name) for name in ready}
    early = {name for name in held.names if _is_record(name)} - {_record_name(name) for name in ready}
    held.drop(
        [name for name in held.names - early if any(_inside(name, folder) for folder in folders) and not _inside(current, name)]
    )
    if held.size > config.max_buffer_bytes:
        raise TooLargeError(f"one article's files take more than {config.max_buffer_bytes} bytes")


def _inside(name: str, folder: str) -> bool:
    return not folder or name == folder or name.startswith(folder + "/")


def _flush(ref: ArticleRef, held: _Held, articles: list[str], bulk: bool, config: IngestConfig) -> Iterator[Package | Refused]:
    media = _media_by_folder(held) if bulk else {}
    for name in articles:
        folder = posixpath.dirname(name)
        uri = printable(f"{ref.uri}/{name}") if bulk else ref.uri
        if name in held.large:
            yield Refused(uri, Reason.XML_TOO_LARGE, f"{name}: more than {config.max_xml_bytes} bytes", Stage.ARTICLE)
        else:
            package = _bulk_package(held, name, uri, media[folder]) if bulk else _single_package(ref, held, name)
            yield _with_record(package, held, name, config)


def _single_package(ref: ArticleRef, held: _Held, name: str) -> Package:
    pmcid, version = cloud_version(ref.name) or cloud_version(stem(posixpath.basename(name))) or (None, None)
    return Package(
        uri=ref.uri,
        fallback_id=pmcid or ref.accession or ref.name,
        xml=held.files[name],
        media=_media(held, held.names, posixpath.dirname(name)),
        version=version,
        fallback_license=ref.license_code,
        pmid=ref.pmid,
    )


def _bulk_package(held: _Held, name: str, uri: str, media: Media) -> Package:
    own_name = stem(posixpath.basename(name))
    pmcid, version = cloud_version(own_name) or (None, None)
    return Package(uri=uri, fallback_id=pmcid or own_name, xml=held.files[name], media=media, version=version)


def _with_record(package: Package, held: _Held, name: str, config: IngestConfig) -> Package | Refused:
    """The package with what the JSON record beside its XML says of it, or why it is not wanted."""
    where = _record_name(name)
    if where not in held.names:
        return package
    own = stem(posixpath.basename(name))
    article = (Stage.ARTICLE, *(cloud_version(own) or (None, None)))
    try:
        record = read_record(held.files[where], own)
    except (ValueError, KeyError) as error:  # KeyError: it was too large to be held
        return Refused(package.uri, Reason.BAD_METADATA, f"{own}.json: {error}", *article)
    if refusal := refused_by_record(record, own, config.select):
        return Refused(package.uri, *refusal, *article)
    return replace(package, license_code=record.license_code, pmid=record.pmid or package.pmid, doi=record.doi)


def _media(held: _Held, names: Iterable[str], base: str) -> Media:
    return Media(frozenset(names), held.files.__getitem__, base, frozenset(held.unsafe), frozenset(held.large))


def _media_by_folder(held: _Held) -> dict[str, Media]:
    """Every file belongs to the nearest folder above it that holds an XML, and so to that folder's articles."""
    owned: dict[str, list[str]] = {posixpath.dirname(name): [] for name in held.xml()}
    for name in held.names:
        folder = posixpath.dirname(name)
        while folder and folder not in owned:
            folder = posixpath.dirname(folder)
        if folder in owned:
            owned[folder].append(name)
    return {folder: _media(held, names, folder) for folder, names in owned.items()}


def _is_xml(name: str) -> bool:
    return name.lower().endswith(XML_SUFFIXES)


def _is_record(name: str) -> bool:
    """Whether a member may be the JSON record of an article beside it; a mirror's ``metadata/`` has them all once more."""
    folder, own = posixpath.split(name)
    return own.endswith(".json") and cloud_version(own[:-5]) is not None and posixpath.basename(folder) != "metadata"


def _record_name(xml: str) -> str:
    return posixpath.join(posixpath.dirname(xml), f"{stem(posixpath.basename(xml))}.json")
