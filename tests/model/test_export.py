"""An export is read by plain open_clip with no network and gives what our encoder gives."""

from __future__ import annotations

import io
import shutil

import numpy as np
import pytest
from PIL import Image

from biomedray.errors import UserError
from biomedray.model import load
from biomedray.model.settings import ModelConfig
from biomedray.model.towers import initialise
from biomedray.model.weights import relocate

TEXTS = ["CT of the lung", "naïve β-catenin & 5 µm   cells", "x", "brain " * 300]


def assert_same(folder, images, plain):
    encoder = load(folder)
    theirs_images, theirs_texts = plain(folder, images, TEXTS)
    assert np.abs(encoder.encode_images(images) - theirs_images).max() <= 1e-5
    assert np.abs(encoder.encode_texts(TEXTS) - theirs_texts).max() <= 1e-5


def test_plain_open_clip_agrees_also_after_a_move(tiny, images, plain, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(tiny, moved)
    assert_same(moved, images, plain)


def test_a_bert_tower_agrees_where_it_was_written(with_bert, images, plain):
    assert_same(with_bert, images, plain)


def test_a_moved_bert_tower_loads_here_and_after_relocate_in_plain_open_clip(tower, images, plain, tmp_path):
    first, moved = tmp_path / "first", tmp_path / "moved"
    initialise(ModelConfig(name="tiny", text_tower=str(tower)), [], first, seed=0)
    before = load(first)
    vectors = before.encode_texts(TEXTS)
    first.rename(moved)
    after = load(moved)
    assert after.fingerprint == before.fingerprint
    np.testing.assert_array_equal(after.encode_texts(TEXTS), vectors)
    relocate(moved)
    assert_same(moved, images, plain)
    assert load(moved).fingerprint == before.fingerprint


def test_jpegs_are_decoded_in_full_for_evaluation(tiny):
    data = io.BytesIO()
    Image.effect_noise((900, 700), 60).convert("RGB").save(data, "JPEG")
    import open_clip

    _, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tiny}")
    expected = preprocess(Image.open(io.BytesIO(data.getvalue())))
    np.testing.assert_array_equal(load(tiny).preprocess(data.getvalue()).numpy(), expected.numpy())


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("open_clip_model.safetensors", "without weights"),
        ("open_clip_config.json", "not a model folder"),
        ("tokenizer.json", "cannot|without tokenizer|not a model"),
    ],
)
def test_an_incomplete_folder_is_refused_in_one_line(tiny, tmp_path, name, says):
    broken = tmp_path / "broken"
    shutil.copytree(tiny, broken)
    (broken / name).unlink()
    if name == "tokenizer.json":
        (broken / "vocab.txt").unlink()
    with pytest.raises(UserError, match=says) as caught:
        load(broken)
    assert "\n" not in str(caught.value)


def test_damaged_weights_are_refused_in_one_line(tiny, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(tiny, broken)
    path = broken / "open_clip_model.safetensors"
    path.write_bytes(path.read_bytes()[: 1 << 20])
    with pytest.raises(UserError, match="not a model that open_clip can load") as caught:
        load(broken)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spec", ["nowhere", "local-dir:nowhere", "hf-hub:nobody/nothing"])
def test_what_is_not_there_is_refused(spec, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"no such model folder|cannot be fetched"):
        load(spec)
