"""A Hugging Face datasets folder: Parquet whose ``image`` column the datasets library decodes by itself."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from biomedray.artifacts import atomic_path
from biomedray.export.pictures import ALL_SUFFIXES, as_png
from biomedray.export.tars import sample_key
from biomedray.records import PAIR_SCHEMA, Split

# The name by which the datasets library, and everybody's scripts, know it.
SPLIT_NAMES: dict[Split, str] = {"train": "train", "val": "validation", "test": "test"}
COLUMNS = tuple(name for name in PAIR_SCHEMA.names if name != "image_copy")
_IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])
_ROWS_PER_GROUP = 128


def write_parquet(path: Path, tables: Iterable[pa.Table]) -> None:
    """One shard, whole or not at all: original bytes, text zstd, small row groups."""
    path.parent.mkdir(parents=True, exist_ok=True)
    wanted = schema()
    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(
            temporary,
            wanted,
            compression={name: "NONE" if name == "image.bytes" else "ZSTD" for name in _leaves()},
            use_dictionary=[name for name in _leaves() if name != "image.bytes"],
            write_statistics=[name for name in _leaves() if not name.startswith("image.")],
        ) as writer,
    ):
        for table in tables:
            writer.write_table(_with_struct(table).cast(wanted), row_group_size=_ROWS_PER_GROUP)


def count_rows(path: Path) -> int:
    """Rows of a shard, read back from its footer."""
    return int(pq.read_metadata(path).num_rows)


def schema() -> pa.Schema:
    """Columns of a shard, with the note by which the datasets library knows the features."""
    fields = [pa.field("image", _IMAGE)] + [pa.field(name, _plain(name)) for name in COLUMNS if name != "image"]
    note = json.dumps({"info": {"features": features()}})
    return pa.schema(fields, metadata={"huggingface": note})


def features() -> dict[str, Any]:
    """The same as features of the datasets library."""
    return {"image": {"_type": "Image"}} | {name: _feature(_plain(name)) for name in COLUMNS if name != "image"}


def _feature(kind: pa.DataType) -> Any:
    if pa.types.is_list(kind):
        return [_feature(kind.value_type)]
    if pa.types.is_struct(kind):
        return {kind.field(i).name: _feature(kind.field(i).type) for i in range(kind.num_fields)}
    return {"dtype": {"float": "float32", "double": "float64"}.get(str(kind), str(kind)), "_type": "Value"}


def _plain(name: str) -> pa.DataType:
    kind = PAIR_SCHEMA.field(name).type
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _with_struct(table: pa.Table) -> pa.Table:
    """Bytes, and a file name that says what they are; the library gives up at a file that is cut off, so that becomes a PNG."""
    pictures = []
    columns = [table[name].to_pylist() for name in ("pair_id", "image_format", "image", "flags")]
    for pair_id, kind, data, flags in zip(*columns, strict=True):
        png = as_png(data) if "truncated" in flags else None
        suffix = ALL_SUFFIXES.get(kind, kind) if png is None else "png"
        pictures.append({"bytes": data if png is None else png, "path": f"{sample_key(pair_id)}.{suffix}"})
    rest = table.drop_columns(["image"])
    return pa.Table.from_arrays([pa.array(pictures, _IMAGE), *rest.columns], names=["image", *rest.column_names])


def _leaves() -> list[str]:
    return [leaf for field in schema() for leaf in _leaves_of(field.name, field.type)]


def _leaves_of(name: str, kind: pa.DataType) -> list[str]:
    if pa.types.is_list(kind):
        return _leaves_of(f"{name}.list.element", kind.value_type)
    if pa.types.is_struct(kind):
        return [leaf for i in range(kind.num_fields) for leaf in _leaves_of(f"{name}.{kind.field(i).name}", kind.field(i).type)]
    return [name]
