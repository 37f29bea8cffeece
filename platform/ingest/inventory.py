r"""The articles of a store, from its inventory: streamed, spilled to buckets, dealt to parts; never all in memory.

CSV shards --by hash of the PMCID--> buckets --sorted, counted, digested--> Inventory --by part--> ranges --> (part, [ArticleRef])
"""

from __future__ import annotations

import gzip
import hashlib
import re
import shutil
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, ipc

from biomedray.errors import UserError
from biomedray.ingest.population import part_of
from biomedray.ingest.selection import Selection, is_pmcid, plain_pmcid, read_pmcids
from biomedray.ingest.settings import FetchConfig, IngestConfig
from biomedray.ingest.snapshots import Snapshot, newest_snapshot
from biomedray.ingest.sources import ArticleRef
from biomedray.ingest.staging import Staging, plain_md5
from biomedray.ingest.store import Background, open_store
from biomedray.ingest.tables import progress_bar
from biomedray.records import Reason

_BUCKETS = 64
_ROWS_AT_ONCE = 200_000
_BLOCK_BYTES = 8 * 2**20
_KEY = r"^(?:metadata/PMC(?P<m>[1-9]\d{0,14})\.(?P<mv>\d{1,9})\.json|PMC(?P<n>[1-9]\d{0,14})\.(?P<v>\d{1,9})/(?P<file>.+))$"
_ROWS = pa.schema(
    [
        pa.field("number", pa.int64()),
        pa.field("version", pa.int32()),
        pa.field("file", pa.string()),
        pa.field("etag", pa.string()),
        pa.field("size", pa.int64()),
        pa.field("hash", pa.uint64()),
    ]
)
Places = npt.NDArray[np.int64]
_SOURCE = re.compile(r"(s3|https?|file)://", re.IGNORECASE)


@dataclass(frozen=True)
class Inventory:
    """What a store holds, or a list of PMCIDs asks for; ``fingerprint`` is the population of a run."""

    snapshot: str
    fingerprint: str
    n_articles: int
    """Article versions."""
    n_files: int
    """Files that the inventory lists; PMC's own lists one a version, its JSON record."""
    n_bytes: int | None
    """Of these files; None where the inventory has no sizes."""
    address: str
    folder: Path
    n_wanted: int
    """Article versions without those that a newer one supersedes."""
    all_versions: bool = False
    asked: tuple[str, ...] = ()
    """The articles and versions that a list asks for, where there is one,"""
    absent: tuple[str, ...] = ()
    """and those of them that the inventory doesn't know."""

    def sample(self, size: int, seed: int) -> list[ArticleRef]:
        """Some of the wanted references, in random order, the same for the same seed."""
        mix = np.uint64(part_of(f"sample {seed}", 2**64))
        best = _ROWS.empty_table().append_column("order", pa.array([], pa.uint64()))
        for path in _files(self.folder / "buckets"):
            rows = _read(path)
            # Multiplied by an odd number, since articles with alike hashes would else stay together.
            order = (rows["hash"].to_numpy() ^ mix) * np.uint64(0x9E3779B97F4A7C15)
            rows = pa.concat_tables([best, rows.append_column("order", pa.array(order))])
            firsts = np.unique(rows["order"].to_numpy())[:size]
            best = rows.filter(pc.is_in(rows["order"], pa.array(firsts)))
        best = best.sort_by([(name, "ascending") for name in ("order", "version", "file")])
        return [ref for ref in _refs(best, self) if ref.problem is None]

    def groups(self, n_parts: int) -> Iterator[tuple[int, list[ArticleRef]]]:
        """The references by part, parts in ascending order and references by uri; in memory is one range of parts."""
        ranges = max(1, -(-self.n_files // _ROWS_AT_ONCE))
        folder = self.folder / "ranges"
        shutil.rmtree(folder, ignore_errors=True)

        def range_of(rows: pa.Table) -> Places:
            return _parts(rows, n_parts) * ranges // n_parts

        tables = (_read(path) for path in _files(self.folder / "buckets"))
        _spill(tables, folder, ranges, range_of)
        for path in _files(folder):
            rows = _read(path)
            yield from _by_part(rows, _parts(rows, n_parts), self)
            path.unlink()


def is_cloud(source: str) -> bool:
    """Whether a source is a store (s3://, https://, file://) or names PMCIDs, by themselves or in a list file."""
    if _SOURCE.match(source) or _ids(source):
        return True
    path = Path(source)
    if path.suffix.lower() not in (".txt", ".csv") or not path.is_file():
        return False
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        lines = [re.split(r"[,;\t#]", line)[0].strip().strip('"') for line, _ in zip(file, range(5), strict=False)]
    return any(is_pmcid(line) for line in lines) and not any((path.parent / line).exists() for line in lines if is_pmcid(line))


def cloud_sources(sources: Sequence[str]) -> tuple[list[str], list[str]]:
    """The local sources, and those for ``read_inventory``: PMCIDs that stand side by side are one source."""
    local = [source for source in sources if not is_cloud(source)]
    ids = [source for source in sources if is_pmcid(source) and source not in local]
    stores = [source for source in sources if is_cloud(source) and source not in ids]
    return local, [*stores, *([",".join(ids)] if ids else [])]


def read_inventory(source: str, config: IngestConfig, work: Path, progress: bool) -> Inventory:
    """What there is to ingest of a store, of a list file of PMCIDs, or of PMCIDs joined by commas.

    ``work`` keeps shards and buckets; a killed attempt goes on with the shards that are there.

    Raises:
        UserError: the store has no readable inventory, or nothing of what is wanted is in it.
        StoreDownError: it can't be reached.
    """
    if _SOURCE.match(source):
        address, named = source.rstrip("/"), tuple[str, ...]()
    else:
        address, named = config.fetch.store.rstrip("/"), _ids(source) or read_pmcids(Path(source))
    wanted = _both(named, config.select)
    folder = work / hashlib.sha256(source.encode()).hexdigest()[:8]
    shutil.rmtree(folder / "buckets", ignore_errors=True)
    if named and all("." in pmcid for pmcid in wanted):
        snapshot = None
        _spill(iter([_named_rows(wanted)]), folder / "buckets", _BUCKETS, _bucket_of)
    else:
        snapshot = _fetch(address, config.fetch, Staging(folder / "shards"))
        _spill(_rows(snapshot, wanted, progress), folder / "buckets", _BUCKETS, _bucket_of)
    digest, n_articles, n_newest, n_files, n_bytes = _settle(folder / "buckets")
    if not n_articles:
        what = f"none of the {len(wanted)} articles asked for" if wanted else "no article"
        raise UserError(f"{address}: {what} is in the inventory {snapshot.name if snapshot else ''}")
    asked = tuple(sorted(set(map(plain_pmcid, wanted))))
    absent = _absent(folder / "buckets", asked) if snapshot else ()
    if absent:
        digest = hashlib.sha256("\n".join([digest, *absent]).encode()).hexdigest()
    name = snapshot.name if snapshot else "named versions"
    every = config.select.all_versions
    n_wanted = n_articles if every else n_newest
    return Inventory(name, digest, n_articles, n_files, n_bytes, address, folder, n_wanted, every, asked, absent)


def absent_refs(inventories: Sequence[Inventory], local: Sequence[ArticleRef]) -> list[ArticleRef]:
    """A reference that becomes a reject for each article asked for that no store has, nor a local source under its name."""
    asked = Counter(name for each in inventories for name in each.asked)
    missing = Counter(name for each in inventories for name in each.absent)
    here = {name for ref in local for name in (ref.name, ref.name.partition(".")[0])}
    first = {name: each.address for each in reversed(inventories) for name in each.absent}
    return [_absent_ref(first[name], name) for name, times in missing.items() if times == asked[name] and name not in here]


def _absent_ref(address: str, name: str) -> ArticleRef:
    # Without the inventory's date, so that an update leaves the reject as it is.
    detail = "asked for, but not in the inventory"
    return ArticleRef("cloud", address, f"{address}/{name}", name, 0, problem=Reason.WITHDRAWN, detail=detail)


def _absent(folder: Path, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """What of a list is in no bucket."""
    if not wanted:
        return ()
    found: set[str] = set()
    for path in _files(folder):
        rows = _read(path).group_by(["number", "version"]).aggregate([])
        for number, version in zip(rows["number"].to_pylist(), rows["version"].to_pylist(), strict=True):
            found |= {f"PMC{number}", f"PMC{number}.{version}"}
    return tuple(name for name in wanted if name not in found)


def _ids(source: str) -> tuple[str, ...]:
    names = source.split(",")
    return tuple(name.upper() for name in names) if all(is_pmcid(name) for name in names) and not Path(source).exists() else ()


def _both(named: tuple[str, ...], selection: Selection) -> tuple[str, ...]:
    """The articles that source and selection both name; () where neither names any."""
    if not named or not selection.pmcids:
        return tuple(sorted({name.upper() for name in named})) or selection.pmcids
    chosen = set(selection.pmcids)
    both = {name for name in named if name in chosen or name.split(".")[0] in chosen}
    both |= {name for name in chosen if name.split(".")[0] in named}
    if not both:
        raise UserError("no PMCID stands both in the source and in select.pmcids")
    return tuple(sorted(both))


def _fetch(address: str, settings: FetchConfig, staging: Staging) -> Snapshot:
    async def work() -> Snapshot:
        store = open_store(address, settings)
        try:
            return await newest_snapshot(store, settings, staging)
        finally:
            await store.close()

    with Background() as background:
        return background.wait(work())


# ---- rows


def _rows(snapshot: Snapshot, wanted: tuple[str, ...], progress: bool) -> Iterator[pa.Table]:
    """The files of articles in the shards, some at a time."""
    chosen = _Wanted(wanted)
    with progress_bar(progress) as bar:
        task = bar.add_task("inventory", total=len(snapshot.shards), note="")
        seen = 0
        for path in snapshot.shards:
            for table in _shard(path, snapshot):
                rows = _article_files(table, chosen)
                seen += rows.num_rows
                yield rows
            bar.update(task, advance=1, note=f"{seen:,} files of articles")


def _shard(path: Path, snapshot: Snapshot) -> Iterator[pa.Table]:
    """The columns of a shard that matter, block by block."""
    wanted = [name for name in ("Key", "ETag", "Size", "IsLatest", "IsDeleteMarker") if name in snapshot.columns]
    try:
        with gzip.open(path) as file:
            if not file.read(1):
                return
        with (
            pa.input_stream(str(path), compression="gzip") as stream,
            csv.open_csv(
                stream,
                csv.ReadOptions(column_names=list(snapshot.columns), block_size=_BLOCK_BYTES, use_threads=False),
                csv.ParseOptions(newlines_in_values=False),
                csv.ConvertOptions(column_types=dict.fromkeys(snapshot.columns, pa.string()), include_columns=wanted),
            ) as reader,
        ):
            for batch in reader:
                yield pa.Table.from_batches([batch])
    except (pa.ArrowInvalid, OSError, EOFError, zlib.error) as error:
        detail = str(error).splitlines()[0][:200]
        raise UserError(f"the inventory {snapshot.name} is damaged ({detail}); take another day's with --snapshot") from None


class _Wanted:
    """The PMCIDs of a list, by number and by (number, version)."""

    def __init__(self, pmcids: tuple[str, ...]) -> None:
        split = [name.removeprefix("PMC").split(".") for name in pmcids]
        self.any = bool(pmcids)
        self.numbers = pa.array([int(parts[0]) for parts in split if len(parts) == 1], pa.int64())
        self.versions = pa.array([f"{int(n)}.{int(v)}" for n, v in (parts for parts in split if len(parts) > 1)], pa.string())

    def of(self, number: pa.Array, version: pa.Array) -> pa.Array:
        joined = pc.binary_join_element_wise(pc.cast(number, pa.string()), pc.cast(version, pa.string()), ".")
        return pc.or_(pc.is_in(number, self.numbers), pc.is_in(joined, self.versions))


def _article_files(table: pa.Table, wanted: _Wanted) -> pa.Table:
    keys = table["Key"].combine_chunks()
    if pc.any(pc.match_substring(keys, "%")).as_py():  # S3 writes keys as in a URL
        keys = pa.array([unquote(key) for key in keys.to_pylist()], pa.string())
    found = pc.extract_regex(keys, _KEY)
    keep = pc.is_valid(found)
    for name, dead in (("IsLatest", "false"), ("IsDeleteMarker", "true")):
        if name in table.column_names:
            keep = pc.and_(keep, pc.not_equal(pc.utf8_lower(table[name].combine_chunks()), dead))
    table, found = table.filter(keep), found.filter(keep)
    m, mv, n, v, file = (pc.struct_field(found, name) for name in ("m", "mv", "n", "v", "file"))
    record = pc.not_equal(m, "")
    number = pc.cast(pc.if_else(record, m, n), pa.int64())
    version = pc.cast(pc.if_else(record, mv, v), pa.int32())
    if wanted.any:
        keep = wanted.of(number, version)
        table, file, record, number, version = (part.filter(keep) for part in (table, file, record, number, version))
    stems = pc.binary_join_element_wise("PMC", pc.cast(number, pa.string()), "")
    named = pc.binary_join_element_wise(stems, ".", pc.cast(version, pa.string()), ".json", "")
    sizes = (
        pc.cast(table["Size"].combine_chunks(), pa.int64()) if "Size" in table.column_names else pa.nulls(len(number), pa.int64())
    )
    columns = [number, version, pc.if_else(record, named, file), _etags(table["ETag"]), sizes, _hashes(stems.to_pylist())]
    return pa.Table.from_arrays(columns, schema=_ROWS)


def _etags(column: pa.ChunkedArray) -> pa.Array:
    return pc.utf8_trim(column.combine_chunks(), characters='"')


def _hashes(names: list[str]) -> pa.Array:
    """What ``population.part_of`` takes the remainder of."""
    return pa.array([part_of(name, 2**64) for name in names], pa.uint64())


def _named_rows(pmcids: tuple[str, ...]) -> pa.Table:
    """Versions that are named need no inventory; what their records must be is then unknown."""
    numbers = [[int(part) for part in name.removeprefix("PMC").split(".")] for name in pmcids]
    names = [f"PMC{number}" for number, _ in numbers]
    files = [f"PMC{number}.{version}.json" for number, version in numbers]
    columns = [[n for n, _ in numbers], [v for _, v in numbers], files, [""] * len(numbers), [None] * len(numbers)]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, _ROWS, strict=False)]
    return pa.Table.from_arrays([*arrays, _hashes(names)], schema=_ROWS)


# ---- buckets


def _bucket_of(rows: pa.Table) -> Places:
    places: Places = (rows["hash"].to_numpy() >> np.uint64(58)).astype(np.int64)
    return places


def _parts(rows: pa.Table, n_parts: int) -> Places:
    parts: Places = (rows["hash"].to_numpy() % np.uint64(n_parts)).astype(np.int64)
    return parts


def _spill(tables: Iterator[pa.Table], folder: Path, number: int, place: Callable[[pa.Table], Places]) -> None:
    """Rows to files by their place, from 0 to ``number`` - 1."""
    folder.mkdir(parents=True)
    with ExitStack() as stack:
        writers: dict[int, ipc.RecordBatchStreamWriter] = {}
        for table in tables:
            places = place(table)
            order = np.argsort(places, kind="stable")
            bounds = np.searchsorted(places[order], np.arange(number + 1))
            ordered = table.take(pa.array(order))
            for i in np.flatnonzero(np.diff(bounds)).tolist():
                if i not in writers:
                    path = str(folder / f"{i:05d}.arrow")
                    writers[i] = stack.enter_context(ipc.new_stream(path, _ROWS, options=ipc.IpcWriteOptions(compression="lz4")))
                writers[i].write_table(ordered.slice(bounds[i], bounds[i + 1] - bounds[i]))


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.arrow"))


def _read(path: Path) -> pa.Table:
    with ipc.open_stream(str(path)) as reader:
        return reader.read_all()


def _settle(folder: Path) -> tuple[str, int, int, int, int | None]:
    """Each bucket sorted, every file once; the digest of all, and how many versions, articles, files and bytes there are."""
    digest = hashlib.sha256()
    n_articles = n_newest = n_files = n_bytes = 0
    sized = True
    for path in _files(folder):
        rows = _read(path).sort_by([(name, "ascending") for name in ("hash", "number", "version", "file", "etag")])
        rows = rows.filter(_first_of(rows))
        with ipc.new_stream(str(path), _ROWS) as writer:
            writer.write_table(rows)
        for name in ("number", "version", "file", "etag"):
            digest.update("\n".join(map(str, rows[name].to_pylist())).encode())
        n_articles += rows.group_by(["number", "version"]).aggregate([]).num_rows
        n_newest += len(pc.unique(rows["number"]))
        n_files += rows.num_rows
        sized = sized and rows["size"].null_count == 0
        n_bytes += pc.sum(rows["size"]).as_py() or 0
    return digest.hexdigest(), n_articles, n_newest, n_files, n_bytes if sized else None


def _first_of(rows: pa.Table) -> pa.Array:
    """True for the first of rows that name the same file: its record stands in the prefix and under metadata/."""
    if rows.num_rows == 0:
        return pa.array([], pa.bool_())
    keys = [rows[name].to_numpy(zero_copy_only=False) for name in ("number", "version", "file")]
    same = np.logical_and.reduce([key[1:] == key[:-1] for key in keys])
    return pa.array(np.concatenate([[True], ~same]))


# ---- references


def _by_part(rows: pa.Table, parts: Places, inventory: Inventory) -> Iterator[tuple[int, list[ArticleRef]]]:
    order = np.lexsort((rows["version"].to_numpy(), rows["number"].to_numpy(), parts))
    rows, parts = rows.take(pa.array(order)), parts[order]
    starts = np.flatnonzero(np.diff(parts, prepend=-1))
    for start, end in zip(starts, [*starts[1:], len(parts)], strict=True):
        yield int(parts[start]), sorted(_refs(rows.slice(start, end - start), inventory), key=lambda ref: ref.uri)


def _refs(rows: pa.Table, inventory: Inventory) -> Iterator[ArticleRef]:
    """One reference for each version of an article; rows of one article stand together."""
    articles: dict[int, dict[int, list[tuple[str, str, int | None]]]] = {}
    columns = (rows[name].to_pylist() for name in ("number", "version", "file", "etag", "size"))
    for number, version, file, etag, size in zip(*columns, strict=True):
        articles.setdefault(number, {}).setdefault(version, []).append((file, plain_md5(etag) or etag, size))
    for number, versions in articles.items():
        newest = max(versions)
        for version, files in versions.items():
            name = f"PMC{number}.{version}"
            old = version != newest and not inventory.all_versions
            yield ArticleRef(
                kind="cloud",
                path=inventory.address,
                uri=f"{inventory.address}/{name}",
                name=name,
                size=sum(size or 0 for *_, size in files),
                problem=Reason.SUPERSEDED_VERSION if old else None,
                detail=f"version {newest} is there" if old else None,
                files=tuple((file, etag) for file, etag, _ in files),
            )
