"""Our own artifacts behind the interface, and pictures that come as pixels."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from biomedray.artifacts import Manifest, write_manifest
from biomedray.errors import UserError
from biomedray.evaluate.models import open_model, placed
from biomedray.model.encoder import Encoder
from biomedray.model.settings import ModelConfig
from biomedray.model.towers import initialise
from biomedray.pixels import PixelError, picture

TEXTS = ["Figure 1. CT of the liver", "a"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "tiny"
    initialise(ModelConfig(name="tiny", vocab_size=120), ["CT of the liver and the lung", "Western blot"] * 30, folder, seed=0)
    return folder


def test_an_artifact_by_each_of_its_names(tiny):
    encoder = Encoder.load(tiny)
    for spec in (tiny, str(tiny), f"local-dir:{tiny}"):
        model = open_model(spec)
        assert (model.name, model.fingerprint, model.embed_dim) == ("tiny", encoder.fingerprint, 128)
        assert (model.context_length, model.image_size, model.device) == (96, 80, "cpu")
        assert model.logit_scale == pytest.approx(1 / 0.07, rel=1e-5)
        np.testing.assert_array_equal(model.encode_texts(TEXTS), encoder.encode_texts(TEXTS))


def test_pixels_are_as_good_as_a_file(tiny):
    model = open_model(tiny)
    colour = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(colour).save(buffer, "PNG")
    assert torch.equal(model.preprocess(colour), model.preprocess(buffer.getvalue()))
    np.testing.assert_array_equal(model.encode_images([colour]), model.encode_images([buffer.getvalue()]))
    grey = colour[:, :, 0]
    assert torch.equal(model.preprocess(grey), model.preprocess(np.stack([grey] * 3, axis=2)))
    assert torch.equal(model.preprocess(grey), model.preprocess(grey[:, :, None]))
    assert torch.equal(model.preprocess(colour[::-1, ::2]), model.preprocess(colour[::-1, ::2].copy()))


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (b"", "empty_image"),
        (b"no picture", "unsupported_format"),
        (np.zeros((2, 2, 4), np.uint8), "unsupported_format"),
        (np.zeros((2, 2, 2), np.uint8), "unsupported_format"),
        (np.zeros(4, np.uint8), "unsupported_format"),
        (np.zeros((2, 2), np.float32), "unsupported_format"),
        (np.zeros((0, 2, 3), np.uint8), "empty_image"),
    ],
)
def test_what_is_no_picture(source, reason):
    with pytest.raises(PixelError) as found:
        picture(source)
    assert found.value.reason == reason


def test_a_folder_of_another_kind(tmp_path):
    write_manifest(tmp_path, Manifest(kind="pairs", name="p"))
    with pytest.raises(UserError, match="a pairs artifact, but a model is wanted"):
        open_model(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"not a model folder \(no open_clip_config.json\)"):
        open_model(tmp_path / "empty")


@pytest.mark.parametrize(
    ("spec", "there"),
    [
        ("model", "{}/model"),
        ("local-dir:model", "local-dir:{}/model"),
        ("transformers:model", "transformers:{}/model"),
        ("open_clip:ViT-B-16/model/x.pt", "open_clip:ViT-B-16/{}/model/x.pt"),
        ("python:own.py:load", "python:{}/own.py:load"),
        ("open_clip:ViT-B-16/openai", "open_clip:ViT-B-16/openai"),
        ("python:own:load", "python:own:load"),
        ("hf-hub:org/name", "hf-hub:org/name"),
        ("transformers:org/name", "transformers:org/name"),
        ("nowhere", "nowhere"),
    ],
)
def test_a_name_that_holds_in_any_folder(spec, there, tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    for name in ("model/x.pt", "own.py"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    assert placed(spec) == there.format(tmp_path)
    monkeypatch.chdir("/")
    assert placed(there.format(tmp_path)) == there.format(tmp_path)
