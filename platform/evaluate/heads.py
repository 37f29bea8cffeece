r"""Linear heads on fixed features by L-BFGS: logistic regression, plain or tied to the text head, its C chosen on validation.

    features -> standardised z -> z V + b                 plain: the norm of V is penalised (scikit-learn)
                              \-> text logits + z V + b   text: V and b are what is added to zero-shot, and penalised both

With the text head a small C leaves zero-shot as it is and a large one frees the head, so validation decides how far to go: a
warm start alone would change nothing, since the problem is convex. C is searched as in the CLIP paper (appendix A.3):
seven powers from 1e-6 to 1e6, then halving steps round the best one, here to a quarter of a decade.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biomedray.evaluate.classification import Answers, value

IntVector = NDArray[np.int64]
FloatMatrix = NDArray[np.float32]
Float64 = NDArray[np.float64]

COARSE = (-6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0)
"""Powers of ten."""
STEPS = (1.0, 0.5, 0.25)
ITERATIONS = 1000
FALLBACK_C = 1.0
"""Where there is nothing to choose on."""

_ABSENT = 50.0


@dataclass(frozen=True)
class Head:
    """Features [n, D] to logits [n, K]."""

    mean: FloatMatrix
    scale: FloatMatrix
    weight: Float64
    """[D, K] on standardised features."""
    bias: Float64
    """[K]"""
    text: FloatMatrix | None = None
    """[D, K] on the features themselves, added."""
    absent: tuple[int, ...] = ()
    """Classes that training had no sample of: never the answer."""
    converged: bool = True

    def logits(self, features: FloatMatrix) -> Float64:
        """[n, K] of features [n, D]."""
        found = ((features - self.mean) / self.scale).astype(np.float64) @ self.weight + self.bias
        if self.text is not None:
            found += features @ self.text
        if self.absent:
            present = np.delete(found, self.absent, axis=1)
            found[:, self.absent] = present.min(axis=1, keepdims=True) - _ABSENT
        return found


@dataclass(frozen=True)
class Chosen:
    """A head with what was chosen for it, and how it did where it was chosen."""

    head: Head
    setting: dict[str, float]
    score: float | None
    """The set's metric on the validation samples; None: there were none."""


Fit = Callable[[float], Head]


def fit_plain(features: FloatMatrix, labels: IntVector, classes: int, c: float) -> Head:
    """Multinomial logistic regression with inverse penalty ``c``, on standardised features."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    mean, scale = _moments(features)
    present = np.unique(labels)
    weight, bias = np.zeros((features.shape[1], classes)), np.zeros(classes)
    absent = tuple(sorted(set(range(classes)) - set(present.tolist())))
    converged = True
    if len(present) > 1:
        solver = LogisticRegression(C=c, max_iter=ITERATIONS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            solver.fit((features - mean) / scale, labels)
        converged = bool(solver.n_iter_.max() < ITERATIONS)
        columns = present if len(present) > 2 else present[1:]  # of two classes there is one row: the second's log-odds
        weight[:, columns], bias[columns] = solver.coef_.T, solver.intercept_
    return Head(mean, scale, weight, bias, absent=absent, converged=converged)


def fit_to_text(features: FloatMatrix, labels: IntVector, text: FloatMatrix, c: float) -> Head:
    """Logistic regression whose penalty is the distance to the text head.

    Args:
        features: [n, D].
        labels: [n]
        text: [D, K], logit scale included: ``features @ text`` are the zero-shot logits.
        c: inverse penalty, counted as scikit-learn does.
    """
    from scipy.optimize import minimize

    mean, scale = _moments(features)
    z = np.hstack([(features - mean) / scale, np.ones((len(features), 1), np.float32)])
    offset = (features @ text).astype(np.float64)
    shape, n = (z.shape[1], text.shape[1]), len(labels)

    def objective(flat: Float64) -> tuple[float, Float64]:
        added = flat.reshape(shape)
        logits = offset + z @ added.astype(np.float32)
        log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        wrong = np.exp(log_p)
        wrong[np.arange(n), labels] -= 1
        loss = -log_p[np.arange(n), labels].mean() + (flat @ flat) / (2 * c * n)
        slope = (z.T @ wrong.astype(np.float32)).astype(np.float64).ravel() / n + flat / (c * n)
        return float(loss), slope

    options = {"maxiter": ITERATIONS, "gtol": 1e-4, "ftol": 64 * np.finfo(float).eps, "maxls": 50}
    found: Any = minimize(objective, np.zeros(shape[0] * shape[1]), jac=True, method="L-BFGS-B", options=options)
    added = found.x.reshape(shape)
    return Head(mean, scale, added[:-1], added[-1], text=text, converged=found.nit < ITERATIONS)


def choose(fit: Fit, features: FloatMatrix, labels: IntVector, metric: str) -> Chosen:
    """The head whose C does best on these samples: by the metric, then by log loss, then the smaller C."""
    tried: dict[float, tuple[tuple[float, float, float], Head]] = {}

    def attempt(power: float) -> None:
        if power not in tried and COARSE[0] <= power <= COARSE[-1]:
            head = fit(10**power)
            tried[power] = ((*judged(head.logits(features), labels, metric), -power), head)

    for power in COARSE:
        attempt(power)
    for step in STEPS:
        best = max(tried, key=lambda power: tried[power][0])
        attempt(best - step)
        attempt(best + step)
    power = max(tried, key=lambda power: tried[power][0])
    (score, _, _), head = tried[power]
    return Chosen(head, {"C": 10**power}, score)


def judged(logits: Float64, labels: IntVector, metric: str) -> tuple[float, float]:
    """The metric (-1 where it does not exist) and the negative log loss."""
    answers = Answers.of(labels, logits)
    found = value(answers, metric)
    loss = np.logaddexp.reduce(answers.logits, axis=1) - answers.logits[np.arange(len(labels)), answers.labels]
    return (-1.0 if np.isnan(found) else found), -float(loss.mean())


def _moments(features: FloatMatrix) -> tuple[FloatMatrix, FloatMatrix]:
    """Mean and standard deviation of each feature; a constant one is only shifted."""
    scale = features.std(axis=0, dtype=np.float64)
    scale[scale < 1e-7] = 1
    return features.mean(axis=0, dtype=np.float64).astype(np.float32), scale.astype(np.float32)
