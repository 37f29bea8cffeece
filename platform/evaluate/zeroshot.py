"""Zero-shot classification as arithmetic on vectors: prompts to a classifier, then accuracy and, of two classes, AUROC.

As in the CLIP paper (section 3.1.4): a class is the normalised mean of its prompts' unit vectors, the answer the class with
the largest cosine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Labels = NDArray[np.int64]


def classifier(names: Sequence[str], templates: Sequence[str], encode: Callable[[list[str]], Vectors]) -> Vectors:
    """[classes, D] unit vectors; ``encode`` turns texts into [n, D] unit vectors, a template holds {} for the name."""
    prompts = encode([template.replace("{}", name) for name in names for template in templates])
    means = prompts.reshape(len(names), len(templates), -1).mean(axis=1)
    vectors: Vectors = means / np.linalg.norm(means, axis=1, keepdims=True).clip(1e-12)
    return vectors


def accuracy(images: Vectors, classes: Vectors, labels: Labels) -> float:
    """Share of [n, D] images whose best class is their own; a tie with another class counts as wrong."""
    scores = images @ classes.T
    own = scores[np.arange(len(labels)), labels]
    return float(((scores >= own[:, None]).sum(axis=1) == 1).mean())


def auroc(images: Vectors, classes: Vectors, labels: Labels) -> float:
    """Of two classes: how often an image of class 1 leans further to it than one of class 0; a tie counts one half."""
    if len(classes) != 2:
        raise ValueError(f"{len(classes)} classes: AUROC needs two")
    lean = images @ (classes[1] - classes[0])
    ones, zeros = lean[labels == 1], np.sort(lean[labels == 0])
    below = np.searchsorted(zeros, ones, side="left") + np.searchsorted(zeros, ones, side="right")
    return float(below.mean() / 2 / len(zeros))
