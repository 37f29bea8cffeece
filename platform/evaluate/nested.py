"""Nested stratified samples of a training split: the 1 % lie inside the 10 %, and those in all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from biomedray.evaluate.sets.resplit import assign

IntVector = NDArray[np.int64]

_HELD_OUT = (0.2, 0.5)


def nested(labels: IntVector, fractions: Sequence[float], seed: int) -> list[IntVector]:
    """Ascending row numbers for each fraction: of every class its share, rounded, one at least.

    A smaller fraction's rows are among a larger one's; the same labels and seed give the same rows.
    """
    order = {}
    for number in np.unique(labels):
        own = np.flatnonzero(labels == number)
        order[int(number)] = own[np.random.default_rng([seed, int(number)]).permutation(len(own))]
    found = []
    for fraction in fractions:
        chosen = [rows[: max(1, int(fraction * len(rows) + 0.5))] for rows in order.values()]
        found.append(np.sort(np.concatenate(chosen)))
    return found


def held_out(labels: IntVector, groups: Sequence[str], seed: int) -> tuple[IntVector, IntVector] | None:
    """Rows to fit on and rows to choose on: a fifth (else half) of each class, groups kept whole.

    None where a class has too few groups to be in both.
    """
    present = set(labels.tolist())
    for share in _HELD_OUT:
        split = np.array(assign(groups, labels.tolist(), {"fit": 1 - share, "choose": share}, seed))
        fit, choose = np.flatnonzero(split == "fit"), np.flatnonzero(split == "choose")
        if set(labels[fit].tolist()) == set(labels[choose].tolist()) == present:
            return fit, choose
    return None
