"""A small pairs artifact whose captions say what its pictures show, made without the other rooms."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageDraw

from biomedray.artifacts import Manifest, write_manifest
from biomedray.records import PAIR_SCHEMA

LoadModule = Callable[[Path], ModuleType]

COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 180, 60),
    "blue": (50, 80, 220),
    "yellow": (230, 210, 40),
    "violet": (150, 60, 190),
}
SHAPES = ("circle", "square", "bar", "ring")
PLACES = {"upper left": (8, 8), "upper right": (56, 8), "lower left": (8, 56), "lower right": (56, 56)}
GROUP = 16


def picture(colour: str, shape: str, place: str, noise: np.random.Generator) -> bytes:
    pixels = noise.integers(0, 60, (96, 96, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    x, y = PLACES[place]
    box = (x, y, x + 32, y + 32)
    match shape:
        case "circle":
            draw.ellipse(box, fill=COLOURS[colour])
        case "square":
            draw.rectangle(box, fill=COLOURS[colour])
        case "bar":
            draw.rectangle((x, y + 12, x + 32, y + 20), fill=COLOURS[colour])
        case _:
            draw.ellipse(box, outline=COLOURS[colour], width=5)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def pair_row(number: int, split: str, image: bytes, caption: str) -> dict[str, object]:
    values: dict[str, object] = dict.fromkeys(PAIR_SCHEMA.names)
    values |= {name: "" for name in PAIR_SCHEMA.names if PAIR_SCHEMA.field(name).type == pa.string()}
    values |= {"pair_id": f"PMC{number}.1/F1/0", "pmcid": f"PMC{number}", "version": 1, "graphic_index": 0, "n_graphics": 1}
    values |= {
        "image": image,
        "image_format": "PNG",
        "width": 96,
        "height": 96,
        "flags": [],
        "citances": [
            {"section": "Results", "text": f"Sentence {n} about {number}.", "start": 0, "end": 8} for n in range(number % 3)
        ],
        "caption_markup": [],
        "n_tokens": 9,
    }
    return values | {"year": 2024, "caption": caption, "caption_raw": caption, "split": split, "license_group": "comm"}


def write_split(folder: Path, split: str, rows: list[dict[str, object]]) -> None:
    target = folder / "data" / f"split={split}"
    target.mkdir(parents=True, exist_ok=True)
    for part in range(2):
        table = pa.Table.from_pylist(rows[part::2], schema=PAIR_SCHEMA)
        pq.write_table(table, target / f"part-{part:05d}.parquet", row_group_size=GROUP)


def write_pairs(folder: Path, train: int = 120, val: int = 24) -> Path:
    noise = np.random.default_rng(0)
    kinds = [(c, s, p) for c in COLOURS for s in SHAPES for p in PLACES]
    number = 0
    for split, count in (("train", train), ("val", val), ("test", 8)):
        rows = []
        for i in noise.permutation(len(kinds) * (1 + count // len(kinds)))[:count]:
            colour, shape, place = kinds[i % len(kinds)]
            caption = f"A {colour} {shape} in the {place} corner of the field of view."
            rows.append(pair_row(number, split, picture(colour, shape, place, noise), caption))
            number += 1
        write_split(folder, split, rows)
    write_manifest(folder, Manifest(kind="pairs", name="toy", counts={"pairs": number}))
    return folder


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 train, 24 val and 8 test pairs in row groups of 16."""
    return write_pairs(tmp_path_factory.mktemp("pairs") / "toy")


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A labelled set: seven pictures of two classes."""
    root = tmp_path_factory.mktemp("set")
    for name, colour, count in (("red shape", (220, 40, 40), 4), ("blue shape", (50, 80, 220), 3)):
        (root / name).mkdir()
        for i in range(count):
            noise = np.random.default_rng(i).integers(-40, 40, (40 + i, 40, 3))
            Image.fromarray((noise + colour).clip(0, 255).astype(np.uint8)).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="session")
def two(load_module: LoadModule) -> ModuleType:
    """What two processes do together."""
    return load_module(Path(__file__).with_name("two.py"))


@pytest.fixture(scope="session")
def together(pairs: Path, colours: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("together")
    script = Path(__file__).with_name("two.py")
    commands = [[sys.executable, str(script), str(rank), str(folder), str(pairs), str(colours)] for rank in range(2)]
    running = [subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}) for command in commands]
    assert [process.wait() for process in running] == [0, 0]
    return [torch.load(folder / f"found-{rank}.pt") for rank in range(2)]


@pytest.fixture
def make_pairs() -> Callable[..., Path]:
    """Writes a pairs artifact of the given size."""
    return write_pairs


@pytest.fixture
def break_image() -> Callable[[Path], Path]:
    """Writes a pairs artifact in which one train image is no image."""

    def make(folder: Path) -> Path:
        write_pairs(folder, train=48, val=4)
        path = folder / "data" / "split=train" / "part-00001.parquet"
        rows = pq.read_table(path).to_pylist()
        rows[3]["image"] = b"not an image"
        pq.write_table(pa.Table.from_pylist(rows, schema=PAIR_SCHEMA), path, row_group_size=GROUP)
        return folder

    return make


@pytest.fixture(scope="session")
def servers(load_module: LoadModule) -> ModuleType:
    """What ingest's tests serve buckets with."""
    return load_module(Path(__file__).parents[1] / "ingest" / "servers.py")


@pytest.fixture(scope="session")
def http(pairs: Path, load_module: LoadModule, servers: ModuleType) -> Iterator[Any]:
    """The parent of the toy pairs over HTTP."""
    with servers.running(load_module(Path(__file__).with_name("listing.py")).Server(pairs.parent)) as server:
        yield server


@pytest.fixture(scope="session")
def s3(pairs: Path, servers: ModuleType) -> Iterator[Callable[[str], str]]:
    """moto's S3 with the toy pairs in it; gives the address of a key."""
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    with pytest.MonkeyPatch.context() as patch, servers.moto_bucket(pairs.parent, "figures") as address:
        for name, value in keys.items():
            patch.setenv(name, value)
        place = address.removeprefix("http://")
        yield lambda key: f"s3://figures/{key}?endpoint_override={place}&scheme=http&region=us-east-1"
