"""Validation counts as evaluation does, in the precision of the training, and the same at any number of workers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from biomedray.train.validate import retrieval_scores


@pytest.fixture(scope="module")
def alone(two, pairs, colours, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return {bf16: two.validation(folder / "m", pairs, colours, bf16) for bf16 in (False, True)}


def test_two_workers_find_what_one_finds(alone, together):
    for found in together:
        for bf16, scores in found["validation"].items():
            assert scores == pytest.approx(alone[bf16], rel=1e-2 if bf16 else 1e-5)
    exact = ("val_r1_i2t", "val_r1_t2i", "val_zeroshot_colours", "val_zeroshot_colours_auroc")
    for found in together:
        assert [found["validation"][False][name] for name in exact] == [alone[False][name] for name in exact]


def test_it_runs_in_the_precision_of_the_training(alone):
    assert alone[True]["val_loss"] == pytest.approx(alone[False]["val_loss"], rel=0.02)
    assert alone[True]["val_loss"] != alone[False]["val_loss"]


def counted(queries, targets, names):
    """By the book: a query is right when nothing but twins of its own scores as high as the best of them."""
    hits = 0
    for row, name in enumerate(names):
        scores = queries[row] @ targets.T
        gold = names == name
        hits += not (scores[~gold] >= scores[gold].max()).any()
    return hits / len(names)


@pytest.mark.parametrize("seed", range(5))
def test_twins_are_gold_for_each_other(seed):
    random = np.random.default_rng(seed)
    # Few values, so that scores tie exactly.
    images, texts = (torch.from_numpy(random.integers(-1, 2, (40, 6))).float() for _ in range(2))
    names = torch.from_numpy(random.integers(0, 12, 40))
    found = retrieval_scores(images, texts, torch.tensor(2.0), names)
    assert found["val_r1_i2t"] == pytest.approx(counted(images, texts, names))
    assert found["val_r1_t2i"] == pytest.approx(counted(texts, images, names))
    labels, logits = torch.arange(40), 2 * images @ texts.T
    loss = (functional.cross_entropy(logits, labels) + functional.cross_entropy(logits.T, labels)) / 2
    assert found["val_loss"] == pytest.approx(float(loss), rel=1e-5)


def test_broken_numbers_are_misses():
    nothing = torch.full((3, 2), torch.nan)
    assert retrieval_scores(nothing, nothing, torch.tensor(1.0))["val_r1_i2t"] == 0
