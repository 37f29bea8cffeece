"""Splits made here: whole groups, each class in its share, the same for any order of the rows."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biomedray.errors import UserError
from biomedray.evaluate.sets import open_set
from biomedray.evaluate.sets.prompts import reworded
from biomedray.evaluate.sets.resplit import SHARES, assign, with_splits


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2)), min_size=1, max_size=80), st.integers(0, 5))
def test_groups_stay_whole_and_order_does_not_matter(rows, seed):
    groups, labels = [f"g{g}" for g, _ in rows], [label for _, label in rows]
    found = assign(groups, labels, SHARES, seed)
    assert len(set(zip(groups, found, strict=True))) == len(set(groups))
    order = np.random.default_rng(0).permutation(len(rows))
    again = assign([groups[i] for i in order], [labels[i] for i in order], SHARES, seed)
    assert again == [found[i] for i in order]


def test_every_class_has_its_share():
    labels = [0] * 1000 + [1] * 100
    found = assign([str(i) for i in range(1100)], labels, {"train": 0.7, "val": 0.1, "test": 0.2})
    counts = Counter(zip(labels, found, strict=True))
    assert counts == {(0, "train"): 700, (0, "val"): 100, (0, "test"): 200, (1, "train"): 70, (1, "val"): 10, (1, "test"): 20}
    assert assign(["a", "b"], [0, 0], SHARES, 1) != found


def test_with_splits_says_so(mini, tmp_path):
    whole = open_set(mini.csv_set(tmp_path, n=40, split=False), pattern=r"Image_(\d+)")
    cut = with_splits(whole)
    assert cut.splits == ("train", "val", "test")
    assert sorted(i for split in cut.splits for i in cut.part(split).ids) == sorted(whole.part("test").ids)
    assert any("splits 60/20/20 made here by the hash of the group" in note for note in cut.notes)
    sample = cut.read("val", 0, 1)[0]
    assert sample.image == next(s.image for s in whole.read("test", 0, 40) if s.id == sample.id)


def test_prompts_may_be_changed(mini, tmp_path):
    image_set = open_set(mini.csv_set(tmp_path))
    assert image_set.prompts == ("RBC", "WBC")
    file = tmp_path / "prompts.json"
    file.write_text('{"classes": {"WBC": "white blood cell"}, "templates": ["a smear with a {}"]}')
    assert reworded(image_set, file=file).prompts == ("RBC", "white blood cell")
    assert reworded(image_set, file=file).templates == ("a smear with a {}",)
    both = reworded(image_set, {"WBC": "leukocyte"}, ["{}!"], file)
    assert (both.prompts, both.templates) == (("RBC", "leukocyte"), ("{}!",))
    for kwargs, says in (
        ({"classes": {"XBC": "x"}}, "no class 'XBC'; there are RBC, WBC"),
        ({"templates": ["a cell"]}, "template 'a cell': needs {} once"),
        ({"file": tmp_path / "labels.csv"}, "no JSON"),
    ):
        with pytest.raises(UserError, match=says.replace("{}", r"\{\}")):
            reworded(image_set, **kwargs)
    file.write_text('{"classes": ["WBC"]}')
    with pytest.raises(UserError, match="not prompts; they look like"):
        reworded(image_set, file=file)
