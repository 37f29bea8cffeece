"""``biomedray evaluate embed``: whatever lies on disk is embedded once, in a folder that the other commands find it in."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from biomedray.cli_evaluate import evaluate_app
from biomedray.errors import UserError
from biomedray.evaluate.captioned import CaptionedSet
from biomedray.evaluate.embed import embed_once
from biomedray.evaluate.pairs import PairsSet
from biomedray.evaluate.sets import ImageSet
from biomedray.evaluate.store import fill, open_any
from biomedray.evaluate.vectors import read_vectors

HERE = Path(__file__).parent


@pytest.fixture
def toy(load_module, tmp_path):
    path = tmp_path / "toy_model.py"
    path.write_text(load_module(HERE / "test_embed.py").MODEL)
    return f"python:{path}:load"


@pytest.fixture
def captioned(tmp_path):
    folder = tmp_path / "figures"
    (folder / "images").mkdir(parents=True)
    for number in range(6):
        Image.new("RGB", (6, 5), (number, 9, 9)).save(folder / "images" / f"{number}.png")
    (folder / "images" / "5.png").write_bytes(b"damaged")
    rows = [{"file": f"{n}.png", "caption": f"caption {n}", "split": "val" if n == 0 else "test"} for n in range(6)]
    (folder / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def labelled(tmp_path):
    folder = tmp_path / "cells"
    for name in ("red", "blue"):
        (folder / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (6, 5), (number, 0, 200 if name == "blue" else 0)).save(folder / name / f"{number}.png")
    return folder


def test_what_lies_there_is_recognised(load_module, captioned, labelled, tmp_path):
    pairs = load_module(HERE / "test_embed.py").write_pairs(tmp_path / "pairs", {"test": [3]})
    assert isinstance(open_any(pairs), PairsSet)
    assert isinstance(open_any(captioned), CaptionedSet)
    assert isinstance(open_any(labelled), ImageSet)
    assert isinstance(open_any(labelled, "folders"), ImageSet)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"not a set of captions that is known: .*; and as a labelled set: "):
        open_any(tmp_path / "empty")
    with pytest.raises(UserError, match="no such file or folder"):
        open_any(tmp_path / "nowhere")


def test_the_command(captioned, toy, tmp_path):
    store = tmp_path / "store"
    result = CliRunner().invoke(evaluate_app, ["embed", str(captioned), toy, str(store), "--dtype", "float16", "--quiet"])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert [line.split(": ")[1].split(", ")[:2] for line in lines] == [
        ["1 embedded", "0 rejected"],
        ["4 embedded", "1 rejected"],
    ]
    data = open_any(captioned)
    folder = embed_once(data, "test", toy, store, dtype="float16", texts=True, progress=False)
    assert sorted(path.name for path in store.iterdir()) == sorted(line.split(":")[0] for line in lines)
    found = read_vectors(folder)
    assert found.ids == [f"images/{number}.png" for number in range(1, 5)]
    assert found.texts is not None
    np.testing.assert_allclose(np.linalg.norm(found.images, axis=1), 1, atol=1e-3)


def test_labelled_sets_have_no_texts(labelled, toy, tmp_path):
    (manifest,) = fill(open_any(labelled), toy, tmp_path / "store", ["test"], progress=False)
    found = read_vectors(tmp_path / "store" / manifest.name)
    assert found.texts is None
    assert sorted(found.labels.tolist()) == [0, 0, 0, 1, 1, 1]
    with pytest.raises(UserError, match="no split train; there are test"):
        fill(open_any(labelled), toy, tmp_path / "store", ["train"], progress=False)
