r"""Parquet parts of a pairs artifact: written whole or not at all, the same bytes for the same rows.

rows of a part --sorted by hash of pair_id--> data/split=*/part-N.parquet, rejects/part-N, ledger/part-N
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from biomedray.artifacts import atomic_path
from biomedray.ingest.articles import ArticleRows
from biomedray.ingest.settings import IngestConfig
from biomedray.records import LEDGER_SCHEMA, PAIR_SCHEMA, REJECT_SCHEMA

# Few distinct values, or long runs of the same one: worth a dictionary.
_DICTIONARY = [
    "pmcid",
    "pmid",
    "doi",
    "article_title",
    "journal",
    "article_type",
    "license_code",
    "license_group",
    "container",
    "image_format",
    "lang",
    "split",
    "source_uri",
    "source_md5",
    "extractor_version",
    "stage",
    "reason",
    "flags.list.element",
    "image_mode",
    "article_cluster",
    "caption_markup.list.element.kind",
]
# Compressed already, and of no use in statistics.
_BYTES = ("image", "image_copy")


def part_name(part: int) -> str:
    """``part-00012``: the same number in population, data, rejects and ledger."""
    return f"part-{part:05d}"


class PartWriter:
    """Collects the rows of one part; image bytes above ``max_buffer_bytes`` go to a further file of the part.

    ``root`` is the folder that gets data, rejects and ledger.
    """

    def __init__(self, root: Path, part: int, config: IngestConfig) -> None:
        self._root = root
        self._part = part
        self._config = config
        self._pairs: list[dict[str, Any]] = []
        self._held = 0
        self._files = 0
        self._rejects: list[dict[str, Any]] = []
        self._ledger: list[dict[str, Any]] = []
        self.counts: dict[str, int] = {"articles": 0, "pairs": 0, "rejects": 0}

    def add(self, rows: ArticleRows) -> None:
        """Take an article's rows; they are on disk after ``close``."""
        self._pairs += rows.pairs
        self._held += sum(len(row["image"]) + len(row.get("image_copy") or b"") for row in rows.pairs)
        self._rejects += rows.rejects
        self._ledger.append(rows.ledger)
        for name, number in (("articles", 1), ("pairs", len(rows.pairs)), ("rejects", len(rows.rejects))):
            self.counts[name] += number
        if self._held > self._config.max_buffer_bytes:
            self._flush()

    def close(self) -> dict[str, int]:
        """Write what is left; returns the counts. The ledger comes last: where it is, the part is whole."""
        self._flush()
        name = f"{part_name(self._part)}.parquet"
        write_rows(self._root / "rejects" / name, sorted(self._rejects, key=by_source), REJECT_SCHEMA)
        write_rows(self._root / "ledger" / name, sorted(self._ledger, key=by_source), LEDGER_SCHEMA)
        return self.counts

    def _flush(self) -> None:
        by_split: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in sorted(self._pairs, key=lambda row: row_order(row["pair_id"])):
            by_split[row["split"]].append(row)
        suffix = f"-{self._files}" if self._files else ""
        for split, rows in by_split.items():
            path = self._root / "data" / f"split={split}" / f"{part_name(self._part)}{suffix}.parquet"
            write_rows(path, rows, PAIR_SCHEMA, self._config.rows_per_group)
        self._pairs = []
        self._held = 0
        self._files += 1


def write_rows(path: Path, rows: list[dict[str, Any]], schema: pa.Schema, group: int = 4096) -> None:
    """Rows to one Parquet file by atomic rename: text zstd, images as they are, small row groups."""
    tables = (_table(rows[i : i + group], schema) for i in range(0, len(rows), group))
    write_tables(path, tables, schema, group)


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    try:
        return pa.Table.from_pylist(rows, schema)
    except UnicodeEncodeError:  # a lone surrogate, from a file's name or a JSON escape
        return pa.Table.from_pylist([{key: _writable(value) for key, value in row.items()} for row in rows], schema)


def _writable(value: Any) -> Any:
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def write_tables(path: Path, tables: Iterable[pa.Table], schema: pa.Schema, group: int) -> None:
    """As ``write_rows``, from tables of one row group each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    leaves = [leaf for name in schema.names for leaf in _leaves(name, schema.field(name).type)]
    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(
            temporary,
            schema,
            compression={leaf: "NONE" if leaf in _BYTES else "ZSTD" for leaf in leaves},
            use_dictionary=[leaf for leaf in leaves if leaf in _DICTIONARY],
            write_statistics=[leaf for leaf in leaves if leaf not in _BYTES],
        ) as writer,
    ):
        for table in tables:
            writer.write_table(table, row_group_size=group)


def _leaves(name: str, kind: pa.DataType) -> list[str]:
    """Parquet's names of a column's leaves: ``citances.list.element.text``."""
    if pa.types.is_list(kind):
        return _leaves(f"{name}.list.element", kind.value_type)
    if pa.types.is_struct(kind):
        return [leaf for i in range(kind.num_fields) for leaf in _leaves(f"{name}.{kind.field(i).name}", kind.field(i).type)]
    return [name]


def row_order(pair_id: str) -> bytes:
    """Rows stand in the order of this hash: shuffled, and the same in every run."""
    return hashlib.sha256(pair_id.encode()).digest()


def by_source(row: Mapping[str, Any]) -> str:
    """Rejects and the ledger stand in the order of their sources."""
    return str(row["source_uri"])
