"""Retrieval against brute force, scikit-learn, torchmetrics and arithmetic: exact whatever the tile, ties and twins included."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from biomedray.evaluate import ranking, tiles
from biomedray.evaluate.measures import chance, recall
from biomedray.evaluate.positives import find_golds
from biomedray.evaluate.ranking import KS, rank_both
from biomedray.evaluate.stats import number_groups


def random_case(n, d, seed, kind):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, n, n) if rng.random() < 0.7 else np.arange(n)
    if kind == "integers":  # exact ties are common
        return *(rng.integers(-2, 3, (n, d)).astype(np.float32) for _ in "xy"), groups
    pool = rng.standard_normal((max(1, n // 3), d)).astype(np.float32)  # every vector is there about three times
    pool /= np.linalg.norm(pool, axis=1, keepdims=True)
    return *(pool[rng.integers(0, len(pool), n)] for _ in "xy"), groups


def brute_force(queries, candidates, groups, i):
    """Greater, ties, golds, share of golds among the first k, R-precision: one query, plain Python."""
    scores = (candidates.astype(np.float64) * queries[i]).sum(axis=1)
    gold = sorted((s for s, g in zip(scores, groups, strict=True) if g == groups[i]), reverse=True)
    others = [s for s, g in zip(scores, groups, strict=True) if g != groups[i]]
    places = [place + sum(s >= own - 1e-12 for s in others) for place, own in enumerate(gold)]
    greater = sum(s > gold[0] + 1e-12 for s in others)
    shares = [sum(p < k for p in places) / len(gold) for k in (*KS, len(gold))]
    return greater, places[0] - greater, len(gold), shares[:-1], shares[-1]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 60),
    st.integers(1, 70),
    st.integers(0, 2**31),
    st.integers(1, 70),
    st.integers(1, 3),
    st.sampled_from(["integers", "duplicates"]),
)
def test_both_directions_equal_brute_force_for_any_tile(n, d, seed, tile, workers, kind):
    images, texts, groups = random_case(n, d, seed, kind)
    both = rank_both(images, texts, groups, tile=tile, workers=workers)
    for found, queries, candidates in zip(both, (images, texts), (texts, images), strict=True):
        for i in range(n):
            greater, ties, golds, shares, r_precision = brute_force(queries, candidates, groups, i)
            assert (found.greater[i], found.ties[i], found.golds[i]) == (greater, ties, golds)
            assert found.recalled[i].tolist() == pytest.approx(shares)
            assert found.r_precision[i] == pytest.approx(r_precision)
            scores = (candidates.astype(np.float64) * queries[i]).sum(axis=1)
            best = np.sort(scores)[::-1][: len(found.top[i])]
            assert scores[found.top[i]].tolist() == pytest.approx(best.tolist(), abs=1e-9)
            assert len(set(found.top[i])) == min(10, n)


def test_float32_rounding_decides_nothing():
    # Candidates that float32 can't tell from the gold one, in any of its sums: float64 can.
    rng = np.random.default_rng(3)
    n, d = 700, 512
    query = rng.standard_normal(d)
    query /= np.linalg.norm(query)
    texts = np.tile(query.astype(np.float32), (n, 1))
    texts[:, 0] *= (1 + 1e-6 * rng.integers(-3, 4, n)).astype(np.float32)
    images = np.tile(query.astype(np.float32), (n, 1))
    scores = texts.astype(np.float64) @ images[0].astype(np.float64)
    single = texts @ images[0]
    assert len(np.unique(single)) < len(np.unique(scores))
    expected = [int((scores > own + 1e-12).sum()) for own in scores]
    ties = [int((np.abs(scores - own) <= 1e-12).sum()) - 1 for own in scores]
    for tile in (64, 333, 1024):
        found = rank_both(images, texts, np.arange(n), tile=tile)[0]
        assert found.greater.tolist() == expected
        assert found.ties.tolist() == ties


def test_near_scores_are_settled_one_by_one_or_as_a_whole_tile(monkeypatch):
    images, texts, groups = random_case(300, 64, 5, "duplicates")
    results = []
    for share in (0.0, 2.0):
        monkeypatch.setattr(ranking, "_DENSE", share)
        results.append(rank_both(images, texts, groups, tile=128))
    for one, other in zip(*results, strict=True):
        assert one.greater.tolist() == other.greater.tolist()
        assert one.ties.tolist() == other.ties.tolist()


@pytest.mark.parametrize("kind", ["integers", "duplicates"])
def test_the_gpus_road_gives_the_same(monkeypatch, kind):
    images, texts, groups = random_case(150, 32, 8, kind)
    expected = rank_both(images, texts, groups, tile=64)
    monkeypatch.setattr(ranking, "open_tiles", lambda _device, size=None: tiles.TorchTiles("cpu", size or 64))
    found = rank_both(images, texts, groups, tile=64)
    for a, b in zip(expected, found, strict=True):
        assert a.greater.tolist() == b.greater.tolist()
        assert a.ties.tolist() == b.ties.tolist()
        assert a.top.tolist() == b.top.tolist()


def test_rising_scores_and_few_candidates_keep_the_best():
    # every tile is better than all before, the worst case of a running top
    n = 200
    texts = np.linspace(0.1, 1, n, dtype=np.float32)[:, None]
    found = rank_both(np.ones((n, 1), np.float32), texts, np.arange(n), tile=16)[0]
    assert found.top[0].tolist() == list(range(n - 1, n - 11, -1))
    assert found.ranks.tolist() == list(range(n - 1, -1, -1))


def test_groups_larger_than_what_is_kept():
    rng = np.random.default_rng(0)
    images, texts = (rng.standard_normal((60, 6)).astype(np.float32) for _ in "xy")
    groups = np.repeat([7, 3], 30)
    found = rank_both(images, texts, groups, tile=16)[0]
    for i in range(60):
        *_, shares, r_precision = brute_force(images, texts, groups, i)
        assert found.recalled[i].tolist() == pytest.approx(shares)
        assert found.r_precision[i] == pytest.approx(r_precision)


def test_half_precision_and_mapped_embeddings(tmp_path):
    images, texts, groups = random_case(50, 16, 4, "duplicates")
    np.save(tmp_path / "x.npy", images.astype(np.float16))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    found = rank_both(mapped, texts, groups, tile=16)[0]
    expected = rank_both(images.astype(np.float16).astype(np.float32), texts, groups, tile=16)[0]
    assert found.ranks.tolist() == expected.ranks.tolist()


def test_recall_equals_torchmetrics_and_mrr_scikit_learns():
    from sklearn.metrics import label_ranking_average_precision_score
    from torchmetrics.functional.retrieval import retrieval_recall, retrieval_reciprocal_rank

    rng = np.random.default_rng(1)
    images = rng.standard_normal((80, 16)).astype(np.float32)
    texts = images + rng.standard_normal((80, 16)).astype(np.float32)
    groups = rng.integers(0, 60, 80)
    found = rank_both(images, texts, groups, tile=32)[0]
    scores = torch.from_numpy(images @ texts.T)
    scores += 1 - scores.min()  # torchmetrics takes a score of 0 or less for no answer at all
    gold = torch.from_numpy(groups[:, None] == groups[None, :])
    result = recall(found, resamples=10)
    for column, k in enumerate(KS):
        theirs = [float(retrieval_recall(row, own, top_k=k)) for row, own in zip(scores, gold, strict=True)]
        assert found.recalled[:, column].tolist() == pytest.approx(theirs)
        assert result.fractional[k].value == pytest.approx(np.mean(theirs))
    # With several golds the first one's reciprocal rank counts in both.
    theirs = [float(retrieval_reciprocal_rank(row, own)) for row, own in zip(scores, gold, strict=True)]
    assert result.mrr.value == pytest.approx(np.mean(theirs))
    single = rank_both(images, texts, np.arange(80), tile=32)[0]
    assert recall(single, resamples=10).mrr.value == pytest.approx(
        label_ranking_average_precision_score(np.eye(80), scores.numpy())
    )


def test_perfect_model_is_always_first_and_its_top_is_itself():
    vectors = np.eye(12, dtype=np.float32)
    for found in rank_both(vectors, vectors, np.arange(12)):
        assert found.ranks.tolist() == [0] * 12
        assert found.top[:, 0].tolist() == list(range(12))
        assert [interval.value for interval in recall(found, np.arange(12)).at.values()] == [1.0, 1.0, 1.0]


def test_model_that_maps_all_to_one_point_finds_nothing():
    same = np.ones((20, 4), np.float32)
    result = recall(rank_both(same, same, np.arange(20))[0], np.arange(20))
    assert (result.at[1].value, result.at[10].value, result.tied_queries) == (0, 0, 20)
    assert result.optimistic[1] == 1
    assert result.expected == pytest.approx({1: 1 / 20, 5: 5 / 20, 10: 10 / 20})


def test_twin_captions_are_both_gold():
    images = np.eye(3, dtype=np.float32)
    texts = np.array([[1, 0, 0], [1, 0, 0], [0, 0, 1]], np.float32)
    groups = number_groups(["same", "same", "other"])
    found = rank_both(texts, images, groups)[0]
    assert found.ranks.tolist() == [0, 0, 0]
    # the second gold figure ties with the other one, which counts against it
    assert found.recalled[:, 0].tolist() == [0.5, 0.5, 1]
    assert found.r_precision.tolist() == [0.5, 0.5, 1]


def test_golds_are_the_best_ones_in_order():
    queries = np.array([[1.0], [1.0], [2.0]], np.float32)
    candidates = np.array([[3.0], [5.0], [1.0]], np.float32)
    found = find_golds(queries, candidates, np.array([0, 0, 1]))
    assert found.ids.tolist() == [[1, 0], [1, 0], [2, -1]]
    assert found.scores.tolist() == [[5, 3], [5, 3], [2, -np.inf]]


def test_chance_is_k_over_n_without_twins_and_matches_simulation_with_them():
    assert chance(np.arange(200)) == pytest.approx({1: 1 / 200, 5: 5 / 200, 10: 10 / 200})
    groups = np.array([0, 0, 0, 1, 1, 2, 3, 4])
    rng = np.random.default_rng(0)
    draws = [[len({*groups[rng.permutation(8)[:5]]} & {g}) for g in groups] for _ in range(4000)]
    assert chance(groups, [5])[5] == pytest.approx(np.mean(draws), abs=0.01)


def test_chance_beyond_the_number_of_candidates_is_certain():
    assert chance(np.arange(3), [10])[10] == 1


def test_threads_and_precision_are_left_as_they_were():
    torch.set_float32_matmul_precision("high")
    threads = torch.get_num_threads()
    try:
        rank_both(np.ones((2, 3), np.float32), np.ones((2, 3), np.float32), np.arange(2))
        assert torch.get_float32_matmul_precision() == "high"
        assert torch.get_num_threads() == threads
    finally:
        torch.set_float32_matmul_precision("highest")


def test_a_worker_that_fails_ends_the_others():
    vectors = np.eye(64, dtype=np.float32)
    done = []

    def advance(rows):
        done.append(rows)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rank_both(vectors, vectors, np.arange(64), tile=1, workers=2, advance=advance)
    assert len(done) <= 2


def test_what_cannot_be_ranked():
    one = np.ones((2, 3), np.float32)
    with pytest.raises(ValueError, match="shapes differ"):
        rank_both(one, np.ones((2, 4), np.float32), np.arange(2))
    with pytest.raises(ValueError, match="not finite"):
        rank_both(one, one * np.nan, np.arange(2))
    with pytest.raises(ValueError, match="nothing"):
        rank_both(one[:0], one[:0], np.arange(0))
