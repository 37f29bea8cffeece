"""Every layout in miniature, written as its makers write it: a few small pictures whose brightness tells their class."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tarfile
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

STEM = "camelyonpatch_level_2_split_"


def pixels(label: int, seed: int, side: int = 32, grey: bool = False) -> np.ndarray:
    """Noise around a brightness: 60 for class 0, 60 more for each class after it."""
    rng = np.random.default_rng([label, seed])
    noise = rng.normal(60 + 60 * label, 12, (side, side) if grey else (side, side, 3))
    return noise.clip(0, 255).astype(np.uint8)


def encoded(label: int, seed: int, kind: str = "PNG", side: int = 32) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels(label, seed, side)).save(buffer, kind)
    return buffer.getvalue()


def picture(path: Path, label: int, seed: int, side: int = 32) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(label, seed, "JPEG" if path.suffix in (".jpg", ".jpeg") else "PNG", side))


def pcam(root: Path, n: int = 12, packed: bool = False, meta: bool = True) -> Path:
    """Labels alternate; two neighbours share a slide."""
    root.mkdir(parents=True, exist_ok=True)
    for number, split in enumerate(("train", "valid", "test")):
        labels = np.arange(n) % 2
        x = np.stack([pixels(label, 100 * number + i, 96) for i, label in enumerate(labels)])
        for letter, data in (("x", x), ("y", labels.astype(np.uint8).reshape(-1, 1, 1, 1))):
            path = root / f"{STEM}{split}_{letter}.h5"
            with h5py.File(path, "w") as file:
                file.create_dataset(letter, data=data)
            if packed:
                path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
                path.unlink()
        if meta:
            rows = [{"": i, "coord_x": 1, "coord_y": 2, "wsi": f"camelyon16_{split}_{i // 2:03d}"} for i in range(n)]
            table(root / f"{STEM}{split}_meta.csv", rows)
    return root


def lc25000(root: Path, n: int = 3) -> Path:
    for organ, classes in (("lung", ("aca", "n", "scc")), ("colon", ("aca", "n"))):
        for label, name in enumerate(classes):
            for i in range(n):
                folder = root / "lung_colon_image_set" / f"{organ}_image_sets" / f"{organ}_{name}"
                picture(folder / f"{organ}{name}{i + 1}.jpeg", label, i, 64)
    return root


def til(root: Path, n: int = 4) -> Path:
    """ChampKit's form, two cancers."""
    for cancer in ("pancancer", "luad"):
        for split in ("train", "val", "test"):
            for label, name in enumerate(("til-negative", "til-positive")):
                for i in range(n):
                    file = f"TCGA-05-{4244 + i // 2}-01Z-00-DX1_{i}_{cancer}.png"
                    picture(root / "images-tcga-tils" / cancer / split / name / file, label, i)
    (root / "images-tcga-tils" / "classmap.txt").write_text("til-negative 0\ntil-positive 1\n")
    return root


def til_500(root: Path, n: int = 4) -> Path:
    for label, name in enumerate(("til-negative", "til-positive")):
        for i in range(n):
            picture(root / name / f"{i}.png", label, i, 500 if i == 0 else 32)
    return root


def rsna(root: Path, n: int = 40, mapping: bool = True, inverted: bool = False) -> Path:
    """A third with pneumonia, one box or two; of the others half are normal. Two neighbours are one patient of NIH."""
    folder = root / "stage_2_train_images"
    folder.mkdir(parents=True)
    labels, classes, mapped = [], [], []
    for i in range(n):
        name, sick = f"{i:08x}-aaaa", i % 3 == 0
        (folder / f"{name}.dcm").write_bytes(dicom(pixels(int(sick), i, grey=True), inverted=inverted))
        box = {"x": 1, "y": 2, "width": 3, "height": 4} if sick else {"x": "", "y": "", "width": "", "height": ""}
        kind = "Lung Opacity" if sick else ("Normal" if i % 2 else "No Lung Opacity / Not Normal")
        for _ in range(2 if i % 6 == 0 else 1):
            labels.append({"patientId": name, **box, "Target": int(sick)})
            classes.append({"patientId": name, "class": kind})
        mapped.append({"subset_img_id": name, "img_id": f"{i // 2:08d}_{i % 2:03d}.png"})
    table(root / "stage_2_train_labels.csv", labels)
    table(root / "stage_2_detailed_class_info.csv", classes)
    if mapping:
        (root / "pneumonia-challenge-dataset-mappings_2018.json").write_text(json.dumps(mapped))
    return root


def dicom(
    values: np.ndarray, inverted: bool = False, window: tuple[float, float] | None = None, jpeg: bool = False, **fields: object
) -> bytes:
    """A radiograph as RSNA's: 8 bits (or 16, by the type of the values), one frame."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, JPEGBaseline8Bit, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["biomedray"])
    meta.TransferSyntaxUID = JPEGBaseline8Bit if jpeg else ExplicitVRLittleEndian
    found = Dataset()
    found.file_meta = meta
    found.Rows, found.Columns = values.shape
    found.SamplesPerPixel, found.PixelRepresentation = 1, 0
    found.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    bits = 8 * values.dtype.itemsize
    found.BitsAllocated = found.BitsStored = bits
    found.HighBit = bits - 1
    if window:
        found.WindowCenter, found.WindowWidth = window
    for name, value in fields.items():
        setattr(found, name, value)
    if jpeg:
        buffer = io.BytesIO()
        Image.fromarray(values).save(buffer, "JPEG", quality=95)
        found.PixelData = encapsulate([buffer.getvalue()])
        found["PixelData"].VR = "OB"
    else:
        found.PixelData = values.tobytes()
        found["PixelData"].VR = "OB" if bits == 8 else "OW"
    target = io.BytesIO()
    found.save_as(target, enforce_file_format=True)
    return target.getvalue()


def medmnist(path: Path, n: int = 12, classes: int = 2, side: int = 28, grey: bool = True, many: int = 0) -> Path:
    arrays = {}
    for number, split in enumerate(("train", "val", "test")):
        labels = np.arange(n) % classes
        arrays[f"{split}_images"] = np.stack([pixels(label, 50 * number + i, side, grey) for i, label in enumerate(labels)])
        arrays[f"{split}_labels"] = np.zeros((n, many), np.uint8) if many else labels.astype(np.uint8).reshape(-1, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)
    return path


def folders(root: Path, splits: tuple[str, ...] = ("train", "valid", "test"), n: int = 4) -> Path:
    for split in splits or (".",):
        for label, name in enumerate(("dark_cell", "light_cell")):
            for i in range(n):
                picture(root / split / name / f"slide{i // 2}-{i}.png", label, i)
    return root


def csv_set(root: Path, n: int = 8, split: bool = True) -> Path:
    rows = []
    for i in range(n):
        label = ("RBC", "WBC")[i % 2]
        picture(root / "crops" / label / f"Image_{i // 2}_{i}.png", i % 2, i)
        more = {"split": ("train", "val", "test", "test")[i // 2 % 4], "group": f"p{i // 4}"} if split else {}
        rows.append({"file": f"{label}/Image_{i // 2}_{i}.png", "label": label} | more)
    table(root / "labels.csv", rows)
    return root


def webdataset(root: Path, n: int = 6, shards: int = 2) -> Path:
    """Byte for byte what clip_benchmark_export_wds leaves."""
    for split in ("train", "test"):
        (root / split).mkdir(parents=True)
        for shard in range(shards):
            with tarfile.open(root / split / f"{shard}.tar", "w") as tar:
                for i in range(n):
                    key = f"s{shard * n + i:07d}"
                    for ending, data in (("cls", str(i % 2).encode()), (("webp", "jpg")[shard % 2], encoded(i % 2, i))):
                        entry = tarfile.TarInfo(f"{key}.{ending}")
                        entry.size = len(data)
                        tar.addfile(entry, io.BytesIO(data))
        (root / split / "nshards.txt").write_text(f"{shards}\n")
    (root / "classnames.txt").write_text("normal lung\npneumonia\n")
    (root / "zeroshot_classification_templates.txt").write_text("a photo of {c}.\nan X-ray of {c}.\n")
    return root


def table(path: Path, rows: list[dict]) -> None:
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
