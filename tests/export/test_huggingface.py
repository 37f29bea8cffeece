"""The Hugging Face folder: the datasets library reads it offline, pictures decoded, every column as it was."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from biomedray.export import ExportConfig, export
from biomedray.export.huggingface import features, schema


@pytest.fixture(scope="module")
def folder(pairs, tmp_path_factory):
    out = tmp_path_factory.mktemp("huggingface") / "out"
    return out, export(pairs, out, "huggingface", ExportConfig(rows_per_shard=5))


def load(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    import datasets

    return datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_load_dataset_gives_every_row(folder, rows, tmp_path, monkeypatch):
    out, manifest = folder
    loaded = load(out, tmp_path, monkeypatch)
    assert {name: split.num_rows for name, split in loaded.items()} == {
        {"val": "validation"}.get(split, split): number for split, number in manifest.counts["pairs_by_split"].items()
    }
    import datasets

    wanted = {row["pair_id"]: row for row in rows}
    for split in loaded.values():
        assert isinstance(split.features["image"], datasets.Image)
        raw = split.cast_column("image", datasets.Image(decode=False))
        for row, plain in zip(split, raw, strict=True):
            original = wanted.pop(row["pair_id"])
            assert (plain["image"]["bytes"] == original["image"]) == (original["flags"] != ["truncated"])
            assert row["image"].size == Image.open(io.BytesIO(original["image"])).size
            names = set(row) - {"image"}
            assert {name: row[name] for name in names} == {name: original[name] for name in names}
            assert names == set(original) - {"image", "image_copy"}
    assert wanted == {}


def test_the_note_in_the_files_is_that_of_the_library():
    import datasets

    known = datasets.Features.from_dict(features())
    assert known.arrow_schema.remove_metadata() == schema().remove_metadata()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_split_without_rows_is_left_out(make, tmp_path, monkeypatch):
    pairs = make.write_pairs(tmp_path / "pairs", [make.pair(3, "F1"), make.pair(3, "F2")])
    export(pairs, tmp_path / "out", "huggingface")
    assert list(load(tmp_path / "out", tmp_path, monkeypatch)) == ["train"]
