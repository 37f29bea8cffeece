"""Texts laid end to end: the same features as open_clip's own forward pass on padded ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.hf_model import HFTextEncoder
from torch.nn.functional import normalize

from biomedray.model import load, packed_bert

TEXTS = st.lists(st.text(max_size=40) | st.sampled_from(["[PAD]", "liver [PAD] lung", "[PAD] liver", "lung " * 300]), min_size=1)


@pytest.fixture(scope="module")
def encoder(with_bert):
    return load(with_bert)


@settings(max_examples=30, deadline=None)
@given(texts=TEXTS)
def test_as_open_clip_on_padded_texts(encoder, texts):
    assert encoder.packs
    full = encoder._front.tokens._tokenizer(texts)
    with torch.inference_mode():
        wanted = normalize(encoder._clip.encode_text(full), dim=-1).numpy()
    np.testing.assert_allclose(encoder.encode_texts(texts), wanted, atol=2e-5)


def test_a_text_does_not_see_its_neighbours(encoder):
    rows = [row.ids for row in encoder.tokenize(["liver", "a much longer text on the lung and the brain", "heart"])]
    alone = np.concatenate([encoder.encode_tokens([row]) for row in rows])
    np.testing.assert_allclose(encoder.encode_tokens(rows), alone, atol=1e-6)
    np.testing.assert_allclose(encoder.encode_tokens(rows[::-1])[::-1], alone, atol=1e-6)


@pytest.mark.parametrize("pooler", ["cls_pooler", "cls_last_hidden_state_pooler"])
def test_either_way_to_read_out(tower, pooler):
    torch.manual_seed(0)
    text = HFTextEncoder(str(tower), 16, pooler_type=pooler, proj_type="mlp", pretrained=False).eval()
    tokens = torch.tensor([[2, 7, 8, 9, 3, 0, 0, 0], [2, 5, 3, 0, 0, 0, 0, 0], [2, 5, 6, 7, 8, 9, 10, 3]])
    rows = [row[row != 0].numpy() for row in tokens]
    with torch.inference_mode():
        np.testing.assert_allclose(packed_bert.encode(text, rows), text(tokens), atol=1e-5)
