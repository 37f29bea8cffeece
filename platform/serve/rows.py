"""What an index stores of each row beside its vectors: what a hit shows, what filters read, how it is found again.

metadata.arrow   what a hit shows, in batches, memory-mapped; only the rows of an answer become Python objects
columns.arrow    codes of what is filtered by, years, and 64-bit hashes: duplicate cluster, article, what was embedded, all
places.arrow     where the figure lies: pairs artifact, file, row group, row
keys.npy         [2, n] uint64: hashes of pair ids ascending, and their rows
"""

from __future__ import annotations

import hashlib
import mmap
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from biomedray.evaluate.breakdown import kind_of_picture
from biomedray.serve.filters import CODED, NO_YEAR

METADATA = "metadata.arrow"
COLUMNS = "columns.arrow"
PLACES = "places.arrow"
KEYS = "keys.npy"

SHOWN = [
    "pair_id",
    "pmcid",
    "version",
    "doi",
    "article_title",
    "journal",
    "year",
    "article_type",
    "license_code",
    "license_group",
    "fig_label",
    "panel_label",
    "caption",
    "width",
    "height",
    "image_kind",
    "split",
    "dup_cluster",
]
"""What a hit shows or a filter reads."""
STORED = [*SHOWN, "image_sha256"]
PLACE = ["source", "file", "row_group", "row"]
READ = [name for name in SHOWN if name not in ("image_kind", "panel_label")] + ["image_sha256", "compound_hint", "chart_hint"]
"""Columns of the pairs artifact that are read for it; ``panel_label`` too where an artifact has it."""
EMBEDDED = ["pair_id", "image_sha256", "caption"]

# Some MB: a record then lies in one or two huge pages of the cache, not in one for each column.
_BATCH_ROWS = 4_096
_RECORDS = 500
_SEPARATOR = "\x1f"
_KINDS = {"several panels": "panels", "chart or drawing": "chart", "single picture": "single"}

Hashes = NDArray[np.uint64]


def hash_text(text: str) -> int:
    """64 bits of a text; at 46 million texts two of them share a hash with a chance of 1 in 17,000."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def hashes(column: pa.ChunkedArray) -> Hashes:
    """``hash_text`` of a column [n]."""
    return np.fromiter((hash_text(text) for batch in column.chunks for text in batch.to_pylist()), np.uint64, len(column))


def image_kinds(table: pa.Table) -> pa.Array:
    """The kind of each picture by ingest's hints; null where nobody looked."""
    hints = zip(table["compound_hint"].to_pylist(), table["chart_hint"].to_pylist(), strict=True)
    return pa.array([_KINDS.get(kind_of_picture(*pair)) for pair in hints], pa.string())


def content_hashes(table: pa.Table, names: Sequence[str]) -> Hashes:
    """A hash of several columns of each row: it changes when one of them does."""
    texts = [pc.fill_null(table[name].cast(pa.string()), "\x00") for name in names]
    return hashes(pc.binary_join_element_wise(*texts, _SEPARATOR))


def column_table(metadata: pa.Table) -> pa.Table:
    """The coded columns and hashes of rows; ``metadata`` has STORED."""
    coded = {name: metadata[name].cast(pa.string()).combine_chunks().dictionary_encode() for name in CODED}
    years = pc.fill_null(metadata["year"].cast(pa.int32()), NO_YEAR)
    hashed = {
        "dup": hashes(metadata["dup_cluster"]),
        "article": hashes(metadata["pmcid"]),
        "embedded": content_hashes(metadata, EMBEDDED),
        "content": content_hashes(metadata, STORED),
    }
    return pa.table({**coded, "year": years, **{name: pa.array(values) for name, values in hashed.items()}})


def join_columns(tables: Sequence[pa.Table]) -> pa.Table:
    """Column tables one after the other, as one batch with one dictionary each."""
    return pa.concat_tables(tables).unify_dictionaries().combine_chunks()


def take_columns(table: pa.Table, rows: NDArray[np.int64]) -> pa.Table:
    """Some rows of a column table."""
    return table.take(pa.array(rows))


def key_array(keys: Hashes) -> NDArray[np.uint64]:
    """[2, n] hashes of pair ids ascending, and their rows."""
    order = np.argsort(keys, kind="stable")
    return np.stack([keys[order], order.astype(np.uint64)])


def write_table(path: Path, table: pa.Table, batch_rows: int | None = None) -> None:
    """An Arrow file, in one batch unless told."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=batch_rows or max(table.num_rows, 1))


class TableWriter:
    """Writes metadata in batches as blocks of rows come in."""

    def __init__(self, path: Path) -> None:
        self._sink = pa.OSFile(str(path), "wb")
        self._writer: Any = None
        self._waiting: list[pa.Table] = []

    def add(self, table: pa.Table) -> None:
        """Append rows."""
        if self._writer is None:
            self._writer = pa.ipc.new_file(self._sink, table.schema)
        self._waiting.append(table)
        if sum(part.num_rows for part in self._waiting) >= _BATCH_ROWS:
            self._flush()

    def close(self) -> None:
        """Write what is left."""
        self._flush()
        if self._writer is not None:
            self._writer.close()
        self._sink.close()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting).combine_chunks())
            self._waiting = []


class Table:
    """A memory-mapped Arrow file: rows are looked up in their batch, nothing is read before."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        reader = pa.ipc.open_file(pa.py_buffer(self._map))
        self._batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        self.schema = reader.schema
        self._names = self.schema.names
        self._read = 0
        self._columns = [batch.columns for batch in self._batches]
        self._starts = np.cumsum([0, *(batch.num_rows for batch in self._batches)]).tolist()

    def record(self, row: int) -> dict[str, Any]:
        """One row."""
        number, place = self._find(row)
        self._read += 1
        if self._read >= _RECORDS and hasattr(mmap, "MADV_DONTNEED"):
            self._read = 0
            self._map.madvise(mmap.MADV_DONTNEED)  # as vectors.MappedRows lets go of what it touched
        return {name: column[place].as_py() for name, column in zip(self._names, self._columns[number], strict=True)}

    def value(self, row: int, name: str) -> Any:
        """One cell."""
        number, place = self._find(row)
        return self._columns[number][self.schema.get_field_index(name)][place].as_py()

    def table(self) -> pa.Table:
        """All of it, still mapped."""
        return pa.Table.from_batches(self._batches, self.schema)

    def _find(self, row: int) -> tuple[int, int]:
        """Batch of a row, and its place there."""
        number = bisect_right(self._starts, row) - 1
        return number, row - self._starts[number]
