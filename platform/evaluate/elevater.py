"""ELEVATER's way to a linear probe: SGD on a head behind a batch norm, learning rate and weight decay searched together.

    lr 1e-6 ... 1e-1 (6)  x  weight decay 1e-6 ... 1e6 (7 of 97), then steps of 8, 4, 2, 1 of the 97 round the best of each lr

Li et al., ELEVATER (2022), and its toolkit: SGD with Nesterov momentum 0.9, batches of 32, 10 epochs, BatchNorm1d without
weights before the linear layer, which may start from the text embeddings; of a large set at most 10,000 samples a class are
searched on, then all are trained on. Two things are otherwise here: a head is judged by its last epoch, where the toolkit takes
the best epoch, in its final run by the test set; and what was held out for the choice is not trained on in the end.

Heads that see the same batches are trained side by side as one tensor.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from biomedray.evaluate.heads import Chosen, Head, judged
from biomedray.evaluate.nested import nested

IntVector = NDArray[np.int64]
FloatMatrix = NDArray[np.float32]

RATES = tuple(10.0**power for power in range(-6, 0))
DECAYS = tuple(np.logspace(-6, 6, 97).tolist())
COARSE = tuple(range(0, 97, 16))
STEPS = (8, 4, 2, 1)
EPOCHS = 10
BATCH = 32
MOMENTUM = 0.9
MOST_SEARCHED = 10_000
"""Samples of a class that the search looks at."""

Pair = tuple[int, int]
"""Numbers of a learning rate and of a weight decay."""


@dataclass(frozen=True)
class Samples:
    """Features [n, D] and labels [n]."""

    features: FloatMatrix
    labels: IntVector


def search(train: Samples, validation: Samples, start: FloatMatrix, metric: str, seed: int, epochs: int = EPOCHS) -> Chosen:
    """The head with the best learning rate and weight decay on validation; ``start`` [D, K]: text embeddings, or zeros."""
    looked_at = _at_most(train, MOST_SEARCHED, seed)
    scores: dict[Pair, tuple[float, float]] = {}

    def attempt(pairs: set[Pair]) -> None:
        new = sorted(pair for pair in pairs - set(scores) if 0 <= pair[1] < len(DECAYS))
        if new:
            heads = _train(looked_at, start, new, seed, epochs)
            scores.update({pair: _judged(head, validation, metric) for pair, head in zip(new, heads, strict=True)})

    def best_of(rate: int) -> Pair:
        return max((pair for pair in scores if pair[0] == rate), key=lambda pair: (scores[pair], -pair[1]))

    attempt({(rate, decay) for rate in range(len(RATES)) for decay in COARSE})
    for step in STEPS:
        peaks = [best_of(rate) for rate in range(len(RATES))]
        attempt({(rate, decay + way) for rate, decay in peaks for way in (-step, step)})
    best = max(scores, key=lambda pair: (scores[pair], -pair[0], -pair[1]))
    head = _train(train, start, [best], seed, epochs)[0]
    return Chosen(head, {"lr": RATES[best[0]], "weight_decay": DECAYS[best[1]]}, max(scores[best][0], 0.0))


def _train(samples: Samples, start: FloatMatrix, pairs: list[Pair], seed: int, epochs: int) -> list[Head]:
    """A head for each pair, after the last epoch."""
    features, labels = torch.from_numpy(samples.features), torch.from_numpy(samples.labels)
    norm = torch.nn.BatchNorm1d(features.shape[1], affine=False)
    rate, decay = (torch.tensor([values[pair[i]] for pair in pairs])[:, None, None] for i, values in ((0, RATES), (1, DECAYS)))
    first = np.vstack([start, np.zeros((1, start.shape[1]), np.float32)])
    weight = torch.from_numpy(first).repeat(len(pairs), 1, 1)  # [heads, D + 1, K], the bias last
    speed = torch.zeros_like(weight)
    shuffled = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = torch.randperm(len(labels), generator=shuffled)
        for begin in range(0, len(order), BATCH):
            rows = order[begin : begin + BATCH]
            if len(rows) < 2:
                continue  # a batch norm has nothing to say of one sample
            x = torch.nn.functional.pad(norm(features[rows]), (0, 1), value=1.0)
            wrong = torch.softmax(x @ weight, dim=-1)
            wrong[:, torch.arange(len(rows)), labels[rows]] -= 1
            slope = x.T @ wrong / len(rows) + decay * weight
            speed = MOMENTUM * speed + slope
            weight = weight - rate * (slope + MOMENTUM * speed)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean, scale = norm.running_mean.numpy(), torch.sqrt(norm.running_var + norm.eps).numpy()
    return [Head(mean, scale, one[:-1], one[-1]) for one in weight.double().numpy()]


def _judged(head: Head, validation: Samples, metric: str) -> tuple[float, float]:
    with np.errstate(all="ignore"):
        logits = head.logits(validation.features)
    if not np.isfinite(logits).all():
        return -2.0, -np.inf  # it diverged
    return judged(logits, validation.labels, metric)


def _at_most(train: Samples, most: int, seed: int) -> Samples:
    largest = int(np.bincount(train.labels).max())
    if largest <= most:
        return train
    rows = nested(train.labels, [most / largest], seed)[0]
    return Samples(train.features[rows], train.labels[rows])
