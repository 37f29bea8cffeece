"""TCGA-TIL in both public forms: ChampKit's folders (Zenodo 6604094) and plain 500 px LUAD patches in two folders.

images-tcga-tils/{pancancer,luad,...}/{train,val,test}/{til-negative,til-positive}/*.png      100 px; option cancer
{til-negative,til-positive}/*.png                                                             the paper's 2,480 LUAD patches
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from biomedray.errors import UserError
from biomedray.evaluate.sets.image_set import ImageSet, Part, part
from biomedray.evaluate.sets.layout import SPLIT_FOLDERS, Layout, Options, left_out, pictures, wrong
from biomedray.evaluate.sets.prompts import of_paper
from biomedray.evaluate.sets.sources import files

_DRAWING = "images-tcga-tils/{pancancer,luad,...}/{train,val,test}/{til-negative,til-positive}/*.png, or just the last two levels"
_CLASSES = ("til-negative", "til-positive")
_PATIENT = re.compile(r"TCGA-[A-Z0-9]{2}-[A-Z0-9]{4}")


def open_til(path: Path, options: Options) -> ImageSet:
    """One cancer's splits, or all patches as split test; the patient is the group where the names carry TCGA's barcodes."""
    root = _root(path, options.get("cancer"))
    folders = {split: next((root / n for n in names if _has_classes(root / n)), None) for split, names in SPLIT_FOLDERS.items()}
    found = {split: folder for split, folder in folders.items() if folder is not None}
    if not found and not _has_classes(root):
        raise wrong(root, "no folders til-negative and til-positive", "TCGA-TIL", _DRAWING)
    parts, others = {}, []
    for split, folder in (found or {"test": root}).items():
        parts[split], rest = _split(root, folder)
        others += rest
    grouped = "patient" if any(one.groups != one.ids for one in parts.values()) else ""
    return ImageSet("tcga-til", "tcga-til", parts=parts, grouped=grouped, notes=left_out(others), **of_paper("tcga-til"))


def _split(root: Path, folder: Path) -> tuple[Part, list[str]]:
    names, labels, others = [], [], []
    for label, name in enumerate(_CLASSES):
        below = (folder / name).relative_to(root).as_posix()
        found, rest = pictures(folder / name)
        if not found:
            raise wrong(folder, f"no pictures in {name}/", "TCGA-TIL", _DRAWING)
        names += [f"{below}/{file}" for file in found]
        labels += [label] * len(found)
        others += [f"{below}/{file}" for file in rest]
    return part(names, labels, files(root, names), _patients(names)), others


def _patients(names: Sequence[str]) -> list[str] | None:
    """The patient of each patch; none where one name carries no barcode."""
    found = [_PATIENT.search(name.rsplit("/", 1)[-1]) for name in names]
    matches = [match.group() for match in found if match]
    return matches if len(matches) == len(names) else None


def _root(path: Path, cancer: str | None) -> Path:
    base = path / "images-tcga-tils" if (path / "images-tcga-tils").is_dir() else path
    if _is_set(base):
        return base
    there = sorted(folder.name for folder in base.iterdir() if _is_set(folder)) if base.is_dir() else []
    if not there:
        raise wrong(path, "no folders til-negative and til-positive", "TCGA-TIL", _DRAWING)
    if cancer is None and len(there) > 1:
        raise UserError(f"{base}: several cancers; choose one with --option cancer=NAME of {', '.join(there)}")
    if cancer is not None and cancer not in there:
        raise UserError(f"{base}: no cancer {cancer}; there is {', '.join(there)}")
    return base / (cancer or there[0])


def _is_set(folder: Path) -> bool:
    return _has_classes(folder) or any(_has_classes(folder / name) for names in SPLIT_FOLDERS.values() for name in names)


def _has_classes(folder: Path) -> bool:
    return any((folder / name).is_dir() for name in _CLASSES)


def _fits(path: Path) -> bool:
    return path.is_dir() and (
        (path / "images-tcga-tils").is_dir() or _is_set(path) or any(_is_set(p) for p in path.iterdir() if p.is_dir())
    )


LAYOUT = Layout("tcga-til", _DRAWING, _fits, open_til, ("cancer",))
