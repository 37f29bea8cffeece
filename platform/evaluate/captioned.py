"""Sets of pictures with captions that are no pairs artifact, recognised by what lies on disk.

    FOLDER -- Parquet with pictures? tars? tables? --> CaptionedSet: a SampleSet for retrieval and embedding

Columns are found by their usual names; options name others (file, caption, group, split) and where files lie (root).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from biomedray.artifacts import fingerprint, is_finished, read_manifest
from biomedray.errors import UserError
from biomedray.evaluate.captions import columns, shards, tables
from biomedray.evaluate.captions.part import Part, Reject
from biomedray.evaluate.pairs import open_pairs
from biomedray.evaluate.samples import Sample, SampleSet

LAYOUTS = (
    "a table (captions.jsonl, metadata.csv, test_captions.csv, ...) with pictures beside it, tars of KEY.jpg with KEY.txt, "
    "Parquet with an image column, or a pairs artifact"
)


@dataclass(frozen=True)
class CaptionedSet:
    """A ``SampleSet`` of pictures with captions."""

    name: str
    parts: dict[str, Part]
    """By split."""

    @property
    def fingerprint(self) -> str:
        """Identity of names, sizes, captions and groups, wherever the files lie."""
        return fingerprint({split: part.identity for split, part in self.parts.items()})

    @property
    def classes(self) -> tuple[str, ...]:
        """None: these are captions."""
        return ()

    @property
    def splits(self) -> tuple[str, ...]:
        """Of train, val and test, those that are there."""
        return tuple(self.parts)

    def size(self, split: str) -> int:
        """How many pictures with a caption a split has."""
        return len(self.parts[split]) if split in self.parts else 0

    def read(self, split: str, start: int, stop: int) -> list[Sample]:
        """Samples ``start`` to ``stop`` of a split, in the order of the table or the shards."""
        return self.parts[split].read(start, stop)

    def left_out(self, split: str) -> list[Reject]:
        """What the set names but has no picture or no caption of: id, reason, detail."""
        return list(self.parts[split].left_out) if split in self.parts else []


def open_captioned(path: Path, **options: str) -> SampleSet:
    """Open a set of pictures with captions: a folder, or one table, tar or Parquet file.

    Args:
        path: as LAYOUTS says.
        options: ``file``, ``caption``, ``group`` and ``split`` name columns (or keys), ``root`` the folder of the pictures.

    Raises:
        UserError: it is none of LAYOUTS, a file is damaged, or a column is missing.
    """
    columns.check(options)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if is_finished(path) and read_manifest(path).kind == "pairs":
        return open_pairs(path)
    parts = _open_file(path, options) if path.is_file() else _open_folder(path, options)
    parts = {split: part for split, part in parts.items() if len(part)}
    if not parts:
        raise UserError(f"{path}: no picture in it has a caption")
    return CaptionedSet(path.resolve().stem if path.is_file() else path.resolve().name, parts)


def _open_folder(path: Path, options: columns.Options) -> dict[str, Part]:
    parquet = shards.find(path, ".parquet")
    if parquet and shards.holds_pictures(next(iter(parquet.values()))[0]):
        return shards.open_parquet(parquet, options)
    if tars := shards.find(path, ".tar"):
        return shards.open_tars(tars, options)
    if found := tables.find(path):
        return tables.open_tables(found, options)
    raise UserError(f"{path}: not a set of captions that is known: {LAYOUTS}; if there are several tables, name one of them")


def _open_file(path: Path, options: columns.Options) -> dict[str, Part]:
    if path.suffix == ".tar":
        return shards.open_tars({"test": [path]}, options)
    if path.suffix == ".parquet":
        return shards.open_parquet({"test": [path]}, options)
    return tables.open_tables({"all": path}, options)
