"""Shards that hold the pictures themselves: WebDataset tars, and Parquet as the Hugging Face hub keeps data sets.

    FOLDER/{test/,}*.tar                 KEY.jpg with KEY.txt, or KEY.json that has a caption
    FOLDER/{data/,test/,}test-*.parquet  image (bytes, or a struct that has them) and a column of captions

Headers and captions are read once, here; pictures by offset or row group, when they are asked for.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from biomedray.errors import UserError
from biomedray.evaluate.captions import columns
from biomedray.evaluate.captions.columns import Options
from biomedray.evaluate.captions.part import Part, Reject, Row, part, reject
from biomedray.evaluate.sets.image_set import Pixels
from biomedray.evaluate.sets.layout import SPLIT_FOLDERS
from biomedray.evaluate.sets.sources import TarMembers
from biomedray.records import Reason

_PICTURES = ("jpg", "jpeg", "png", "webp", "tif", "tiff", "gif", "bmp")
_TEXTS = ("txt", "caption", "text", "json")
_IMAGE_COLUMNS = ("image", "img", "jpg", "png", "picture", "image_bytes", "bytes")


def find(folder: Path, ending: str) -> dict[str, list[Path]]:
    """Shards by split: from the folder that they lie in, or how their names begin; of no split, they are test."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob(f"*{ending}")):
        place = path.relative_to(folder)
        if path.is_file() and len(place.parts) <= 3 and not any(word.startswith(".") for word in place.parts):
            found.setdefault(_split(place), []).append(path)
    return {split: found[split] for split in SPLIT_FOLDERS if split in found}


def _split(place: Path) -> str:
    words = [*place.parts[:-1], place.name.lower().replace("_", "-").split("-")[0].split(".")[0]]
    return next((split for word in words for split, names in SPLIT_FOLDERS.items() if word.lower() in names), "test")


# ---- tars


@dataclass
class _Member:
    """What a tar has under one key."""

    place: tuple[int, int, int] | None = None
    caption: Any = None
    group: str = ""


def open_tars(shards: dict[str, list[Path]], options: Options) -> dict[str, Part]:
    """The splits of a WebDataset, in the order of the tars.

    Raises:
        UserError: a tar is damaged, or holds no picture with a caption.
    """
    return {split: _tar_part(tars, options) for split, tars in shards.items()}


def _tar_part(tars: Sequence[Path], options: Options) -> Part:
    rows: list[Row] = []
    places: list[tuple[int, int, int]] = []
    left_out: list[Reject] = []
    for number, tar in enumerate(tars):
        for key, member in _members(tar, number, options).items():
            if member.place is None:
                left_out.append(reject(key, Reason.FILE_MISSING, f"{tar.name}: {key} has no picture"))
                continue
            texts = columns.captions(member.caption)
            rows += [Row(key, text, member.group, len(places)) for text in texts]
            places.append(member.place)
    if not rows:
        raise UserError(f"{tars[0]}: no picture in it (KEY.jpg with KEY.txt or KEY.json)")
    return part(rows, TarMembers(tuple(tars), tuple(places)), left_out)


def _members(tar: Path, number: int, options: Options) -> dict[str, _Member]:
    found: dict[str, _Member] = {}
    try:
        with tarfile.open(tar, "r:") as archive:
            for info in archive:
                folder, _, name = info.name.removeprefix("./").rpartition("/")
                stem, _, ending = name.partition(".")
                ending = ending.lower()
                if not info.isfile() or ending not in (*_PICTURES, *_TEXTS):
                    continue
                member = found.setdefault(f"{folder}/{stem}" if folder else stem, _Member())
                if ending in _PICTURES:
                    member.place = (number, info.offset_data, info.size)
                else:
                    stream = archive.extractfile(info)
                    _say(member, ending, stream.read() if stream else b"", options, tar)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"{tar}: not a whole tar ({str(error).splitlines()[0]}); fetch it again") from None
    return found


def _say(member: _Member, ending: str, data: bytes, options: Options, tar: Path) -> None:
    """A text is the caption; a JSON may have one, which counts if there is no text or the user names its key."""
    if ending != "json":
        if "caption" not in options:
            member.caption = data.decode("utf-8", "replace")
        return
    try:
        record = json.loads(data)
    except ValueError:
        return
    if not isinstance(record, dict):
        return
    column = columns.choose(list(record), "caption", columns.CAPTION, options, tar)
    if column and (member.caption is None or "caption" in options):
        member.caption = record[column]
    group = columns.choose(list(record), "group", columns.GROUP, options, tar)
    member.group = str(record[group] or "") if group else ""


# ---- Parquet


@dataclass(frozen=True)
class ParquetPictures:
    """Rows of Parquet files whose column holds the bytes of pictures."""

    files: tuple[Path, ...]
    column: str
    groups: tuple[tuple[int, int, int], ...]
    """Number of the file, of the row group in it, and its rows."""

    @property
    def identity(self) -> str:
        """Hash of the files' names and sizes."""
        words = [f"{path.name}:{path.stat().st_size}" for path in self.files]
        return hashlib.sha256("\0".join(["parquet", self.column, *words]).encode()).hexdigest()

    def read(self, positions: Sequence[int]) -> list[bytes | Pixels]:
        """The bytes at ascending positions; what is null comes empty, so that whoever decodes counts it."""
        ends = list(accumulate(rows for _, _, rows in self.groups))
        found: list[bytes | Pixels] = []
        for number, wanted in groupby(positions, key=lambda position: bisect_right(ends, position)):
            file, group, rows = self.groups[number]
            try:
                table = pq.ParquetFile(self.files[file]).read_row_group(group, columns=[self.column])
            except (OSError, pa.ArrowException) as error:
                raise UserError(f"{self.files[file]}: can't be read ({str(error).splitlines()[0]})") from None
            cells = table.column(self.column).take([position - (ends[number] - rows) for position in wanted]).to_pylist()
            found += [((cell or {}).get("bytes") if not isinstance(cell, bytes) else cell) or b"" for cell in cells]
        return found


def open_parquet(shards: dict[str, list[Path]], options: Options) -> dict[str, Part]:
    """The splits of Parquet shards that hold pictures.

    Raises:
        UserError: a file is damaged, or no column is known to hold pictures or captions.
    """
    return {split: _parquet_part(split, files, options) for split, files in shards.items()}


def holds_pictures(path: Path) -> bool:
    """Whether a Parquet file has a column with the bytes of pictures, by its schema."""
    try:
        return _picture_column(pq.read_schema(path), {}, path) is not None
    except (OSError, pa.ArrowException):
        return False


def _picture_column(schema: pa.Schema, options: Options, path: Path) -> str | None:
    def fits(kind: pa.DataType) -> bool:
        if pa.types.is_struct(kind):
            return int(kind.get_field_index("bytes")) >= 0
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    names = [field.name for field in schema if fits(field.type)]
    return columns.choose(names, "file", _IMAGE_COLUMNS, options, path)


def _parquet_part(split: str, files: Sequence[Path], options: Options) -> Part:
    try:
        schema = pq.read_schema(files[0])
        groups = tuple(_row_groups(files))
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{files[0].parent}: a file is no Parquet ({str(error).splitlines()[0]})") from None
    header = schema.names
    image = columns.need(_picture_column(schema, options, files[0]), "file", header, files[0])
    caption = columns.need(columns.choose(header, "caption", columns.CAPTION, options, files[0]), "caption", header, files[0])
    group = columns.choose(header, "group", columns.GROUP, options, files[0])
    name = columns.choose(header, "id", columns.ID, {}, files[0])
    wanted = list(dict.fromkeys(column for column in (caption, group, name) if column))
    table = pa.concat_tables([pq.read_table(path, columns=wanted) for path in files], promote_options="permissive")
    rows = [
        Row(str(record[name]) if name else f"{split}/{number}", text, str(record[group] or "") if group else "", number)
        for number, record in enumerate(table.to_pylist())
        for text in columns.captions(record[caption])
    ]
    return part(rows, ParquetPictures(tuple(files), image, groups), [])


def _row_groups(files: Sequence[Path]) -> Iterator[tuple[int, int, int]]:
    for number, path in enumerate(files):
        metadata = pq.read_metadata(path)
        for group in range(metadata.num_row_groups):
            yield number, group, metadata.row_group(group).num_rows
