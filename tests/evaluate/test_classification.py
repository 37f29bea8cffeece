"""Metrics against scikit-learn and torchmetrics on random cases, and what a resample without a class gives."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics as sk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional import classification as tm

from biomedray.evaluate.classification import (
    METRICS,
    UNDECIDED,
    Answers,
    confusion,
    metric,
    plain,
    reliability,
    score,
    value,
)


def random_answers(n, classes, seed, spread=2.0, grid=None):
    """Every class occurs; with a grid, logits repeat, so that scores tie."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, max(0, n - classes))])
    logits = rng.normal(0, spread, (len(labels), classes))
    logits[np.arange(len(labels)), labels] += 1
    return Answers.of(labels, np.round(logits * grid) / grid if grid else logits)


CASES = st.tuples(st.integers(4, 60), st.integers(2, 5), st.integers(0, 10**6), st.sampled_from([0.3, 2.0, 8.0]))


@settings(max_examples=30)
@given(CASES)
def test_equal_to_scikit_learn(case):
    answers = random_answers(*case)
    labels, predicted = answers.labels, answers.predicted
    assert value(answers, "accuracy") == pytest.approx(sk.accuracy_score(labels, predicted))
    assert value(answers, "balanced_accuracy") == pytest.approx(sk.balanced_accuracy_score(labels, predicted))
    assert value(answers, "macro_f1") == pytest.approx(sk.f1_score(labels, predicted, average="macro"))
    assert np.array_equal(confusion(answers)[:, :-1], sk.confusion_matrix(labels, predicted, labels=range(answers.classes)))
    given_scores = answers.probabilities[:, 1] if answers.classes == 2 else answers.probabilities
    assert value(answers, "auroc") == pytest.approx(sk.roc_auc_score(labels, given_scores, multi_class="ovr"), abs=1e-9)


@settings(max_examples=25)
@given(CASES)
def test_equal_to_torchmetrics(case):
    """Torchmetrics keeps a bin of its own for confidences of exactly 1, so none is here."""
    answers = random_answers(*case[:3], spread=1.5)
    labels, logits = torch.tensor(answers.labels), torch.tensor(answers.probabilities)
    classes = answers.classes
    assert value(answers, "ece") == pytest.approx(float(tm.multiclass_calibration_error(logits, labels, classes)), abs=1e-6)
    assert value(answers, "auroc") == pytest.approx(float(tm.multiclass_auroc(logits, labels, classes)), abs=1e-6)
    assert value(answers, "accuracy") == pytest.approx(float(tm.multiclass_accuracy(logits, labels, classes, average="micro")))


@settings(max_examples=40)
@given(st.integers(4, 40), st.integers(0, 10**6))
def test_tied_scores_count_one_half(n, seed):
    answers = random_answers(n, 2, seed, grid=1)
    margin = answers.margin(1)
    assert value(answers, "auroc") == pytest.approx(sk.roc_auc_score(answers.labels, margin))
    ones, zeros = margin[answers.labels == 1], margin[answers.labels == 0]
    assert value(answers, "auroc") == pytest.approx(np.mean([(a > b) + (a == b) / 2 for a in ones for b in zeros]))


@settings(max_examples=40)
@given(CASES, st.integers(0, 1000))
def test_a_resample_is_scored_as_if_it_were_the_set(case, seed):
    answers = random_answers(*case)
    rows = np.random.default_rng(seed).integers(0, len(answers.labels), len(answers.labels))
    drawn = Answers.of(answers.labels[rows], answers.logits[rows])
    for name in METRICS:
        assert metric(answers, name)(rows) == pytest.approx(value(drawn, name), nan_ok=True)


def test_a_class_that_is_missing():
    answers = Answers.of([0, 0, 1, 2], [[3, 0, 0], [0, 3, 0], [0, 3, 0], [0, 0, 3]])
    rows = np.array([0, 0, 1])  # only class 0; once class 1 is said
    assert metric(answers, "accuracy")(rows) == pytest.approx(2 / 3)
    assert metric(answers, "balanced_accuracy")(rows) == pytest.approx(2 / 3)
    assert metric(answers, "macro_f1")(rows) == pytest.approx((0.8 + 0) / 2)
    assert np.isnan(metric(answers, "auroc")(rows))
    two = metric(answers, "auroc")(np.array([0, 2]))  # classes 0 and 1 are in it, 2 is not
    assert two == 1
    assert plain(score(answers, [0, 0, 0, 0], 20))["accuracy"] == {"value": 0.75, "low": 0.75, "high": 0.75}


def test_an_auroc_that_does_not_exist_is_null():
    answers = Answers.of([1, 1], [[0.0, 1], [1, 0]])
    assert plain(score(answers, [0, 1], 20))["auroc"] == {"value": None, "low": None, "high": None}


def test_a_model_that_says_the_same_of_everything_decides_nothing():
    answers = Answers.of([0, 1, 1], np.zeros((3, 2)))
    assert answers.predicted.tolist() == [UNDECIDED] * 3
    assert [value(answers, name) for name in METRICS] == [0, 0, 0, 0.5, 0.5]
    assert confusion(answers).tolist() == [[0, 0, 1], [0, 0, 2]]


def test_saturated_probabilities_still_order():
    """At a scale of 100 softmax is 1.0 in floats for many pictures; the logits know better."""
    logits = np.array([[0, 40.0], [0, 60], [0, 80], [0, 100]])
    answers = Answers.of([0, 1, 0, 1], logits)
    assert len(set(answers.probabilities[:, 1])) < 4
    assert value(answers, "auroc") == pytest.approx(0.75)


def test_reliability_adds_up_to_the_calibration_error():
    answers = random_answers(500, 3, 7)
    bins = reliability(answers)
    assert sum(one.pictures for one in bins) == 500
    error = sum(one.pictures * abs(one.confidence - one.accuracy) for one in bins) / 500
    assert error == pytest.approx(value(answers, "ece"))
    assert [one.confidence for one in bins] == sorted(one.confidence for one in bins)


def test_intervals_follow_the_clusters():
    """Ten copies of each picture tell no more than one."""
    single = random_answers(60, 2, 3)
    copies = Answers.of(np.repeat(single.labels, 10), np.repeat(single.logits, 10, axis=0))
    wide = score(copies, np.repeat(np.arange(60), 10), 200)
    narrow = score(copies, np.arange(600), 200)
    alone = score(single, np.arange(60), 200)
    for name in ("accuracy", "auroc"):
        width = {key: found[name].high - found[name].low for key, found in (("w", wide), ("n", narrow), ("a", alone))}
        assert width["w"] == pytest.approx(width["a"], rel=0.25)
        assert width["n"] < width["w"] / 2


def test_what_does_not_fit_is_an_error():
    for labels, logits in (([0, 1], [[1, 2]]), ([0], [[1]]), ([2], [[1, 2]]), ([-1], [[1, 2]]), ([0], [[1, np.nan]])):
        with pytest.raises(ValueError, match=r"labels|logit"):
            Answers.of(labels, np.array(logits, float))
    with pytest.raises(ValueError, match="no metric kappa"):
        metric(random_answers(5, 2, 0), "kappa")
