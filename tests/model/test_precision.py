"""bfloat16 and OpenVINO give the vectors of float32, or are not used."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from biomedray.errors import UserError
from biomedray.model import precision
from biomedray.model.encoder import Encoder

TEXTS = ["chest radiograph", "Figure 1. CT of the liver with β-catenin, 5 µm " * 3, "x"]


def cosines(one: np.ndarray, other: np.ndarray) -> float:
    return float((one * other).sum(axis=1).min())


@pytest.fixture(params=["tiny", "with_bert"])
def folder(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


def test_bfloat16_gives_the_same_vectors(folder, images):
    exact, half = Encoder.load(folder), Encoder.load(folder, precision="bfloat16")
    assert (exact.precision, half.precision) == ("float32", "bfloat16")
    assert half.fingerprint == exact.fingerprint
    for one, other in (
        (exact.encode_images(images), half.encode_images(images)),
        (exact.encode_texts(TEXTS), half.encode_texts(TEXTS)),
    ):
        assert other.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(other, axis=1), 1, atol=1e-5)
        assert cosines(one, other) >= 0.999
        assert not np.array_equal(one, other)


def test_what_differs_in_bfloat16_stays_in_float32(folder, images, monkeypatch, caplog):
    monkeypatch.setattr(precision, "LEAST_COSINE", 1.1)
    monkeypatch.setattr(precision, "computes_bfloat16", lambda _: True)
    exact = Encoder.load(folder)
    with pytest.raises(UserError, match=r"in bfloat16 by torch have a cosine of [01]\.\d{4} to those in float32"):
        Encoder.load(folder, precision="bfloat16")
    with caplog.at_level(logging.WARNING):
        stays = Encoder.load(folder, precision="auto")
    assert "stays with float32" in caplog.text
    assert stays.precision == "float32"
    np.testing.assert_array_equal(stays.encode_images(images), exact.encode_images(images))
    np.testing.assert_array_equal(stays.encode_texts(TEXTS), exact.encode_texts(TEXTS))


def test_auto_asks_the_hardware(folder, monkeypatch):
    for there, found in ((False, "float32"), (True, "bfloat16")):
        monkeypatch.setattr(precision, "computes_bfloat16", lambda _, there=there: there)
        assert Encoder.load(folder, precision="auto").precision == found


@pytest.mark.parametrize(
    ("found", "there"),
    [({"avx512_bf16": True}, True), ({"amx_bf16": True, "avx512_bf16": False}, True), ({"avx2": True}, False)],
)
def test_the_cpu_says_what_it_can(monkeypatch, found, there):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    assert precision.computes_bfloat16("cpu") is there
    assert not precision.computes_bfloat16("mps")


def test_wrong_names_are_refused(tiny):
    with pytest.raises(UserError, match="precision 'float8': there are auto, float32, bfloat16"):
        Encoder.load(tiny, precision="float8")
    with pytest.raises(UserError, match="backend 'tpu': there are torch, openvino"):
        Encoder.load(tiny, backend="tpu")


@pytest.mark.parametrize("wanted", ["float32", "bfloat16"])
def test_openvino_gives_the_same_vectors(folder, images, wanted):
    pytest.importorskip("openvino")
    exact, other = Encoder.load(folder), Encoder.load(folder, precision=wanted, backend="openvino")
    assert (other.backend, other.precision) == ("openvino", wanted)
    for count in (1, 3):
        assert cosines(exact.encode_images(images[:count]), other.encode_images(images[:count])) > 0.999
        assert cosines(exact.encode_texts(TEXTS[:count]), other.encode_texts(TEXTS[:count])) > 0.999


def test_openvino_that_is_not_there_is_said(tiny, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(UserError, match=r"pip install 'biomedray\[openvino\]'"):
        Encoder.load(tiny, backend="openvino")
