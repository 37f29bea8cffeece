"""Slices add up to all queries, small ones are merged and counted, and a slice's score is that of its rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biomedray.evaluate.breakdown import breakdown, dimensions_of_captions, dimensions_of_pairs, in_range, kind_of_picture


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "c", "other", "rare"]), min_size=1, max_size=200), st.integers(0, 99))
def test_slices_add_up_and_small_ones_are_merged(labels, seed):
    n = len(labels)
    rng = np.random.default_rng(seed)
    hits = {"there": rng.integers(0, 2, n), "back": rng.integers(0, 2, n)}
    found = breakdown(hits, {"name": labels}, rng.integers(0, n, n), resamples=20)["name"]
    assert sum(row["n"] for row in found) == n
    counts = {name: labels.count(name) for name in labels}
    assert {row["slice"] for row in found if row["slice"] != "other"} == {
        name for name, count in counts.items() if count >= 30 and name != "other"
    }
    for way, values in hits.items():
        assert sum(row["n"] * row[way]["value"] for row in found) == pytest.approx(values.sum())
        assert all(row[way]["low"] <= row[way]["value"] <= row[way]["high"] for row in found)
    for row in found:
        if row["slice"] == "other":
            assert row is found[-1]
            assert row["values"] == sum(name == "other" or count < 30 for name, count in counts.items())


def test_only_the_largest_slices_are_kept():
    labels = np.repeat([f"journal {i:02}" for i in range(25)], 30 + np.arange(25)).tolist()
    found = breakdown({"there": np.ones(len(labels), np.int64)}, {"journal": labels}, np.arange(len(labels)), 10)["journal"]
    assert len(found) == 21
    assert [row["slice"] for row in found[:2]] == ["journal 24", "journal 23"]
    assert (found[-1]["slice"], found[-1]["values"]) == ("other", 5)


def test_ranges_are_named():
    assert [in_range(value, (16, 32)) for value in (0, 16, 17, 32, 33, None)] == [
        "up to 16",
        "up to 16",
        "17-32",
        "17-32",
        "over 32",
        "not known",
    ]
    assert [in_range(value, (1, 2, 4)) for value in (1, 2, 3, 9)] == ["1", "2", "3-4", "over 4"]


def test_kinds_of_picture_by_the_hints():
    assert [kind_of_picture(*hints) for hints in ((None, None), (0.7, 0.9), (0.1, 0.9), (0.1, None))] == [
        "not looked at",
        "several panels",
        "chart or drawing",
        "single picture",
    ]


def test_dimensions_of_pairs_and_of_captions():
    rows = {
        "journal": ["J", None],
        "year": [2020, None],
        "container": ["body", "floats"],
        "n_tokens": [3, 300],
        "n_graphics": [1, 5],
        "width": [100, 900],
        "height": [900, 700],
        "compound_hint": [0.9, None],
        "chart_hint": [None, None],
    }
    found = dimensions_of_pairs(rows)
    assert found["journal"] == ["J", "not known"]
    assert found["year"] == ["2020", "not known"]
    assert found["picture"] == ["several panels", "not looked at"]
    assert found["short side, pixels"] == ["up to 224", "over 672"]
    assert dimensions_of_captions(["one two", "w " * 40]) == {"caption length, words": ["up to 16", "33-64"]}
