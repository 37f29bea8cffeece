"""Every layout in miniature: recognised, read by position, and one line of help where something is missing."""

from __future__ import annotations

import io
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from biomedray.errors import UserError
from biomedray.evaluate.sets import LAYOUTS, open_set, open_sets
from biomedray.evaluate.sets.prompts import table_10

STEM = "camelyonpatch_level_2_split_"


def brightness(image) -> float:
    return float(np.asarray(Image.open(io.BytesIO(image)) if isinstance(image, bytes) else image).mean())


def check_pictures(image_set, split):
    """Any stretch is the same as all of it; the brightness says the class; ids are unique; a pickled copy reads the same."""
    size = image_set.size(split)
    everything = image_set.read(split, 0, size)
    assert len({sample.id for sample in everything}) == size
    for sample in everything:
        assert brightness(sample.image) == pytest.approx(60 + 60 * sample.label, abs=15)
        assert sample.group
    copy = pickle.loads(pickle.dumps(image_set))
    for start, stop in ((0, 1), (size // 2, size), (1, 3), (size - 1, size + 5)):
        for one, other in zip(copy.read(split, start, stop), everything[start:stop], strict=True):
            assert (one.id, one.label, one.group) == (other.id, other.label, other.group)
            assert (
                np.array_equal(np.frombuffer(one.image, np.uint8), np.frombuffer(other.image, np.uint8))
                if isinstance(one.image, bytes)
                else np.array_equal(one.image, other.image)
            )


CASES = {
    "pcam": ("pcam", {}, "pcam", {"train": 12, "val": 12, "test": 12}),
    "pcam packed": ("pcam", {"packed": True}, "pcam", {"train": 12, "val": 12, "test": 12}),
    "til": ("til_500", {}, "tcga-til", {"test": 8}),
    "folders": ("folders", {}, "folders", {"train": 8, "val": 8, "test": 8}),
    "folders without splits": ("folders", {"splits": ()}, "folders", {"test": 8}),
    "csv": ("csv_set", {"n": 16}, "csv", {"train": 4, "val": 4, "test": 8}),
    "csv without splits": ("csv_set", {"split": False}, "csv", {"test": 8}),
    "webdataset": ("webdataset", {}, "webdataset", {"train": 12, "test": 12}),
    "rsna": ("rsna", {}, "rsna", None),
}


@pytest.mark.parametrize("name", CASES)
def test_a_miniature_is_recognised_and_read(mini, tmp_path, name):
    maker, settings, layout, sizes = CASES[name]
    root = getattr(mini, maker)(tmp_path / "data", **settings)
    image_set = open_set(root)
    assert image_set.layout == layout
    if sizes:
        assert {split: image_set.size(split) for split in image_set.splits} == sizes
    for split in image_set.splits:
        check_pictures(image_set, split)
    assert len(image_set.prompts) == len(image_set.classes)
    assert all("{}" in template for template in image_set.templates)


@pytest.mark.parametrize(("side", "grey", "classes"), [(28, True, 2), (64, True, 2), (28, False, 2)])
def test_medmnist_of_every_shape(mini, tmp_path, side, grey, classes):
    image_set = open_set(mini.medmnist(tmp_path / "pneumoniamnist_64.npz", side=side, grey=grey, classes=classes))
    assert image_set.layout == "medmnist"
    assert image_set.classes == ("normal lung", "pneumonia")
    assert image_set.read("val", 2, 3)[0].image.shape == ((side, side) if grey else (side, side, 3))
    for split in image_set.splits:
        check_pictures(image_set, split)


def test_a_packed_npz_is_read_in_any_order_and_by_threads_in_turns(mini, tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    image_set = open_set(mini.medmnist(tmp_path / "pneumoniamnist.npz", n=60))
    whole = [sample.image for sample in image_set.read("test", 0, 60)]
    starts = [40, 0, 50, 20, 10, 30, 0, 50]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda start: image_set.read("test", start, start + 10), starts))
    for start, samples in zip(starts, found, strict=True):
        assert all(np.array_equal(s.image, image) for s, image in zip(samples, whole[start : start + 10], strict=True))
    some = image_set.part("test").take([55, 3, 4, 5, 20]).read(0, 5)
    assert [s.id[-2:] for s in some] == ["55", "03", "04", "05", "20"]
    assert np.array_equal(some[0].image, whole[55])


def test_lc25000_holds_two_sets(mini, tmp_path):
    root = mini.lc25000(tmp_path)
    lung, colon = open_sets(root)
    assert (lung.name, lung.size("test"), colon.name, colon.size("test")) == ("lc25000-lung", 9, "lc25000-colon", 6)
    with pytest.raises(UserError, match=r"holds several sets .*--layout"):
        open_set(root)
    assert open_set(root, "lc25000-colon").fingerprint == colon.fingerprint
    assert open_set(root / "lung_colon_image_set" / "lung_image_sets").fingerprint == lung.fingerprint
    for image_set in (lung, colon):
        check_pictures(image_set, "test")
        assert any("1,250" in note for note in image_set.notes)


def test_prompts_are_the_papers_words(mini, tmp_path):
    """Supplementary Table 10, typed from the paper a second time."""
    rows = {
        "pcam": (["normal lymph node", "lymph node metastasis"], "this is an image of {}"),
        "lc25000-lung": (
            ["lung adenocarcinomas", "normal lung tissue", "lung squamous cell carcinomas"],
            "this is an image of {}",
        ),
        "lc25000-colon": (["colon adenocarcinomas", "normal colonic tissue"], "a photo of {}"),
        "tcga-til": (["none", "tumor infiltrating lymphocytes"], "a photo of {}"),
        "rsna": (["normal lung", "pneumonia"], "a photo of {}"),
    }
    table = table_10()
    assert table["order"] == list(rows)
    for name, (prompts, template) in rows.items():
        assert list(table["sets"][name]["classes"].values()) == prompts
        assert table["sets"][name]["templates"] == [template, "{} presented in image"]
    numbers = [table["sets"][name]["paper"]["224px"] for name in rows]
    assert numbers == [73.41, 65.23, 92.98, 67.04, 78.95]
    assert np.mean(numbers) == pytest.approx(table["mean"]["224px"], abs=0.01)
    assert [name for name in rows if table["sets"][name]["metric"] == "auroc"] == ["tcga-til"]
    assert open_set(mini.pcam(tmp_path)).prompts == ("normal lymph node", "lymph node metastasis")


def test_groups_follow_what_the_layout_knows(mini, tmp_path):
    slides = open_set(mini.pcam(tmp_path / "a"))
    assert slides.grouped == "slide"
    assert [s.group for s in slides.read("test", 0, 4)] == [f"camelyon16_test_{i:03d}" for i in (0, 0, 1, 1)]
    unknown = open_set(mini.pcam(tmp_path / "b", meta=False))
    assert unknown.grouped == ""
    assert len(set(unknown.part("test").groups)) == 12
    assert any("slides unknown" in note for note in unknown.notes)
    patients = open_set(mini.til(tmp_path / "c"), cancer="luad")
    assert patients.part("test").groups[:3] == ("TCGA-05-4244", "TCGA-05-4244", "TCGA-05-4245")
    pattern = open_set(mini.folders(tmp_path / "d"), group=r"slide\d")
    assert pattern.part("train").groups[:3] == ("slide0", "slide0", "slide1")
    assert open_set(mini.csv_set(tmp_path / "e"), pattern=r"Image_(\d+)").part("test").groups == ("2", "2", "3", "3")


def test_rsna_has_a_row_for_each_picture_and_keeps_patients_together(mini, tmp_path):
    image_set = open_set(mini.rsna(tmp_path / "data", n=120))
    ids = [i for split in image_set.splits for i in image_set.part(split).ids]
    assert len(ids) == len(set(ids)) == 120
    assert sum(image_set.part(split).labels.sum() for split in image_set.splits) == 40
    sizes = [image_set.size(split) / 120 for split in ("train", "val", "test")]
    assert sizes == pytest.approx([0.7, 0.15, 0.15], abs=0.03)
    patients = [set(image_set.part(split).groups) for split in image_set.splits]
    assert sum(map(len, patients)) == len(set.union(*patients))
    assert open_set(tmp_path / "data").fingerprint == image_set.fingerprint


def test_rsna_variants_and_own_splits(mini, tmp_path):
    root = mini.rsna(tmp_path / "data")
    normal = open_set(root, variant="normal")
    assert sum(normal.size(split) for split in normal.splits) == 14 + 13
    assert normal.paper is None
    assert any("13 pictures of other classes" in note for note in normal.notes)
    rows = [{"patientId": f"{i:08x}-aaaa", "split": "test" if i < 6 else "train"} for i in range(38)]
    mini.table(tmp_path / "mine.csv", rows)
    own = open_set(root, splits=str(tmp_path / "mine.csv"))
    assert {split: own.size(split) for split in own.splits} == {"train": 32, "test": 6}
    assert any("2 pictures are in none" in note for note in own.notes)
    with pytest.raises(UserError, match="variant all: choose target or normal"):
        open_set(root, variant="all")


def test_rsna_inverts_monochrome1(mini, tmp_path):
    image_set = open_set(mini.rsna(tmp_path, inverted=True))
    for sample in image_set.read("train", 0, 5):
        assert brightness(sample.image) == pytest.approx(255 - 60 - 60 * sample.label, abs=15)


def test_til_asks_which_cancer(mini, tmp_path):
    root = mini.til(tmp_path)
    with pytest.raises(UserError, match="choose one with --option cancer=NAME of luad, pancancer"):
        open_set(root)
    assert open_set(root, cancer="luad").splits == ("train", "val", "test")
    assert open_set(root / "images-tcga-tils" / "pancancer").size("val") == 8
    with pytest.raises(UserError, match="no cancer brca"):
        open_set(root, cancer="brca")


def test_medmnist_refuses_what_it_cannot_score(mini, tmp_path):
    with pytest.raises(UserError, match="14 labels for each picture"):
        open_set(mini.medmnist(tmp_path / "chestmnist.npz", many=14))
    with pytest.raises(UserError, match="label 2, but the set has 2 classes"):
        open_set(mini.medmnist(tmp_path / "pneumoniamnist.npz", classes=3))
    np.savez(tmp_path / "organmnist3d.npz", test_images=np.zeros((2, 8, 8, 8), np.uint8), test_labels=np.zeros((2, 1)))
    with pytest.raises(UserError, match="only flat sets"):
        open_set(tmp_path / "organmnist3d.npz")
    own = open_set(mini.medmnist(tmp_path / "mine.npz", classes=3))
    assert own.classes == ("0", "1", "2")
    assert any("no set of MedMNIST" in note for note in own.notes)


def test_all_flat_medmnist_sets_have_as_many_names_as_classes():
    from biomedray.evaluate.sets.prompts import medmnist_classes

    sizes = {"path": 9, "derma": 7, "oct": 4, "pneumonia": 2, "retina": 5, "breast": 2, "blood": 8, "tissue": 8}
    sizes |= {f"organ{view}": 11 for view in "acs"}
    assert {name: len(names) for name, names in medmnist_classes()["sets"].items()} == {f"{k}mnist": v for k, v in sizes.items()}


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


BROKEN = [
    ("pcam", "pcam", [f"{STEM}test_y.h5"], rf"no {STEM}test_y.h5"),
    ("lc25000", "lc25000-lung", ["lung_colon_image_set/lung_image_sets/lung_n"], r"no pictures in lung_n/"),
    ("lc25000", "lc25000-colon", ["lung_colon_image_set/colon_image_sets"], r"no folder colon_image_sets"),
    ("til_500", "tcga-til", ["til-positive"], r"no pictures in til-positive/"),
    ("rsna", "rsna", ["stage_2_train_labels.csv"], r"no stage_2_train_labels.csv"),
    ("rsna", "rsna", ["stage_2_train_images"], r"no folder stage_2_train_images"),
    ("rsna", "rsna", ["stage_2_train_images/00000003-aaaa.dcm"], r"1 of \d+ pictures are missing, such as 00000003-aaaa.dcm"),
    ("csv_set", "csv", ["crops/RBC/Image_0_0.png"], r"no RBC/Image_0_0.png beside it"),
    ("csv_set", "csv", ["crops/RBC/Image_2_4.png"], r"1 of 4 pictures are missing"),
    ("csv_set", "csv", ["labels.csv"], r"no CSV in it"),
    ("folders", "folders", ["train/light_cell", "valid/light_cell", "test/light_cell"], r"1 folders with pictures"),
    ("webdataset", "webdataset", ["classnames.txt"], r"no classnames.txt"),
    ("webdataset", "webdataset", ["test/nshards.txt"], r"no test/nshards.txt"),
    ("webdataset", "webdataset", ["test/1.tar"], r"1 of 2 tars are missing, such as 1.tar"),
]


@pytest.mark.parametrize(("maker", "layout", "gone", "says"), BROKEN)
def test_one_line_says_what_is_missing(mini, tmp_path, maker, layout, gone, says):
    root = getattr(mini, maker)(tmp_path / "data")
    for name in gone:
        remove(root / name)
    with pytest.raises(UserError, match=says) as caught:
        open_set(root, layout)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_empty_folder_is_told_what_the_layout_looks_like(tmp_path, layout):
    with pytest.raises(UserError) as caught:
        open_set(tmp_path, layout)
    assert LAYOUTS[layout].drawing in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no layout of labelled images"):
        open_set(tmp_path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_of_junk_is_a_users_error_in_every_layout(tmp_path, layout):
    junk = tmp_path / "junk.npz"
    junk.write_bytes(b"\xff\x00 junk")
    with pytest.raises(UserError):
        open_set(junk, layout)
    with pytest.raises(UserError, match="no such file"):
        open_set(tmp_path / "nowhere", layout)


def test_options_and_layouts_are_checked(mini, tmp_path):
    root = mini.pcam(tmp_path)
    with pytest.raises(UserError, match="layout pcam: no option cancer; it has none"):
        open_set(root, cancer="luad")
    with pytest.raises(UserError, match="layout kather: choose one of"):
        open_set(root, "kather")
    with pytest.raises(UserError, match="no split holdout; there is train, val, test"):
        open_set(root).part("holdout")


def test_damaged_containers(mini, tmp_path):
    root = mini.pcam(tmp_path / "a")
    path = root / f"{STEM}test_x.h5"
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(UserError, match="not a whole HDF5"):
        open_set(root)
    web = mini.webdataset(tmp_path / "b")
    (web / "test" / "0.tar").write_bytes(b"not a tar" * 100)
    with pytest.raises(UserError, match="not a whole tar"):
        open_set(web)
    packed = mini.pcam(tmp_path / "c", packed=True)
    path = packed / f"{STEM}train_y.h5.gz"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match="not a whole HDF5"):
        open_set(packed)


def test_a_packed_file_too_large_for_memory_says_how_to_unpack_it(mini, tmp_path, monkeypatch):
    from biomedray.evaluate.sets import sources

    monkeypatch.setattr(sources, "MAX_UNPACKED", 1000)
    with pytest.raises(UserError, match=r"gunzip -k camelyonpatch_level_2_split_train_[xy].h5.gz"):
        open_set(mini.pcam(tmp_path, packed=True))


def test_webdataset_members_without_a_class_are_told(mini, tmp_path):
    import tarfile

    root = mini.webdataset(tmp_path)
    with tarfile.open(root / "test" / "0.tar", "a") as tar:
        data = mini.encoded(0, 1)
        entry = tarfile.TarInfo("lonely.png")
        entry.size = len(data)
        tar.addfile(entry, io.BytesIO(data))
    image_set = open_set(root)
    assert image_set.size("test") == 12
    assert any("1 members without" in note for note in image_set.notes)
    assert image_set.templates == ("a photo of {}.", "an X-ray of {}.")
    (root / "classnames.txt").write_text("normal\n")
    with pytest.raises(UserError, match=r"classnames.txt has classes 0 to 0"):
        open_set(root)


def test_files_that_are_no_images_are_told_and_a_csv_may_name_its_columns(mini, tmp_path):
    root = mini.folders(tmp_path / "a")
    (root / "test" / "dark_cell" / "Thumbs.db").write_bytes(b"x")
    assert any("1 files are no images" in note for note in open_set(root).notes)
    rows = [{"path": f"{i}.png", "dx": str(10 * (i % 2))} for i in range(4)]
    for i in range(4):
        mini.picture(tmp_path / "b" / f"{i}.png", i % 2, i)
    mini.table(tmp_path / "b" / "meta.csv", rows)
    with pytest.raises(UserError, match="no column file"):
        open_set(tmp_path / "b" / "meta.csv")
    image_set = open_set(tmp_path / "b" / "meta.csv", file="path", label="dx")
    assert image_set.classes == ("0", "10")
    mini.table(tmp_path / "b" / "kaggle.csv", [{"id": str(i), "label": str(i % 2)} for i in range(4)])
    assert open_set(tmp_path / "b" / "kaggle.csv", file="id", ending=".png").part("test").ids == (
        "0.png",
        "1.png",
        "2.png",
        "3.png",
    )


def test_fingerprints_follow_the_content_not_the_place(mini, tmp_path):
    first = open_set(mini.csv_set(tmp_path / "a" / "cells"))
    assert open_set(mini.csv_set(tmp_path / "b" / "cells")).fingerprint == first.fingerprint
    rows = (tmp_path / "b" / "cells" / "labels.csv").read_text().replace("test,p1", "train,p1")
    (tmp_path / "b" / "cells" / "labels.csv").write_text(rows)
    assert open_set(tmp_path / "b" / "cells").fingerprint != first.fingerprint
    limited = first.limited("test", 2)
    assert limited.size("test") == 2
    assert limited.fingerprint != first.fingerprint
    assert set(limited.part("test").ids) < set(first.part("test").ids)
    assert first.limited("test", 100) is first


def test_a_broken_dicom_comes_as_its_bytes(mini, tmp_path):
    from biomedray.pixels import PixelError, decode

    root = mini.rsna(tmp_path)
    image_set = open_set(root)
    name = image_set.part("train").ids[0]
    (root / "stage_2_train_images" / f"{name}.dcm").write_bytes(b"DICM? no")
    image = image_set.read("train", 0, 1)[0].image
    assert image == b"DICM? no"
    with pytest.raises(PixelError):
        decode(image)
