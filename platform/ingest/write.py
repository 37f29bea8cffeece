r"""Parquet parts of a pairs artifact: written whole or not at all, the same bytes for the same rows.

rows of a part --sorted by hash of pair_id--> data/split=*/part-N.parquet, rejects/part-N, ledger/part-N, then parts/part-N.json
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from biomedray.artifacts import atomic_path, write_atomic
from biomedray.ingest.articles import ArticleRows, Identity, refused_rows
from biomedray.ingest.packages import Refused
from biomedray.ingest.settings import IngestConfig
from biomedray.records import LEDGER_SCHEMA, PAIR_SCHEMA, REJECT_SCHEMA, SPLITS

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
    """``part-00012``: the same number in data, rejects, ledger and parts."""
    return f"part-{part:05d}"


def sidecar(out: Path, part: int) -> Path:
    """The file whose presence says that a part is whole."""
    return out / "parts" / f"{part_name(part)}.json"


class PartWriter:
    """Collects the rows of one part; image bytes above ``max_buffer_bytes`` go to a further file of the part."""

    def __init__(self, out: Path, part: int, config: IngestConfig) -> None:
        self._out = out
        self._part = part
        self._config = config
        self._pairs: list[dict[str, Any]] = []
        self._held = 0
        self._files = 0
        self._rejects: list[dict[str, Any]] = []
        self._ledger: list[dict[str, Any]] = []
        self._identities: list[Identity] = []
        self.counts: dict[str, int] = {"articles": 0, "pairs": 0, "rejects": 0}

    def add(self, rows: ArticleRows) -> None:
        """Take an article's rows; they are on disk after ``close``."""
        self._pairs += rows.pairs
        self._held += sum(len(row["image"]) for row in rows.pairs)
        self._rejects += rows.rejects
        self._ledger.append(rows.ledger)
        if rows.identity is not None:
            self._identities.append(rows.identity)
        for name, number in (("articles", 1), ("pairs", len(rows.pairs)), ("rejects", len(rows.rejects))):
            self.counts[name] += number
        if self._held > self._config.max_buffer_bytes:
            self._flush()

    def close(self) -> dict[str, int]:
        """Write what is left, then the sidecar; returns the counts."""
        self._flush()
        name = part_name(self._part)
        write_rows(self._out / "rejects" / f"{name}.parquet", sorted(self._rejects, key=_by_source), REJECT_SCHEMA)
        write_rows(self._out / "ledger" / f"{name}.parquet", sorted(self._ledger, key=_by_source), LEDGER_SCHEMA)
        articles = [list(asdict(identity).values()) for identity in self._identities]
        write_atomic(sidecar(self._out, self._part), json.dumps({"counts": self.counts, "articles": articles}))
        return self.counts

    def _flush(self) -> None:
        by_split: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in sorted(self._pairs, key=lambda row: _hash(row["pair_id"])):
            by_split[row["split"]].append(row)
        suffix = f"-{self._files}" if self._files else ""
        for split, rows in by_split.items():
            path = self._out / "data" / f"split={split}" / f"{part_name(self._part)}{suffix}.parquet"
            write_rows(path, rows, PAIR_SCHEMA, self._config.rows_per_group)
        self._pairs = []
        self._held = 0
        self._files += 1


def write_rows(path: Path, rows: list[dict[str, Any]], schema: pa.Schema, group: int = 4096) -> None:
    """Rows to one Parquet file by atomic rename: text zstd, images as they are, small row groups."""
    tables = (pa.Table.from_pylist(rows[i : i + group], schema) for i in range(0, len(rows), group))
    write_tables(path, tables, schema, group)


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


def drop_articles(out: Path, part: int, dropped: Mapping[str, Refused], group: int) -> None:
    """Rewrite a part without some of its articles, each replaced by one article reject; may be repeated."""
    uris = pa.array(sorted(dropped))
    for split in SPLITS:
        for path in sorted((out / "data" / f"split={split}").glob(f"{part_name(part)}*.parquet")):
            _filter_pairs(path, uris, group)
    replaced = [refused_rows(refused) for _, refused in sorted(dropped.items())]
    for folder, schema, extra in (
        ("rejects", REJECT_SCHEMA, [row for rows in replaced for row in rows.rejects]),
        ("ledger", LEDGER_SCHEMA, [rows.ledger for rows in replaced]),
    ):
        path = out / folder / f"{part_name(part)}.parquet"
        kept = [row for row in pq.read_table(path).to_pylist() if row["source_uri"] not in dropped]
        write_rows(path, sorted(kept + extra, key=_by_source), schema)


def _filter_pairs(path: Path, uris: pa.Array, group: int) -> None:
    with pq.ParquetFile(path) as file:
        sources = [file.read_row_group(i, columns=["source_uri"])["source_uri"] for i in range(file.num_row_groups)]
        keep = [pc.invert(pc.is_in(column, value_set=uris)) for column in sources]
        left = sum(pc.sum(mask).as_py() or 0 for mask in keep)
        if left == file.metadata.num_rows:
            return
        if left:
            tables = (file.read_row_group(i).filter(mask) for i, mask in enumerate(keep))
            write_tables(path, (table for table in tables if table.num_rows), PAIR_SCHEMA, group)
    if not left:
        path.unlink()


def _leaves(name: str, kind: pa.DataType) -> list[str]:
    """Parquet's names of a column's leaves: ``citances.list.element.text``."""
    if pa.types.is_list(kind):
        return _leaves(f"{name}.list.element", kind.value_type)
    if pa.types.is_struct(kind):
        return [leaf for i in range(kind.num_fields) for leaf in _leaves(f"{name}.{kind.field(i).name}", kind.field(i).type)]
    return [name]


def _hash(pair_id: str) -> bytes:
    return hashlib.sha256(pair_id.encode()).digest()


def _by_source(row: Mapping[str, Any]) -> str:
    return str(row["source_uri"])
