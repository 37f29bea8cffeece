"""LC25000, lung and colon, as its authors distribute it: a folder of JPEG files for each class (Borkowski et al., 2019).

lung_colon_image_set/lung_image_sets/{lung_aca,lung_n,lung_scc}/*.jpeg
lung_colon_image_set/colon_image_sets/{colon_aca,colon_n}/*.jpeg
"""

from __future__ import annotations

from pathlib import Path

from biomedray.evaluate.sets.image_set import ImageSet, part
from biomedray.evaluate.sets.layout import Layout, Options, left_out, pictures, wrong
from biomedray.evaluate.sets.prompts import of_paper
from biomedray.evaluate.sets.sources import files

_DRAWINGS = {
    "lung": "lung_colon_image_set/lung_image_sets/{lung_aca,lung_n,lung_scc}/*.jpeg",
    "colon": "lung_colon_image_set/colon_image_sets/{colon_aca,colon_n}/*.jpeg",
}
_NOTE = (
    "its 25,000 pictures were augmented from 1,250, and nothing says which is whose: intervals are too narrow, and splits leak"
)


def _open(path: Path, organ: str) -> ImageSet:
    name = f"lc25000-{organ}"
    fixed = of_paper(name)
    root = _root(path, organ)
    if root is None:
        raise wrong(path, f"no folder {organ}_image_sets", f"LC25000 ({organ})", _DRAWINGS[organ])
    names, labels, others = [], [], []
    for label, folder in enumerate(fixed["classes"]):
        found, rest = pictures(root / folder) if (root / folder).is_dir() else ([], [])
        if not found:
            raise wrong(root, f"no pictures in {folder}/", f"LC25000 ({organ})", _DRAWINGS[organ])
        names += [f"{folder}/{file}" for file in found]
        labels += [label] * len(found)
        others += [f"{folder}/{file}" for file in rest]
    everything = part(names, labels, files(root, names))
    return ImageSet(name, name, parts={"test": everything}, notes=(_NOTE, *left_out(others)), **fixed)


def open_lung(path: Path, _options: Options) -> ImageSet:
    """All lung pictures as split test: the set has no splits."""
    return _open(path, "lung")


def open_colon(path: Path, _options: Options) -> ImageSet:
    """All colon pictures as split test: the set has no splits."""
    return _open(path, "colon")


def _root(path: Path, organ: str) -> Path | None:
    folder = f"{organ}_image_sets"
    tries = (path, path / folder, path / "lung_colon_image_set" / folder)
    found = (root for root in tries if root.is_dir() and root.name == folder)
    inside = (root for root in tries if root.is_dir() and (root / f"{organ}_n").is_dir())
    return next(found, None) or next(inside, None)


LAYOUTS = (
    Layout("lc25000-lung", _DRAWINGS["lung"], lambda path: _root(path, "lung") is not None, open_lung),
    Layout("lc25000-colon", _DRAWINGS["colon"], lambda path: _root(path, "colon") is not None, open_colon),
)
