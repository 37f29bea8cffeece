"""Labelled sets in the layouts in which they are distributed, all as one thing: an ``ImageSet``.

    PATH -> layout (given, or recognised by names on disk) -> ImageSet: splits, classes, prompts, pictures by position

Nothing is unpacked or copied; a folder that is not whole ends in one line that says what is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from biomedray.errors import UserError
from biomedray.evaluate.sets import folders, lc25000, medmnist, pcam, rsna, table, til, webdataset
from biomedray.evaluate.sets.image_set import ImageSet
from biomedray.evaluate.sets.layout import Layout

__all__ = ["LAYOUTS", "ImageSet", "open_set", "open_sets"]

LAYOUTS: Mapping[str, Layout] = {
    layout.name: layout
    for layout in (
        medmnist.LAYOUT,
        pcam.LAYOUT,
        *lc25000.LAYOUTS,
        rsna.LAYOUT,
        til.LAYOUT,
        webdataset.LAYOUT,
        table.LAYOUT,
        folders.LAYOUT,
    )
}
"""In the order in which they are recognised: the particular before the general."""


def open_set(path: Path, layout: str | None = None, **options: str) -> ImageSet:
    """The set at a path.

    Args:
        path: a folder or file in one of ``LAYOUTS``.
        layout: its name; None: recognised by the names of files and folders.
        options: of the layout, such as ``cancer`` or ``variant``.

    Raises:
        UserError: no layout fits, several do, something is missing, or an option is unknown.
    """
    found = open_sets(path, layout, **options)
    if len(found) > 1:
        raise UserError(f"{path}: holds several sets ({', '.join(one.layout for one in found)}); choose one with --layout")
    return found[0]


def open_sets(path: Path, layout: str | None = None, **options: str) -> list[ImageSet]:
    """All sets at a path: LC25000's folder holds two, any other place one.

    Raises:
        UserError: as ``open_set``, but for several sets.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if layout is not None and layout not in LAYOUTS:
        raise UserError(f"layout {layout}: choose one of {', '.join(LAYOUTS)}")
    chosen = [LAYOUTS[layout]] if layout else _recognised(path)
    for one in chosen:
        if unknown := sorted(set(options) - set(one.options)):
            raise UserError(f"layout {one.name}: no option {unknown[0]}; it has {', '.join(one.options) or 'none'}")
    return [one.open(path.resolve(), options) for one in chosen]


def _recognised(path: Path) -> list[Layout]:
    fitting = [layout for layout in LAYOUTS.values() if layout.fits(path)]
    lc25000_both = [layout for layout in fitting if layout in lc25000.LAYOUTS]
    if not fitting:
        raise UserError(
            f"{path}: no layout of labelled images is recognised there; choose one with --layout of {', '.join(LAYOUTS)}"
        )
    return lc25000_both if fitting[0] in lc25000.LAYOUTS else fitting[:1]
