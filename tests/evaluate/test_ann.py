"""Approximate search: an index that is exact agrees with the exact ranks, a coarse one is told apart."""

from __future__ import annotations

import numpy as np
import pytest

from biomedray.errors import UserError
from biomedray.evaluate.ann import Approximate, default_key, recall_at, recall_of_exact, search
from biomedray.evaluate.measures import recall
from biomedray.evaluate.ranking import rank_both


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    images = rng.standard_normal((600, 32)).astype(np.float32)
    texts = images + 1.5 * rng.standard_normal((600, 32)).astype(np.float32)
    images, texts = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (images, texts))
    return images, texts, np.arange(600), rank_both(images, texts, np.arange(600))[0]


def test_a_flat_index_is_exact(case):
    images, texts, groups, exact = case
    found = search(images, texts, "Flat")
    assert recall_of_exact(found, exact, images, texts) == {1: 1, 10: 1}
    expected = {k: interval.value for k, interval in recall(exact, resamples=2).at.items()}
    assert recall_at(found, groups) == pytest.approx(expected)


def test_a_coarse_index_finds_less(case):
    images, texts, groups, exact = case
    found = search(images, texts, "PQ4x4")
    shares = recall_of_exact(found, exact, images, texts)
    assert 0 < shares[10] < 0.9
    assert recall_at(found, groups)[10] < recall(exact, resamples=2).at[10].value


def test_an_inverted_file_reads_several_lists(case):
    images, texts, _, exact = case
    shares = recall_of_exact(search(images, texts, "IVF16,Flat"), exact, images, texts)
    assert shares[1] > 0.4  # a single list of sixteen would find fewer


def test_twins_are_equally_near_and_gaps_count_as_misses():
    vectors = np.eye(4, dtype=np.float32)
    texts = vectors[[0, 0, 2, 3]]
    exact = rank_both(vectors, texts, np.arange(4))[0]
    found = Approximate("", np.array([[1], [0], [2], [-1]]), 0, 0)
    assert recall_of_exact(found, exact, vectors, texts)[1] == 3 / 4
    assert recall_at(found, np.arange(4), [1]) == {1: 1 / 4}
    assert recall_at(found, np.array([0, 0, 1, 2]), [1]) == {1: 3 / 4}


def test_fewer_candidates_than_are_asked_for():
    vectors = np.eye(3, dtype=np.float32)
    assert search(vectors, vectors).ids.shape == (3, 3)


def test_default_and_unknown_index(case):
    assert default_key(500) == "HNSW32"
    assert default_key(725_739) == "IVF3408,Flat"
    with pytest.raises(UserError, match="write for example HNSW32"):
        search(case[0], case[1], "nonsense")
