"""A generation of an index: one folder of files that belong together, and the pointer to the current one.

    INDEX/CURRENT                      "000001"
    INDEX/generations/000001/          image.faiss  text.faiss       what is searched
                                       image.npy  text.npy           exact vectors: re-ranking, "more like this", small subsets
                                       metadata.arrow  keys.npy      what a hit shows; rows by pair id
                                       generation.json               encoder, pairs, checksums of the files above

A new generation is written whole beside the old one, then CURRENT is replaced.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from pydantic import ValidationError

from biomedray.artifacts import write_atomic
from biomedray.config import Config
from biomedray.errors import UserError

CURRENT = "CURRENT"
FOLDER = "generations"
GENERATION = "generation.json"
METADATA = "metadata.arrow"
KEYS = "keys.npy"
TARGETS = {"figure": "image", "caption": "text"}
"""What may be searched, and the stem of its files."""


class Generation(Config):
    """What the files of one generation are and what made them."""

    name: str
    """Six digits, counted from 000001."""
    rows: int
    dim: int
    index_key: str
    """Key of faiss.index_factory."""
    encoder: str
    encoder_fingerprint: str
    pairs_uri: str
    """Where the pairs artifact lay when the index was made; images are served from there."""
    pairs_fingerprint: str
    files: dict[str, str]
    """File name -> SHA-256."""


def generation_folder(index: Path, name: str) -> Path:
    """Where a generation lies."""
    return index / FOLDER / name


def set_current(index: Path, generation: Generation) -> None:
    """Make a generation the one that is served."""
    write_atomic(index / CURRENT, generation.name + "\n")


def read_current(index: Path) -> tuple[Path, Generation]:
    """Folder and description of the current generation.

    Raises:
        UserError: there is none, or its description is damaged.
    """
    try:
        name = (index / CURRENT).read_text().strip()
        folder = generation_folder(index, name)
        generation = Generation.model_validate_json((folder / GENERATION).read_bytes())
    except OSError as error:
        raise UserError(f"{index}: no usable index generation ({error.strerror}); build the index again") from None
    except ValidationError as error:
        raise UserError(f"{folder / GENERATION}: damaged: {error.errors()[0]['msg']}; build the index again") from None
    return folder, generation


def verify(folder: Path, generation: Generation) -> None:
    """Check every file's checksum: index files are parsed by native code, so nothing else is opened.

    Raises:
        UserError: a file is missing or is not the one that was written.
    """
    for name, expected in generation.files.items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path}: missing; build the index again")
        if file_sha256(path) != expected:
            raise UserError(f"{path}: damaged (its checksum differs); build the index again")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
