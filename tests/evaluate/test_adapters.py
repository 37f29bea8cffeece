"""Models of others give the vectors that their own libraries give, with their own preprocessing and tokenizer."""

from __future__ import annotations

import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional
from torchvision import transforms

from biomedray.errors import UserError
from biomedray.evaluate.models import open_model

HERE = Path(__file__).parent
KINDS = ["clip", "plip", "siglip", "dual"]


@pytest.fixture(scope="module")
def hub(load_module):
    return load_module(HERE / "hub.py")


@pytest.fixture(scope="module")
def made(hub, tmp_path_factory):
    """Folder of each kind, made when it is first asked for."""
    root, there = tmp_path_factory.mktemp("hub"), {}

    def make(kind: str) -> Path:
        if kind not in there:
            there[kind] = hub.clip(root / kind, legacy_eos=True) if kind == "plip" else getattr(hub, kind)(root / kind)
        return there[kind]

    return make


def rgb(hub) -> list[Image.Image]:
    return [Image.open(io.BytesIO(data)).convert("RGB") for data in hub.pictures()]


def close(model, hub, images: torch.Tensor, texts: torch.Tensor) -> None:
    images, texts = (functional.normalize(part.detach().float(), dim=-1).numpy() for part in (images, texts))
    np.testing.assert_allclose(model.encode_images(hub.pictures()), images, atol=1e-5)
    np.testing.assert_allclose(model.encode_texts(hub.TEXTS), texts, atol=1e-5)
    stacked = torch.stack([model.preprocess(data) for data in hub.pictures()])
    np.testing.assert_allclose(model.encode_pixels(stacked), images, atol=1e-5)
    array = np.asarray(rgb(hub)[0])
    assert torch.equal(model.preprocess(array), model.preprocess(hub.pictures()[0]))
    assert (model.embed_dim, model.image_size) == (images.shape[1], stacked.shape[-1])
    assert model.encode_images([]).shape == model.encode_texts([]).shape == (0, model.embed_dim)


@pytest.mark.parametrize("kind", KINDS)
def test_as_plain_transformers(kind, hub, made):
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    folder = made(kind)
    plain, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    length = {"siglip": 64, "dual": 48}.get(kind, 77)
    padding = "max_length" if kind == "siglip" else True
    inputs = tokenizer(hub.TEXTS, padding=padding, truncation=True, max_length=length, return_tensors="pt")
    pixels = AutoImageProcessor.from_pretrained(folder)(images=rgb(hub), return_tensors="pt")
    with torch.inference_mode():
        found = plain(**inputs, **pixels)
    model = open_model(f"transformers:{folder}")
    close(model, hub, found.image_embeds, found.text_embeds)
    assert model.context_length == length
    assert model.logit_scale == pytest.approx(plain.logit_scale.exp().item())
    assert open_model(folder).fingerprint == model.fingerprint


def test_a_text_is_the_same_alone_and_in_any_company(hub, made):
    for kind in (*KINDS, "medclip"):
        model = open_model(f"medclip:{made(kind)}" if kind == "medclip" else made(kind))
        alone = np.concatenate([model.encode_texts([text]) for text in hub.TEXTS])
        np.testing.assert_allclose(model.encode_texts(hub.TEXTS), alone, atol=1e-5)


def test_biomedclip_in_the_layout_of_its_release(hub, made):
    folder = made("biomedclip")
    plain, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(hub.TEXTS)
    with torch.inference_mode():
        images = plain.eval().encode_image(torch.stack([transform(image) for image in rgb(hub)]))
        texts = plain.encode_text(tokens)
    shutil.rmtree(folder / "bert")  # the release has no config.json of its BERT
    model = open_model(f"local-dir:{folder}")
    close(model, hub, images, texts)
    assert (model.context_length, model.embed_dim) == (64, 32)
    assert model.logit_scale == pytest.approx(plain.logit_scale.exp().item())


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    """A tiny model that open_clip has on its list, and a checkpoint as open_clip's training writes it."""
    folder = tmp_path_factory.mktemp("listed")
    text = {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    vision = {"image_size": 48, "layers": 1, "width": 64, "patch_size": 16}
    (folder / "tiny-for-tests.json").write_text(json.dumps({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(folder / "tiny-for-tests.json")
    torch.manual_seed(6)
    state = open_clip.create_model("tiny-for-tests").state_dict()
    path = folder / "epoch_1.pt"
    torch.save({"epoch": 1, "state_dict": {f"module.{key}": value for key, value in state.items()}}, path)
    return path


def test_as_plain_open_clip(hub, listed):
    plain, _, transform = open_clip.create_model_and_transforms("tiny-for-tests", pretrained=str(listed))
    with torch.inference_mode():
        images = plain.eval().encode_image(torch.stack([transform(image) for image in rgb(hub)]))
        texts = plain.encode_text(open_clip.get_tokenizer("tiny-for-tests")(hub.TEXTS))
    model = open_model(f"open_clip:tiny-for-tests/{listed}")
    close(model, hub, images, texts)
    assert (model.name, model.context_length) == ("tiny-for-tests-epoch_1", 20)


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ("open_clip:ViT-B-61/openai", "no model of this name; nearest: ViT-B-16"),
        ("open_clip:ViT-B-16/nowhere.pt", "neither a file nor a set of weights that open_clip knows; it knows openai, "),
        ("open_clip:ViT-B-16", "name the weights; it knows openai"),
        ("open_clip:", "name what follows the colon"),
        ("open_clip:ViT-B-16/openai", "cannot be fetched .*; give a file"),
        ("hf-hub:nobody/nothing", "cannot be fetched"),
        ("transformers:nobody/nothing", "cannot be fetched from the hub"),
        ("medclip:nowhere", "no such folder"),
        ("nowhere", "no such folder; a model is FOLDER, hf-hub:ORG/NAME"),
        ("keras:nothing", "no such folder; a model is"),
        ("python:nothing", "write python:MODULE:FUNCTION"),
        ("python:nosuchmodule:load", "cannot be imported: ModuleNotFoundError"),
        ("python:nosuch.py:load", "no such file"),
        ("python:json:nosuch", "has no function nosuch"),
        ("python:json:dumps", "has no method preprocess"),
    ],
)
def test_one_line_for_what_is_not_there(spec, line):
    with pytest.raises(UserError, match=line) as found:
        open_model(spec)
    assert "\n" not in str(found.value)


def test_a_gpu_that_is_not_there(made):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(UserError, match="torch sees no GPU here"):
        open_model(made("clip"), "cuda")


@pytest.mark.parametrize(
    ("gone", "line"),
    [
        ("model.safetensors", "a clip folder without weights"),
        ("vocab.json", "a clip folder without a tokenizer"),
        ("preprocessor_config.json", "a clip folder without settings of its pictures"),
        ("config.json", "no open_clip_config.json"),
    ],
)
def test_a_folder_that_lacks_a_file(gone, line, made, tmp_path):
    folder = shutil.copytree(made("clip"), tmp_path / "clip")
    (folder / gone).unlink()
    with pytest.raises(UserError, match=line):
        open_model(folder)


def test_weights_that_are_missing_are_not_made_up(made, tmp_path):
    folder = shutil.copytree(made("clip"), tmp_path / "clip")
    state = load_file(folder / "model.safetensors")
    del state["visual_projection.weight"]
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"not those of its config.json \(no visual_projection.weight\)"):
        open_model(folder)


def test_a_folder_of_another_kind(hub, made, tmp_path):
    from transformers import BertConfig, BertModel

    folder = tmp_path / "bert"
    words = hub.bert_tokenizer(folder)
    BertModel(BertConfig(**hub.TEXT, vocab_size=words)).save_pretrained(folder)
    hub.processor(folder, "ViTImageProcessor", 32)
    with pytest.raises(UserError, match="a bert, not a model of pictures and texts such as CLIP"):
        open_model(folder)
    with pytest.raises(UserError, match="an open_clip folder; give local-dir:"):
        open_model(f"transformers:{made('biomedclip')}")
    with pytest.raises(UserError, match=r"not a MedCLIP folder \(no pytorch_model.bin\)"):
        open_model(f"medclip:{made('clip')}")


def test_the_fingerprint_follows_the_content(made, tmp_path):
    folder = shutil.copytree(made("clip"), tmp_path / "elsewhere")
    assert open_model(folder).fingerprint == open_model(made("clip")).fingerprint
    state = load_file(folder / "model.safetensors")
    state["logit_scale"] = state["logit_scale"] + 1
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    assert open_model(folder).fingerprint != open_model(made("clip")).fingerprint


# ---- MedCLIP


def medclip_pictures(hub) -> torch.Tensor:
    """As MedCLIPFeatureExtractor: grey, on a black square, then what torchvision does."""
    pipeline = transforms.Compose(
        [
            transforms.Resize((224, 224), transforms.InterpolationMode.BICUBIC),
            transforms.ToTensor(),
            transforms.Normalize([0.5862785803043838], [0.27950088968644304]),
        ]
    )
    batch = []
    for image in rgb(hub):
        side = max(224, *image.size)
        square = Image.new("L", (side, side), 0)
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        batch.append(pipeline(square).repeat(3, 1, 1))
    return torch.stack(batch)


def medclip_texts(hub, folder: Path) -> torch.Tensor:
    """As its text model, one text at a time: in a batch it would average over the padding too."""
    from transformers import AutoTokenizer, BertModel

    bert, tokenizer = BertModel.from_pretrained(folder / "bert").eval(), AutoTokenizer.from_pretrained(folder)
    projection = torch.load(folder / "pytorch_model.bin", weights_only=True)["text_model.projection_head.weight"]
    found = []
    for text in hub.TEXTS:
        inputs = tokenizer([text], truncation=True, max_length=77, return_tensors="pt")
        with torch.inference_mode():
            states = bert(**inputs, output_hidden_states=True).hidden_states
        chosen = torch.stack([states[1], states[2], states[-1]])
        found.append(chosen.permute(1, 0, 2, 3).mean(2).mean(1) @ projection.T)
    return torch.cat(found)


def test_medclip_with_a_swin(hub, made):
    from transformers import SwinModel

    folder = made("medclip")
    swin = SwinModel.from_pretrained(folder / "swin").eval()
    projection = torch.load(folder / "pytorch_model.bin", weights_only=True)["vision_model.projection_head.weight"]
    with torch.inference_mode():
        images = swin(medclip_pictures(hub)).pooler_output @ projection.T
    model = open_model(f"medclip:{folder}")
    close(model, hub, images, medclip_texts(hub, folder))
    assert (model.context_length, model.image_size) == (77, 224)
    assert model.logit_scale == pytest.approx(1 / 0.07, rel=1e-3)


def test_medclip_with_a_resnet(hub, tmp_path):
    from torchvision.models import resnet50

    folder = hub.medclip(tmp_path / "resnet", tower="resnet")
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    with torch.device("meta"):
        network = resnet50(weights=None)
        network.fc = torch.nn.Linear(2048, 16, bias=False)
    prefix = "vision_model.model."
    own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    network.load_state_dict(own, assign=True)
    with torch.inference_mode():
        images = functional.normalize(network.eval()(medclip_pictures(hub)[:2]), dim=-1).numpy()
    np.testing.assert_allclose(open_model(f"medclip:{folder}").encode_images(hub.pictures()[:2]), images, atol=1e-5)


def test_medclip_that_lacks_something(made, tmp_path):
    folder = shutil.copytree(made("medclip"), tmp_path / "medclip")
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    for name in ("tokenizer.json", "vocab.txt"):
        (folder / name).rename(folder / f"{name}.away")
    with pytest.raises(UserError, match=r"a MedCLIP folder without tokenizer; put the vocab\.txt of BioClinicalBERT into it"):
        open_model(f"medclip:{folder}")
    (folder / "vocab.txt.away").rename(folder / "vocab.txt")
    lacking = {key: value for key, value in state.items() if "blocks.1.attention.self.query.weight" not in key}
    torch.save(lacking, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"not a MedCLIP that can be loaded: no encoder\.layers\.1\.blocks\.1"):
        open_model(f"medclip:{folder}")
    torch.save({"logit_scale": torch.ones(())}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"not the weights of a MedCLIP \(no text_model.projection_head.weight\)"):
        open_model(f"medclip:{folder}")


# ---- a user's own

OWN = """
import torch


class Both:
    def __init__(self, device, more=0.0):
        torch.manual_seed(0)
        self.weights = torch.randn(27, 8, device=device) + more

    def preprocess(self, image):
        assert image.mode == "RGB"
        pixels = torch.frombuffer(bytearray(image.resize((3, 3)).tobytes()), dtype=torch.uint8)
        return pixels.view(3, 3, 3).permute(2, 0, 1).float() / 255

    def encode_images(self, batch):
        return batch.flatten(1) @ self.weights

    def encode_texts(self, texts):
        return torch.tensor([[float(len(text)), *range(7)] for text in texts])


class Scaled(Both):
    name, logit_scale, context_length, fingerprint = "mine", 20, 30, "abc"


class Narrow(Both):
    def encode_texts(self, texts):
        return torch.ones(len(texts), 5)


def load(device):
    return Both(device)


def load_scaled(device):
    return Scaled(device)


def load_other(device):
    return Both(device, 1.0)


def load_narrow(device):
    return Narrow(device)


def load_broken(device):
    raise RuntimeError("no weights here")
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "my_own_model.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield tmp_path / "my_own_model.py"
    sys.modules.pop("my_own_model", None)


def test_a_users_own(hub, own):
    model = open_model("python:my_own_model:load")
    torch.manual_seed(0)
    weights = torch.randn(27, 8)
    pixels = np.stack([np.asarray(image.resize((3, 3)), np.float32).transpose(2, 0, 1) / 255 for image in rgb(hub)])
    texts = torch.tensor([[float(len(text)), *range(7)] for text in hub.TEXTS])
    close(model, hub, torch.from_numpy(pixels.reshape(len(pixels), -1)) @ weights, texts)
    assert (model.name, model.logit_scale, model.context_length) == ("load", 100.0, 0)
    scaled = open_model(f"python:{own}:load_scaled")
    assert (scaled.name, scaled.logit_scale, scaled.context_length, scaled.fingerprint) == ("mine", 20.0, 30, "abc")


def test_a_users_own_is_told_from_others_without_a_fingerprint(own):
    first, again, other = (open_model(f"python:{own}:{name}").fingerprint for name in ("load", "load", "load_other"))
    assert first == again != other


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("load_broken", "load_broken failed: RuntimeError: no weights here"),
        ("load_narrow", "its pictures have 8 values, its texts 5"),
    ],
)
def test_a_users_own_that_does_not_work(own, name, line):
    with pytest.raises(UserError, match=line):
        open_model(f"python:{own}:{name}")
