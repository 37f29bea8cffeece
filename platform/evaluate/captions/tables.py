"""A table beside files: JSON lines, CSV, TSV, COCO's JSON, ROCO's text; a row names a picture and says its caption.

    FOLDER/captions.jsonl + FOLDER/images/          one table; a column may say the split
    FOLDER/test_captions.csv + FOLDER/test/         a table a split (ROCOv2, ImageCLEF)
    FOLDER/test/metadata.csv + FOLDER/test/         Hugging Face's imagefolder
    FOLDER/test/radiology/captions.txt + images/    ROCO

Where the files lie and how their names end is found by trying the first rows; what then is missing is left out and counted.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from biomedray.errors import UserError
from biomedray.evaluate.captions import columns
from biomedray.evaluate.captions.columns import Options
from biomedray.evaluate.captions.part import Part, Reject, Row, part, reject
from biomedray.evaluate.sets.layout import SPLIT_FOLDERS
from biomedray.evaluate.sets.sources import Files
from biomedray.records import Reason

SUFFIXES = (".jsonl", ".ndjson", ".csv", ".tsv", ".json", ".txt")
_STEMS = ("captions", "metadata")
_FOLDERS = ("", "images", "image", "img", "imgs", "files")
_ENDINGS = ("", ".jpg", ".png", ".jpeg", ".JPG", ".PNG", ".tif", ".webp")
_TRIED = 40
_MAX_FIELD = 1 << 24

Record = dict[str, Any]


def find(folder: Path) -> dict[str, Path]:
    """The table of each split, or one for all under the name ``all``; {} if there is none."""
    by_split = {split: table for split, names in SPLIT_FOLDERS.items() if (table := _of_split(folder, names))}
    if by_split:
        return by_split
    table = _in(folder)
    return {"all": table} if table else {}


def _of_split(folder: Path, names: Sequence[str]) -> Path | None:
    for base in (folder, folder / "data"):
        for name in names:
            for stem in (f"{name}_captions", f"captions_{name}", name):
                if table := _named(base, stem):
                    return table
            for inside in (base / name, base / name / "radiology"):
                if table := _in(inside):
                    return table
    return None


def _named(folder: Path, stem: str) -> Path | None:
    return next((path for suffix in SUFFIXES if (path := folder / f"{stem}{suffix}").is_file()), None)


def _in(folder: Path) -> Path | None:
    """The table of a folder: by name, or the only one there is."""
    if not folder.is_dir():
        return None
    for stem in _STEMS:
        if table := _named(folder, stem):
            return table
    tables = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES[:4] and not path.name.startswith("."))
    return tables[0] if len(tables) == 1 else None


def open_tables(tables: dict[str, Path], options: Options) -> dict[str, Part]:
    """The splits that the tables hold.

    Raises:
        UserError: a table can't be read, lacks a column, or none of its pictures is there.
    """
    parts: dict[str, Part] = {}
    for split, table in tables.items():
        records = _records(table)
        header = list(dict.fromkeys(key for record in islice(records, _TRIED) for key in record))
        if not header:
            raise UserError(f"{table}: no rows")
        caption = columns.need(columns.choose(header, "caption", columns.CAPTION, options, table), "caption", header, table)
        group = columns.choose(header, "group", columns.GROUP, options, table)
        by_split = columns.choose(header, "split", columns.SPLIT, options, table) if split == "all" else None
        names = _Names(table, records, header, options)
        for name, chosen in _splits(records, by_split, split).items():
            parts[name] = _part(chosen, caption, group, names)
    return parts


def _splits(records: Sequence[Record], column: str | None, split: str) -> dict[str, list[Record]]:
    """Records by split; without a column all are of the table's split, or test."""
    if column is None:
        return {"test" if split == "all" else split: list(records)}
    found: dict[str, list[Record]] = {}
    for record in records:
        word = str(record.get(column) or "").strip().lower()
        name = next((known for known, names in SPLIT_FOLDERS.items() if word in names), None)
        if name is None:
            raise UserError(f"split '{word}' in column {column}: only train, val and test are known")
        found.setdefault(name, []).append(record)
    return {name: found[name] for name in SPLIT_FOLDERS if name in found}


def _part(records: Sequence[Record], caption: str, group: str | None, names: _Names) -> Part:
    positions: dict[str, int] = {}
    sizes: list[int] = []
    rows: list[Row] = []
    left_out: list[Reject] = []
    for record in records:
        name = names.of(record)
        size = names.size(name)
        for text in columns.captions(record.get(caption)):
            if size is None:
                left_out.append(reject(name, Reason.FILE_MISSING, f"{name}: no such file"))
                continue
            if name not in positions:
                positions[name] = len(sizes)
                sizes.append(size)
            rows.append(Row(name, text, str(record.get(group) or "") if group else "", positions[name]))
    return part(rows, Files(names.root, tuple(positions), tuple(sizes)), left_out)


class _Names:
    """How a table's rows name their files: which column, below which folder, with which ending."""

    def __init__(self, table: Path, records: Sequence[Record], header: Sequence[str], options: Options) -> None:
        asked = columns.choose(header, "file", columns.FILE, options, table)
        usual = [columns.need(asked, "file", header, table)] if "file" in options else columns.candidates(header, columns.FILE)
        columns.need(asked, "file", header, table)
        self.root = Path(options["root"]) if "root" in options else table.parent
        some = records[:_TRIED]
        tries = [(folder, ending, column) for column in usual for folder in self._folders(table) for ending in _ENDINGS]
        counts = [sum(self._path(record, *one).is_file() for record in some) for one in tries]
        if not max(counts, default=0):
            first = self._path(some[0], *tries[0])
            raise UserError(f"{table}: none of its first {len(some)} pictures is there, such as {first}; say where: root=FOLDER")
        self._choice = tries[counts.index(max(counts))]

    def of(self, record: Record) -> str:
        """The file's path below the root."""
        folder, ending, column = self._choice
        name = f"{record.get(column) or ''}{ending}"
        return f"{folder}/{name}" if folder else name

    def size(self, name: str) -> int | None:
        """Bytes of the file; None if there is none."""
        path = self.root / name
        return path.stat().st_size if path.is_file() else None

    def _path(self, record: Record, folder: str, ending: str, column: str) -> Path:
        return self.root / folder / f"{record.get(column) or ''}{ending}"

    @staticmethod
    def _folders(table: Path) -> list[str]:
        """Also one that is named as the table's split is: test_captions.csv beside test/ or test_images/."""
        word = table.stem.removesuffix("_captions").removeprefix("captions_")
        return [*_FOLDERS, word, f"{word}/images", f"{word}_images", f"{word}_images/{word}", f"images/{word}"]


# ---- reading


def _records(table: Path) -> list[Record]:
    try:
        return list(_READERS[table.suffix.lower()](table))
    except KeyError:
        raise UserError(f"{table}: not a table of captions ({', '.join(SUFFIXES)})") from None
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        raise UserError(f"{table}: cannot be read as {table.suffix[1:]} ({str(error).splitlines()[0]})") from None


def _read_lines(table: Path) -> Iterator[Record]:
    with table.open(encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                record = json.loads(line)
                if not isinstance(record, dict):
                    raise ValueError(f"line {number} is no object")
                yield record


def _read_csv(table: Path) -> Iterator[Record]:
    """Commas, tabs, semicolons or bars, whichever the header has most of."""
    csv.field_size_limit(_MAX_FIELD)
    with table.open(newline="", encoding="utf-8-sig") as stream:
        header = stream.readline()
        stream.seek(0)
        delimiter = max(",\t;|", key=header.count)
        for row in csv.DictReader(stream, delimiter=delimiter):
            yield {key: value for key, value in row.items() if key}


def _read_text(table: Path) -> Iterator[Record]:
    """ROCO's: a name, a tab, a caption; no header."""
    with table.open(encoding="utf-8-sig") as stream:
        for line in stream:
            name, _, caption = line.rstrip("\n").partition("\t")
            if name.strip():
                yield {"file": name.strip(), "caption": caption}


def _read_json(table: Path) -> Iterator[Record]:
    """A list of objects, or COCO's images and annotations."""
    value = json.loads(table.read_text(encoding="utf-8-sig"))
    if isinstance(value, dict) and isinstance(value.get("annotations"), list) and isinstance(value.get("images"), list):
        files = {image["id"]: image["file_name"] for image in value["images"]}
        value = [{"file": files.get(note.get("image_id")), "caption": note.get("caption")} for note in value["annotations"]]
    if not isinstance(value, list) or not all(isinstance(record, dict) for record in value):
        raise ValueError("no list of objects")
    yield from value


_READERS = {
    ".jsonl": _read_lines,
    ".ndjson": _read_lines,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".json": _read_json,
    ".txt": _read_text,
}
