"""Reading a pairs artifact in order and by pieces: which rows make up a shard, and one row group of them at a time.

files of a split, by name -> row groups, with the number of wanted rows -> shards of n rows -> tables of one row group

The plan is a function of the artifact and the settings alone, so a resumed export cuts as the first one did.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from biomedray.records import PAIR_SCHEMA, Split
from biomedray.where import Where

_PART = re.compile(r"part-\d+")
# Rows above this are handed on one by one: they are copied once, and columns with 32-bit offsets must hold them.
_MOST_BYTES = 1 << 28


@dataclass(frozen=True)
class Group:
    """One row group, with the number of its rows that are wanted."""

    path: Path
    index: int
    rows: int


@dataclass(frozen=True)
class Shard:
    """Rows ``start`` to ``stop`` of the wanted rows of a split."""

    split: Split
    number: int
    start: int
    stop: int


@dataclass(frozen=True)
class Source:
    """The wanted rows of a pairs artifact."""

    pairs: Path
    where: Where

    def files(self, split: Split) -> list[Path]:
        """The split's Parquet files in the order of their names."""
        return sorted(path for path in (self.pairs / "data" / f"split={split}").glob("*.parquet") if path.name[0] != ".")

    def parts(self, split: Split) -> list[tuple[str, list[Path]]]:
        """The same by part: an article's rows lie in the files of one part."""
        return [(name, list(paths)) for name, paths in groupby(self.files(split), key=_part)]

    def groups(self, split: Split) -> list[Group]:
        """All row groups of a split."""
        return [group for path in self.files(split) for group in self._groups_of(path)]

    def read(self, groups: Sequence[Group], shard: Shard, columns: Sequence[str]) -> Iterator[pa.Table]:
        """The rows of a shard, at most one row group at a time."""
        position = 0
        for group in groups:
            start, stop = max(shard.start, position), min(shard.stop, position + group.rows)
            if start < stop:
                table = self._wanted(group, columns)
                yield from _by_size(table.slice(start - position, stop - start))
            position += group.rows

    def rows(self, paths: Sequence[Path], columns: Sequence[str]) -> Iterator[pa.Table]:
        """All wanted rows of some files, one row group at a time."""
        for path in paths:
            with pq.ParquetFile(path) as file:
                for index in range(file.num_row_groups):
                    yield from _by_size(self._keep(file, index, columns))

    def _groups_of(self, path: Path) -> Iterator[Group]:
        with pq.ParquetFile(path) as file:
            for index in range(file.num_row_groups):
                rows = file.metadata.row_group(index).num_rows
                if self.where.tree is not None:
                    rows = pc.sum(self.where.mask(read_group(file, index, self.where.columns))).as_py() or 0
                yield Group(path, index, rows)

    def _wanted(self, group: Group, columns: Sequence[str]) -> pa.Table:
        with pq.ParquetFile(group.path) as file:
            return self._keep(file, group.index, columns)

    def _keep(self, file: pq.ParquetFile, index: int, columns: Sequence[str]) -> pa.Table:
        table = read_group(file, index, list(dict.fromkeys([*columns, *self.where.columns])))
        return self.where.keep(table).select(list(columns))


def shards(split: Split, rows: int, per_shard: int) -> list[Shard]:
    """Rows of a split cut into pieces of ``per_shard``; a split without rows has no shard."""
    starts = range(0, rows, per_shard)
    return [Shard(split, number, start, min(rows, start + per_shard)) for number, start in enumerate(starts)]


def read_group(file: pq.ParquetFile, index: int, columns: Sequence[str]) -> pa.Table:
    """Columns of one row group, plain text instead of dictionaries; a column that the file lacks is null."""
    there = set(file.schema_arrow.names)
    table = file.read_row_group(index, columns=[name for name in columns if name in there])
    for name in columns:
        wanted = _plain(PAIR_SCHEMA.field(name).type)
        if name not in there:
            table = table.append_column(name, pa.nulls(file.metadata.row_group(index).num_rows, wanted))
        elif table[name].type != wanted:
            table = table.set_column(table.column_names.index(name), name, table[name].cast(wanted))
    return table.select(list(columns))


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _by_size(table: pa.Table) -> Iterator[pa.Table]:
    """A table as it is, or row by row where its pictures are very large."""
    if table.nbytes <= _MOST_BYTES:
        yield table
    else:
        yield from (table.slice(i, 1) for i in range(table.num_rows))


def _part(path: Path) -> str:
    found = _PART.match(path.name)
    return found.group() if found else path.stem
