"""The embeddings artifact: where it lies in a store of several, its columns, and how it is read back.

    STORE/SET-SPLIT-MODEL-1a2b3c4d/  part-000000.parquet ...  rejects.parquet  manifest.json

Rows keep the order of the set. A sample that could not be embedded stands in ``rejects.parquet`` with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from biomedray.artifacts import fingerprint, is_finished, read_manifest
from biomedray.errors import UserError

KIND = "embeddings"
DTYPES = {"float32": pa.float32(), "float16": pa.float16()}
REJECTS = "rejects.parquet"
REJECT_SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "split", "reason", "detail")])

FloatMatrix = NDArray[np.float32]
IntVector = NDArray[np.int64]


@dataclass(frozen=True)
class Embedded:
    """Embeddings of n samples in memory, as float32 whatever they are stored as."""

    ids: list[str]
    labels: IntVector
    """[n] number of the class, -1 of a sample without."""
    groups: list[str]
    """What is not independent shares a group; a sample without one is its own."""
    images: FloatMatrix
    """[n, D] unit vectors."""
    texts: FloatMatrix | None
    """[n, D] unit vectors of the captions, where they were asked for."""


def read_vectors(folder: Path) -> Embedded:
    """All rows of an embeddings artifact, in the order of the set.

    Raises:
        UserError: the folder is no finished embeddings artifact.
    """
    read_manifest(folder, KIND)
    files = parts(folder)
    names = pq.read_schema(files[0]).names
    table = pa.concat_tables(pq.read_table(path, columns=["id", "label", "group"]) for path in files)
    return Embedded(
        ids=table["id"].to_pylist(),
        labels=table["label"].to_numpy(),
        groups=table["group"].to_pylist(),
        images=_matrix(files, "image_embedding", len(table)),
        texts=_matrix(files, "text_embedding", len(table)) if "text_embedding" in names else None,
    )


def read_rejects(folder: Path) -> list[dict[str, str]]:
    """What could not be embedded: id, split, reason, detail."""
    rows: list[dict[str, str]] = pq.read_table(folder / REJECTS).to_pylist()
    return rows


def parts(folder: Path) -> list[Path]:
    """The files with vectors, in order."""
    return sorted(folder.glob("part-*.parquet"))


def part_path(folder: Path, number: int) -> Path:
    """The file of one stretch of the set."""
    return folder / f"part-{number:06d}.parquet"


def column(matrix: FloatMatrix, dtype: str) -> pa.FixedSizeListArray:
    """[n, D] as a column of fixed-size lists.

    Raises:
        UserError: vectors are stored as no such type.
    """
    values = np.ascontiguousarray(matrix, dtype=np.dtype(check_dtype(dtype))).ravel()
    return pa.FixedSizeListArray.from_arrays(pa.array(values, DTYPES[dtype]), matrix.shape[1])


def check_dtype(dtype: str) -> str:
    """The name of a type that vectors may be stored as.

    Raises:
        UserError: it is none.
    """
    if dtype not in DTYPES:
        raise UserError(f"dtype '{dtype}': vectors are stored as {' or '.join(DTYPES)}")
    return dtype


def _matrix(files: Sequence[Path], name: str, rows: int) -> FloatMatrix:
    """One column of all files, read file by file: of hundreds of thousands of vectors there is one copy."""
    matrix = np.empty((rows, pq.read_schema(files[0]).field(name).type.list_size), np.float32)
    start = 0
    for path in files:
        for chunk in pq.read_table(path, columns=[name])[name].chunks:
            matrix[start : start + len(chunk)] = (
                chunk.flatten().to_numpy(zero_copy_only=False).reshape(len(chunk), matrix.shape[1])
            )
            start += len(chunk)
    return matrix


# ---- a store of several artifacts


def identity(data: str, splits: Sequence[str], model: str, dtype: str, precision: str, texts: bool) -> dict[str, Any]:
    """What makes two embeddings artifacts the same: fingerprints of set and model, splits, and how it was computed."""
    return {
        "set": data,
        "splits": list(splits),
        "model": model,
        "dtype": check_dtype(dtype),
        "precision": precision,
        "texts": texts,
    }


def place(store: Path, names: Sequence[str], config: Mapping[str, Any]) -> Path:
    """The folder in a store for an artifact of this identity; ``names`` (set, splits, model) make it readable."""
    slug = "-".join(re.sub(r"[^A-Za-z0-9_.]+", "_", name)[:40] for name in names)
    return store / f"{slug}-{fingerprint(dict(config))[:8]}"


def found(store: Path, names: Sequence[str], config: Mapping[str, Any]) -> Path | None:
    """A finished artifact of this identity in a store, or the store itself if it is one; one with texts serves both."""
    for texts in (bool(config["texts"]), True):
        wanted = {**config, "texts": texts}
        for folder in (place(store, names, wanted), store):
            if is_finished(folder):
                manifest = read_manifest(folder)
                if manifest.kind == KIND and {key: manifest.config.get(key) for key in wanted} == wanted:
                    return folder
    return None
