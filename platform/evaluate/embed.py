"""Embed the pairs of an artifact once, with Ray Data actors, a Parquet file for each row group.

This is the room's only file that knows Ray. Each row group is one unit of work: read, encode, write by
atomic rename. A killed run that is started again skips the row groups that are there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich.progress import Progress

from biomedray import cluster
from biomedray.artifacts import Manifest, atomic_path, claim_output, manifest_fingerprint, read_manifest, write_manifest
from biomedray.errors import UserError
from biomedray.model.encoder import Encoder
from biomedray.records import SPLITS, Split

BATCH_SIZE = 64
_COLUMNS = ["pair_id", "split", "image", "caption"]


def embed(pairs: Path, model: str | Path, out: Path, splits: Sequence[Split] = SPLITS, progress: bool = True) -> Path:
    """Embed images and captions of the given splits; returns ``out``, an embeddings artifact.

    Columns: pair_id, split, image_embedding and text_embedding (fixed-size lists of float32, L2-normalised),
    in the order of the pairs artifact's files and rows.

    Raises:
        UserError: an input is no such artifact, the splits hold no pair, or ``out`` is taken.
    """
    read_manifest(pairs, "pairs")
    encoder = Encoder.load(model)
    units = list(_row_groups(pairs, splits))
    if not units:
        raise UserError(f"{pairs}: no pair in split {', '.join(splits)}; ingest more articles or choose another split")
    config = {"splits": list(splits), "pairs": manifest_fingerprint(pairs), "model": encoder.fingerprint}
    claim_output(out, "embeddings", config)
    started = time.monotonic()
    left = [unit for unit in units if not _part_path(out, unit).is_file()]
    if left:
        _run(left, str(model), out, progress)
    count = sum(pq.ParquetFile(_part_path(out, unit)).metadata.num_rows for unit in units)
    inputs = [
        {"name": "pairs", "uri": str(pairs.resolve()), "fingerprint": config["pairs"]},
        {"name": "model", "uri": str(model), "fingerprint": encoder.fingerprint},
    ]
    seconds = time.monotonic() - started
    counts = {"pairs": count, "embed_dim": encoder.embed_dim}
    write_manifest(
        out, Manifest(kind="embeddings", name=out.name, config=config, inputs=inputs, counts=counts, timings={"embed": seconds})
    )
    return out


def read_embeddings(folder: Path) -> tuple[list[str], NDArray[np.float32], NDArray[np.float32]]:
    """Pair ids and the image and text embeddings, [n, d] each, of an embeddings artifact."""
    read_manifest(folder, "embeddings")
    table = pa.concat_tables(pq.read_table(path) for path in sorted(folder.glob("part-*.parquet")))
    return table["pair_id"].to_pylist(), _matrix(table["image_embedding"]), _matrix(table["text_embedding"])


def embed_row_group(encoder: Encoder, path: str, row_group: int, batch_size: int = BATCH_SIZE) -> pa.Table:
    """The embeddings of one row group; the next batch's images are decoded while the model runs."""
    table = pq.ParquetFile(path).read_row_group(row_group, columns=_COLUMNS)
    images, texts = [], []
    with ThreadPoolExecutor(1) as decoder:
        batches = table.to_batches(max_chunksize=batch_size)
        pending = [decoder.submit(_pixels, encoder, batch) for batch in batches]
        for batch, pixels in zip(batches, pending, strict=True):
            images.append(encoder.encode_pixels(pixels.result()))
            texts.append(encoder.encode_texts(batch["caption"].to_pylist()))
    return pa.table(
        {
            "pair_id": table["pair_id"],
            "split": table["split"].cast(pa.string()),
            "image_embedding": _column(np.concatenate(images)),
            "text_embedding": _column(np.concatenate(texts)),
        }
    )


class _EmbedActor:
    """A Ray Data actor that keeps the model loaded between row groups."""

    def __init__(self, model: str, out: str) -> None:
        import torch

        self._encoder = Encoder.load(model, "cuda" if torch.cuda.is_available() else "cpu")
        self._out = Path(out)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        rows = []
        for unit in zip(batch["path"].tolist(), batch["row_group"].tolist(), batch["part"].tolist(), strict=True):
            table = embed_row_group(self._encoder, unit[0], unit[1])
            with atomic_path(_part_path(self._out, unit)) as temporary:
                pq.write_table(table, temporary)
            rows.append(table.num_rows)
        return {"pairs": np.array(rows)}


Unit = tuple[str, int, int]


def _row_groups(pairs: Path, splits: Sequence[Split]) -> Iterator[Unit]:
    files = sorted(path for split in splits for path in (pairs / "data" / f"split={split}").glob("*.parquet"))
    number = 0
    for path in files:
        for row_group in range(pq.ParquetFile(path).metadata.num_row_groups):
            yield str(path.resolve()), row_group, number
            number += 1


def _part_path(out: Path, unit: Unit) -> Path:
    return out / f"part-{unit[2]:06d}.parquet"


def _run(units: Sequence[Unit], model: str, out: Path, progress: bool) -> None:
    import ray

    cluster.start()
    cluster.quiet_data()
    items = [{"path": path, "row_group": row_group, "part": part} for path, row_group, part in units]
    total = sum(pq.ParquetFile(path).metadata.row_group(row_group).num_rows for path, row_group, _ in units)
    gpus = cluster.gpus()
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        _EmbedActor,
        batch_size=1,
        fn_constructor_args=(str(Path(model).resolve()) if Path(model).exists() else model, str(out.resolve())),
        compute=ray.data.ActorPoolStrategy(size=max(1, gpus)),
        num_cpus=1,
        num_gpus=1 if gpus else None,
    )
    with Progress(disable=not progress) as bar:
        task = bar.add_task("embed pairs", total=total)
        for batch in dataset.iter_batches(batch_size=None, prefetch_batches=0):
            bar.advance(task, int(batch["pairs"].sum()))


def _pixels(encoder: Encoder, batch: pa.RecordBatch) -> Any:
    import torch

    return torch.stack([encoder.preprocess(image.as_py()) for image in batch["image"]])


def _column(matrix: NDArray[np.float32]) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel(), pa.float32()), matrix.shape[1])


def _matrix(column: pa.ChunkedArray) -> NDArray[np.float32]:
    flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.ascontiguousarray(flat.reshape(len(column), -1), dtype=np.float32)
