"""The split: by article, the same everywhere, near its shares."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from biomedray.ingest.split import assign_split, dup_cluster

GOLDEN = ["train", "train", "train", "val", "train", "train", "train", "train", "test", "train", "train", "train"]


def test_golden() -> None:
    assert [assign_split(f"PMC{i}", 0, 0.05, 0.1) for i in range(12)] == GOLDEN


def test_shares() -> None:
    counts = Counter(assign_split(f"PMC{i}", 7, 0.05, 0.1) for i in range(20_000))
    assert abs(counts["val"] / 20_000 - 0.05) < 0.01
    assert abs(counts["test"] / 20_000 - 0.10) < 0.01


@given(st.text(max_size=12), st.integers(0, 9))
def test_nothing_is_held_out_where_nothing_is_asked(pmcid: str, seed: int) -> None:
    assert assign_split(pmcid, seed, 0, 0) == "train"


def test_seed_changes_the_split() -> None:
    splits = [tuple(assign_split(f"PMC{i}", seed, 0.3, 0.3) for i in range(50)) for seed in (0, 1)]
    assert splits[0] != splits[1]


def test_cluster_is_of_the_bytes() -> None:
    assert dup_cluster("ab" * 32) == "ab" * 8
