"""Weights go both ways: folders as the hub has BiomedCLIP, OpenAI's files, and back to plain open_clip."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from biomedray.errors import UserError
from biomedray.model import catalogue, load, towers, weights
from biomedray.model.settings import ModelConfig
from biomedray.model.tokenizer import make_vocabulary

# As published: microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224/open_clip_config.json.
RELEASED = {
    "model_cfg": {
        "embed_dim": 512,
        "vision_cfg": {
            "timm_model_name": "vit_base_patch16_224",
            "timm_model_pretrained": False,
            "timm_pool": "",
            "timm_proj": "linear",
            "image_size": 224,
        },
        "text_cfg": {
            "hf_model_name": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
            "hf_tokenizer_name": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract",
            "hf_proj_type": "mlp",
            "hf_pooler_type": "cls_last_hidden_state_pooler",
            "context_length": 256,
        },
    },
    "preprocess_cfg": {
        "mean": [0.48145466, 0.4578275, 0.40821073],
        "std": [0.26862954, 0.26130258, 0.27577711],
    },
}
TEXTS = ["CT of the lung", "naïve β-catenin"]
REPO = "someone/SmallCLIP"


def small_released() -> dict:
    """The released configuration with a small image tower and a short context."""
    config = json.loads(json.dumps(RELEASED))
    config["model_cfg"]["embed_dim"] = 32
    config["model_cfg"]["vision_cfg"] |= {"timm_model_name": "test_vit", "image_size": 160}
    config["model_cfg"]["text_cfg"]["context_length"] = 48
    return config


def bert_config(words: int) -> dict:
    """A BERT of one head; what else it has follows from its weights' shapes."""
    small = {"vocab_size": words, "hidden_size": 64, "num_attention_heads": 1, "num_hidden_layers": 2, "intermediate_size": 96}
    return {**catalogue.bert_base(), **small, "max_position_embeddings": 64}


@pytest.fixture(scope="module")
def released(tmp_path_factory, captions) -> Path:
    """A folder in the hub's layout: .bin with the old position_ids, tokenizer, no config.json of the BERT."""
    folder = tmp_path_factory.mktemp("hub") / "released"
    text = tmp_path_factory.mktemp("text")
    words = make_vocabulary(captions, 300, folder)
    (text / "config.json").write_text(json.dumps(bert_config(words)))
    config = small_released()
    torch.manual_seed(4)
    clip = towers.build(config["model_cfg"], text)
    state = clip.state_dict() | {"text.transformer.embeddings.position_ids": torch.arange(64)[None]}
    torch.save(state, folder / "open_clip_pytorch_model.bin")
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    assert not (folder / "config.json").exists()
    return folder


def state_of(folder: Path) -> dict[str, torch.Tensor]:
    state = torch.load(folder / "open_clip_pytorch_model.bin")
    state.pop("text.transformer.embeddings.position_ids")
    return state


def test_the_configuration_is_the_released_one():
    assert catalogue.read("biomedclip_vitb16_pubmedbert256") == RELEASED


def test_a_hub_folder_without_bert_config_loads_and_comes_back_the_same(released, tmp_path):
    opened = weights.open_folder(f"local-dir:{released}")
    assert opened.clip.text.config.num_attention_heads == 1
    towers.initialise(ModelConfig(init_from=f"local-dir:{released}"), [], tmp_path / "out", seed=1)
    mine = weights.open_folder(tmp_path / "out").clip.state_dict()
    theirs = state_of(released)
    assert list(mine) == list(theirs)
    assert all(torch.equal(mine[name], value) for name, value in theirs.items())
    assert weights.for_hub(tmp_path / "out") == json.loads((released / "open_clip_config.json").read_text())
    np.testing.assert_array_equal(load(released).encode_texts(TEXTS), load(tmp_path / "out").encode_texts(TEXTS))


def test_the_export_loads_in_plain_open_clip_with_no_network(released, images, plain, tmp_path):
    towers.initialise(ModelConfig(init_from=str(released)), [], tmp_path / "out", seed=1)
    theirs_images, theirs_texts = plain(tmp_path / "out", images[:1], TEXTS)
    np.testing.assert_allclose(theirs_texts, load(released).encode_texts(TEXTS), atol=1e-5)
    np.testing.assert_allclose(theirs_images, load(released).encode_images(images[:1]), atol=1e-5)


def test_weights_that_say_too_little_ask_for_the_file(released, tmp_path):
    broken = tmp_path / "odd"
    shutil.copytree(released, broken)
    state = state_of(released)
    odd = {n: v[..., :60] if n.startswith("text.transformer.embeddings.word") else v for n, v in state.items()}
    torch.save(odd, broken / "open_clip_pytorch_model.bin")
    with pytest.raises(UserError, match="60 values don't say how many heads; add the file"):
        load(broken)
    torch.save({"logit_scale": torch.ones(())}, broken / "open_clip_pytorch_model.bin")
    with pytest.raises(UserError, match="its weights are no BERT's"):
        load(broken)


class Hub(http.server.BaseHTTPRequestHandler):
    """The few answers of huggingface.co that a download asks for."""

    folder: Path

    def do_HEAD(self) -> None:
        self._file(body=False)

    def do_GET(self) -> None:
        if "/tree/" in self.path:
            entries = [{"type": "file", "path": p.name, "size": p.stat().st_size, "oid": "b" * 40} for p in self.folder.iterdir()]
            self._send(json.dumps(entries).encode(), "application/json")
        elif self.path.startswith("/api/models/"):
            files = [{"rfilename": path.name} for path in self.folder.iterdir()]
            self._send(json.dumps({"id": REPO, "sha": "a" * 40, "siblings": files}).encode(), "application/json")
        else:
            self._file(body=True)

    def _file(self, body: bool) -> None:
        path = self.folder / self.path.rsplit("/", 1)[-1].split("?")[0]
        if not path.is_file():
            self.send_error(404)
            return
        self._send(path.read_bytes(), "application/octet-stream", body)

    def _send(self, data: bytes, kind: str, body: bool = True) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{abs(hash(data)):x}"')
        self.send_header("X-Repo-Commit", "a" * 40)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        """Stay quiet."""


@pytest.fixture
def hub(released):
    handler = type("Here", (Hub,), {"folder": released})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def initialise_elsewhere(init_from: str, out: Path, **environment: str) -> subprocess.CompletedProcess:
    """In a process of its own, since the hub's client reads its environment at import."""
    code = (
        "import sys; from pathlib import Path; from biomedray.model.towers import initialise;"
        "from biomedray.model.settings import ModelConfig;"
        "initialise(ModelConfig(init_from=sys.argv[1]), [], Path(sys.argv[2]), seed=0)"
    )
    own = {**os.environ, "HF_HUB_DISABLE_XET": "1", **environment}
    return subprocess.run([sys.executable, "-c", code, init_from, str(out)], env=own, capture_output=True, text=True, check=False)


@pytest.mark.heavy
def test_from_the_hub_then_from_its_cache(released, hub, tmp_path):
    home = str(tmp_path / "home")
    done = initialise_elsewhere(f"hf-hub:{REPO}", tmp_path / "fetched", HF_ENDPOINT=hub, HF_HOME=home, HF_HUB_OFFLINE="0")
    assert done.returncode == 0, done.stderr
    offline = initialise_elsewhere(f"hf-hub:{REPO}", tmp_path / "cached", HF_HOME=home, HF_HUB_OFFLINE="1")
    assert offline.returncode == 0, offline.stderr
    cache = Path(home) / "hub" / f"models--{REPO.replace('/', '--')}"
    towers.initialise(ModelConfig(init_from=f"local-dir:{cache}"), [], tmp_path / "local", seed=0)
    for name in ("fetched", "cached", "local"):
        state = weights.open_folder(tmp_path / name).clip.state_dict()
        assert all(torch.equal(state[key], value) for key, value in state_of(released).items()), name


def clip_config(folder: Path, vision: dict, embed_dim: int) -> Path:
    """A small model of OpenAI's kind: GPT of 77 tokens with CLIP's byte pairs, quick GELU."""
    text = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2}
    model_cfg = {"embed_dim": embed_dim, "quick_gelu": True, "custom_text": True, "vision_cfg": vision, "text_cfg": text}
    path = folder / "model.json"
    path.write_text(json.dumps({"model_cfg": model_cfg}))
    return path


class Holder(nn.Module):
    """A module tree with the given tensors, as TorchScript keeps them."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        super().__init__()
        inner: dict[str, dict[str, torch.Tensor]] = {}
        for name, value in state.items():
            first, _, rest = name.partition(".")
            if rest:
                inner.setdefault(first, {})[rest] = value
            else:
                self.register_buffer(first, value)
        for name, part in inner.items():
            self.add_module(name, Holder(part))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


VISIONS = {
    "vit": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16},
    "resnet": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None},
}


@pytest.mark.parametrize("form", ["archive", "pt", "safetensors"])
@pytest.mark.parametrize("kind", VISIONS)
def test_openai_weights_are_taken(kind, form, tmp_path):
    path = clip_config(tmp_path, VISIONS[kind], 32)
    config = json.loads(path.read_text())["model_cfg"]
    config.pop("custom_text")
    torch.manual_seed(8)
    theirs = open_clip.CLIP(**config).eval()
    state = theirs.state_dict()
    file = tmp_path / {"archive": "ViT.pt", "pt": "plain.pt", "safetensors": "plain.safetensors"}[form]
    if form == "archive":
        numbers = {"input_resolution": torch.tensor(32), "context_length": torch.tensor(77), "vocab_size": torch.tensor(49408)}
        torch.jit.script(Holder({**{name: value.half() for name, value in state.items()}, **numbers})).save(str(file))
        theirs.load_state_dict({name: value.half().to(value.dtype) for name, value in state.items()})
    elif form == "pt":
        torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, file)
    else:
        save_file({name: value.contiguous() for name, value in state.items()}, file)
    towers.initialise(ModelConfig(name=str(path), clip_weights=str(file)), [], tmp_path / "out", seed=0)
    tokens = open_clip.get_tokenizer("ViT-B-16")(TEXTS)
    pixels = torch.randn(2, 3, 32, 32)
    plain = open_clip.create_model(f"local-dir:{tmp_path / 'out'}").eval()
    with torch.no_grad():
        torch.testing.assert_close(plain.encode_text(tokens), theirs.encode_text(tokens), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(plain.encode_image(pixels), theirs.encode_image(pixels), atol=1e-4, rtol=1e-4)
    encoder = load(tmp_path / "out")
    assert encoder.context_length == 77
    np.testing.assert_allclose(encoder.encode_texts(TEXTS), plain.encode_text(tokens, normalize=True).detach().numpy(), atol=1e-5)


def test_other_peoples_weights_are_refused_in_one_line(tmp_path):
    path = clip_config(tmp_path, VISIONS["vit"], 32)
    other = clip_config(tmp_path / "other", VISIONS["vit"], 48) if (tmp_path / "other").mkdir() is None else None
    torch.save(towers.build(json.loads(other.read_text())["model_cfg"]).state_dict(), tmp_path / "wrong.pt")
    torch.save({"a": torch.ones(2)}, tmp_path / "none.pt")
    (tmp_path / "junk.pt").write_bytes(b"junk")
    cases = [
        ({"clip_weights": str(tmp_path / "wrong.pt")}, "of another model: .* is wanted; choose the model.name"),
        ({"clip_weights": str(tmp_path / "none.pt")}, "not the weights of a CLIP"),
        ({"clip_weights": str(tmp_path / "junk.pt")}, "cannot be read as weights"),
        ({"clip_weights": "openai"}, "no such file; open_clip has none for"),
        ({"name": "clip_rn50_gpt77", "clip_weights": "nothing"}, "open_clip can download openai"),
        ({"clip_weights": str(tmp_path / "none.pt"), "text_tower": "a/b"}, "brings both towers"),
        ({"clip_weights": "x", "init_from": str(tmp_path)}, "not a model folder"),
    ]
    for settings, says in cases:
        with pytest.raises(UserError, match=says) as caught:
            towers.initialise(ModelConfig(**{"name": str(path), **settings}), [], tmp_path / "out", seed=0)
        assert "\n" not in str(caught.value)


def test_image_weights_of_another_trunk_are_refused(tmp_path):
    import timm

    torch.save(timm.create_model("test_vit", num_classes=10).state_dict(), tmp_path / "vit.pt")
    config = ModelConfig(name="tiny", image_weights=str(tmp_path / "vit.pt"))
    with pytest.raises(UserError, match="not the weights of test_convnext2"):
        towers.initialise(config, ["some words of a caption"] * 9, tmp_path / "out", seed=0)


def test_a_whole_model_at_other_sizes(released, tmp_path):
    shorter = ModelConfig(init_from=str(released), context_length=24, patch_dropout=0.5)
    towers.initialise(shorter, [], tmp_path / "shorter", seed=0)
    opened = weights.open_folder(tmp_path / "shorter")
    assert opened.config["model_cfg"]["vision_cfg"]["patch_dropout"] == 0.5
    assert opened.clip.visual.trunk.patch_drop.prob == 0.5
    np.testing.assert_allclose(load(tmp_path / "shorter").encode_texts(TEXTS), load(released).encode_texts(TEXTS), atol=1e-5)
    with pytest.raises(UserError, match="only 64 positions; set it to 64 or less"):
        towers.initialise(ModelConfig(init_from=str(released), context_length=65), [], tmp_path / "longer", seed=0)


def test_openai_models_at_other_sizes(tmp_path):
    path = clip_config(tmp_path, VISIONS["vit"], 32)
    towers.initialise(ModelConfig(name=str(path)), [], tmp_path / "first", seed=0)
    changed = ModelConfig(init_from=str(tmp_path / "first"), image_size=48, context_length=100, patch_dropout=0.5)
    towers.initialise(changed, [], tmp_path / "next", seed=0)
    clip = weights.open_folder(tmp_path / "next").clip
    assert clip.visual.positional_embedding.shape == (10, 64)
    assert clip.text.positional_embedding.shape == (100, 64)
    with pytest.raises(UserError, match="not a multiple of 16; set it to 64"):
        towers.check(ModelConfig(name=str(path), image_size=50))
    with pytest.raises(UserError, match="only a ViT has patches"):
        towers.check(ModelConfig(name="clip_rn50_gpt77", patch_dropout=0.5))


def test_the_papers_384_pixels_by_resampling(tmp_path):
    config = catalogue.read("biomedclip_vits16_pubmedbert256")["model_cfg"]
    small, large = (nn.Module() for _ in range(2))
    for module, side in ((small, 14), (large, 24)):
        module.visual = nn.Module()
        module.visual.trunk = nn.Module()
        module.visual.trunk.pos_embed = nn.Parameter(torch.randn(1, 1 + side * side, 8))
    from biomedray.model.pretrained import resized

    found = resized(small.state_dict(), large)["visual.trunk.pos_embed"]
    assert found.shape == (1, 577, 8)
    torch.testing.assert_close(found[:, 0], small.visual.trunk.pos_embed[:, 0])
    assert towers._changed(config, ModelConfig(image_size=384))["vision_cfg"]["timm_model_name"] == "vit_small_patch16_384"


def test_a_tokenizer_that_belongs_to_another_tower_is_refused(tower, released, tmp_path):
    wrong = tmp_path / "tower"
    shutil.copytree(tower, wrong)
    config = json.loads((wrong / "config.json").read_text())
    (wrong / "config.json").write_text(json.dumps({**config, "vocab_size": 100}))
    with pytest.raises(UserError, match=r"its tokenizer has \d+ words, but its text tower only 100; put the tokenizer"):
        towers.check(ModelConfig(text_tower=str(wrong)))
    (wrong / "config.json").write_text(json.dumps({**config, "pad_token_id": 7}))
    with pytest.raises(UserError, match="pads with 0, but its text tower ignores 7; set pad_token_id"):
        towers.check(ModelConfig(text_tower=str(wrong)))
    model = tmp_path / "model"
    shutil.copytree(released, model)
    make_vocabulary([f"w{i:05d} x{i:05d}" for i in range(3000)] * 2, 2000, model)
    with pytest.raises(UserError, match=r"its tokenizer has \d+ words, but its text tower only \d+"):
        load(model)


def test_a_context_beyond_the_positions_of_a_whole_model_is_refused(released, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(released, model)
    config = json.loads((model / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["context_length"] = 65
    (model / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"has only 64 positions; set context_length in open_clip_config\.json to 64 or less"):
        load(model)


def test_a_file_that_is_no_configuration_is_refused(tmp_path):
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.json").write_text('{"model_cfg": {}}')
    for name, says in (("a", "cannot be read as JSON"), ("b", "not a model configuration"), ("c", "cannot be read")):
        with pytest.raises(UserError, match=says):
            towers.check(ModelConfig(name=str(tmp_path / f"{name}.json")))
