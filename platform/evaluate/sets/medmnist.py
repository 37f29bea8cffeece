"""MedMNIST v3, the flat sets with one label a picture, 28 to 224 px (Yang et al., 2023).

NAME[_64|_128|_224].npz: {train,val,test}_images uint8 [n, S, S] or [n, S, S, 3], {train,val,test}_labels [n, 1]
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from biomedray.errors import UserError
from biomedray.evaluate.sets.image_set import ImageSet, Part, part
from biomedray.evaluate.sets.layout import Layout, Options, wrong
from biomedray.evaluate.sets.prompts import TEMPLATES, medmnist_classes
from biomedray.evaluate.sets.sources import Npy

_DRAWING = "NAME[_64|_128|_224].npz with {train,val,test}_images (n, S, S[, 3]) uint8 and {train,val,test}_labels (n, 1)"
_SPLITS = ("train", "val", "test")


def open_medmnist(path: Path, _options: Options) -> ImageSet:
    """The splits of one file; nothing tells which pictures share a patient."""
    try:
        with zipfile.ZipFile(path) as archive:
            there = set(archive.namelist())
            parts = {split: _split(archive, path, split) for split in _SPLITS if f"{split}_images.npy" in there}
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        raise wrong(path, f"not a whole npz ({error})", "MedMNIST", _DRAWING) from None
    if not parts:
        raise wrong(path, f"no test_images in it (there is {', '.join(sorted(there)) or 'nothing'})", "MedMNIST", _DRAWING)
    name = path.stem.split("_")[0].lower()
    highest = max(int(one.labels.max(initial=0)) for one in parts.values())
    prompts, note = _classes(name, highest)
    classes = tuple(prompts) if note == "" else tuple(str(i) for i in range(highest + 1))
    notes = (note,) if note else ()
    return ImageSet(path.stem.lower(), "medmnist", classes, parts, tuple(prompts), TEMPLATES, notes=notes)


def _split(archive: zipfile.ZipFile, path: Path, split: str) -> Part:
    shape, dtype, offset = _header(archive, path, f"{split}_images.npy")
    if dtype != np.uint8 or not (len(shape) == 3 or (len(shape) == 4 and shape[-1] == 3)):
        raise wrong(path, f"{split}_images is {dtype} {shape}: only flat sets are read", "MedMNIST", _DRAWING)
    if f"{split}_labels.npy" not in archive.namelist():
        raise wrong(path, f"no {split}_labels", "MedMNIST", _DRAWING)
    with archive.open(f"{split}_labels.npy") as stream:
        labels = npy.read_array(stream, allow_pickle=False)
    if labels.ndim == 2 and labels.shape[1] > 1:
        raise UserError(
            f"{path}: has {labels.shape[1]} labels for each picture (ChestMNIST); only sets with one class a picture are scored"
        )
    if labels.size != shape[0]:
        raise wrong(path, f"{shape[0]} pictures but {labels.size} labels in {split}", "MedMNIST", _DRAWING)
    ids = [f"{split}/{i:06d}" for i in range(shape[0])]
    return part(ids, labels, Npy(path, f"{split}_images.npy", offset, tuple(shape[1:])))


def _header(archive: zipfile.ZipFile, path: Path, member: str) -> tuple[tuple[int, ...], Any, int]:
    """Shape, type and where the data begin."""
    with archive.open(member) as stream:
        try:
            version = npy.read_magic(stream)
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, columns_first, dtype = read(stream)
        except ValueError as error:
            raise wrong(path, f"{member} is damaged ({error})", "MedMNIST", _DRAWING) from None
        if columns_first and len(shape) > 1:
            raise wrong(path, f"{member} is stored column by column", "MedMNIST", _DRAWING)
        return shape, dtype, stream.tell()


def _classes(name: str, highest: int) -> tuple[Sequence[str], str]:
    """The prompts' names of the classes; numbers and a note where the file's name is none of MedMNIST's."""
    known = medmnist_classes()["sets"].get(name)
    if known is None:
        return [
            f"class {i}" for i in range(highest + 1)
        ], f"{name} is no set of MedMNIST by its name: classes have no names, give prompts"
    if highest >= len(known):
        raise UserError(f"{name}: label {highest}, but the set has {len(known)} classes; rename the file if it is another set")
    return known, ""


def _fits(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() == ".npz"


LAYOUT = Layout("medmnist", _DRAWING, _fits, open_medmnist)
