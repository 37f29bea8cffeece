"""PatchCamelyon as its authors distribute it: HDF5 files of 96 px patches, packed or not (Veeling et al., 2018).

camelyonpatch_level_2_split_{train,valid,test}_x.h5[.gz]   key x [n, 96, 96, 3] uint8
camelyonpatch_level_2_split_{train,valid,test}_y.h5[.gz]   key y [n, 1, 1, 1]: 1 is metastasis in the middle
camelyonpatch_level_2_split_{train,valid,test}_meta.csv    column wsi: the slide; may be missing
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from biomedray.evaluate.sets.image_set import ImageSet, IntVector, Part, part
from biomedray.evaluate.sets.layout import Layout, Options, read_rows, wrong
from biomedray.evaluate.sets.prompts import of_paper
from biomedray.evaluate.sets.sources import Hdf5, open_hdf5

_STEM = "camelyonpatch_level_2_split_"
_DRAWING = f"{_STEM}{{train,valid,test}}_{{x,y}}.h5[.gz], with {_STEM}..._meta.csv for the slides if you have it"
_NAMES = {"train": "train", "val": "valid", "test": "test"}


def open_pcam(path: Path, _options: Options) -> ImageSet:
    """Splits that are there, in the files' own order; the slide is the group where the metadata name it."""
    parts, notes = {}, []
    for split, name in _NAMES.items():
        if any((path / f"{_STEM}{name}_{letter}.h5{end}").is_file() for letter in "xy" for end in ("", ".gz")):
            parts[split], note = _split(path, name)
            notes += [note] if note else []
    if not parts:
        raise wrong(path, f"no {_STEM}test_x.h5", "PCam", _DRAWING)
    grouped = "" if notes else "slide"
    return ImageSet("pcam", "pcam", parts=parts, grouped=grouped, notes=tuple(notes), **of_paper("pcam"))


def _split(path: Path, name: str) -> tuple[Part, str]:
    x, y = (_file(path, f"{_STEM}{name}_{letter}.h5") for letter in "xy")
    labels = np.asarray(_dataset(y, "y")).reshape(-1).astype(np.int64)
    images = _dataset(x, "x")
    if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8:
        raise wrong(x, f"key x is {images.dtype} {images.shape}, not uint8 (n, 96, 96, 3)", "PCam", _DRAWING)
    if len(images) != len(labels):
        raise wrong(path, f"{len(images)} pictures in {x.name} but {len(labels)} labels in {y.name}", "PCam", _DRAWING)
    if unknown := sorted(set(labels.tolist()) - {0, 1}):
        raise wrong(y, f"label {unknown[0]}", "PCam", _DRAWING)
    ids = [f"{name}/{i:06d}" for i in range(len(labels))]
    groups, note = _slides(path, name, labels)
    return part(ids, labels, Hdf5(x, "x"), groups), note


def _dataset(path: Path, key: str):  # type: ignore[no-untyped-def]  # h5py has no types
    found = open_hdf5(path)
    if key not in found:
        raise wrong(path, f"no key {key} in it (there is {', '.join(found) or 'none'})", "PCam", _DRAWING)
    return found[key]


def _slides(path: Path, name: str, labels: IntVector) -> tuple[Sequence[str] | None, str]:
    """The slide of each patch, or a note on why it is not known."""
    meta = path / f"{_STEM}{name}_meta.csv"
    if not meta.is_file():
        return None, f"no {meta.name}: slides unknown, so patches of one slide count as independent"
    slides = [row["wsi"] for row in read_rows(meta, ["wsi"], "PCam", _DRAWING)]
    if len(slides) != len(labels):
        return None, f"{meta.name} has {len(slides)} rows for {len(labels)} patches: slides unknown"
    return slides, ""


def _file(path: Path, name: str) -> Path:
    for candidate in (path / name, path / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    raise wrong(path, f"no {name} and no {name}.gz", "PCam", _DRAWING)


def _fits(path: Path) -> bool:
    return path.is_dir() and any(path.glob(f"{_STEM}*.h5*"))


LAYOUT = Layout("pcam", _DRAWING, _fits, open_pcam)
