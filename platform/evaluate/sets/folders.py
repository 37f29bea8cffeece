"""A folder for each class, with split folders above them or without.

DATA/{train,val,test}/CLASS/*.png    or    DATA/CLASS/*.png, all of it split test
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from biomedray.evaluate.sets.image_set import ImageSet, part
from biomedray.evaluate.sets.layout import SPLIT_FOLDERS, Layout, Options, grouper, left_out, pictures, wrong
from biomedray.evaluate.sets.prompts import TEMPLATES, words
from biomedray.evaluate.sets.sources import files

_DRAWING = "DATA/CLASS/*.png, or DATA/{train,val,test}/CLASS/*.png, two classes at least"


def open_folders(path: Path, options: Options) -> ImageSet:
    """Classes in the order of their names; option ``group`` is a regular expression that finds the group in a file's path."""
    if not path.is_dir():
        raise wrong(path, "no such folder", "folder-per-class", _DRAWING)
    found = {split: _pictures(folder) for split, folder in _splits(path).items()}
    classes = tuple(sorted({name for listing in found.values() for name, (names, _) in listing.items() if names}))
    everywhere = sorted({name for listing in found.values() for name in listing})
    if empty := [name for name in everywhere if name not in classes]:
        raise wrong(path, f"no pictures in {empty[0]}/", "folder-per-class", _DRAWING)
    if len(classes) < 2:
        raise wrong(path, f"{len(classes)} folders with pictures in them", "folder-per-class", _DRAWING)
    find = grouper(options.get("group"))
    parts, others = {}, []
    for split, folder in _splits(path).items():
        below = "" if folder == path else f"{folder.name}/"
        rows = [(f"{below}{name}/{file}", classes.index(name)) for name in sorted(found[split]) for file in found[split][name][0]]
        others += [f"{below}{name}/{file}" for name, (_, rest) in found[split].items() for file in rest]
        names = [name for name, _ in rows]
        groups = [find(name) for name in names] if find else None
        parts[split] = part(names, [label for _, label in rows], files(path, names), groups)
    grouped = "group" if find else ""
    prompts = tuple(map(words, classes))
    return ImageSet(path.name, "folders", classes, parts, prompts, TEMPLATES, grouped=grouped, notes=left_out(others))


def _splits(path: Path) -> Mapping[str, Path]:
    """Split folders if there are any that hold folders, else everything as test."""
    found = {
        split: path / name
        for split, names in SPLIT_FOLDERS.items()
        for name in reversed(names)
        if (path / name).is_dir() and _has_folders(path / name)
    }
    return found or {"test": path}


def _pictures(folder: Path) -> dict[str, tuple[list[str], list[str]]]:
    return {
        inner.name: pictures(inner) for inner in sorted(folder.iterdir()) if inner.is_dir() and not inner.name.startswith(".")
    }


def _has_folders(path: Path) -> bool:
    return path.is_dir() and any(inner.is_dir() and not inner.name.startswith(".") for inner in path.iterdir())


LAYOUT = Layout("folders", _DRAWING, _has_folders, open_folders, ("group",))
