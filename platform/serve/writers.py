"""Embeddings to a file as they come: Parquet, .npy with names beside it, or JSON lines; what was left out stands beside it.

    OUT.parquet    name, kind, embedding (a list of d float32); the model in the schema's metadata
    OUT.npy        [n, d] float32, and OUT.names.jsonl with name and kind of each row
    OUT.jsonl      {"name", "kind", "embedding"} a line
    OUT.rejects.jsonl   {"name", "kind", "reason", "detail"} a line, whatever OUT's format

Every file appears whole, by an atomic rename, when the last row is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from biomedray.artifacts import atomic_path
from biomedray.errors import UserError
from biomedray.serve.entries import Entry, Left

Vectors = NDArray[np.float32]
FORMATS = (".parquet", ".npy", ".jsonl")


class Writer(Protocol):
    """Takes rows."""

    def add(self, entries: Sequence[Entry], vectors: Vectors) -> None:
        """Entries with their vectors [n, d]."""


@contextmanager
def open_writer(out: Path, dim: int, about: Mapping[str, str]) -> Iterator[Writer]:
    """A writer by the suffix of ``out``; ``about`` (model, fingerprint) goes into Parquet's metadata."""
    with ExitStack() as stack:
        path = stack.enter_context(atomic_path(out))
        if out.suffix == ".parquet":
            parquet = _Parquet(path, dim, about)
            stack.callback(parquet.close)
            yield parquet
            return
        stream = stack.enter_context(path.open("wb"))
        if out.suffix == ".jsonl":
            yield _Lines(stream)
            return
        names = stack.enter_context(stack.enter_context(atomic_path(beside(out, "names"))).open("wb"))
        array = _Array(stream, names, dim)
        yield array
        array.finish()


def check_out(out: Path) -> None:
    """Refuse a name that no format has, before anything is embedded.

    Raises:
        UserError: another suffix, or no such folder.
    """
    if out.suffix not in FORMATS:
        raise UserError(f"{out}: name a file that ends in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    if not out.parent.is_dir():
        raise UserError(f"{out.parent}: no such folder")


def write_left(out: Path, left: Sequence[Left]) -> Path:
    """The rejects beside ``out``; an empty file when there are none, so that no older one misleads."""
    path = beside(out, "rejects")
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"".join(orjson.dumps(asdict(entry)) + b"\n" for entry in left))
    return path


def beside(out: Path, what: str) -> Path:
    """``vectors.npy`` -> ``vectors.names.jsonl``."""
    return out.with_name(f"{out.stem}.{what}.jsonl")


class _Parquet:
    def __init__(self, path: Path, dim: int, about: Mapping[str, str]) -> None:
        fields = {"name": pa.string(), "kind": pa.string(), "embedding": pa.list_(pa.float32(), dim)}
        self._schema = pa.schema(list(fields.items()), metadata=dict(about))
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd", use_dictionary=["kind"])

    def add(self, entries: Sequence[Entry], vectors: Vectors) -> None:
        rows = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
        names, kinds = [entry.name for entry in entries], [entry.kind for entry in entries]
        self._writer.write_table(pa.table([names, kinds, rows], schema=self._schema))

    def close(self) -> None:
        self._writer.close()


class _Lines:
    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def add(self, entries: Sequence[Entry], vectors: Vectors) -> None:
        for entry, vector in zip(entries, vectors, strict=True):
            row: dict[str, Any] = {"name": entry.name, "kind": entry.kind, "embedding": vector}
            self._stream.write(orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY) + b"\n")


class _Array:
    """Rows behind a header that NumPy pads so that the number of rows can be written into it at the end."""

    def __init__(self, stream: BinaryIO, names: BinaryIO, dim: int) -> None:
        self._stream, self._names, self._dim, self._rows = stream, names, dim, 0
        self._header()

    def add(self, entries: Sequence[Entry], vectors: Vectors) -> None:
        self._stream.write(np.ascontiguousarray(vectors, "<f4").tobytes())
        self._names.writelines(orjson.dumps({"name": entry.name, "kind": entry.kind}) + b"\n" for entry in entries)
        self._rows += len(entries)

    def finish(self) -> None:
        end = self._stream.tell()
        self._stream.seek(0)
        self._header()
        self._stream.seek(end)

    def _header(self) -> None:
        about = {"descr": "<f4", "fortran_order": False, "shape": (self._rows, self._dim)}
        np.lib.format.write_array_header_1_0(self._stream, about)
