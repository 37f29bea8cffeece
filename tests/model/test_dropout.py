"""Masks follow from seed, sample and place alone: how often, how independent, and that nothing else matters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from biomedray.model.dropout import SampledPatchDropout, drop, kept_patches, row_keys

KEYS = row_keys(7, 0, 64)


def mask(keys=KEYS, shape=(50, 96), p=0.1, site=3):
    return drop(torch.ones(len(keys), *shape), p, keys, site) == 0


def test_golden_values():
    assert row_keys(7, 0, 2).tolist() == row_keys(7, 0, 64)[:2].tolist() == [5486191730755251482, -7106175196253501879]
    assert row_keys(7, 5, 3).tolist() == row_keys(7, 0, 8)[5:].tolist()
    assert len(set(row_keys(7, 0, 10_000).tolist()) | set(row_keys(8, 0, 10_000).tolist())) == 20_000


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_rate_and_the_scale(p):
    values = drop(torch.ones(64, 50, 96), p, KEYS, 3)
    lost = (values == 0).double()
    deviation = (p * (1 - p)) ** 0.5
    for axes, count in (((0, 1, 2), 307_200), ((1, 2), 4800), ((0, 1), 3200), ((0, 2), 6144)):
        assert float((lost.mean(axes) - p).abs().max()) < 5 * deviation / count**0.5
    assert values[values != 0].unique().tolist() == pytest.approx([1 / (1 - p)])


def test_places_are_independent():
    lost = mask(p=0.5).double() - 0.5
    other = mask(p=0.5, site=4).double() - 0.5
    limit = 5 * 0.25 / 300_000**0.5
    pairs = [(lost, other), (lost[1:], lost[:-1]), (lost[:, 1:], lost[:, :-1]), (lost[..., 1:], lost[..., :-1])]
    pairs += [(lost[..., 32:], lost[..., :-32]), (lost[:, 16:], lost[:, :-16])]
    assert all(abs(float((one * two).mean())) < 2 * limit for one, two in pairs)
    four = lost[:, 1:, 1:] * lost[:, :-1, 1:] * lost[:, 1:, :-1] * lost[:, :-1, :-1]
    assert abs(float(four.mean())) < 5 * 0.0625 / 290_000**0.5


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(st.integers(0, 63), min_size=1, max_size=9), lines=st.integers(1, 50), columns=st.integers(1, 96))
def test_a_mask_does_not_depend_on_what_else_there_is(rows, lines, columns):
    part = mask(KEYS[rows], (lines, columns))
    assert torch.equal(part, mask()[rows][:, :lines, :columns])


def test_attention_weights_too():
    whole = drop(torch.ones(4, 3, 20, 20), 0.3, KEYS[:4], 1)
    assert torch.equal(whole[..., :11, :9], drop(torch.ones(4, 3, 11, 9), 0.3, KEYS[:4], 1))
    assert torch.equal(whole[:, :, :1], drop(torch.ones(4, 3, 1, 20), 0.3, KEYS[:4], 1))


def test_the_gradient_has_the_same_mask():
    values = torch.randn(64, 5, 8, requires_grad=True)
    result = drop(values, 0.4, KEYS, 0)
    result.sum().backward()
    assert torch.equal(values.grad == 0, result == 0)
    assert torch.autograd.gradcheck(
        lambda x: drop(x, 0.4, KEYS[:2], 0), torch.randn(2, 3, 4, dtype=torch.double, requires_grad=True)
    )


def test_patches():
    kept = kept_patches(KEYS, 196, 0.5)
    assert kept.shape == (64, 98)
    assert all(len(set(row)) == 98 and row == sorted(row) for row in kept.tolist())
    counts = np.bincount(kept.flatten().numpy(), minlength=196)
    assert abs(counts - 32).max() < 5 * (64 * 0.25) ** 0.5
    assert kept_patches(KEYS, 3, 0.9).shape == (64, 1)


def test_the_module_is_timms_with_another_draw():
    from timm.layers import PatchDropout

    tokens = torch.randn(6, 1 + 10, 4)
    ours, theirs = SampledPatchDropout(0.35, 1).train(), PatchDropout(0.35, num_prefix_tokens=1).train()
    assert ours(tokens).shape == theirs(tokens).shape
    ours.keys = KEYS[:6]
    assert torch.equal(ours(tokens), ours(tokens))
    assert torch.equal(ours(tokens)[:, 0], tokens[:, 0])
    assert torch.equal(ours.eval()(tokens), tokens)
