"""The encoder gives unit vectors that do not depend on how calls are batched or padded."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from biomedray import pixels
from biomedray.model import load
from biomedray.model.features import text_features


@pytest.fixture(scope="module", params=["tiny", "with_bert"])
def encoder(request):
    return load(request.getfixturevalue(request.param))


def test_what_it_says_of_itself(encoder):
    assert encoder.encode_texts(["a"]).shape == (1, encoder.embed_dim)
    assert (encoder.embed_dim, encoder.image_size, encoder.context_length) == (128, 80, 96)
    assert encoder.logit_scale == pytest.approx(1 / 0.07, rel=1e-5)
    assert len(encoder.fingerprint) == 16
    assert encoder.device == "cpu"


def test_one_by_one_is_as_in_a_batch(encoder, images):
    together = encoder.encode_images(images)
    single = np.concatenate([encoder.encode_images([data]) for data in images])
    np.testing.assert_allclose(together, single, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    stacked = torch.stack([encoder.preprocess(data) for data in images])
    np.testing.assert_allclose(encoder.encode_pixels(stacked), together, atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(texts=st.lists(st.text(max_size=60), min_size=1, max_size=6))
def test_padding_changes_nothing(encoder, texts):
    together = encoder.encode_texts(texts)
    single = np.concatenate([encoder.encode_texts([text]) for text in texts])
    np.testing.assert_allclose(together, single, atol=1e-5)
    full = encoder._tokens._tokenizer(texts)
    assert full.shape[1] == encoder.context_length
    with torch.inference_mode():
        np.testing.assert_allclose(text_features(encoder._clip, full).numpy(), together, atol=1e-5)


def test_long_texts_are_cut_at_the_context(encoder):
    words = ["liver"] * 500
    cut, longer = " ".join(words[: encoder.context_length]), " ".join(words)
    np.testing.assert_array_equal(encoder.encode_texts([cut]), encoder.encode_texts([longer]))
    assert encoder.count_tokens([longer, "liver", ""]) == [502, 3, 2]


def test_nothing_gives_nothing(encoder):
    assert encoder.encode_images([]).shape == (0, encoder.embed_dim)
    assert encoder.encode_texts([]).shape == (0, encoder.embed_dim)
    assert encoder.count_tokens([]) == []


def test_bytes_that_are_no_image_are_told_apart(encoder):
    with pytest.raises(pixels.PixelError):
        encoder.encode_images([b"not an image"])
