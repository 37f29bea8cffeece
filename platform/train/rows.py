"""Any row of a split by (row group, row), from disk or a store: an index of the row groups and a bounded store of some.

want(row groups of batches to come) -> read threads -> at most ``keep`` tables in memory -> row(group, row)
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from biomedray.artifacts import write_atomic
from biomedray.errors import UserError, WorkError
from biomedray.records import Split
from biomedray.train.source import Source, first_line, public

COLUMNS = ("pair_id", "image", "caption")
# A store that doesn't answer is asked again after 1/2, 1, 2, 4, 8 and 16 seconds.
_ATTEMPTS = 7
_FIRST_WAIT = 0.5
_FOOTER_THREADS = 16
_FOOTERS = 64

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RowIndex:
    """Which row groups a split consists of: some megabytes for all of PMC, where the files' footers are gigabytes."""

    files: tuple[str, ...]
    """Names below the artifact."""
    file_of: Ints
    """[G] file of each row group."""
    group_of: Ints
    """[G] its number in that file."""
    sizes: Ints
    """[G] its rows."""

    @classmethod
    def of(cls, files: Iterable[tuple[str, list[int]]]) -> RowIndex:
        """From names of files and the rows of each of their row groups."""
        entries = list(files)
        counts = [len(sizes) for _, sizes in entries]
        groups = [np.arange(count) for count in counts]
        return cls(
            tuple(name for name, _ in entries),
            np.repeat(np.arange(len(entries)), counts),
            np.concatenate([np.zeros(0, dtype=np.int64), *groups]),
            np.array([size for _, sizes in entries for size in sizes], dtype=np.int64),
        )

    @property
    def rows(self) -> int:
        """Pairs of the split."""
        return int(self.sizes.sum())

    def save(self, path: Path) -> None:
        """As JSON, whole or not at all."""
        starts = np.searchsorted(self.file_of, np.arange(len(self.files) + 1))
        parts = [self.sizes[first:last].tolist() for first, last in itertools.pairwise(starts)]
        write_atomic(path, json.dumps(list(zip(self.files, parts, strict=True))))

    @classmethod
    def load(cls, path: Path) -> RowIndex:
        """What ``save`` wrote."""
        return cls.of((name, sizes) for name, sizes in json.loads(path.read_text()))


def index_rows(source: Source, split: Split, columns: Iterable[str] = COLUMNS) -> RowIndex:
    """The index of a split, from the files' own footers.

    Raises:
        UserError: a file is no Parquet file or lacks a column.
    """
    wanted = frozenset(columns)
    with ThreadPoolExecutor(_FOOTER_THREADS) as pool:
        return RowIndex.of(pool.map(lambda name: (name, _group_sizes(source, name, wanted)), source.files(split)))


def count_rows(source: Source, split: Split) -> int:
    """Pairs of a split.

    Raises:
        UserError: as ``index_rows``.
    """
    return index_rows(source, split).rows


def _group_sizes(source: Source, name: str, wanted: frozenset[str]) -> list[int]:
    try:
        metadata = _patiently(source, name, pq.read_metadata)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(f"{public(source.address)}/{name}: not a Parquet file ({first_line(error)})") from None
    missing = wanted - set(metadata.schema.to_arrow_schema().names)
    if missing:
        raise UserError(f"{public(source.address)}/{name}: lacks the columns {', '.join(sorted(missing))}")
    return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]


def _patiently(source: Source, name: str, read: Any) -> Any:
    """What ``read`` makes of a file; a store that fails is asked again, a disk is not."""
    for attempt in range(_ATTEMPTS):
        try:
            with source.open(name) as file:
                return read(file)
        except pa.ArrowInvalid:
            raise  # damaged, and the next time too
        except Exception:  # each file system raises errors of its own
            if not source.remote or attempt == _ATTEMPTS - 1:
                raise
            time.sleep(_FIRST_WAIT * 2**attempt)
    raise AssertionError("unreachable")


class PairsReader:
    """Rows by (row group, row). Row groups that were announced are read ahead by threads of their own.

    At most ``keep`` row groups are held, and one more for each thread that asks for one that was not announced.
    A context manager that ends its threads.
    """

    def __init__(
        self, source: Source, index: RowIndex, columns: Iterable[str] = COLUMNS, keep: int = 32, threads: int = 0
    ) -> None:
        self.source = source
        self.index = index
        self._columns = list(columns)
        self._keep = keep
        self._held: OrderedDict[int, Future[Any]] = OrderedDict()
        self._wanted: Counter[int] = Counter()
        self._queue: deque[int] = deque()
        self._changed = threading.Condition()
        self._open = True
        self._footer = lru_cache(maxsize=_FOOTERS)(self._read_footer)
        self._threads = [threading.Thread(target=self._read_ahead, name="read", daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> PairsReader:
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._open = False
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    @property
    def sizes(self) -> Ints:
        """[G] rows of each row group."""
        return self.index.sizes

    def row(self, group: int, row: int) -> dict[str, Any]:
        """The columns of a row.

        Raises:
            WorkError: the file can't be read.
        """
        table = self._table(group)
        return {name: table.column(name)[row].as_py() for name in self._columns}

    def want(self, groups: Iterable[int], missing: Iterable[int]) -> None:
        """So many rows of ``groups`` (one entry a row) will be asked for; read those in ``missing`` ahead."""
        with self._changed:
            self._wanted.update(groups)
            self._queue.extend(missing)
            self._changed.notify_all()

    def release(self, group: int) -> None:
        """A row that was announced is done."""
        with self._changed:
            self._wanted[group] -= 1
            if self._wanted[group] <= 0:
                del self._wanted[group]
                self._changed.notify_all()

    def captions(self, limit: int) -> Iterator[str]:
        """The first ``limit`` captions in the order of the files."""
        for file, group in zip(self.index.file_of, self.index.group_of, strict=True):
            column = self._read(self.index.files[file], int(group), ["caption"]).column("caption").to_pylist()
            yield from column[:limit]
            limit -= len(column)
            if limit <= 0:
                return

    def _table(self, group: int) -> Any:
        with self._changed:
            held = self._held.get(group)
            mine = self._claim(group) if held is None else None
            self._held.move_to_end(group)
        if mine is not None:
            self._fill(group, mine)
        return (held or mine).result()  # type: ignore[union-attr]  # one of them is there

    def _claim(self, group: int) -> Future[Any]:
        """A place for a row group that is about to be read; what nobody waits for makes room, oldest first."""
        for old in [g for g in self._held if g not in self._wanted][: max(0, len(self._held) + 1 - self._keep)]:
            del self._held[old]
        mine = self._held[group] = Future()
        return mine

    def _fill(self, group: int, place: Future[Any]) -> None:
        try:
            file = self.index.files[self.index.file_of[group]]
            place.set_result(self._read(file, int(self.index.group_of[group]), self._columns))
        except Exception as error:  # noqa: BLE001  # whoever waits for the row group gets it
            with self._changed:
                self._held.pop(group, None)
            place.set_exception(error)

    def _read_ahead(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._open or (self._queue and self._has_room()))
                if not self._open:
                    return
                group = self._queue.popleft()
                place = None if group in self._held or group not in self._wanted else self._claim(group)
            if place is not None:
                self._fill(group, place)

    def _has_room(self) -> bool:
        return len(self._held) < self._keep or any(group not in self._wanted for group in self._held)

    def _read(self, name: str, group: int, columns: list[str]) -> Any:
        def read(file: Any) -> Any:
            parquet = pq.ParquetFile(file, metadata=self._footer(name), pre_buffer=True)
            return parquet.read_row_group(group, columns=columns, use_threads=False).combine_chunks()

        try:
            return _patiently(self.source, name, read)
        except Exception as error:  # noqa: BLE001  # each file system raises errors of its own
            file = f"{public(self.source.address)}/{name}"
            raise WorkError(f"{file}: cannot be read ({first_line(error)}); start the same command again to go on") from None

    def _read_footer(self, name: str) -> Any:
        return _patiently(self.source, name, pq.read_metadata)
