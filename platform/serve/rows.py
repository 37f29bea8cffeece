"""What an index stores of each row beside its vectors: what a hit shows, what filters read, how it is found again.

records.jsonl    what a hit shows, a line of JSON for each row; only those of an answer are read (a tenth of the time that
                 Arrow's columns take, one cell at a time)
records.npy      [n + 1] int64: where each line begins, and the end
metadata.arrow   the same as columns, compressed: for whoever reads all of it, as a generation that is written afresh does
columns.arrow    codes of what is filtered by, years, and 64-bit hashes: duplicate cluster, article, what was embedded, all
places.arrow     where the figure lies: pairs artifact, file, row group, row
keys.npy         [2, n] uint64: hashes of pair ids ascending, and their rows
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from biomedray.evaluate.breakdown import kind_of_picture
from biomedray.serve.files import Reader
from biomedray.serve.filters import CODED, NO_YEAR

METADATA = "metadata.arrow"
RECORDS = "records.jsonl"
ENDS = "records.npy"
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

_BATCH_ROWS = 4_096
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


def key_array(keys: Hashes) -> NDArray[np.uint64]:
    """[2, n] hashes of pair ids ascending, and their rows."""
    order = np.argsort(keys, kind="stable")
    return np.stack([keys[order], order.astype(np.uint64)])


def write_table(path: Path, table: pa.Table, batch_rows: int | None = None) -> None:
    """An Arrow file, in one batch unless told."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=batch_rows or max(table.num_rows, 1))


class RowWriter:
    """Writes metadata as blocks of rows come in: batches of an Arrow file, and a line of JSON for each row."""

    def __init__(self, folder: Path) -> None:
        self._sink = pa.OSFile(str(folder / METADATA), "wb")
        self._arrow: Any = None
        self._ends_path = folder / ENDS
        self._lines = (folder / RECORDS).open("wb")
        self._ends = [0]

    def add(self, table: pa.Table) -> None:
        """Append rows."""
        if self._arrow is None:
            self._arrow = pa.ipc.new_file(self._sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd"))
        self._arrow.write_table(table, max_chunksize=_BATCH_ROWS)
        for batch in table.to_batches(_BATCH_ROWS):
            for row in batch.to_pylist():
                self._ends.append(self._ends[-1] + self._lines.write(orjson.dumps(row) + b"\n"))

    def close(self) -> None:
        """End the files."""
        if self._arrow is not None:
            self._arrow.close()
        self._sink.close()
        self._lines.close()
        np.save(self._ends_path, np.array(self._ends, np.int64))


class Records:
    """What hits show: a line of JSON for each row, read from the file when it is asked for."""

    def __init__(self, folder: Path) -> None:
        self._ends: NDArray[np.int64] = np.asarray(np.load(folder / ENDS, mmap_mode="r"))
        self._file = Reader(folder / RECORDS)
        if self._file.size != self._ends[-1]:
            raise ValueError(f"{RECORDS}: not as long as {ENDS} says")

    def record(self, row: int) -> dict[str, Any]:
        """STORED of one row."""
        begin, end = self._ends[row : row + 2].tolist()
        found: dict[str, Any] = orjson.loads(self._file.read(begin, end - begin))
        return found


def metadata_batches(path: Path) -> Iterator[tuple[int, pa.Table]]:
    """First row and STORED of some rows, for all rows of a file whose checksum was compared."""
    start = 0
    with pa.ipc.open_file(pa.memory_map(str(path))) as reader:
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            yield start, pa.Table.from_batches([batch])
            start += batch.num_rows


class Table:
    """A memory-mapped Arrow file: rows are looked up in their batch, nothing is read before."""

    def __init__(self, path: Path) -> None:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        self._batches = [reader.get_batch(number) for number in range(reader.num_record_batches)]
        self.schema = reader.schema
        self._starts = np.cumsum([0, *(batch.num_rows for batch in self._batches)]).tolist()

    def record(self, row: int) -> dict[str, Any]:
        """One row."""
        number = bisect_right(self._starts, row) - 1
        found: dict[str, Any] = self._batches[number].slice(row - self._starts[number], 1).to_pylist()[0]
        return found

    def table(self) -> pa.Table:
        """All of it, still mapped."""
        return pa.Table.from_batches(self._batches, self.schema)
