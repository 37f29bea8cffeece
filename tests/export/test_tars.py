"""WebDataset tars: open_clip's own loader gives back every picture and caption; same rows, same bytes."""

from __future__ import annotations

import io
import json
import tarfile
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from biomedray.export import ExportConfig, export
from biomedray.export.tars import count_samples, sample_key
from biomedray.records import make_pair_id


@pytest.fixture(scope="module")
def tars(pairs, tmp_path_factory):
    out = tmp_path_factory.mktemp("tars") / "out"
    return out, export(pairs, out, "webdataset", ExportConfig(rows_per_shard=5))


def samples(out, split):
    found = {}
    for path in sorted((out / split).glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, suffix = member.name.partition(".")
                found.setdefault(key, {})[suffix] = tar.extractfile(member).read()
    return found


def loaded(out, split, train):
    """What open_clip_train feeds a model with: pictures and captions as its pipeline gives them."""
    from open_clip_train.data import get_wds_dataset

    last = len(list((out / split).glob("*.tar"))) - 1
    shards = str(out / split) + f"/{{00000..{last:05d}}}.tar"
    args = SimpleNamespace(train_data=shards, val_data=shards, train_num_samples=None, val_num_samples=None, seed=0, workers=0)
    args.train_data_upsampling_factors, args.dataset_resampled, args.world_size, args.batch_size = None, False, 1, 1
    loader = get_wds_dataset(args, lambda image: (image.size, image.tobytes()), train, tokenizer=lambda text: [text]).dataloader
    pairs = [pair for images, captions in loader for pair in zip(images, captions, strict=True)]
    return loader, [(caption, tuple(size), pixels) for (size, pixels), caption in pairs]


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_open_clips_loader_gives_every_pair(tars, rows, split):
    wanted = {row["caption"]: row for row in rows if row["split"] == split}
    _, found = loaded(tars[0], split, train=False)
    assert sorted(caption for caption, _, _ in found) == sorted(wanted)
    for caption, size, pixels in found:
        row = wanted[caption]
        if row["image_format"] in ("jpeg", "png", "webp") and not row["flags"]:
            image = Image.open(io.BytesIO(row["image"])).convert("RGB")
            assert (size, pixels) == (image.size, image.tobytes())


def test_open_clip_finds_the_number_of_samples_when_training(tars, rows):
    loader, found = loaded(tars[0], "train", train=True)
    captions = {row["caption"] for row in rows if row["split"] == "train"}
    assert loader.num_samples == len(captions) == tars[1].counts["pairs_by_split"]["train"]
    assert {caption for caption, _, _ in found} == captions


def test_bytes_are_the_original_where_a_loader_reads_them(tars, rows):
    by_id = {}
    for split in ("train", "val", "test"):
        for key, files in samples(tars[0], split).items():
            assert files["txt"].decode()
            assert len(files) == 3
            by_id[json.loads(files["json"])["pair_id"]] = (key, files)
    assert by_id.keys() == {row["pair_id"] for row in rows}
    for row in rows:
        key, files = by_id[row["pair_id"]]
        assert key == sample_key(row["pair_id"])
        if row["image_copy"]:
            assert files["png"] == row["image_copy"]
        elif row["image_format"] in ("gif", "bmp") or row["flags"] == ["truncated"]:
            Image.open(io.BytesIO(files["png"])).load()
        else:
            assert files[{"jpeg": "jpg"}.get(row["image_format"], row["image_format"])] == row["image"]
        rest = json.loads(files["json"])
        assert rest == {name: value for name, value in row.items() if name not in ("image", "image_copy", "caption")}


def test_sizes_are_those_of_the_files(tars):
    out, manifest = tars
    for split, number in manifest.counts["shards"].items():
        sizes = json.loads((out / split / "sizes.json").read_text())
        assert len(sizes) == number
        assert sizes == {path.name: count_samples(path) for path in (out / split).glob("*.tar")}
        assert sum(sizes.values()) == manifest.counts["pairs_by_split"][split]
        assert max(sizes.values()) <= 5
    assert f"--train-num-samples {manifest.counts['pairs_by_split']['train']}" in manifest.details["open_clip"]


def test_headers_tell_nothing_of_the_machine(tars):
    for path in tars[0].rglob("*.tar"):
        with tarfile.open(path) as tar:
            for member in tar:
                assert (member.mtime, member.uid, member.gid, member.uname, member.gname, member.mode) == (0, 0, 0, "", "", 0o644)


def test_what_nothing_can_decode_is_left_out_and_counted(make, tmp_path):
    broken = make.pair(3, "F2", "tiff", image=b"II*\0 not a picture")
    pairs = make.write_pairs(tmp_path / "pairs", [make.pair(3, "F1"), broken])
    manifest = export(pairs, tmp_path / "out", "webdataset")
    assert (manifest.counts["pairs"], manifest.counts["left_out"]) == (1, 1)
    assert "1 pictures that no strict loader can decode" in (tmp_path / "out" / "README.md").read_text()


fig_ids = st.text(st.characters(blacklist_categories=("Cs",)), min_size=1, max_size=80) | st.sampled_from(
    ["F1", "F.1", "F_1", "F-1"]
)
ids = st.builds(make_pair_id, st.sampled_from(["PMC1", "PMC12", "a_b", "a.b"]), st.integers(1, 12), fig_ids, st.integers(0, 12))


@given(st.sets(ids, min_size=2, max_size=6))
def test_keys_are_unique_and_have_no_dot(pair_ids):
    keys = {sample_key(pair_id) for pair_id in pair_ids}
    assert len(keys) == len(pair_ids)
    for key in keys:
        assert key.isascii()
        assert not set(key) & set("./\\ ")
        assert 0 < len(key) < 90


def test_a_key_reads_like_its_id():
    assert sample_key("PMC123.2/fig-4/0") == "PMC123_2_fig-4_0"
