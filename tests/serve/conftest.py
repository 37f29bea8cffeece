"""A fake encoder whose answers are plain to compute, a small pairs artifact of drawn figures, and an index of it."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from biomedray import pixels
from biomedray.artifacts import Manifest, manifest_fingerprint, write_manifest
from biomedray.model.tokenizer import Tokenized
from biomedray.records import PAIR_SCHEMA
from biomedray.serve.generation import set_current
from biomedray.serve.index import read_metadata, write_generation

DIM = 8
COLORS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "grey": (128, 128, 128)}
POISON = "poison"


class FakeEncoder:
    """Images embed as their mean color, texts as the color they name; other texts by their hash."""

    name = "fake"
    embed_dim = DIM
    context_length = 16
    image_size = 4
    fingerprint = "fake-0001"
    logit_scale = 10.0
    device = "cpu"
    packs = True

    def preprocess(self, data: bytes) -> torch.Tensor:
        return torch.from_numpy(self.preprocess_uint8(data).astype(np.float32) / 255).permute(2, 0, 1)

    def preprocess_uint8(self, data: bytes) -> np.ndarray:
        return np.asarray(pixels.picture(data).resize((self.image_size, self.image_size)))

    def encode_pixels(self, batch: torch.Tensor) -> np.ndarray:
        if batch.dtype is torch.uint8:
            batch = batch.permute(0, 3, 1, 2).float() / 255
        return _unit(np.stack([_pad(image.mean(dim=(1, 2)).numpy()) for image in batch]))

    def encode_images(self, images: Sequence[bytes]) -> np.ndarray:
        return self.encode_pixels(torch.stack([self.preprocess(data) for data in images]))

    def tokenize(self, texts: Sequence[str]) -> list[Tokenized]:
        return [Tokenized(np.frombuffer(text.encode(), np.uint8).astype(np.int64), len(text.split()) + 2) for text in texts]

    def encode_tokens(self, rows: Sequence[np.ndarray]) -> np.ndarray:
        return self.encode_texts([row.astype(np.uint8).tobytes().decode() for row in rows])

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        if any(POISON in text for text in texts):
            raise ValueError("poisoned at /secret/path")
        return _unit(np.stack([self._text(text) for text in texts]))

    def _text(self, text: str) -> np.ndarray:
        for name, color in COLORS.items():
            if name in text:
                return _pad(np.array(color, np.float32) / 255)
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "little")
        return np.random.default_rng(seed).normal(size=DIM).astype(np.float32)


def _pad(color: np.ndarray) -> np.ndarray:
    return np.concatenate([color, np.full(DIM - 3, 0.05, np.float32)]).astype(np.float32)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def draw(color: tuple[int, int, int], size: tuple[int, int] = (40, 30), kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, kind)
    return buffer.getvalue()


def pair_row(number: int, **values: Any) -> dict[str, Any]:
    names = list(COLORS)
    color = values.pop("color", names[number % len(names)])
    image = values.pop("image", None) or draw(COLORS[color], (400 + number, 300))
    row: dict[str, Any] = dict.fromkeys(PAIR_SCHEMA.names)
    row |= {
        "pair_id": f"PMC{number:07d}.1/fig-{number}/0",
        "pmcid": f"PMC{number:07d}",
        "version": 1,
        "doi": f"10.1234/abc.{number}",
        "article_title": f"On {color} figures, part {number}",
        "journal": f"Journal {number % 3}",
        "year": 2010 + number % 10,
        "article_type": "research-article",
        "license_code": ("CC BY", "CC BY-NC", None)[number % 3],
        "license_group": ("comm", "noncomm", "other")[number % 3],
        "fig_id": f"fig-{number}",
        "fig_label": f"Figure {number}",
        "container": "body",
        "graphic_index": 0,
        "n_graphics": 1,
        "graphic_ref": f"f{number}.png",
        "image": image,
        "image_format": "PNG",
        "width": 400 + number,
        "height": 300,
        "flags": [],
        "image_sha256": hashlib.sha256(image).hexdigest(),
        "caption": f"A {color} field, number {number}. <b>Not bold</b>",
        "caption_raw": "raw",
        "citances": [],
        "caption_markup": [],
        "n_tokens": 5,
        "split": ("train", "val", "test")[number % 3],
        "dup_cluster": f"c{number}",
        "article_cluster": f"PMC{number:07d}",
        "source_uri": "memory:",
        "extractor_version": "1",
    }
    return row | values


def write_pairs(folder: Path, rows: Sequence[dict[str, Any]]) -> Path:
    for split in ("train", "val", "test"):
        of_split = [row for row in rows if row["split"] == split]
        if of_split:
            path = folder / "data" / f"split={split}" / "part-000.parquet"
            path.parent.mkdir(parents=True)
            pq.write_table(pa.Table.from_pylist(of_split, schema=PAIR_SCHEMA), path, row_group_size=4)
    write_manifest(folder, Manifest(kind="pairs", name=folder.name, counts={"pairs": len(rows)}))
    return folder


def write_index(folder: Path, pairs: Path, encoder: Any, shards: int = 1) -> Path:
    """An index artifact without the embedding step, which needs a real model."""
    splits = [split for split in ("train", "val", "test") if (pairs / "data" / f"split={split}").is_dir()]
    metadata = read_metadata(pairs, splits)
    images = [table["image"].to_pylist() for table in _tables(pairs, splits)]
    flat = [data for part in images for data in part]
    vectors = {"image": encoder.encode_images(flat), "text": encoder.encode_texts(metadata["caption"].to_pylist())}
    origin = {
        "encoder": encoder.name,
        "encoder_fingerprint": encoder.fingerprint,
        "pairs_uri": pairs.resolve().as_uri(),
        "pairs_fingerprint": manifest_fingerprint(pairs),
    }
    folder.mkdir(parents=True)
    set_current(folder, write_generation(folder, metadata, vectors, origin, shards=shards))
    write_manifest(folder, Manifest(kind="index", name=folder.name))
    return folder


def _tables(pairs: Path, splits: Sequence[str]) -> list[pa.Table]:
    paths = [path for split in splits for path in sorted((pairs / "data" / f"split={split}").glob("*.parquet"))]
    return [pq.ParquetFile(path).read(columns=["image"]) for path in paths]


@pytest.fixture(scope="session")
def encoder() -> FakeEncoder:
    return FakeEncoder()


@pytest.fixture(scope="session")
def pairs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 pairs in four colors, three licence groups, ten years; numbers 0, 4 and 8 are one red figure."""
    rows = [pair_row(number) for number in range(24)]
    for number in (0, 4, 8):
        rows[number]["dup_cluster"] = "same-red"
    return write_pairs(tmp_path_factory.mktemp("serve") / "pairs", rows)


@pytest.fixture(scope="session")
def index_folder(tmp_path_factory: pytest.TempPathFactory, pairs_folder: Path, encoder: FakeEncoder) -> Path:
    return write_index(tmp_path_factory.mktemp("serve") / "index", pairs_folder, encoder)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from .pages import browsing

    with browsing() as chromium:
        yield chromium


@pytest.fixture(scope="module")
def tab(browser: Any, url: str) -> Iterator[Any]:
    """One page of the browser for all tests of a module that has an address of its own as ``url``."""
    from .pages import new_page

    with new_page(browser, url) as page:
        yield page
