"""Sets of pictures with captions, each made as its distributors lay it out, are read whole, in order, or said what is off."""

from __future__ import annotations

import csv
import io
import json
import pickle
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from biomedray.errors import UserError
from biomedray.evaluate.captioned import open_captioned

REAL = Path(__file__).parents[3] / "shared" / "data" / "eval" / "pfocr-cord19"


def picture(number: int, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4 + number, 4), (number, 0, 0)).save(buffer, form)
    return buffer.getvalue()


def files(folder: Path, names: list[str], first: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names, first):
        (folder / name).write_bytes(picture(number))


def lines(path: Path, records: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def table(path: Path, rows: list[list[str]], delimiter: str = ",") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as stream:
        csv.writer(stream, delimiter=delimiter).writerows(rows)


def seen(data, split: str = "test") -> list[tuple[str, str, str, int]]:
    """Id, caption, group and number of the picture (by its width) of each sample."""
    data = pickle.loads(pickle.dumps(data))
    samples = data.read(split, 0, data.size(split))
    assert [data.read(split, i, i + 1)[0] for i in range(len(samples))] == samples
    assert data.classes == ()
    return [(s.id, s.caption, s.group, Image.open(io.BytesIO(s.image)).width - 4) for s in samples]


# ---- tables


def test_json_lines_beside_a_folder_of_images(tmp_path):
    files(tmp_path / "images", ["a.png", "b.png", "c.png"])
    rows = [("c.png", "third", "PMC2"), ("a.png", " first ", "PMC1"), ("gone.png", "nowhere", "PMC1"), ("b.png", "", "PMC1")]
    lines(tmp_path / "captions.jsonl", [{"file": f, "pmcid": g, "title": "t", "caption": c} for f, c, g in rows])
    data = open_captioned(tmp_path)
    assert (data.name, data.splits, data.size("val")) == (tmp_path.name, ("test",), 0)
    assert seen(data) == [("images/c.png", "third", "PMC2", 2), ("images/a.png", "first", "PMC1", 0)]
    assert [(one["id"], one["reason"]) for one in data.left_out("test")] == [
        ("images/gone.png", "file_missing"),
        ("images/b.png", "no_caption"),
    ]


def test_a_column_of_splits_and_of_groups_by_option(tmp_path):
    files(tmp_path / "pics", ["a.png", "b.png", "c.png"])
    rows = [
        ["Bild", "Text A", "who", "part"],
        ["a.png", "x", "p1", "training"],
        ["b.png", "y", "p1", "Test"],
        ["c.png", "z", "p2", "dev"],
    ]
    table(tmp_path / "list.csv", rows, ";")
    with pytest.raises(
        UserError, match="no column is known to hold the caption; say which of Bild, Text A, who, part: caption=COLUMN"
    ):
        open_captioned(tmp_path)
    options = {"file": "Bild", "caption": "Text A", "group": "who", "split": "part", "root": str(tmp_path / "pics")}
    data = open_captioned(tmp_path, **options)
    assert data.splits == ("train", "val", "test")
    assert [seen(data, split) for split in data.splits] == [
        [("a.png", "x", "p1", 0)],
        [("c.png", "z", "p2", 2)],
        [("b.png", "y", "p1", 1)],
    ]
    with pytest.raises(UserError, match="no column 'nix'; it has Bild"):
        open_captioned(tmp_path, **{**options, "group": "nix"})
    with pytest.raises(UserError, match="option 'columns': a set of captions has file, caption, group, split, root"):
        open_captioned(tmp_path, columns="x")
    with pytest.raises(UserError, match=r"none of its first 3 pictures is there, such as .*; say where: root=FOLDER"):
        open_captioned(tmp_path, **{key: value for key, value in options.items() if key != "root"})


def test_a_table_for_each_split_as_rocov2(tmp_path):
    for split, folder, first in (("train", "train", 0), ("valid", "valid", 3), ("test", "test", 6)):
        files(tmp_path / folder, [f"ROCOv2_{split}_{i}.jpg" for i in range(3)], first)
        table(
            tmp_path / f"{split}_captions.csv", [["ID", "Caption"], *([f"ROCOv2_{split}_{i}", f"{split}, {i}"] for i in range(3))]
        )
    data = open_captioned(tmp_path)
    assert data.splits == ("train", "val", "test")
    assert seen(data, "val") == [(f"valid/ROCOv2_valid_{i}.jpg", f"valid, {i}", "", 3 + i) for i in range(3)]


def test_roco_with_its_text_and_with_its_csv(tmp_path):
    for split in ("train", "validation", "test"):
        base = tmp_path / "data" / split / "radiology"
        files(base / "images", ["ROCO_00002.jpg", "ROCO_00007.jpg"])
        (base / "captions.txt").write_text("ROCO_00002\t Computed tomography, \tno tab \nROCO_00007\t An X-ray\n")
        for other in ("licences.txt", "dlinks.txt", "keywords.txt"):
            (base / other).write_text("ROCO_00002\tsomething\n")
        table(
            base / f"{split}data.csv",
            [["id", "name", "caption"], ["ROCO_00002", "PMC1_g002.jpg", "CT"], ["ROCO_00007", "PMC2.jpg", "X"]],
        )
    wanted = [("images/ROCO_00002.jpg", "Computed tomography, \tno tab", "", 0), ("images/ROCO_00007.jpg", "An X-ray", "", 1)]
    data = open_captioned(tmp_path)
    assert data.splits == ("train", "val", "test")
    assert seen(data, "train") == seen(open_captioned(tmp_path / "data" / "test" / "radiology")) == wanted
    by_id = open_captioned(tmp_path / "data" / "test" / "radiology" / "testdata.csv")
    assert [one[:2] for one in seen(by_id)] == [("images/ROCO_00002.jpg", "CT"), ("images/ROCO_00007.jpg", "X")]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_hugging_faces_imagefolder(kind, tmp_path):
    for split in ("train", "test"):
        files(tmp_path / split / "deep", ["a.png", "b.png"])
        if kind == "csv":
            table(tmp_path / split / "metadata.csv", [["file_name", "text"], ["deep/b.png", "b"], ["deep/a.png", "a"]])
        else:
            lines(tmp_path / split / "metadata.jsonl", [{"file_name": f"deep/{n}.png", "text": n} for n in "ba"])
    data = open_captioned(tmp_path)
    assert data.splits == ("train", "test")
    assert seen(data, "train") == [("deep/b.png", "b", "", 1), ("deep/a.png", "a", "", 0)]


def test_several_captions_of_a_picture_are_several_samples(tmp_path):
    files(tmp_path, ["1.png", "2.png"])
    images = [{"id": 7, "file_name": "2.png"}, {"id": 8, "file_name": "1.png"}]
    notes = [{"image_id": 8, "caption": "one"}, {"image_id": 7, "caption": "two"}, {"image_id": 8, "caption": "one more"}]
    (tmp_path / "captions_test.json").write_text(json.dumps({"images": images, "annotations": notes}))
    wanted = [("1.png", "one", "", 0), ("2.png", "two", "", 1), ("1.png#2", "one more", "", 0)]
    assert seen(open_captioned(tmp_path)) == wanted
    lines(tmp_path / "other.jsonl", [{"image": "1.png", "captions": ["one", "one more"]}, {"image": "2.png", "captions": []}])
    data = open_captioned(tmp_path / "other.jsonl")
    assert seen(data) == [("1.png", "one", "", 0), ("1.png#2", "one more", "", 0)]
    assert data.left_out("test") == [{"id": "2.png", "reason": "no_caption", "detail": "no caption"}]


# ---- shards


def tar(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("place", ["test/{}.tar", "test-{:05d}.tar", "{}.tar"])
def test_tars(place, tmp_path):
    tar(tmp_path / place.format(0), {"a.jpg": picture(0), "a.txt": b"first", "a.json": b'{"pmcid": "PMC1", "caption": "j"}'})
    second = {
        "./b.json": b'{"caption": "second", "pmcid": "PMC2"}',
        "./b.png": picture(1),
        "c.txt": b"no picture",
        "d.png": picture(2),
    }
    tar(tmp_path / place.format(1), second)
    data = open_captioned(tmp_path)
    assert data.splits == ("test",)
    assert seen(data) == [("a", "first", "PMC1", 0), ("b", "second", "PMC2", 1)]
    assert [(one["id"], one["reason"]) for one in data.left_out("test")] == [("c", "file_missing"), ("d", "no_caption")]
    assert seen(open_captioned(tmp_path, caption="caption"))[0][1] == "j"


def test_a_single_tar_and_a_damaged_one(tmp_path):
    tar(tmp_path / "some.tar", {"a.jpg": picture(0), "a.txt": b"first"})
    assert seen(open_captioned(tmp_path / "some.tar")) == [("a", "first", "", 0)]
    (tmp_path / "bad.tar").write_bytes(b"no tar at all" * 100)
    with pytest.raises(UserError, match="not a whole tar"):
        open_captioned(tmp_path / "bad.tar")


@pytest.mark.parametrize("kind", ["struct", "bytes"])
def test_parquet_with_pictures(kind, tmp_path):
    (tmp_path / "data").mkdir()
    for split, first, count in (("train", 0, 5), ("validation", 5, 2), ("test", 7, 3)):
        for shard, numbers in enumerate((range(first, first + 2), range(first + 2, first + count))):
            rows = [
                {
                    "image": {"bytes": picture(n), "path": f"{n}.png"} if kind == "struct" else picture(n),
                    "image_id": f"id{n}",
                    "caption": f"caption {n}",
                    "cui": ["C1"],
                }
                for n in numbers
            ]
            if rows:
                name = f"{split}-{shard:05d}-of-00002.parquet"
                pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data" / name, row_group_size=2)
    data = open_captioned(tmp_path)
    assert data.splits == ("train", "val", "test")
    assert seen(data, "train") == [(f"id{n}", f"caption {n}", "", n) for n in range(5)]
    assert seen(data, "test") == [(f"id{n}", f"caption {n}", "", n) for n in range(7, 10)]


def test_a_picture_that_is_null_is_a_reject_of_whoever_decodes(tmp_path):
    rows = pa.table(
        {"image": pa.array([{"bytes": None, "path": "x"}, None], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))}
    )
    pq.write_table(rows.append_column("text", pa.array(["a", "b"])), tmp_path / "x.parquet")
    data = open_captioned(tmp_path / "x.parquet")
    assert [sample.image for sample in data.read("test", 0, 2)] == [b"", b""]
    pq.write_table(rows, tmp_path / "y.parquet")
    with pytest.raises(UserError, match="no column is known to hold the caption"):
        open_captioned(tmp_path / "y.parquet")


# ---- what holds for all


def test_identity_follows_the_content_and_not_the_place(tmp_path):
    for name, caption in (("one", "x"), ("two", "x"), ("three", "y")):
        files(tmp_path / name / "images", ["a.png"])
        lines(tmp_path / name / "captions.jsonl", [{"file": "a.png", "caption": caption}])
    one, two, three = (open_captioned(tmp_path / name).fingerprint for name in ("one", "two", "three"))
    assert one == two != three


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ({}, "not a set of captions that is known: a table"),
        ({"captions.jsonl": b""}, "no rows"),
        ({"captions.jsonl": b"no json\n"}, "cannot be read as jsonl"),
        ({"captions.jsonl": b"[1]\n"}, r"cannot be read as jsonl \(line 1 is no object\)"),
        ({"captions.json": b"{}"}, r"cannot be read as json \(no list of objects\)"),
        ({"captions.csv": b"file,caption\nx.png,\xff\xfe\n"}, "cannot be read as csv"),
        ({"a.csv": b"file,caption\n", "b.csv": b"file,caption\n"}, "if there are several tables, name one of them"),
        ({"captions.csv": b"file,caption\na.png,\n", "a.png": b"x"}, "no picture in it has a caption"),
        ({"captions.csv": b"file,caption,split\na.png,x,odd\n", "a.png": b"x"}, "split 'odd' in column split: only train"),
        ({"x.parquet": b"no parquet"}, "not a set of captions"),
        ({"x.xml": b""}, "not a set of captions"),
    ],
)
def test_one_line_for_what_is_off(content, line, tmp_path):
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=line) as found:
        open_captioned(tmp_path)
    assert "\n" not in str(found.value)


def test_what_is_not_there_and_what_is_no_table(tmp_path):
    with pytest.raises(UserError, match="no such file or folder"):
        open_captioned(tmp_path / "nowhere")
    (tmp_path / "x.xml").write_bytes(b"")
    with pytest.raises(UserError, match="not a table of captions"):
        open_captioned(tmp_path / "x.xml")


@pytest.mark.skipif(not REAL.is_dir(), reason="the real figures are not here")
def test_real_figures():
    data = open_captioned(REAL)
    assert (data.size("test"), data.left_out("test")) == (221, [])
    assert len({sample.id for sample in data.read("test", 0, 221)}) == 221
    assert {sample.group[:3] for sample in data.read("test", 0, 9)} == {"PMC"}
