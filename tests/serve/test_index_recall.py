"""The measurement itself: exact neighbours by blocks and masks, settings that reach their aim, quantiles, fingerprints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from biomedray.model import weights
from biomedray.serve import vectors as vectors_module
from biomedray.serve.calibration import SHARES, percentiles, quantiles
from biomedray.serve.generation import Probe
from biomedray.serve.ivf import Ivf, build_ivf
from biomedray.serve.recall import nearest_others
from biomedray.serve.segment import Searcher
from biomedray.serve.vectors import StoredRows


def unit(rows: int, dim: int, seed: int) -> np.ndarray:
    found = np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.mark.parametrize("block", [64, 1000])
def test_exact_neighbours_by_blocks_are_those_of_one_product(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(vectors_module, "BLOCK", block)
    rows, queries = unit(500, 16, 0), unit(20, 16, 1)
    np.save(tmp_path / "rows.npy", rows)
    own = np.arange(20) * 7
    masks = [None, np.arange(500) % 3 == 0, np.arange(500) < 6]
    found = nearest_others(StoredRows(tmp_path / "rows.npy"), queries, own, masks)
    for mask, truth in zip(masks, found, strict=True):
        scores = queries @ rows.T
        scores[np.arange(20), own] = -np.inf
        if mask is not None:
            scores[:, ~mask] = -np.inf
        wanted = np.argsort(-scores, axis=1)[:, :10]
        for line, expected, score in zip(truth, wanted, scores, strict=True):
            there = [row for row in expected.tolist() if np.isfinite(score[row])]
            assert line[line >= 0].tolist() == there


def test_lists_of_rows_and_shares_of_them(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", unit(900, 16, 0).astype(np.float16))
    index, lists = build_ivf(StoredRows(tmp_path / "rows.npy"), "sq8")
    ivf = Ivf(index)
    assert np.bincount(lists, minlength=ivf.lists).sum() == 900
    query = unit(1, 16, 3)[0]
    tally = np.bincount(lists, minlength=ivf.lists)
    assert ivf.probes(query, 1.0, tally) <= ivf.lists
    assert sorted(ivf.candidates(query[None], 900, ivf.probes(query, 1.0, tally))[0].tolist()) == list(range(900))
    few = np.zeros(ivf.lists, np.int64)
    few[5] = 9
    probes = ivf.probes(query, 0.25, few)
    bits = np.packbits(lists == 5, bitorder="little")
    found = ivf.candidates(query[None], 900, probes, bits)[0]
    assert set(found[found >= 0].tolist()) == set(np.flatnonzero(lists == 5).tolist())
    assert ivf.probes(query, 0.5, np.zeros(ivf.lists, np.int64)) == 1


def test_the_setting_goes_by_how_many_rows_pass(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", unit(10, 4, 0))
    table = [Probe(selectivity=value, share=share, depth=10, recall=1) for value, share in ((1, 0.1), (0.5, 0.2), (0.1, 0.4))]
    searcher = Searcher(StoredRows(tmp_path / "rows.npy"), None, {"text": table})
    shares = [searcher.probe("text", selectivity).share for selectivity in (1, 0.95, 0.8, 0.5, 0.3, 0.1, 0.05, 0.001)]
    assert shares == pytest.approx([0.1, 0.1, 0.2, 0.2, 0.4, 0.4, 0.8, 1.0])
    assert searcher.probe("image", 1).share == 1.0


def test_percentiles_are_shares_of_random_pairs() -> None:
    texts, images = unit(200, 8, 0), unit(200, 8, 1)
    table = quantiles(texts, images)
    assert table is not None
    assert len(table) == len(SHARES)
    cosines = np.sort((texts @ images.T)[~np.eye(200, dtype=bool)])
    scores = np.array([-1, cosines[len(cosines) // 2], cosines[int(0.999 * len(cosines))], 1], np.float32)
    assert percentiles(scores, table) == pytest.approx([0, 50, 99.9, 100], abs=0.05)
    assert percentiles(scores, None) == [None] * 4
    assert quantiles(texts[:10], images[:10]) is None


def test_the_fingerprint_covers_weights_tokenizer_and_preprocessing(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    config = {"model_cfg": {"embed_dim": 8, "vision_cfg": {"image_size": 32}, "text_cfg": {"context_length": 77}}}
    config["preprocess_cfg"] = {"mean": [0.5, 0.5, 0.5], "interpolation": "bicubic"}
    names = ("open_clip_model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json")
    for name in (*names, "merges.txt", "vocab.json", "added_tokens.json"):
        (folder / name).write_text(json.dumps({"of": name}))
    first = weights._identity(folder, config)
    assert weights._identity(shutil.copytree(folder, tmp_path / "moved"), config) == first
    for changed in (
        {**config, "preprocess_cfg": {"mean": [0.4, 0.5, 0.5], "interpolation": "bicubic"}},
        {**config, "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "interpolation": "bilinear"}},
        {**config, "model_cfg": {**config["model_cfg"], "vision_cfg": {"image_size": 64}}},
        {**config, "model_cfg": {**config["model_cfg"], "text_cfg": {"context_length": 64}}},
        {
            **config,
            "model_cfg": {**config["model_cfg"], "text_cfg": {"context_length": 77, "tokenizer_kwargs": {"clean": "lower"}}},
        },
    ):
        assert weights._identity(folder, changed) != first
    for name in (*names, "merges.txt", "vocab.json", "added_tokens.json"):
        copy = shutil.copytree(folder, tmp_path / f"other-{name}")
        (copy / name).write_text("{}")
        assert weights._identity(copy, config) != first, name
