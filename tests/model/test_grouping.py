"""Groups hold every text once, cut where it is cheapest."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from biomedray.model.grouping import cuts, group, lengths_of


def cost(ends, lengths, group_cost):
    starts = [0, *[end for end, _ in ends[:-1]]]
    return sum((end - start) * size + group_cost for start, (end, size) in zip(starts, ends, strict=True))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=9), st.sampled_from([1, 8, 32]), st.integers(0, 60))
def test_cuts_are_the_cheapest(drawn, step, group_cost):
    lengths = np.sort(drawn)
    found = cuts(lengths, 40, step, group_cost)
    assert found[-1][0] == len(lengths)
    tried = []
    for count in range(len(lengths)):
        for inner in combinations(range(1, len(lengths)), count):
            ends = [*inner, len(lengths)]
            tried.append(cost([(end, min(40, -(-lengths[end - 1] // step) * step)) for end in ends], lengths, group_cost))
    assert cost(found, lengths, group_cost) == min(tried)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 24), min_size=1, max_size=40))
def test_every_text_comes_back_to_its_place(lengths):
    tokens = torch.arange(1, len(lengths) + 1)[:, None].repeat(1, 24)
    tokens[torch.arange(24) >= torch.tensor(lengths)[:, None]] = 0
    assert lengths_of(tokens, 0).tolist() == lengths
    texts = group(tokens, lengths_of(tokens, 0), torch.arange(len(lengths)))
    assert torch.cat([one.tokens[:, 0] for one in texts.groups])[texts.back].tolist() == tokens[:, 0].tolist()
    assert torch.cat([one.keys for one in texts.groups])[texts.back].tolist() == list(range(len(lengths)))
    assert sum(int((one.tokens != 0).sum()) for one in texts.groups) == sum(lengths)
    assert all(one.full == bool((one.tokens != 0).all()) for one in texts.groups)
    assert sum(lengths) <= texts.padded <= tokens.numel()
