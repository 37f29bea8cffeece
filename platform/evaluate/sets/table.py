"""A CSV or TSV with a row for each image: file, label, and if there are any split and group.

    file,label,split,group
    WBC/1.png,WBC,train,patient 3

The columns' names are options; pictures lie beside the table or in a folder beside it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from biomedray.errors import UserError
from biomedray.evaluate.sets.image_set import SPLITS, ImageSet, part
from biomedray.evaluate.sets.layout import SPLIT_FOLDERS, Layout, Options, grouper, read_rows, wrong
from biomedray.evaluate.sets.prompts import TEMPLATES, words
from biomedray.evaluate.sets.sources import files

_DRAWING = "DATA.csv, or a folder with one CSV, with columns file,label and maybe split,group"
_TABLES = (".csv", ".tsv")


def open_table(path: Path, options: Options) -> ImageSet:
    """Rows in the table's order, all of them split test without a column of splits.

    Options: ``file``, ``label``, ``split``, ``group`` name columns; ``root`` is the pictures' folder; ``pattern`` a regular
    expression that finds the group in a file's name; ``ending`` is added to every file's name.
    """
    table = _table(path)
    columns = {name: options.get(name, name) for name in ("file", "label", "split", "group")}
    asked = [columns[name] for name in ("split", "group") if name in options]
    rows = read_rows(table, [columns["file"], columns["label"], *asked], "CSV", _DRAWING)
    names = [row[columns["file"]] + options.get("ending", "") for row in rows]
    labels = [row[columns["label"]].strip() for row in rows]
    classes = _classes(table, labels)
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise wrong(table, f"{twice[0]} has several rows", "CSV", _DRAWING)
    root = _root(table, names[0], options.get("root"))
    find, has_groups = grouper(options.get("pattern")), columns["group"] in rows[0]
    groups = [find(name) for name in names] if find else [row.get(columns["group"], "") for row in rows]
    splits = [_split(table, row[columns["split"]]) if columns["split"] in row else "test" for row in rows]
    parts = {}
    for split in SPLITS:
        chosen = [i for i, name in enumerate(splits) if name == split]
        if chosen:
            of_split = [names[i] for i in chosen]
            labels_of = [classes.index(labels[i]) for i in chosen]
            parts[split] = part(of_split, labels_of, files(root, of_split), [groups[i] for i in chosen])
    name = table.parent.name if path.is_dir() or table.stem == "labels" else table.stem
    grouped = "group" if find or has_groups else ""
    return ImageSet(name, "csv", classes, parts, tuple(map(words, classes)), TEMPLATES, grouped=grouped)


def _table(path: Path) -> Path:
    if path.is_file():
        return path
    tables = _tables(path)
    if len(tables) == 1:
        return tables[0]
    what = "no CSV in it" if not tables else f"several CSV files ({', '.join(t.name for t in tables)}): name one of them"
    raise wrong(path, what, "CSV", _DRAWING)


def _classes(table: Path, labels: Sequence[str]) -> tuple[str, ...]:
    """Labels in order; numbers by their value."""
    if "" in labels:
        raise wrong(table, f"row {labels.index('') + 2} has no label", "CSV", _DRAWING)
    found = sorted(set(labels), key=lambda name: (0, int(name), "") if name.isdigit() else (1, 0, name))
    if len(found) < 2:
        raise wrong(table, f"one class, {found[0]}", "CSV", _DRAWING)
    return tuple(found)


def _split(table: Path, name: str) -> str:
    for split, names in SPLIT_FOLDERS.items():
        if name.strip().lower() in names:
            return split
    raise UserError(f"{table}: split '{name}'; name train, val or test")


def _root(table: Path, first: str, given: str | None) -> Path:
    if given is not None:
        if not Path(given).is_dir():
            raise UserError(f"root {given}: no such folder")
        return Path(given).resolve()
    beside = sorted(folder for folder in table.parent.iterdir() if folder.is_dir())
    for folder in (table.parent, *beside):
        if (folder / first).is_file():
            return folder
    raise wrong(table, f"no {first} beside it or in a folder beside it (or give --option root=FOLDER)", "CSV", _DRAWING)


def _tables(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.suffix.lower() in _TABLES) if path.is_dir() else []


def _fits(path: Path) -> bool:
    """A table, or a folder whose only table has the columns: beside folders of classes any other table means nothing."""
    if path.is_file():
        return path.suffix.lower() in _TABLES
    tables = _tables(path)
    return len(tables) == 1 and {"file", "label"} <= set(re.split(r"[,\t]", _first_line(tables[0])))


def _first_line(path: Path) -> str:
    with path.open(encoding="utf-8-sig", errors="replace") as stream:
        return stream.readline().strip().replace('"', "")


LAYOUT = Layout("csv", _DRAWING, _fits, open_table, ("file", "label", "split", "group", "pattern", "root", "ending"))
