"""Writing a generation: blocks of rows into segments, files that stay the same as hard links, then one rename.

blocks (metadata, vectors) -> SegmentWriter -> *.npy *.arrow -> k-means, codes, lists -> measured settings -> card
kept segments -> links                                                                                         +-> generation.json
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from biomedray.artifacts import write_atomic
from biomedray.errors import WorkError
from biomedray.serve.calibration import quantiles
from biomedray.serve.filters import Columns, merge_facets
from biomedray.serve.generation import (
    DEAD,
    GENERATION,
    QUERY_STEMS,
    TARGETS,
    Generation,
    SegmentCard,
    Source,
    file_sha256,
    generation_folder,
)
from biomedray.serve.ivf import Ivf, build_ivf, choose_layout, write_ivf
from biomedray.serve.recall import measure, sample_rows
from biomedray.serve.rows import (
    COLUMNS,
    KEYS,
    PLACE,
    PLACES,
    STORED,
    RowWriter,
    Table,
    column_table,
    hashes,
    join_columns,
    key_array,
    write_table,
)
from biomedray.serve.vectors import StoredRows

Matrix = NDArray[np.float32]
Rows = NDArray[np.int64]

_CALIBRATED = 1_000


@dataclass(frozen=True)
class Block:
    """Some rows: STORED and PLACE of each, and unit vectors [n, d] by file stem."""

    metadata: pa.Table
    vectors: Mapping[str, Matrix]

    def slice(self, start: int, stop: int) -> Block:
        """Rows ``start`` to ``stop``."""
        vectors = {stem: matrix[start:stop] for stem, matrix in self.vectors.items()}
        return Block(self.metadata.slice(start, stop - start), vectors)


@dataclass(frozen=True)
class Kept:
    """A segment of the generation before: its files are linked, but ``places`` where its figures are read from elsewhere now."""

    card: SegmentCard
    folder: Path
    files: Mapping[str, str]
    """Checksums by name."""
    places: pa.Table | None = None


@dataclass(frozen=True)
class Draft:
    """What the next generation is to be."""

    name: str
    encoder: str
    encoder_fingerprint: str
    dim: int
    sources: Sequence[Source]
    kept: Sequence[Kept] = ()
    new: Sequence[tuple[str, int]] = ()
    """Names and sizes of new segments, which take the blocks' rows in turn."""
    layout: str = "auto"
    dead: Rows = field(default_factory=lambda: np.empty(0, np.int64))
    """Ascending rows that are not shown any more."""
    withdrawn: Sequence[str] = ()


def write_draft(out: Path, draft: Draft, blocks: Iterable[Block]) -> Generation:
    """Write a generation whole, under a temporary name, then rename it into place.

    Raises:
        WorkError: a pair is twice among the new rows.
    """
    final = generation_folder(out, draft.name)
    final.parent.mkdir(parents=True, exist_ok=True)
    for left in (*final.parent.glob(".*"), final):  # of a run that was killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f".{draft.name}.", dir=final.parent) as temporary:
        folder = Path(temporary) / draft.name
        folder.mkdir(mode=0o755)
        cards: list[SegmentCard] = []
        files: dict[str, str] = {}
        for kept in draft.kept:
            files |= _link(kept, folder)
            cards.append(kept.card)
        for card in _write_segments(folder, draft, blocks, sum(card.rows for card in cards)):
            cards.append(card)
            files |= {f"{card.name}/{path.name}": file_sha256(path) for path in sorted((folder / card.name).iterdir())}
        if len(draft.dead):
            np.save(folder / DEAD, draft.dead)
            files[DEAD] = file_sha256(folder / DEAD)
        generation = _describe(folder, draft, cards, files)
        write_atomic(folder / GENERATION, generation.model_dump_json(indent=1) + "\n")
        folder.rename(final)
    return generation


def sizes(rows: int, shards: int) -> list[int]:
    """Rows of each shard: as equal as can be, none empty."""
    shards = max(1, min(shards, rows))
    return [rows // shards + (number < rows % shards) for number in range(shards)]


class SegmentWriter:
    """Takes rows by blocks and makes a segment of them."""

    def __init__(self, folder: Path, start: int, rows: int, dim: int, layout: str) -> None:
        folder.mkdir()
        self._folder = folder
        self._start = start
        self._rows = rows
        self._layout = choose_layout(rows, layout)
        self._type = np.dtype(np.float32 if self._layout == "flat" else np.float16)
        self._files = {stem: _npy(folder / f"{stem}.npy", (rows, dim), self._type) for stem in TARGETS.values()}
        self._metadata = RowWriter(folder)
        self._columns: list[pa.Table] = []
        self._places: list[pa.Table] = []
        self._keys: list[NDArray[np.uint64]] = []

    def add(self, block: Block) -> None:
        """Append rows."""
        for stem, file in self._files.items():
            file.write(np.ascontiguousarray(block.vectors[stem], self._type).tobytes())
        self._metadata.add(block.metadata.select(STORED))
        self._columns.append(column_table(block.metadata))
        self._places.append(block.metadata.select(PLACE))
        self._keys.append(hashes(block.metadata["pair_id"]))

    def finish(self) -> SegmentCard:
        """Close the files, index the vectors, measure.

        Raises:
            WorkError: a pair is there twice.
        """
        for file in self._files.values():
            file.close()
        self._metadata.close()
        keys = key_array(np.concatenate(self._keys))
        if keys.shape[1] != self._rows or (np.diff(keys[0]) == 0).any():
            raise WorkError("the embeddings and the pairs do not hold the same rows; delete the output folder and build it again")
        np.save(self._folder / KEYS, keys)
        columns = join_columns(self._columns)
        write_table(self._folder / COLUMNS, columns)
        write_table(self._folder / PLACES, place_table(pa.concat_tables(self._places)))
        card = SegmentCard(name=self._folder.name, start=self._start, rows=self._rows, layout=self._layout)
        return card if self._layout == "flat" else self._index(card, columns)

    def _index(self, card: SegmentCard, columns: pa.Table) -> SegmentCard:
        vectors = {stem: StoredRows(self._folder / f"{stem}.npy") for stem in TARGETS.values()}
        opened = {}
        for stem, rows in vectors.items():
            index, lists = build_ivf(rows, card.layout)
            write_ivf(index, self._folder / f"{stem}.faiss")
            np.save(self._folder / f"{stem}.lists.npy", lists)
            opened[stem] = Ivf(index)
        probes = measure(vectors, opened, sample_rows(columns))
        return card.model_copy(update={"lists": opened["image"].lists, "probes": probes})


def place_table(places: pa.Table) -> pa.Table:
    """Where figures lie, the names of files as a dictionary."""
    files = places["file"].cast(pa.string()).combine_chunks().dictionary_encode()
    return pa.table({**{name: places[name] for name in PLACE}, "file": files})


def _write_segments(folder: Path, draft: Draft, blocks: Iterable[Block], start: int) -> Iterator[SegmentCard]:
    left = iter(blocks)
    waiting: Block | None = None
    for name, rows in draft.new:
        writer = SegmentWriter(folder / name, start, rows, draft.dim, draft.layout)
        missing = rows
        while missing:
            waiting = waiting if waiting is not None else next(left, None)
            if waiting is None:
                raise WorkError("fewer rows were read than were counted; delete the output folder and build it again")
            taken = min(missing, waiting.metadata.num_rows)
            writer.add(waiting.slice(0, taken))
            waiting = waiting.slice(taken, waiting.metadata.num_rows) if taken < waiting.metadata.num_rows else None
            missing -= taken
        yield writer.finish()
        start += rows


def _describe(folder: Path, draft: Draft, cards: Sequence[SegmentCard], files: dict[str, str]) -> Generation:
    slots = sum(card.rows for card in cards)
    alive = np.ones(slots, dtype=bool)
    alive[draft.dead] = False
    columns = [
        Columns(Table(folder / card.name / COLUMNS).table(), alive=alive[card.start : card.start + card.rows]) for card in cards
    ]
    years = [part.years if part.alive is None else part.years[part.alive] for part in columns]
    return Generation(
        name=draft.name,
        rows=int(alive.sum()),
        dead=len(draft.dead),
        dim=draft.dim,
        encoder=draft.encoder,
        encoder_fingerprint=draft.encoder_fingerprint,
        sources=list(draft.sources),
        segments=list(cards),
        withdrawn=sorted(set(draft.withdrawn)),
        recall=mean_recall(cards),
        quantiles=_calibrate(folder, cards, np.flatnonzero(alive)),
        facets=merge_facets([part.counts() for part in columns], years),
        files=files,
    )


def mean_recall(cards: Sequence[SegmentCard]) -> dict[str, float]:
    """Recall@10 without filters by "kind/target", the mean over the rows of all segments."""
    found = {}
    for key in (f"{kind}/{target}" for kind in QUERY_STEMS for target in TARGETS):
        values = [card.probes[key][0].recall if card.probes else 1.0 for card in cards]
        found[key] = round(float(np.average(values, weights=[card.rows for card in cards])), 4)
    return found


def _calibrate(folder: Path, cards: Sequence[SegmentCard], alive: Rows) -> dict[str, list[float]]:
    rows = np.sort(np.random.default_rng(len(alive)).permutation(alive)[:_CALIBRATED])
    sampled = {}
    for stem in TARGETS.values():
        parts = []
        for card in cards:
            own = rows[(rows >= card.start) & (rows < card.start + card.rows)] - card.start
            parts.append(StoredRows(folder / card.name / f"{stem}.npy").take(own))
        sampled[stem] = np.concatenate(parts)
    pairs = {f"{kind}/{target}": (of, stem) for kind, of in QUERY_STEMS.items() for target, stem in TARGETS.items()}
    tables = {key: quantiles(sampled[of], sampled[stem]) for key, (of, stem) in pairs.items()}
    return {key: table for key, table in tables.items() if table is not None}


def _link(kept: Kept, folder: Path) -> dict[str, str]:
    """Files of a kept segment in the new generation; their checksums."""
    target = folder / kept.card.name
    target.mkdir()
    files = {}
    for name, checksum in kept.files.items():
        moved = name == PLACES and kept.places is not None
        if moved:
            write_table(target / PLACES, place_table(kept.places))
        else:
            _link_or_copy(kept.folder / name, target / name)
        files[f"{kept.card.name}/{name}"] = file_sha256(target / PLACES) if moved else checksum
    return files


def _link_or_copy(source: Path, target: Path) -> None:
    """Some file systems have no hard links."""
    with contextlib.suppress(OSError):
        os.link(source, target)
        return
    shutil.copyfile(source, target)


def _npy(path: Path, shape: tuple[int, int], dtype: np.dtype[Any]) -> Any:
    """A .npy file, open after its header."""
    file = path.open("wb")
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file
