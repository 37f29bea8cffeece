"""Near-duplicates: the banded join finds every pair within its distance, and nothing that differs otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from biomedray.ingest.neardup import MAX_DISTANCE, TABLES, Images, across, clusters, distinct, table_edges


def images(phash: list[int], fine: list[list[int]] | None = None, **columns: list[float]) -> Images:
    n = len(phash)
    floats = {"shape": [0.0] * n, "entropy": [6.0] * n, "colour": [20.0] * n} | columns
    return Images(
        np.arange(1, n + 1, dtype=np.uint64),
        np.array(phash, np.uint64),
        np.array(fine if fine is not None else [[1, 2, 3, 4]] * n, np.uint64).reshape(n, 4),
        *(np.array(floats[name], np.float32) for name in ("shape", "entropy", "colour")),
    )


def found(these: Images, distance: int = MAX_DISTANCE) -> set[tuple[int, int]]:
    pairs: set[tuple[int, int]] = set()
    for table in TABLES:
        left, right = table_edges(these, table, distance)
        pairs |= {tuple(sorted(pair)) for pair in zip(left.tolist(), right.tolist(), strict=True)}
    return pairs


hashes = st.integers(0, 2**64 - 1)


@given(hashes, st.sets(st.integers(0, 63), max_size=6))
def test_every_pair_within_the_distance_is_found_and_no_other(phash: int, bits: set[int]) -> None:
    other = phash
    for bit in bits:
        other ^= 1 << bit
    assert found(images([phash, other])) == ({(1, 2)} if len(bits) <= MAX_DISTANCE else set())


@given(st.lists(st.tuples(st.sampled_from([0, 2**63 + 5]), st.sets(st.integers(0, 63), max_size=3)), min_size=2, max_size=12))
def test_against_every_pair_compared(recipes: list[tuple[int, set[int]]]) -> None:
    phash = [base ^ sum(1 << bit for bit in bits) for base, bits in recipes]
    wanted = {
        (i + 1, j + 1)
        for i in range(len(phash))
        for j in range(i + 1, len(phash))
        if (phash[i] ^ phash[j]).bit_count() <= MAX_DISTANCE
    }
    assert found(images(phash)) == wanted


@pytest.mark.parametrize(
    ("columns", "same"),
    [
        ({"shape": [0.0, 0.02]}, True),
        ({"shape": [0.0, 0.2]}, False),
        ({"entropy": [6.0, 7.5]}, False),
        ({"colour": [20.0, 60.0]}, False),
        ({"entropy": [float("nan"), 6.0]}, False),
        ({"fine": [[0, 0, 0, 7], [0, 0, 7, 0]]}, True),
        ({"fine": [[0, 0, 0, 2**15 - 1], [0, 0, 0, 0]]}, False),
    ],
)
def test_other_columns_must_agree(columns: dict[str, Any], same: bool) -> None:
    assert bool(found(images([0b1000, 0b1001], **columns))) is same


def test_a_crowd_with_one_hash_is_one_cluster() -> None:
    crowd = images([7] * 500)
    sides = [table_edges(crowd, table, 3) for table in TABLES]
    member, cluster = clusters(*(np.concatenate(side) for side in zip(*sides, strict=True)))
    assert member.tolist() == list(range(1, 501))
    assert set(cluster.tolist()) == {1}


def test_clusters_are_named_after_their_smallest_member() -> None:
    left, right = np.array([9, 4, 20], np.uint64), np.array([5, 9, 21], np.uint64)
    member, cluster = clusters(left, right)
    assert dict(zip(member.tolist(), cluster.tolist(), strict=True)) == {4: 4, 5: 4, 9: 4, 20: 20, 21: 20}


def test_nothing_in_nothing_out() -> None:
    none = images([])
    assert found(none) == set()
    member, cluster = clusters(none.sha, none.sha)
    assert member.size == cluster.size == 0


def test_distinct_keeps_one_of_each() -> None:
    twice = images([5, 6]).take(np.array([0, 1, 0]))
    assert distinct(twice).sha.tolist() == [1, 2]


recipes = st.lists(st.tuples(st.sampled_from([0, 2**63 + 5]), st.sets(st.integers(0, 63), max_size=3)), max_size=9)


@given(recipes, recipes)
def test_across_two_lots_against_every_pair_compared(one, two):
    known, others = ([base ^ sum(1 << bit for bit in bits) for base, bits in lot] for lot in (one, two))
    wanted = [(i, j) for i, a in enumerate(known) for j, b in enumerate(others) if (a ^ b).bit_count() <= MAX_DISTANCE]
    left, right = across(images(known), images(others), MAX_DISTANCE)
    assert list(zip(left.tolist(), right.tolist(), strict=True)) == wanted


def test_across_in_small_lots(monkeypatch):
    monkeypatch.setattr("biomedray.ingest.neardup._MEETINGS", 3)
    left, right = across(images([7] * 4), images([7] * 5), 0)
    assert list(zip(left.tolist(), right.tolist(), strict=True)) == [(i, j) for i in range(4) for j in range(5)]
