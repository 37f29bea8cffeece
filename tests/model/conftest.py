"""Model folders that tests share, made once: the tiny model and one with a small BERT text tower."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from biomedray.model.settings import ModelConfig
from biomedray.model.tokenizer import make_vocabulary
from biomedray.model.towers import initialise

BERT = {
    "model_type": "bert",
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 96,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}


def make_captions() -> list[str]:
    organs = ("lung", "liver", "kidney", "heart", "brain")
    return [f"Figure {i}. CT of the {organs[i % 5]} with β-catenin, 5 µm; naïve cells (A, {'BCD'[i % 3]})." for i in range(200)]


@pytest.fixture(scope="session")
def captions() -> list[str]:
    """Captions to make a vocabulary from."""
    return make_captions()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with fresh weights."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    initialise(ModelConfig(name="tiny", vocab_size=400), make_captions(), folder, seed=0)
    return folder


@pytest.fixture(scope="session")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face BERT folder: config.json, tokenizer and weights."""
    import torch
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("tower") / "bert"
    size = make_vocabulary(make_captions(), 300, folder)
    torch.manual_seed(5)
    BertModel(BertConfig(**{**BERT, "vocab_size": size}), add_pooling_layer=False).save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["model_type"] == "bert"
    return folder


@pytest.fixture(scope="session")
def with_bert(tower: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny image tower with the BERT of ``tower``."""
    folder = tmp_path_factory.mktemp("model") / "with-bert"
    initialise(ModelConfig(name="tiny", text_tower=str(tower)), [], folder, seed=0)
    return folder


def image(width: int, height: int, seed: int = 0, form: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR).save(buffer, form)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def images() -> list[bytes]:
    """Pictures of several shapes and formats."""
    return [image(90, 120), image(200, 80, 1, "JPEG"), image(64, 64, 2), image(640, 200, 3, "JPEG"), image(33, 47, 4)]


Plain = Callable[[Path, list[bytes], list[str]], tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plain]:
    """Embeddings by plain open_clip in a process of its own; one for all tests, since it takes long to start."""
    scratch = tmp_path_factory.mktemp("plain")
    command = [sys.executable, str(Path(__file__).with_name("plain.py"))]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=scratch, **pipes) as process:

        def embed(folder: Path, images: list[bytes], texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
            np.savez(scratch / "in.npz", images=np.array(images, dtype=object), texts=np.array(texts, dtype=object))
            process.stdin.write(json.dumps([str(folder), str(scratch / "in.npz"), str(scratch / "out.npz")]) + "\n")
            process.stdin.flush()
            while not (line := process.stdout.readline()).startswith('"'):
                assert line, "the process has ended"
            assert json.loads(line) == ""
            with np.load(scratch / "out.npz") as found:
                return found["images"], found["texts"]

        yield embed
        process.stdin.close()
