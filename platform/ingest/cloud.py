r"""Articles of a store: record, XML, then only the pictures that its figures need; several at once, handed out in order.

ref --> metadata/PMC1.1.json --rights, selection--> XML --parse, selection--> best file of each picture --> Package
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from biomedray.ingest.articles import first_files
from biomedray.ingest.figures import Inventory, read_figures
from biomedray.ingest.images import ImageError, Media
from biomedray.ingest.jats import ArticleTree, parse_articles
from biomedray.ingest.packages import Package, Refused
from biomedray.ingest.record import MAX_RECORD_BYTES, Record, read_record
from biomedray.ingest.selection import refused_by_record
from biomedray.ingest.settings import IngestConfig
from biomedray.ingest.sources import ArticleRef, cloud_version
from biomedray.ingest.staging import Staging, plain_md5
from biomedray.ingest.store import Background, FetchError, Store, Trouble, open_store
from biomedray.records import Reason, Stage

# Files that no decoder here reads: fetching a film to say so would cost more than all pictures.
_NO_PICTURES = (
    *(".pdf", ".eps", ".ps", ".svg", ".svgz", ".emf", ".wmf", ".ppt", ".pptx", ".doc", ".docx", ".xls", ".xlsx", ".csv", ".txt"),
    *(".zip", ".gz", ".rar", ".7z", ".mp4", ".mov", ".avi", ".mpg", ".mpeg", ".wmv", ".webm", ".mp3", ".wav", ".xml", ".html"),
)
_IMAGE_REASONS = {
    Trouble.MISSING: Reason.FILE_MISSING,
    Trouble.TOO_LARGE: Reason.IMAGE_TOO_LARGE,
    Trouble.MISMATCH: Reason.CHECKSUM_MISMATCH,
    Trouble.FAILED: Reason.FETCH_FAILED,
}
_XML_REASONS = {**_IMAGE_REASONS, Trouble.MISSING: Reason.NO_ARTICLE_XML, Trouble.TOO_LARGE: Reason.XML_TOO_LARGE}
_RECORD_REASONS = {**_IMAGE_REASONS, Trouble.MISSING: Reason.WITHDRAWN, Trouble.TOO_LARGE: Reason.BAD_METADATA}


def open_cloud(refs: Sequence[ArticleRef], config: IngestConfig, staging: Staging) -> Iterator[Package | Refused]:
    """The articles of references into stores, in their order; what was fetched stays in ``staging``.

    A package's media can be read until the iteration ends or ``staging`` is cleared.

    Raises:
        StoreDownError: the store doesn't answer, so nothing can be said of its articles.
    """
    with Background() as background:
        reader = background.wait(_start(config, staging, background))
        waiting: deque[tuple[int, Future[Package | Refused]]] = deque()
        rest = iter(enumerate(refs))
        try:
            while True:
                while len(waiting) < config.fetch.concurrency and (found := next(rest, None)) is not None:
                    waiting.append((found[0], background.start(reader.article(*found))))
                if not waiting:
                    return
                number, future = waiting.popleft()
                yield future.result()
                background.wait(reader.window.free(number))
        finally:
            background.wait(reader.close())


async def _start(config: IngestConfig, staging: Staging, background: Background) -> _Reader:
    return _Reader(config, staging, background)


class _Window:
    """A bound on the XML that is parsed and not yet handed on; the article that is next in turn always gets in."""

    def __init__(self, limit: int) -> None:
        self._limit, self._next = limit, 0
        self._held: dict[int, int] = {}
        self._changed = asyncio.Condition()

    async def take(self, number: int, size: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: number == self._next or sum(self._held.values()) + size <= self._limit)
            self._held[number] = size

    async def free(self, number: int) -> None:
        async with self._changed:
            self._next = number + 1
            self._held.pop(number, None)
            self._changed.notify_all()


class _RefusedError(Exception):
    def __init__(self, reason: Reason, detail: str, stage: Stage = Stage.ARTICLE) -> None:
        super().__init__(detail)
        self.reason, self.stage = reason, stage


@dataclass(frozen=True)
class _Files:
    """The files of one article version: where they are, the MD5 that each is promised to have, what came of those asked for."""

    store: Store
    prefix: str
    promised: dict[str, str]
    fetched: dict[str, Path | FetchError] = field(default_factory=dict)


class _Reader:
    """Reads the articles of one part; lives in the background's loop."""

    def __init__(self, config: IngestConfig, staging: Staging, background: Background) -> None:
        self._config, self._staging, self._background = config, staging, background
        self._stores: dict[str, Store] = {}
        self.window = _Window(config.fetch.window_bytes)

    async def close(self) -> None:
        for store in self._stores.values():
            await store.close()

    async def article(self, number: int, ref: ArticleRef) -> Package | Refused:
        ids = cloud_version(ref.name) or (ref.name, None)
        if ref.problem is not None:
            return Refused(ref.uri, ref.problem, ref.detail or "", Stage.ARTICLE, *ids)
        try:
            return await self._package(number, ref)
        except _RefusedError as error:
            return Refused(ref.uri, error.reason, str(error), error.stage, *ids)

    async def _package(self, number: int, ref: ArticleRef) -> Package:
        if ref.path not in self._stores:
            self._stores[ref.path] = open_store(ref.path, self._config.fetch)
        files = _Files(self._stores[ref.path], f"{ref.name}/", {name: plain_md5(etag) for name, etag in ref.files})
        record = await self._record(files, ref.name)
        if refusal := refused_by_record(record, ref.name, self._config.select):
            raise _RefusedError(*refusal)
        xml = await self._xml(files, ref.name, record)
        await self.window.take(number, len(xml))
        package = self._assemble(ref, record, xml, files)
        await self._prefetch(package, files)
        return package

    async def _record(self, files: _Files, name: str) -> Record:
        md5 = files.promised.get(f"{name}.json", "")
        try:
            try:
                path = await files.store.fetch(f"metadata/{name}.json", self._staging, md5, MAX_RECORD_BYTES)
            except FetchError as error:
                if error.trouble is not Trouble.MISSING:
                    raise
                path = await files.store.fetch(f"{name}/{name}.json", self._staging, md5, MAX_RECORD_BYTES)
        except FetchError as error:
            raise _RefusedError(_RECORD_REASONS[error.trouble], _changed(error) if md5 else str(error)) from None
        try:
            return read_record(path.read_bytes(), name)
        except ValueError as error:
            raise _RefusedError(Reason.BAD_METADATA, f"{name}.json: {error}") from None

    async def _xml(self, files: _Files, name: str, record: Record) -> bytes:
        if record.xml_md5 is None:
            raise _RefusedError(Reason.NO_ARTICLE_XML, f"there is no {name}.xml", Stage.SOURCE)
        md5 = record.xml_md5 or files.promised.get(f"{name}.xml", "")
        try:
            path = await files.store.fetch(f"{name}/{name}.xml", self._staging, md5, self._config.max_xml_bytes)
        except FetchError as error:
            stage = Stage.ARTICLE if error.trouble is Trouble.TOO_LARGE else Stage.SOURCE
            raise _RefusedError(_XML_REASONS[error.trouble], str(error), stage) from None
        return path.read_bytes()

    def _assemble(self, ref: ArticleRef, record: Record, xml: bytes, files: _Files) -> Package:
        own = (f"{ref.name}.xml", f"{ref.name}.json")
        files.promised.update({name: md5 or files.promised.get(name, "") for name, md5 in record.media})
        pmcid, version = cloud_version(ref.name) or (ref.name, None)
        trees, figures = _parse(xml)
        return Package(
            uri=ref.uri,
            fallback_id=pmcid,
            xml=xml,
            media=Media(frozenset(files.promised.keys() - set(own)), lambda name: self._read(files, name)),
            version=version,
            license_code=record.license_code,
            pmid=record.pmid,
            doi=record.doi,
            trees=trees,
            figures=figures,
        )

    # ---- pictures

    async def _prefetch(self, package: Package, files: _Files) -> None:
        """What the figures of this XML are certain to ask for."""
        found = zip(package.trees or (), package.figures or (), strict=True)
        wanted = {name for tree, figures in found for name in _first_files(package, tree, figures, self._config)}
        await asyncio.gather(*(self._picture(files, name) for name in sorted(wanted) if not _is_no_picture(name)))

    async def _picture(self, files: _Files, name: str) -> Path | FetchError:
        found = files.fetched.get(name)
        if found is None:
            try:
                limit = self._config.max_image_bytes
                found = await files.store.fetch(files.prefix + name, self._staging, files.promised[name], limit)
            except FetchError as error:
                found = error
            files.fetched[name] = found
        return found

    def _read(self, files: _Files, name: str) -> bytes:
        """What Media.read does, in the thread of the extraction; a file that wasn't foreseen is fetched now."""
        if _is_no_picture(name):
            raise KeyError(name)
        found = files.fetched.get(name) or self._background.wait(self._picture(files, name))
        if isinstance(found, FetchError):
            raise ImageError(_IMAGE_REASONS[found.trouble], str(found))
        return found.read_bytes()


def _changed(error: FetchError) -> str:
    """A record that isn't what the inventory promised has most likely been replaced since."""
    hint = {
        Trouble.MISMATCH: "; changed since the inventory was written: a newer one will have it",
        Trouble.MISSING: "; it is gone since the inventory was written",
    }
    return str(error) + hint.get(error.trouble, "")


def _is_no_picture(name: str) -> bool:
    return name.lower().endswith(_NO_PICTURES)


def _parse(xml: bytes) -> tuple[list[ArticleTree] | None, list[Inventory] | None]:
    """The trees and the figures in each, or None where reading fails: the extraction will fail likewise and say why."""
    try:
        trees = parse_articles(xml)
        return trees, [read_figures(tree.root, tree.found) for tree in trees]
    except Exception:  # noqa: BLE001  # whatever it is, it is one article's and not the run's
        return None, None


def _first_files(package: Package, tree: ArticleTree, figures: Inventory, config: IngestConfig) -> list[str]:
    try:
        return list(first_files(package, tree, figures, config))
    except Exception:  # noqa: BLE001  # same
        return []
