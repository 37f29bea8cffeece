"""How near is near: the cosines of random (query, row) pairs of an index, as quantiles that turn a score into a percentile."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]

_TAIL = 1 - np.geomspace(1e-2, 1e-5, 31)
SHARES: list[float] = [round(float(share), 8) for share in (*np.linspace(0, 0.98, 99), *_TAIL, 1.0)]
"""Shares of random pairs at which quantiles are kept: every percent, and finer where the hits are."""
LEAST_PAIRS = 1_000


def quantiles(queries: Matrix, rows: Matrix) -> list[float] | None:
    """Cosines [len(SHARES)] of all pairs of queries [n, d] and rows [n, d] but those of one figure (equal places).

    None where there are too few of them to say anything.
    """
    count = len(queries)
    if count * (count - 1) < LEAST_PAIRS:
        return None
    cosines = queries @ rows.T
    others = cosines[~np.eye(count, dtype=bool)]
    return [round(float(value), 6) for value in np.quantile(others, SHARES)]


def percentiles(scores: NDArray[np.float32], table: Sequence[float] | None) -> list[float | None]:
    """Share in % of random pairs whose cosine is lower than each score, 100 above all of them; None without a table."""
    if table is None:
        return [None] * len(scores)
    found: list[float | None] = np.round(100 * np.interp(scores, table, SHARES), 3).tolist()
    return found
