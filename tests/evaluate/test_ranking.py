"""Retrieval metrics against brute force, arithmetic and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biomedray.evaluate.ranking import chance, cluster_bootstrap, number_groups, rank, recall


def brute_force_rank(queries, candidates, groups, i):
    scores = [float(queries[i] @ c) for c in candidates]
    gold = max(s for s, g in zip(scores, groups, strict=True) if g == groups[i])
    return sum(s >= gold for s, g in zip(scores, groups, strict=True) if g != groups[i])


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.integers(1, 8), st.integers(0, 2**31), st.integers(1, 7))
def test_ranks_equal_brute_force_for_any_block(n, d, seed, block):
    rng = np.random.default_rng(seed)
    # small integers make exact ties common
    queries = rng.integers(-2, 3, (n, d)).astype(np.float32)
    candidates = rng.integers(-2, 3, (n, d)).astype(np.float32)
    groups = rng.integers(0, n, n)
    ranking = rank(queries, candidates, groups, block=block)
    assert ranking.ranks.tolist() == [brute_force_rank(queries, candidates, groups, i) for i in range(n)]


def test_perfect_model_is_always_first_and_its_top_is_itself():
    vectors = np.eye(12, dtype=np.float32)
    ranking = rank(vectors, vectors, np.arange(12))
    assert ranking.ranks.tolist() == [0] * 12
    assert ranking.top[:, 0].tolist() == list(range(12))
    assert recall(ranking, np.arange(12)).at == {1: 1.0, 5: 1.0, 10: 1.0}


def test_model_that_maps_all_to_one_point_finds_nothing():
    same = np.ones((20, 4), np.float32)
    result = recall(rank(same, same, np.arange(20)), np.arange(20))
    assert result.at[1] == 0
    assert result.at[10] == 0
    assert result.tied_queries == 20


def test_twin_captions_are_both_gold():
    images = np.eye(3, dtype=np.float32)
    texts = np.array([[1, 0, 0], [1, 0, 0], [0, 0, 1]], np.float32)
    groups = number_groups(["same", "same", "other"])
    assert rank(texts, images, groups).ranks.tolist() == [0, 0, 0]


def test_chance_is_k_over_n_without_twins_and_matches_simulation_with_them():
    assert chance(np.arange(200)) == pytest.approx({1: 1 / 200, 5: 5 / 200, 10: 10 / 200})
    groups = np.array([0, 0, 0, 1, 1, 2, 3, 4])
    rng = np.random.default_rng(0)
    draws = [[len({*groups[rng.permutation(8)[:5]]} & {g}) for g in groups] for _ in range(4000)]
    assert chance(groups, [5])[5] == pytest.approx(np.mean(draws), abs=0.01)


def test_chance_beyond_the_number_of_candidates_is_certain():
    assert chance(np.arange(3), [10])[10] == 1


def test_interval_covers_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        article_rate = rng.beta(2, 2, 60)
        clusters = np.repeat(np.arange(60), 4)
        hits = (rng.random(240) < article_rate[clusters]).astype(float)
        low, high = cluster_bootstrap(hits, clusters, 300, trial)
        covered += low <= 0.5 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_shapes_must_agree():
    with pytest.raises(ValueError, match="shapes differ"):
        rank(np.ones((2, 3), np.float32), np.ones((2, 4), np.float32), np.arange(2))
