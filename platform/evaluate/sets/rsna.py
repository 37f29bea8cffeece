"""RSNA Pneumonia Detection Challenge, stage 2, as Kaggle and RSNA distribute it (Shih et al., 2019).

stage_2_train_images/{patientId}.dcm     or .png or .jpg made of them
stage_2_train_labels.csv                 patientId,x,y,width,height,Target: a row for each box, 30,227 of 26,684 pictures
stage_2_detailed_class_info.csv          patientId,class: only for variant normal
pneumonia-challenge-dataset-mappings_2018.json    NIH's picture names, whose first number is the patient; may be missing

Variants of 'normal vs pneumonia':

    target   (default)  Target 0 or 1 of all 26,684 pictures
    normal              class Normal against class Lung Opacity, 8,851 + 6,012 pictures; the rest, 11,821, left out

The paper gives 18,678 / 4,003 / 9,069 pictures (its Table 1) and no split. The first two are 70 % and 15 % of all 26,684
pictures, so it can only be variant target; 9,069 is 30 % of the 30,227 label rows, rounded up, so its test split may hold
pictures several times or share some with training. The official set has no split with labels: here pictures are
ordered by the hash of the patient and cut at 70 % and 85 %, class by class, unless option ``splits`` names a CSV
(patientId,split).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from biomedray.errors import UserError
from biomedray.evaluate.sets.image_set import SPLITS, ImageSet, part
from biomedray.evaluate.sets.layout import Layout, Options, read_rows, wrong
from biomedray.evaluate.sets.prompts import of_paper
from biomedray.evaluate.sets.resplit import assign
from biomedray.evaluate.sets.sources import files

_DRAWING = "stage_2_train_images/{patientId}.dcm + stage_2_train_labels.csv (+ stage_2_detailed_class_info.csv)"
_LABELS, _CLASSES = "stage_2_train_labels.csv", "stage_2_detailed_class_info.csv"
_MAPPING = "pneumonia-challenge-dataset-mappings_2018.json"
_IMAGES = "stage_2_train_images"
_SHARES = {"train": 0.70, "val": 0.15, "test": 0.15}
_VARIANTS = ("target", "normal")


def open_rsna(path: Path, options: Options) -> ImageSet:
    """One row for each picture, in the order of the labels; patients never cross splits."""
    variant = options.get("variant", "target")
    if variant not in _VARIANTS:
        raise UserError(f"variant {variant}: choose {' or '.join(_VARIANTS)}")
    folder = path / _IMAGES
    if not folder.is_dir():
        raise wrong(path, f"no folder {_IMAGES}", "RSNA", _DRAWING)
    labels, notes = _normal_or_opaque(path) if variant == "normal" else (_targets(path), [])
    patients, note = _patients(path, list(labels))
    split, how = _splits(labels, patients, options.get("splits"))
    end = _ending(folder, next(iter(labels)))
    parts = {}
    for name in SPLITS:
        ids = [i for i in labels if split.get(i) == name]
        if ids:
            source = files(folder, [i + end for i in ids])
            parts[name] = part(ids, [labels[i] for i in ids], source, [patients.get(i, i) for i in ids])
    title = "rsna" if variant == "target" else "rsna-normal"
    fixed = of_paper("rsna") | ({} if variant == "target" else {"paper": None})
    grouped = "patient" if patients else ""
    return ImageSet(title, "rsna", parts=parts, grouped=grouped, notes=(*notes, note, how), **fixed)


def _targets(path: Path) -> dict[str, int]:
    """1 where any row of the picture has Target 1."""
    found: dict[str, int] = {}
    for row in read_rows(path / _LABELS, ["patientId", "Target"], "RSNA", _DRAWING):
        if row["Target"] not in ("0", "1"):
            raise wrong(path / _LABELS, f"Target '{row['Target']}'", "RSNA", _DRAWING)
        found[row["patientId"]] = max(found.get(row["patientId"], 0), int(row["Target"]))
    return found


def _normal_or_opaque(path: Path) -> tuple[dict[str, int], list[str]]:
    rows = read_rows(path / _CLASSES, ["patientId", "class"], "RSNA", _DRAWING)
    classes = {row["patientId"]: row["class"] for row in rows}
    found = {i: int(name == "Lung Opacity") for i, name in classes.items() if name in ("Normal", "Lung Opacity")}
    if set(found.values()) != {0, 1}:
        raise wrong(path / _CLASSES, "needs pictures of class Normal and of class Lung Opacity", "RSNA", _DRAWING)
    return found, [f"{len(classes) - len(found)} pictures of other classes than Normal and Lung Opacity left out"]


def _patients(path: Path, ids: Sequence[str]) -> tuple[dict[str, str], str]:
    """NIH's patient of each picture where the mapping is there; ``patientId`` itself names a picture, not a patient."""
    mapping = path / _MAPPING
    if not mapping.is_file():
        return {}, f"no {_MAPPING}: patients unknown (patientId names a picture), so pictures count as independent"
    try:
        known = {str(row["subset_img_id"]): str(row["img_id"]).split("_")[0] for row in json.loads(mapping.read_text())}
    except (ValueError, KeyError, TypeError):
        raise wrong(mapping, "not a list of {subset_img_id, img_id}", "RSNA", _DRAWING) from None
    missing = sum(i not in known for i in ids)
    return {i: known.get(i, i) for i in ids}, f"patients by NIH's picture names, unknown for {missing} of {len(ids)} pictures"


def _splits(labels: Mapping[str, int], patients: Mapping[str, str], table: str | None) -> tuple[dict[str, str], str]:
    ids = list(labels)
    if table is None:
        found = assign([patients.get(i, i) for i in ids], list(labels.values()), _SHARES)
        return dict(
            zip(ids, found, strict=True)
        ), "splits 70/15/15 made here by the hash of the patient: the official set has none"
    rows = read_rows(Path(table), ["patientId", "split"], "RSNA splits", "patientId,split with train, val or test")
    split = {row["patientId"]: row["split"] for row in rows}
    if odd := sorted(set(split.values()) - set(SPLITS)):
        raise UserError(f"{table}: split '{odd[0]}'; name {', '.join(SPLITS)}")
    unused = sum(i not in split for i in ids)
    return split, f"splits of {Path(table).name}; {unused} pictures are in none of them"


def _ending(folder: Path, first: str) -> str:
    ends = (".dcm", ".png", ".jpg", ".jpeg")
    return next((end for end in ends if (folder / f"{first}{end}").is_file()), ".dcm")


def _fits(path: Path) -> bool:
    return path.is_dir() and ((path / _LABELS).is_file() or (path / _IMAGES).is_dir())


LAYOUT = Layout("rsna", _DRAWING, _fits, open_rsna, ("variant", "splits"))
