"""The encoder gives unit vectors that do not depend on how calls are batched or padded."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from time import process_time

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from biomedray import pixels
from biomedray.model import load
from biomedray.model.features import text_features
from biomedray.model.front import Front
from biomedray.model.tokenizer import Tokens
from biomedray.model.weights import OpenedModel


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
    full = encoder._front.tokens._tokenizer(texts)
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


@settings(max_examples=15, deadline=None)
@given(texts=st.lists(st.text(max_size=400) | st.sampled_from(["liver " * 300, "!", "[PAD]", "x [SEP] [PAD]"]), max_size=6))
def test_tokens_are_those_of_open_clip(encoder, texts):
    rows = encoder.tokenize(texts)
    full = encoder._front.tokens._tokenizer(texts) if texts else torch.zeros(0, encoder.context_length)
    for row, wanted, text in zip(rows, full, texts, strict=True):
        np.testing.assert_array_equal(row.ids, wanted[: len(row.ids)])
        assert (wanted[len(row.ids) :] == 0).all()
        assert (row.count > encoder.context_length) == (len(row.ids) == encoder.context_length < row.count)
        assert [row.count] == encoder.count_tokens([text])
    np.testing.assert_array_equal(encoder.encode_tokens([row.ids for row in rows]), encoder.encode_texts(texts))


@pytest.mark.parametrize("name", ["ViT-B-32", "with_bert"])
def test_ways_to_tokenize_agree(request, name):
    inner = open_clip.get_tokenizer(name) if name == "ViT-B-32" else load(request.getfixturevalue(name))._front.tokens._tokenizer
    texts = ["", "a lesion", "naïve 5 µm β-catenin " * 40]
    quick, slow = Tokens(inner, trim=True), Tokens(inner, trim=True)
    for one, other in zip(quick.rows(texts), slow._locked(texts), strict=True):
        np.testing.assert_array_equal(one.ids, other.ids)
        assert one.count == other.count
    padded = Tokens(inner, trim=False)
    assert padded.fixed_length == padded.context_length
    np.testing.assert_array_equal(padded(texts), inner(texts))


def test_threads_share_a_tokenizer(encoder):
    texts = [f"liver {number} " * (number % 40) for number in range(64)]
    alone = [encoder.tokenize([text])[0] for text in texts]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            together = pool.map(lambda text: encoder.tokenize([text, text])[1], texts)
            assert all(
                one.count == other.count and (one.ids == other.ids).all() for one, other in zip(alone, together, strict=True)
            )


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
def test_uint8_pixels_are_the_same_to_the_bit(encoder, images, resize_mode):
    opened = replace(encoder_opened(encoder), config={"preprocess_cfg": {"resize_mode": resize_mode, "mean": (0.1, 0.5, 0.7)}})
    front = Front(opened)
    wanted = torch.stack([front.preprocess(data) for data in images])
    small = torch.from_numpy(np.stack([front.preprocess_uint8(data) for data in images]))
    assert small.shape == (len(images), front.image_size, front.image_size, 3)
    assert small.nbytes * 4 == wanted.nbytes
    assert torch.equal(front.normalise(small), wanted)


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("size", [(30, 960), (30, 1500), (1500, 31), (4, 777), (900, 5), (1, 300)])
def test_strips_come_out_as_open_clip_has_them(encoder, size, resize_mode):
    front = Front(replace(encoder_opened(encoder), config={"preprocess_cfg": {"resize_mode": resize_mode}}))
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    if resize_mode == "longest" and 160 * min(size) < max(size):  # open_clip fails: a side of no pixel
        assert front.preprocess_uint8(image).shape == (80, 80, 3)
        return
    wanted = np.asarray(front._squared(Image.fromarray(image)), np.int16)
    assert np.abs(front.preprocess_uint8(image) - wanted).max() <= (1 if max(size) > 32 * min(size) else 0)


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("size", [(1, 40_000_000), (3_000_000, 1)])
def test_long_strips_cost_no_more_than_their_pixels(encoder, size, resize_mode):
    front = Front(replace(encoder_opened(encoder), config={"preprocess_cfg": {"resize_mode": resize_mode}}))
    strip = np.full(size, 90, np.uint8)
    started = process_time()
    found = front.preprocess_uint8(strip)
    assert process_time() - started < 5  # without a bound: minutes, gigabytes, OverflowError
    assert 89 <= found.max() <= 90


def encoder_opened(encoder):
    return OpenedModel(encoder._clip, {}, encoder._front.tokens._tokenizer, encoder.fingerprint)


def test_the_encoder_takes_uint8_pixels(encoder, images):
    small = torch.from_numpy(np.stack([encoder.preprocess_uint8(data) for data in images]))
    np.testing.assert_array_equal(encoder.encode_pixels(small), encoder.encode_images(images))
