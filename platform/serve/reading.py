"""What an index is made of, read in step: rows of a pairs artifact by row group, and their embeddings in the same order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from biomedray.errors import UserError, WorkError
from biomedray.evaluate import vectors
from biomedray.evaluate.pairs import PairsSet
from biomedray.evaluate.samples import Sample
from biomedray.records import SPLITS, Split
from biomedray.serve.rows import PLACE, READ, STORED, image_kinds

Matrix = NDArray[np.float32]
Rows = NDArray[np.int64]


def read_rows(pairs: Path, splits: Sequence[str], source: int = 0) -> Iterator[pa.Table]:
    """By row group: STORED, and PLACE (``source``, ``file`` in the artifact, ``row_group``, ``row`` in it).

    Raises:
        UserError: an older ingest wrote the artifact, without a column that is wanted.
    """
    for split in splits:
        for path in sorted((pairs / "data" / f"split={split}").glob("*.parquet")):
            file = pq.ParquetFile(path)
            if missing := set(READ) - set(file.schema_arrow.names):
                raise UserError(f"{path}: no {', '.join(sorted(missing))}; an older version wrote it, ingest again")
            names = READ + [name for name in ("panel_label",) if name in file.schema_arrow.names]
            for row_group in range(file.metadata.num_row_groups):
                table = file.read_row_group(row_group, columns=names)
                yield _completed(table, (source, path.relative_to(pairs).as_posix(), row_group))


def read_metadata(pairs: Path, splits: Sequence[str]) -> pa.Table:
    """``read_rows`` as one table."""
    return pa.concat_tables(read_rows(pairs, splits))


def without(metadata: pa.Table, pair_ids: set[str]) -> pa.Table:
    """The metadata without some pairs: those whose picture the encoder could not read."""
    if not pair_ids:
        return metadata
    return metadata.filter(pc.invert(pc.is_in(metadata["pair_id"], pa.array(sorted(pair_ids), pa.string()))))


def known_articles(pairs: Path) -> set[str]:
    """Every article that the artifact accounts for, whether or not it has pairs."""
    tables = [pq.read_table(path, columns=["pmcid"]) for path in sorted((pairs / "ledger").glob("*.parquet"))]
    tables += [pq.read_table(path, columns=["pmcid"]) for path in sorted((pairs / "rejects").glob("*.parquet"))]
    ledger = {pmcid for table in tables for pmcid in pc.unique(table["pmcid"]).to_pylist() if pmcid}
    return ledger | set(_column(pairs, SPLITS, "pmcid"))


def pair_ids(pairs: Path, splits: Sequence[str]) -> Iterator[str]:
    """Ids of all pairs of some splits."""
    return _column(pairs, splits, "pair_id")


class EmbeddedRows:
    """Embeddings of an artifact, read part by part, in its order."""

    def __init__(self, folder: Path) -> None:
        self._parts = iter(vectors.parts(folder))
        self._ids: list[str] = []
        self._vectors: dict[str, Matrix] = {}

    def take(self, wanted: Sequence[str]) -> dict[str, Matrix]:
        """The next rows' vectors [n, d] by stem.

        Raises:
            WorkError: they are not the rows that are wanted.
        """
        while len(self._ids) < len(wanted):
            self._read()
        if self._ids[: len(wanted)] != list(wanted):
            raise WorkError("the embeddings and the pairs do not hold the same rows; delete the output folder and build it again")
        taken = {stem: matrix[: len(wanted)] for stem, matrix in self._vectors.items()}
        self._ids = self._ids[len(wanted) :]
        self._vectors = {stem: matrix[len(wanted) :] for stem, matrix in self._vectors.items()}
        return taken

    def _read(self) -> None:
        path = next(self._parts, None)
        if path is None:
            raise WorkError("the embeddings hold fewer rows than the pairs; delete the output folder and build it again")
        table = pq.read_table(path, columns=["id", "image_embedding", "text_embedding"])
        found = {"image": _matrix(table["image_embedding"]), "text": _matrix(table["text_embedding"])}
        kept = self._vectors
        self._vectors = {stem: np.concatenate([kept[stem], rows]) if self._ids else rows for stem, rows in found.items()}
        self._ids += table["id"].to_pylist()


@dataclass(frozen=True)
class NewPairs:
    """A ``SampleSet`` of some pairs of an artifact: those that no generation has."""

    pairs: PairsSet
    wanted: dict[str, Rows]
    """Ascending positions in the split."""
    fingerprint: str

    @property
    def name(self) -> str:
        """As the artifact."""
        return self.pairs.name

    @property
    def classes(self) -> tuple[str, ...]:
        """None: pairs have captions."""
        return ()

    @property
    def splits(self) -> tuple[Split, ...]:
        """Splits with a wanted pair."""
        return tuple(split for split in SPLITS if self.size(split))

    def size(self, split: str) -> int:
        """How many pairs are wanted of a split."""
        return len(self.wanted.get(split, ()))

    def read(self, split: str, start: int, stop: int) -> list[Sample]:
        """Wanted pairs ``start`` to ``stop``."""
        places = self.wanted[split][start:stop]
        first = int(places[0])
        samples = self.pairs.read(split, first, int(places[-1]) + 1)
        return [samples[int(place) - first] for place in places]

    def stretches(self, split: str) -> Iterator[tuple[int, int]]:
        """Whole row groups of the artifact that hold a wanted pair."""
        for first, last in self.pairs.stretches(split):
            start, stop = (int(place) for place in np.searchsorted(self.wanted[split], (first, last)))
            if stop > start:
                yield start, stop


def _completed(table: pa.Table, place: tuple[int, str, int]) -> pa.Table:
    rows = table.num_rows
    source, file, row_group = place
    shown = {name: table[name] for name in READ}
    shown["split"] = table["split"].cast(pa.string())
    shown["panel_label"] = table["panel_label"] if "panel_label" in table.column_names else pa.nulls(rows, pa.string())
    shown["image_kind"] = image_kinds(table)
    where = {
        "source": pa.array(np.full(rows, source, np.int32)),
        "file": pa.array([file] * rows, pa.string()),
        "row_group": pa.array(np.full(rows, row_group, np.int32)),
        "row": pa.array(np.arange(rows, dtype=np.int32)),
    }
    return pa.table({**{name: shown[name] for name in STORED}, **{name: where[name] for name in PLACE}})


def _column(pairs: Path, splits: Sequence[str], name: str) -> Iterator[str]:
    for split in splits:
        for path in sorted((pairs / "data" / f"split={split}").glob("*.parquet")):
            yield from pq.ParquetFile(path).read(columns=[name])[name].to_pylist()


def _matrix(column: pa.ChunkedArray) -> Matrix:
    values: Matrix = column.combine_chunks().flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
    return values.reshape(len(column), column.type.list_size)
