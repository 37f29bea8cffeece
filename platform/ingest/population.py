"""The population of a run: which articles there are to ingest, frozen on disk part by part before anything is read.

sources --discover / inventory--> references --hash of the name--> population/part-N.parquet, then population/population.json
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import json
import os
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from biomedray.artifacts import atomic_path, write_atomic
from biomedray.ingest.media import folder_facts, forget_folders, media_facts
from biomedray.ingest.record import mirrored_record
from biomedray.ingest.sources import ArticleRef, cloud_version, stem
from biomedray.records import Reason

_PARTS_WANTED = 256
_SMALLEST_PART, _LARGEST_PART = 128, 1024

FOLDER = "population"
_FACTS = "population.json"
_FILE = pa.struct([pa.field("name", pa.string()), pa.field("etag", pa.string())])
_TYPES: dict[str, pa.DataType] = {"size": pa.int64(), "files": pa.list_(_FILE)}
_FIELDS = [*(field.name for field in fields(ArticleRef)), "digest"]
_SCHEMA = pa.schema([pa.field(name, _TYPES.get(name, pa.string())) for name in _FIELDS])


@dataclass(frozen=True)
class Population:
    """What was frozen: ``sizes`` holds the number of references of each part that has any."""

    fingerprint: str
    n_parts: int
    sizes: dict[int, int]
    snapshot: str | None = None
    """Date of the inventory; None for sources on local disk."""

    @property
    def n_articles(self) -> int:
        """References in all parts; a bulk archive counts as one."""
        return sum(self.sizes.values())


def part_of(name: str, n_parts: int) -> int:
    """The part of an article, from its name without version: copies and versions of an article meet in one part."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % n_parts


def number_of_parts(articles: int, per_part: int = 0) -> int:
    """Parts for so many articles: of ``per_part`` each on average, or of 128 to 1024 so that there are about 256."""
    size = per_part or min(_LARGEST_PART, max(_SMALLEST_PART, articles // _PARTS_WANTED))
    return max(1, -(-articles // size))


def group(refs: Iterable[ArticleRef], n_parts: int) -> Iterator[tuple[int, list[ArticleRef]]]:
    """References by part, parts in ascending order: a function of the articles alone, so every machine cuts alike.

    Every part is a random sample of the articles: with rows in hash order inside, the whole is shuffled.
    """
    parts: dict[int, list[ArticleRef]] = defaultdict(list)
    for ref in refs:
        parts[part_of((cloud_version(ref.name) or (ref.name,))[0], n_parts)].append(ref)
    for part in sorted(parts):
        yield part, parts.pop(part)


def merge(*groups: Iterator[tuple[int, list[ArticleRef]]]) -> Iterator[tuple[int, list[ArticleRef]]]:
    """Several sources' groups as one: parts in ascending order, each once, its references by uri."""
    for part, some in itertools.groupby(heapq.merge(*groups, key=lambda item: item[0]), key=lambda item: item[0]):
        yield part, sorted((ref for _, refs in some for ref in refs), key=lambda ref: ref.uri)


def fingerprint_refs(refs: Iterable[ArticleRef]) -> str:
    """Identity of what there is to ingest: names and sizes; a touched file is the same file."""
    digest = hashlib.sha256()
    for ref in refs:
        digest.update(json.dumps([ref.kind, ref.uri, ref.size]).encode())
    return digest.hexdigest()[:16]


def freeze(
    out: Path,
    groups: Iterable[tuple[int, list[ArticleRef]]],
    fingerprint: str,
    n_parts: int,
    snapshot: str | None = None,
    media: str | None = None,
) -> Population:
    """Write the references under ``out``; memory is that of one group. An unfinished attempt is begun anew.

    ``media`` is the folder that lends media to articles without any.
    """
    folder = out / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    sizes: dict[int, int] = {}
    forget_folders()
    for part, refs in groups:
        rows = [_row(ref, media) for ref in refs]
        with atomic_path(_part_file(out, part)) as temporary:
            pq.write_table(pa.Table.from_pylist(rows, _SCHEMA), temporary, compression="zstd")
        sizes[part] = len(refs)
    population = Population(fingerprint, n_parts, dict(sorted(sizes.items())), snapshot)
    write_atomic(folder / _FACTS, json.dumps(asdict(population)))
    return population


def read_population(out: Path) -> Population | None:
    """The frozen population under ``out``; None where there is none, or only the beginning of one."""
    path = out / FOLDER / _FACTS
    if not path.is_file():
        return None
    facts = json.loads(path.read_bytes())
    return Population(**{**facts, "sizes": {int(part): size for part, size in facts["sizes"].items()}})


def read_refs(out: Path, part: int) -> list[ArticleRef]:
    """The references of one part, in the order in which they were frozen; [] for a part without any."""
    return [ref for ref, _ in read_digests(out, part)]


def read_digests(out: Path, part: int) -> list[tuple[ArticleRef, str]]:
    """The references of one part, each with the digest that tells whether its article has changed."""
    path = _part_file(out, part)
    # A table's reader takes longer to set up, as a dataset, than to read it.
    return [_ref(row) for row in pq.ParquetFile(path).read(use_threads=False).to_pylist()] if path.is_file() else []


def digest(ref: ArticleRef, media: str | None = None) -> str:
    """Changes when the article's files do: by their ETags, or on local disk by their sizes and times.

    A file that was only touched counts as changed: its article is read again, with the same result.
    """
    facts: list[Any] = [ref.kind, ref.uri, ref.size, ref.license_code, ref.pmid, ref.accession, ref.problem, ref.files]
    if ref.kind != "cloud" and ref.problem is None:
        facts += _local_facts(ref, media)
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _local_facts(ref: ArticleRef, media: str | None) -> Iterator[Any]:
    """Of the article's file and of all that is read with it."""
    folder, name = os.path.split(ref.path)  # strings, once for each of many articles
    yield _file_facts(ref.path) if ref.kind == "archive" else folder_facts(folder)
    if ref.kind == "xml" and cloud_version(ref.name):
        yield _file_facts(str(mirrored_record(folder, ref.name)))
    if media is not None:
        yield media_facts(media, stem(name))


def _file_facts(path: str) -> list[int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116  # a string, once for each of many articles
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


def _part_file(out: Path, part: int) -> Path:
    return out / FOLDER / f"part-{part:05d}.parquet"


def _row(ref: ArticleRef, media: str | None) -> dict[str, Any]:
    files = [{"name": name, "etag": etag} for name, etag in ref.files]
    return {**{name: getattr(ref, name) for name in _FIELDS[:-1]}, "files": files, "digest": digest(ref, media)}


def _ref(row: dict[str, Any]) -> tuple[ArticleRef, str]:
    found = row.pop("digest")
    files = tuple((file["name"], file["etag"]) for file in row["files"])
    ref = ArticleRef(**{**row, "files": files})
    return (replace(ref, problem=Reason(ref.problem)) if ref.problem else ref), found
