"""A WebDataset of classification as CLIP_benchmark writes and reads it (clip_benchmark_export_wds).

{train,test,...}/{0,1,...}.tar     members KEY.{jpg,jpeg,png,webp} and KEY.cls (the class's number)
{train,test,...}/nshards.txt       how many tars
classnames.txt                     a name a line, by number
zeroshot_classification_templates.txt    a prompt a line, with {c} for the class
"""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from pathlib import Path

from biomedray.errors import UserError
from biomedray.evaluate.sets.image_set import ImageSet, Part, part
from biomedray.evaluate.sets.layout import SPLIT_FOLDERS, Layout, Options, wrong
from biomedray.evaluate.sets.prompts import TEMPLATES
from biomedray.evaluate.sets.sources import TarMembers

_DRAWING = "{train,test}/{0,1,...}.tar + {train,test}/nshards.txt + classnames.txt (+ zeroshot_classification_templates.txt)"
_IMAGES = ("jpg", "jpeg", "png", "webp")


def open_webdataset(path: Path, _options: Options) -> ImageSet:
    """Pictures in the order of the tars; the headers are read once, here."""
    if not (path / "classnames.txt").is_file():
        raise wrong(path, "no classnames.txt", "WebDataset", _DRAWING)
    kind = _lines(path / "dataset_type.txt")
    if kind and kind[0] != "classification":
        raise UserError(f"{path}: a WebDataset of type {kind[0]}; only classification with one class a picture is scored here")
    classes = tuple(_lines(path / "classnames.txt"))
    parts, others = {}, []
    for split, names in SPLIT_FOLDERS.items():
        folder = next((path / name for name in names if _has_tars(path / name)), None)
        if folder is not None:
            parts[split], rest = _split(path, folder, len(classes))
            others += rest
    if not parts:
        raise wrong(path, "no tar in test/", "WebDataset", _DRAWING)
    notes = (f"{len(others)} members without a picture or without a class, such as {others[0]}",) if others else ()
    return ImageSet(path.name, "webdataset", classes, parts, classes, _templates(path), notes=notes)


def _split(root: Path, folder: Path, classes: int) -> tuple[Part, list[str]]:
    tars = _tars(root, folder)
    ids, labels, members, others = [], [], [], []
    for number, tar in enumerate(tars):
        images, found = _index(tar)
        others += [f"{tar.name}: {key}" for key in sorted({*images} ^ {*found})]
        for key, place in images.items():
            if key in found:
                ids.append(f"{folder.name}/{key}")
                labels.append(_label(tar, key, found[key], classes))
                members.append((number, *place))
    if not ids:
        raise wrong(folder, "no picture with a .cls", "WebDataset", _DRAWING)
    return part(ids, labels, TarMembers(tuple(tars), tuple(members))), others


def _tars(root: Path, folder: Path) -> list[Path]:
    count = _lines(folder / "nshards.txt")
    if not count or not count[0].isdigit():
        raise wrong(root, f"no {folder.name}/nshards.txt with a number in it", "WebDataset", _DRAWING)
    tars = [folder / f"{i}.tar" for i in range(int(count[0]))]
    if missing := [tar.name for tar in tars if not tar.is_file()]:
        raise wrong(folder, f"{len(missing)} of {len(tars)} tars are missing, such as {missing[0]}", "WebDataset", _DRAWING)
    return tars


def _index(tar: Path) -> tuple[dict[str, tuple[int, int]], dict[str, bytes]]:
    """Key -> offset and size of the picture, and key -> what its .cls says."""
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, bytes] = {}
    try:
        with tarfile.open(tar, "r:") as archive:
            for member in archive:
                stem, _, ending = member.name.rpartition("/")[2].partition(".")
                key = f"{member.name.rpartition('/')[0]}/{stem}".lstrip("./")
                if ending.lower() in _IMAGES and member.isfile():
                    images[key] = (member.offset_data, member.size)
                elif ending.lower() == "cls" and (stream := archive.extractfile(member)):
                    labels[key] = stream.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UserError(f"{tar}: not a whole tar file ({error}); write it again") from None
    return images, labels


def _label(tar: Path, key: str, data: bytes, classes: int) -> int:
    text = data.decode("ascii", "replace").strip()
    if not text.isdigit() or int(text) >= classes:
        raise UserError(f"{tar}: {key}.cls says '{text[:40]}', but classnames.txt has classes 0 to {classes - 1}")
    return int(text)


def _templates(path: Path) -> tuple[str, ...]:
    found = tuple(line.replace("{c}", "{}") for line in _lines(path / "zeroshot_classification_templates.txt"))
    return found or TEMPLATES


def _lines(path: Path) -> Sequence[str]:
    return [line.strip() for line in path.read_text().splitlines() if line.strip()] if path.is_file() else []


def _has_tars(folder: Path) -> bool:
    return folder.is_dir() and (any(folder.glob("*.tar")) or (folder / "nshards.txt").is_file())


def _fits(path: Path) -> bool:
    return path.is_dir() and (
        (path / "classnames.txt").is_file() or any(_has_tars(path / name) for names in SPLIT_FOLDERS.values() for name in names)
    )


LAYOUT = Layout("webdataset", _DRAWING, _fits, open_webdataset)
