"""Bootstrap intervals against scipy, arithmetic and simulation: they cover what they promise, clusters and pairs included."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as peer

from biomedray.evaluate import stats
from biomedray.evaluate.stats import (
    at_the_edge,
    bootstrap,
    bootstrap_mean,
    bootstrap_means,
    number_groups,
    paired,
    paired_means,
    two_sided_p,
)

RNG = np.random.default_rng(0)


def share_covered(draw, trials, truth):
    return np.mean([interval.low <= truth <= interval.high for interval in map(draw, range(trials))])


def test_mean_agrees_with_scipy():
    values = RNG.gamma(2, size=200)
    theirs = peer.bootstrap((values,), np.mean, n_resamples=9999, method="percentile", rng=1).confidence_interval
    ours = bootstrap_mean(values, resamples=9999)
    assert ours.value == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx(theirs, abs=0.01)


def test_all_roads_give_the_same_interval():
    hits = (RNG.random(400) < 0.3).astype(float)
    clusters = RNG.integers(0, 60, 400)
    slow = bootstrap(lambda rows: hits[rows].mean(), clusters, 4000)
    fast = bootstrap_mean(hits, clusters, 4000)
    many_kinds = bootstrap_means(np.column_stack([hits, RNG.random(400)]), clusters, 4000)[0]
    for found in (fast, many_kinds):
        assert (found.value, found.low, found.high) == pytest.approx((slow.value, slow.low, slow.high), abs=0.006)


def test_hits_without_clusters_agree_with_the_binomial():
    hits = np.repeat([1.0, 0.0], [300, 700])
    found = bootstrap_mean(hits, resamples=20_000)
    low, high = peer.binom.ppf([0.025, 0.975], 1000, 0.3) / 1000
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.0015)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(-3, 3)), min_size=1, max_size=40), st.integers(0, 99))
def test_sums_are_those_of_drawn_clusters(rows, seed):
    clusters, values = (np.array(column) for column in zip(*rows, strict=True))
    drawn = list(stats._row_draws(stats._numbered(clusters), 5, seed))
    counts = np.concatenate(list(stats._count_draws(len(np.unique(clusters)), 5, seed)))
    sums = counts @ stats._cluster_sums(values[:, None].astype(float), stats._numbered(clusters))
    assert sums.ravel().tolist() == [values[rows].sum() for rows in drawn]


def test_whole_clusters_are_drawn():
    clusters = np.array(["b", "a", "b", "c"])
    for rows in stats._row_draws(stats._numbered(clusters), 50, 3):
        counts = np.bincount(rows, minlength=4)
        assert counts[0] == counts[2]
        assert counts[0] + counts[1] + counts[3] == 3


def test_interval_of_correlated_rows_covers_the_truth():
    def one(seed, clustered=True):
        rng = np.random.default_rng(seed)
        rates = rng.beta(1, 1, 60)
        clusters = np.repeat(np.arange(60), 6)
        hits = (rng.random(360) < rates[clusters]).astype(float)
        return bootstrap_mean(hits, clusters if clustered else None, 400, seed)

    assert 0.90 <= share_covered(one, 300, 0.5) <= 0.985
    assert share_covered(lambda seed: one(seed, clustered=False), 300, 0.5) < 0.85  # what ignoring clusters would cost


def test_interval_of_a_metric_that_is_no_mean_covers_the_truth():
    def one(seed):
        values = np.random.default_rng(seed).normal(3, 2, 60)
        return bootstrap(lambda rows: float(np.median(values[rows])), np.arange(60), 150, seed)

    assert 0.89 <= share_covered(one, 120, 3.0) <= 0.995


def test_paired_test_holds_its_level_and_finds_a_difference():
    def p(seed, gain):
        rng = np.random.default_rng(seed)
        clusters = np.repeat(np.arange(50), 4)
        hard = rng.beta(1, 1, 50)[clusters]
        a = rng.random(200) < np.clip(hard + gain, 0, 1)
        return paired_means(a, rng.random(200) < hard, clusters, 300, seed).p

    assert 0.01 <= np.mean([p(seed, 0) < 0.05 for seed in range(300)]) <= 0.09
    assert np.mean([p(seed, 0.15) < 0.05 for seed in range(100)]) > 0.8


def test_paired_uses_the_same_draws_for_both():
    a, b = RNG.random(50), RNG.random(50)
    same = paired(lambda rows: a[rows].mean(), lambda rows: a[rows].mean() - 0.25, np.arange(50), 100)
    assert (same.difference.low, same.difference.high) == pytest.approx((0.25, 0.25))
    assert same.p == pytest.approx(2 / 101)
    slow = paired(lambda rows: a[rows].mean(), lambda rows: b[rows].mean(), np.arange(50), 4000)
    fast = paired_means(a, b, None, 4000)
    assert (fast.a, fast.b, fast.difference.value) == pytest.approx((slow.a, slow.b, slow.difference.value))
    assert (fast.difference.low, fast.difference.high) == pytest.approx((slow.difference.low, slow.difference.high), abs=0.01)
    assert fast.p == pytest.approx(slow.p, abs=0.05)


def test_no_difference_is_no_evidence():
    assert paired_means([1, 0, 1], [1, 0, 1]).p == 1
    assert two_sided_p([-1, 1, -1, 1]) == 1
    assert two_sided_p([1] * 999) == pytest.approx(2 / 1000)


def test_draws_without_a_value_are_left_out():
    labels = np.array([1] + [0] * 9)
    found = bootstrap(lambda rows: float("nan") if labels[rows].sum() == 0 else 0.5, np.arange(10), 200)
    assert (found.low, found.high) == (0.5, 0.5)


def test_the_same_seed_gives_the_same_interval():
    values = RNG.random(99)
    assert bootstrap_mean(values, seed=4) == bootstrap_mean(values, seed=4) != bootstrap_mean(values, seed=5)


def test_resamples_are_never_all_in_memory():
    import tracemalloc

    values = RNG.random(50_000)
    tracemalloc.start()
    bootstrap_mean(values, resamples=500)  # as one matrix of draws: 200 MB
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 130e6


def test_shares_of_none_and_all_are_not_certain():
    low, high = peer.binomtest(0, 40).proportion_ci(method="exact")
    assert at_the_edge(bootstrap_mean(np.zeros(40)), 40) == stats.Interval(0, pytest.approx(low), pytest.approx(high))
    assert at_the_edge(bootstrap_mean(np.ones(40)), 40) == stats.Interval(1, pytest.approx(1 - high), 1)
    between = bootstrap_mean([0, 1, 1, 1])
    assert at_the_edge(between, 4) == between


def test_no_rows_and_uneven_rows_are_errors():
    for call in (lambda: bootstrap_mean([]), lambda: bootstrap(len, [], 2), lambda: bootstrap_mean([], [])):
        with pytest.raises(ValueError, match="no rows"):
            call()
    with pytest.raises(ValueError, match="clusters of 2"):
        bootstrap_mean([1.0, 2.0, 3.0], [0, 1])


def test_groups_are_numbered_by_first_appearance():
    assert number_groups(["b", "a", "b"]).tolist() == [0, 1, 0]
