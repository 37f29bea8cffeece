"""Make an index artifact: embed the pairs, index both towers' vectors, and lay out what a hit shows.

pairs + model -> embed ==[embeddings/]==> vectors --+-> generations/000001/  -> CURRENT -> manifest.json
pairs -> metadata, and where each image lies -------+
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from biomedray.artifacts import (
    Manifest,
    claim_output,
    is_finished,
    manifest_fingerprint,
    read_manifest,
    write_atomic,
    write_manifest,
)
from biomedray.errors import WorkError
from biomedray.records import SPLITS, Split
from biomedray.serve.generation import (
    GENERATION,
    KEYS,
    METADATA,
    TARGETS,
    Generation,
    file_sha256,
    generation_folder,
    set_current,
)
from biomedray.serve.search import pair_keys

if TYPE_CHECKING:
    from biomedray.model.encoder import Encoder

EMBEDDINGS = "embeddings"
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
    "caption",
    "width",
    "height",
    "split",
    "dup_cluster",
]
"""Columns of the pairs artifact that a hit shows or a filter reads."""

_BATCH_ROWS = 65_536

Vectors = dict[str, NDArray[np.float32]]


def build_index(pairs: Path, model: str | Path, out: Path, splits: Sequence[Split] = SPLITS, progress: bool = True) -> Manifest:
    """Make the index artifact ``out`` of the pairs of ``splits``, searchable by figure and by caption.

    A run that was stopped goes on from the row groups that were embedded.

    Raises:
        UserError: an input is no such artifact, the splits hold no pair, or ``out`` is taken.
        WorkError: the embeddings and the pairs do not name the same rows.
    """
    from biomedray.evaluate.embed import embed, read_embeddings
    from biomedray.evaluate.vectors import read_rejects
    from biomedray.model.encoder import Encoder

    started = time.monotonic()
    read_manifest(pairs, "pairs")
    encoder = Encoder.load(str(model))
    config = {"splits": list(splits), "pairs": manifest_fingerprint(pairs), "model": encoder.fingerprint}
    claim_output(out, "index", config)
    embeddings = out / EMBEDDINGS
    if not is_finished(embeddings):
        embed(pairs, model, embeddings, splits, progress=progress)
    embedded = time.monotonic()
    pair_ids, images, texts = read_embeddings(embeddings)
    unreadable = [reject["id"] for reject in read_rejects(embeddings)]
    metadata = aligned(without(read_metadata(pairs, splits), unreadable), pair_ids)
    generation = write_generation(out, metadata, {"image": images, "text": texts}, _origin(pairs, encoder))
    set_current(out, generation)
    manifest = Manifest(kind="index", name=out.name, config=config)
    manifest.inputs = [
        {"name": "pairs", "uri": generation.pairs_uri, "fingerprint": generation.pairs_fingerprint},
        {"name": "model", "uri": str(model), "fingerprint": encoder.fingerprint},
    ]
    manifest.counts = {"rows": generation.rows, "embed_dim": generation.dim, "splits": _count(metadata, "split")}
    manifest.counts |= {"unreadable": len(unreadable)} if unreadable else {}
    manifest.timings = {"embed": embedded - started, "index": time.monotonic() - embedded}
    manifest.details = {"generation": generation.name, "index_key": generation.index_key}
    write_manifest(out, manifest)
    shutil.rmtree(embeddings)
    return manifest


def choose_index(rows: int) -> str:
    """The faiss.index_factory key for so many vectors; exact search is the best choice at every size built so far."""
    assert rows > 0
    return "Flat"


def read_metadata(pairs: Path, splits: Sequence[Split]) -> pa.Table:
    """What hits show, and where each image lies (``file`` in the artifact, ``row_group``, ``row`` in it)."""
    files = [path for split in splits for path in sorted((pairs / "data" / f"split={split}").glob("*.parquet"))]
    table = pa.concat_tables(_row_groups(pairs, files))
    return table.set_column(table.schema.get_field_index("split"), "split", table["split"].cast(pa.string()))


def without(metadata: pa.Table, pair_ids: Sequence[str]) -> pa.Table:
    """The metadata without pairs whose picture the encoder could not read."""
    if not pair_ids:
        return metadata
    return metadata.filter(pc.invert(pc.is_in(metadata["pair_id"], pa.array(pair_ids))))


def aligned(metadata: pa.Table, pair_ids: Sequence[str]) -> pa.Table:
    """The metadata rows in the order of the embeddings.

    Raises:
        WorkError: an id is missing, unknown or twice there.
    """
    row_of = {pair_id: row for row, pair_id in enumerate(metadata["pair_id"].to_pylist())}
    if len(row_of) != metadata.num_rows or len(pair_ids) != metadata.num_rows or set(row_of) != set(pair_ids):
        raise WorkError("the embeddings and the pairs do not hold the same rows; delete the output folder and build it again")
    order = np.array([row_of[pair_id] for pair_id in pair_ids], dtype=np.int64)
    return metadata if bool((np.diff(order) == 1).all()) else metadata.take(pa.array(order))


def write_generation(out: Path, metadata: pa.Table, vectors: Vectors, origin: dict[str, str]) -> Generation:
    """Write the next generation whole, under a temporary name, then rename it into place.

    ``vectors`` holds [n, d] L2-normalised rows by file stem (image, text) in the order of ``metadata``;
    ``origin`` the encoder and pairs fields of Generation.
    """
    name = _next_name(out)
    final = generation_folder(out, name)
    final.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=final.parent) as temporary:
        folder = Path(temporary) / name
        folder.mkdir()
        key = choose_index(metadata.num_rows)
        for stem in TARGETS.values():
            _write_vectors(folder, stem, key, vectors[stem])
        _write_metadata(folder / METADATA, metadata)
        np.save(folder / KEYS, pair_keys(metadata["pair_id"].to_pylist()))
        files = {path.name: file_sha256(path) for path in sorted(folder.iterdir())}
        dim = vectors["image"].shape[1]
        generation = Generation.model_validate(
            {"name": name, "rows": metadata.num_rows, "dim": dim, "index_key": key, "files": files, **origin}
        )
        write_atomic(folder / GENERATION, generation.model_dump_json(indent=2) + "\n")
        folder.rename(final)
    return generation


def _row_groups(pairs: Path, files: Sequence[Path]) -> Iterator[pa.Table]:
    for path in files:
        file = pq.ParquetFile(path)
        for row_group in range(file.metadata.num_row_groups):
            table = file.read_row_group(row_group, columns=SHOWN).select(SHOWN)
            rows = table.num_rows
            place = {
                "file": pa.array([path.relative_to(pairs).as_posix()] * rows, pa.string()),
                "row_group": pa.array(np.full(rows, row_group, np.int32)),
                "row": pa.array(np.arange(rows, dtype=np.int32)),
            }
            yield pa.table({**{name: table[name] for name in SHOWN}, **place})


def _write_vectors(folder: Path, stem: str, key: str, vectors: NDArray[np.float32]) -> None:
    import faiss

    index = faiss.index_factory(vectors.shape[1], key, faiss.METRIC_INNER_PRODUCT)
    if not index.is_trained:
        index.train(vectors)
    index.add(vectors)
    faiss.write_index(index, str(folder / f"{stem}.faiss"))
    np.save(folder / f"{stem}.npy", vectors)


def _write_metadata(path: Path, metadata: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, metadata.schema) as writer:
        writer.write_table(metadata, max_chunksize=_BATCH_ROWS)


def _next_name(out: Path) -> str:
    taken = [int(path.name) for path in (out / "generations").glob("[0-9]*")]
    return f"{max(taken, default=0) + 1:06d}"


def _origin(pairs: Path, encoder: Encoder) -> dict[str, str]:
    return {
        "encoder": encoder.name,
        "encoder_fingerprint": encoder.fingerprint,
        "pairs_uri": pairs.resolve().as_uri(),
        "pairs_fingerprint": manifest_fingerprint(pairs),
    }


def _count(table: pa.Table, column: str) -> dict[str, Any]:
    counts = table[column].value_counts().to_pylist()
    return dict(sorted((entry["values"], entry["counts"]) for entry in counts))
