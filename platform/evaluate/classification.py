r"""Scores of a classifier from its logits: accuracy, balanced accuracy, macro-F1, AUROC and calibration error, quick to resample.

    labels, logits -> Answers -> metric(answers, name): row numbers -> value        (what a bootstrap draws)
                             \-> confusion, reliability                            (what a page draws)

A metric sorts and bins once and then only counts, so a thousand resamples cost a thousand passes over the rows. A resample may
miss a class; then

    accuracy, ece          are over the rows that there are
    balanced_accuracy      the mean recall of the classes that occur (scikit-learn)
    macro_f1               the mean F1 of the classes that occur or are predicted (scikit-learn)
    auroc                  of two classes: class 1 against class 0; of more: the mean of one against the rest over the classes
                           that occur beside others; NaN where there is one class only

A picture whose two best logits are equal is undecided: wrong for every metric, and counted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from biomedray.evaluate.stats import Interval, bootstrap

IntVector = NDArray[np.int64]
FloatVector = NDArray[np.float64]
FloatMatrix = NDArray[np.float64]

UNDECIDED = -1
BINS = 15
"""Of equal width in confidence; Guo et al., On Calibration of Modern Neural Networks (2017)."""

METRICS = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "ece")


@dataclass(frozen=True)
class Answers:
    """What a classifier says of n pictures of K classes."""

    labels: IntVector
    logits: FloatMatrix

    @classmethod
    def of(cls, labels: ArrayLike, logits: ArrayLike) -> Answers:
        """Labels [n] and logits [n, K].

        Raises:
            ValueError: shapes do not fit, a label is no class, or a logit is not finite.
        """
        found = cls(np.asarray(labels, np.int64), np.asarray(logits, np.float64))
        n, classes = found.logits.shape if found.logits.ndim == 2 else (-1, 0)
        if found.labels.shape != (n,) or classes < 2:
            raise ValueError(f"labels {found.labels.shape} and logits {found.logits.shape} do not fit")
        if n and not (found.labels.min() >= 0 and found.labels.max() < classes):
            raise ValueError(f"labels {found.labels.min()} to {found.labels.max()} of {classes} classes")
        if not np.isfinite(found.logits).all():
            raise ValueError("a logit is not finite")
        return found

    @property
    def classes(self) -> int:
        """K."""
        return int(self.logits.shape[1])

    @cached_property
    def probabilities(self) -> FloatMatrix:
        """[n, K] softmax of the logits."""
        shifted = np.exp(self.logits - self.logits.max(axis=1, keepdims=True))
        return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), np.float64)

    @cached_property
    def predicted(self) -> IntVector:
        """[n] class with the largest logit, ``UNDECIDED`` where two are the largest."""
        best = self.logits.max(axis=1, keepdims=True)
        tied = (self.logits == best).sum(axis=1) > 1
        return np.where(tied, UNDECIDED, self.logits.argmax(axis=1)).astype(np.int64)

    def margin(self, number: int) -> FloatVector:
        """[n] log-odds of one class against all others: orders as its probability does, and never saturates."""
        others = np.delete(self.logits, number, axis=1)
        return np.asarray(self.logits[:, number] - np.logaddexp.reduce(others, axis=1), np.float64)


Metric = Callable[[IntVector], float]


def metric(answers: Answers, name: str) -> Metric:
    """The metric of any rows, given by their numbers with repeats; see the module for the names.

    Raises:
        ValueError: no such metric.
    """
    if name not in METRICS:
        raise ValueError(f"no metric {name}; there are {', '.join(METRICS)}")
    counted = {"auroc": _auroc, "ece": _ece}.get(name, _from_confusion(name))(answers)
    n = len(answers.labels)
    return lambda rows: counted(np.bincount(rows, minlength=n).astype(np.float64))


def score(answers: Answers, clusters: Sequence[str] | IntVector, resamples: int = 1000, seed: int = 0) -> dict[str, Interval]:
    """Every metric with its 95 % interval over clusters, all from the same draws."""
    return {name: bootstrap(metric(answers, name), clusters, resamples, seed) for name in METRICS}


def value(answers: Answers, name: str) -> float:
    """The metric of all rows."""
    return metric(answers, name)(np.arange(len(answers.labels)))


def confusion(answers: Answers, weights: FloatVector | None = None) -> FloatMatrix:
    """[K, K + 1] pictures by true class (row) and predicted one; the last column holds the undecided."""
    classes = answers.classes
    cells = _cells(answers)
    counted = np.bincount(cells, weights=weights, minlength=classes * (classes + 1))
    return counted.reshape(classes, classes + 1).astype(np.float64)


@dataclass(frozen=True)
class Bin:
    """Pictures whose confidence is alike: a reliability diagram plots accuracy against confidence."""

    confidence: float
    accuracy: float
    pictures: int


def reliability(answers: Answers, bins: int = BINS) -> list[Bin]:
    """The bins that hold pictures, from the least to the most confident."""
    number, confidence, correct = _binned(answers, bins)
    sizes = np.bincount(number, minlength=bins)
    sums = (np.bincount(number, weights=values, minlength=bins) for values in (confidence, correct))
    sure, right = (total / np.maximum(sizes, 1) for total in sums)
    return [Bin(float(sure[i]), float(right[i]), int(sizes[i])) for i in np.flatnonzero(sizes)]


def plain(intervals: dict[str, Interval]) -> dict[str, dict[str, float | None]]:
    """Intervals as JSON takes them; NaN becomes null."""
    return {
        name: {key: None if np.isnan(number) else float(number) for key, number in dataclasses.asdict(found).items()}
        for name, found in intervals.items()
    }


Counted = Callable[[FloatVector], float]


def _cells(answers: Answers) -> IntVector:
    classes = answers.classes
    column = np.where(answers.predicted == UNDECIDED, classes, answers.predicted)
    return np.asarray(answers.labels * (classes + 1) + column, np.int64)


def _from_confusion(name: str) -> Callable[[Answers], Counted]:
    def make(answers: Answers) -> Counted:
        classes, cells = answers.classes, _cells(answers)

        def counted(weights: FloatVector) -> float:
            table = np.bincount(cells, weights=weights, minlength=classes * (classes + 1)).reshape(classes, classes + 1)
            right, true, guessed = np.diagonal(table), table.sum(axis=1), table[:, :-1].sum(axis=0)
            if name == "accuracy":
                return float(right.sum() / true.sum())
            if name == "balanced_accuracy":
                return float((right[true > 0] / true[true > 0]).mean())
            seen = true + guessed > 0
            return float((2 * right[seen] / (true + guessed)[seen]).mean())

        return counted

    return make


def _auroc(answers: Answers) -> Counted:
    """Mann and Whitney's: how often a picture of the class is ahead of another one; a tie counts one half."""
    chosen = [1] if answers.classes == 2 else range(answers.classes)
    tests = [(answers.labels == number, *_levels(answers.margin(number))) for number in chosen]

    def counted(weights: FloatVector) -> float:
        found = []
        for own, level, levels in tests:
            ahead = np.bincount(level, weights=weights * own, minlength=levels)
            behind = np.bincount(level, weights=weights * ~own, minlength=levels)
            pairs = ahead.sum() * behind.sum()
            if pairs > 0:
                below = np.cumsum(behind) - behind
                found.append(float((ahead * (below + behind / 2)).sum() / pairs))
        return float(np.mean(found)) if found else float("nan")

    return counted


def _levels(values: FloatVector) -> tuple[IntVector, int]:
    """The rank of each value among the different ones, and how many different ones there are."""
    different, level = np.unique(values, return_inverse=True)
    return level.astype(np.int64), len(different)


def _ece(answers: Answers) -> Counted:
    number, confidence, correct = _binned(answers, BINS)
    gap = confidence - correct

    def counted(weights: FloatVector) -> float:
        return float(np.abs(np.bincount(number, weights=weights * gap, minlength=BINS)).sum() / weights.sum())

    return counted


def _binned(answers: Answers, bins: int) -> tuple[IntVector, FloatVector, FloatVector]:
    """Of each picture: the number of its bin [i / bins, (i + 1) / bins), its confidence, and whether it is right."""
    confidence = answers.probabilities.max(axis=1)
    edges = np.linspace(0, 1, bins + 1)
    number = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, bins - 1)
    return number.astype(np.int64), confidence, (answers.predicted == answers.labels).astype(np.float64)
