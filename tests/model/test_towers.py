"""Model configurations build at the sizes the paper gives, from every kind of text tower."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch

from biomedray.errors import UserError
from biomedray.model import catalogue, config_names, towers, weights
from biomedray.model.settings import ModelConfig
from biomedray.model.tokenizer import make_vocabulary

# Millions of parameters of image and text tower; the paper's Supplementary Table 2 counts the image towers
# with the classifier of timm, 0.4 to 0.8 million that a CLIP tower replaces by its projection.
SIZES = {
    "biomedclip_vits16_pubmedbert256": (22, 110),
    "biomedclip_vitm16_pubmedbert256": (39, 110),
    "biomedclip_vitb16_pubmedbert256": (86, 110),
}

# OpenAI's ResNet-50 has 38 million with its attention pool, its text tower 63 million, 25 of them embeddings.
GPT_SIZES = {"clip_rn50_gpt77": (38, 64), "clip_vitb16_gpt77": (86, 63), "biomedclip_vitb16_gpt77": (86, 63)}


@pytest.fixture(scope="module")
def bert_base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    (folder / "config.json").write_text(json.dumps(catalogue.bert_base()))
    return folder


def test_the_names_are_listed():
    small = {"small", "small_gpt77", "small_vit_s", "small_vit_m", "small_vit_b"}
    assert set(config_names()) == {"tiny", *small, "medium", *SIZES, *GPT_SIZES}
    with pytest.raises(UserError, match=r"no such configuration; there are .*tiny"):
        catalogue.read("huge")


@pytest.mark.parametrize("name", config_names())
def test_every_configuration_builds(name, bert_base):
    config = catalogue.read(name)
    model = towers.build(config["model_cfg"], bert_base, device="meta")
    image, text = (weights.parameter_count(part) / 1e6 for part in (model.visual, model.text))
    if name in SIZES or name in GPT_SIZES:
        sizes = (SIZES | GPT_SIZES)[name]
        assert image == pytest.approx(sizes[0], abs=0.8)
        assert text == pytest.approx(sizes[1], abs=1)
    else:
        assert image + text < 12


def test_biomedclip_has_the_names_of_the_released_weights(bert_base):
    model = towers.build(catalogue.read("biomedclip_vitb16_pubmedbert256")["model_cfg"], bert_base, device="meta")
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert shapes["visual.trunk.pos_embed"] == (1, 197, 768)
    assert shapes["visual.head.proj.weight"] == (512, 768)
    assert shapes["text.transformer.embeddings.word_embeddings.weight"] == (30522, 768)
    assert shapes["text.proj.0.weight"] == (640, 768)
    assert shapes["text.proj.2.weight"] == (512, 640)
    assert shapes["logit_scale"] == ()
    prefixes = {".".join(name.split(".")[:2]) for name in shapes}
    assert prefixes == {"visual.trunk", "visual.head", "text.transformer", "text.proj", "logit_scale"}
    assert not any("pooler" in name for name in shapes)


def test_weights_of_a_text_tower_are_taken(with_bert, tower):
    from transformers import BertModel

    opened = weights.open_folder(with_bert)
    source = BertModel.from_pretrained(tower, add_pooling_layer=False).state_dict()
    mine = opened.clip.text.transformer.state_dict()
    assert all(torch.equal(mine[name], value) for name, value in source.items())


def test_the_same_seed_gives_the_same_bytes(tiny, captions, tmp_path):
    towers.initialise(ModelConfig(name="tiny", vocab_size=400), captions, tmp_path / "again", seed=0)
    for path in tiny.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


def test_the_vocabulary_is_the_same_in_every_process(captions, tmp_path):
    make_vocabulary(captions, 150, tmp_path / "here")
    code = (
        "import sys; sys.path.insert(0, sys.argv[2]); from conftest import make_captions; from pathlib import Path;"
        "from biomedray.model.tokenizer import make_vocabulary; make_vocabulary(make_captions(), 150, Path(sys.argv[1]))"
    )
    folder = os.path.dirname(__file__)  # noqa: PTH120  # handed to another process as text
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "there"), folder], check=True, capture_output=True)
    for path in (tmp_path / "here").iterdir():
        assert path.read_bytes() == (tmp_path / "there" / path.name).read_bytes(), path.name


def test_the_vocabulary_is_a_bert_tokenizer(captions, tmp_path):
    from transformers import AutoTokenizer

    size = make_vocabulary(captions, 300, tmp_path)
    words = (tmp_path / "vocab.txt").read_text().splitlines()
    assert words[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert len(words) == size <= 300
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer("Naïve LUNG cells")["input_ids"]
    assert ids[0] == 2
    assert ids[-1] == 3
    assert tokenizer.decode(ids, skip_special_tokens=True) == "naive lung cells"
    with pytest.raises(UserError, match="no text"):
        make_vocabulary(["", "  "], 300, tmp_path / "none")


def test_going_on_from_a_whole_model(tiny, tmp_path):
    towers.initialise(ModelConfig(init_from=str(tiny)), [], tmp_path / "next", seed=9)
    assert weights.open_folder(tmp_path / "next").fingerprint == weights.open_folder(tiny).fingerprint


def test_other_sizes(bert_base, captions, tmp_path):
    towers.initialise(ModelConfig(name="tiny", image_size=64, context_length=40), captions, tmp_path / "m", seed=0)
    opened = weights.open_folder(tmp_path / "m")
    assert opened.clip.visual.image_size == (64, 64)
    assert opened.tokenizer(["a"]).shape == (1, 40)
    large = towers.model_cfg_of(ModelConfig(name="biomedclip_vitb16_pubmedbert256", image_size=384, patch_dropout=0.5))
    model = towers.build(large, bert_base, device="meta")
    assert model.visual.trunk.pos_embed.shape == (1, 577, 768)
    assert model.visual.trunk.patch_drop.prob == 0.5


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"name": "huge"}, "no such configuration"),
        ({"text_tower": "./nowhere"}, "no such folder"),
        ({"image_weights": "nowhere.safetensors"}, "no such file"),
        ({"init_from": "nowhere"}, "no such model folder"),
        ({"name": "biomedclip_vits16_pubmedbert256", "image_size": 300}, "timm has no"),
        ({"name": "biomedclip_vits16_pubmedbert256", "context_length": 1000}, "only 512 positions; set it to 512 or less"),
    ],
)
def test_a_model_that_cannot_be_made_is_refused(settings, says):
    with pytest.raises(UserError, match=says) as caught:
        towers.check(ModelConfig(**settings))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("missing", "says"), [("config.json", "no config.json"), ("tokenizer.json", "no tokenizer")])
def test_an_incomplete_text_tower_is_refused(tower, tmp_path, missing, says):
    broken = tmp_path / "broken"
    shutil.copytree(tower, broken)
    (broken / missing).unlink()
    (broken / "vocab.txt").unlink()
    with pytest.raises(UserError, match=says):
        towers.check(ModelConfig(text_tower=str(broken)))
