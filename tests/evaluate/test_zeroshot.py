"""Zero-shot scores by arithmetic: prompts are averaged, ties count against accuracy and half in AUROC."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from biomedray.evaluate.zeroshot import accuracy, auroc, classifier

EYE = np.eye(3, dtype=np.float32)


def test_prompts_are_averaged_and_normalised():
    seen = []

    def encode(texts):
        seen.extend(texts)
        return np.array([[1, 0], [0, 1], [0, 1], [0, 1]], dtype=np.float32)

    found = classifier(["a", "b"], ["one {}", "{} two"], encode)
    assert seen == ["one a", "a two", "one b", "b two"]
    np.testing.assert_allclose(found, [[2**-0.5, 2**-0.5], [0, 1]], atol=1e-6)


def test_accuracy_counts_ties_against():
    labels = np.array([0, 1, 1])
    assert accuracy(EYE, EYE, labels) == pytest.approx(2 / 3)
    assert accuracy(np.ones((3, 3), np.float32), EYE, labels) == 0


def test_auroc_golden():
    classes = np.array([[1, 0], [0, 1]], dtype=np.float32)
    images = np.array([[1, 0], [0.4, 0.6], [0.5, 0.5], [0, 1]], dtype=np.float32)
    assert auroc(images, classes, np.array([0, 0, 1, 1])) == pytest.approx(3 / 4)
    assert auroc(np.ones((4, 2), np.float32), classes, np.array([0, 0, 1, 1])) == 0.5
    with pytest.raises(ValueError, match="needs two"):
        auroc(images, np.ones((3, 2), np.float32), np.array([0, 0, 1, 1]))


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=8), st.lists(st.integers(-5, 5), min_size=1, max_size=8))
def test_auroc_is_the_share_of_ordered_couples(zeros, ones):
    images = np.array([[0, value] for value in (*zeros, *ones)], dtype=np.float32)
    labels = np.array([0] * len(zeros) + [1] * len(ones))
    plain = np.mean([(one > zero) + (one == zero) / 2 for one in ones for zero in zeros])
    assert auroc(images, np.array([[0, 0], [0, 1]], np.float32), labels) == pytest.approx(plain)
