"""Inverted files of compressed vectors: how they are trained, filled, stored, and read for candidates.

    vectors -> k-means on a sample -> lists; each row as 1 bit a dimension (RaBitQ) or 8 (SQ8) in the list of its nearest centroid
    query -> nearest lists -> candidates by the codes -> (segment.py) ranked again by the exact vectors

How many lists are read goes with each call; the shared index object is never changed.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biomedray.serve.filters import Bits, Counts
from biomedray.serve.generation import Layout
from biomedray.serve.vectors import StoredRows

Matrix = NDArray[np.float32]
Rows = NDArray[np.int64]
Lists = NDArray[np.int32]

FLAT_ROWS = 50_000
"""Up to so many rows a segment is searched exactly: some ms of one core, and nothing to tune."""
_TRAINED_ROWS = 48
"""Rows of the sample for each list."""
_ITERATIONS = 6
_MOST_LISTS = 65_536
_MANY_ROWS = 150_000
_QUERY_BITS = 4
"""Bits that a query's coordinates are rounded to against 1-bit codes; with 0, unrounded, a search takes 50 times longer."""
_ADD_ROWS = 65_536


def choose_layout(rows: int, layout: str = "auto") -> Layout:
    """Exact for few rows, inverted lists of 1-bit codes for many; or what was asked for, where there are rows to train it."""
    if rows <= 64 or layout == "flat" or (layout == "auto" and rows <= FLAT_ROWS):
        return "flat"
    return "sq8" if layout == "sq8" else "rabitq"


def list_count(rows: int) -> int:
    """About 2 sqrt(n) lists, of many rows 4 sqrt(n); a power of two.

    Shorter lists hold fewer rows that are far from the query, but finding the nearest lists and training them costs more.
    """
    factor = 4 if rows >= _MANY_ROWS else 2
    return min(_MOST_LISTS, 1 << max(1, round(math.log2(factor * math.sqrt(rows)))))


def build_ivf(vectors: StoredRows, layout: Layout) -> tuple[Any, Lists]:
    """A faiss index of all rows, and the list [n] in which each lies.

    The sample (some 48 rows a list) and one block are all that is in memory as float32.
    """
    import faiss

    rows, dim = vectors.shape
    lists = list_count(rows)
    quantizer = faiss.IndexFlatIP(dim)
    if layout == "rabitq":
        index: Any = faiss.IndexIVFRaBitQ(quantizer, dim, lists, faiss.METRIC_INNER_PRODUCT)
        index.qb = _QUERY_BITS
    else:
        index = faiss.IndexIVFScalarQuantizer(quantizer, dim, lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT)
    index.cp.niter = _ITERATIONS
    index.cp.min_points_per_centroid = 1
    index.cp.max_points_per_centroid = _TRAINED_ROWS
    sample = np.sort(np.random.default_rng(rows).permutation(rows)[: _TRAINED_ROWS * lists])
    index.train(vectors.take(sample))
    for start in range(0, rows, _ADD_ROWS):
        index.add(vectors.take(np.arange(start, min(start + _ADD_ROWS, rows))))
    return index, _lists_of_rows(index, lists, rows)


def write_ivf(index: Any, path: Path) -> None:
    """Store a faiss index."""
    import faiss

    faiss.write_index(index, str(path))


class Ivf:
    """A loaded index; thread-safe."""

    def __init__(self, index: Any) -> None:
        self._index = index
        self.lists = int(index.nlist)
        self.rows = int(index.ntotal)
        self._centroids: Matrix = index.quantizer.reconstruct_n(0, self.lists)

    @classmethod
    def load(cls, data: bytes) -> Ivf:
        """From the bytes of a file whose checksum was compared.

        Raises:
            ValueError: it is another kind of index.
        """
        import faiss

        index = faiss.deserialize_index(np.frombuffer(data, np.uint8))
        if not isinstance(index, faiss.IndexIVFRaBitQ | faiss.IndexIVFScalarQuantizer):
            raise ValueError("not an inverted file")  # noqa: TRY004  # the file is wrong, not the argument
        return cls(index)

    def candidates(self, queries: Matrix, count: int, probes: int, bits: Bits | None = None) -> Rows:
        """[q, count] rows for queries [q, d], nearest by the codes first; -1 where the lists that are read hold no more."""
        import faiss

        settings: dict[str, Any] = {"nprobe": min(max(probes, 1), self.lists)}
        if bits is not None:
            settings["sel"] = faiss.IDSelectorBitmap(bits)  # type: ignore[call-arg, arg-type]  # faiss' stubs describe the C++ call
        rabitq = isinstance(self._index, faiss.IndexIVFRaBitQ)
        if rabitq:
            settings["qb"] = _QUERY_BITS
        kind: Any = faiss.IVFRaBitQSearchParameters if rabitq else faiss.SearchParametersIVF
        parameters = kind(**settings)
        found: Rows = self._index.search(queries, count, params=parameters)[1]
        return found

    def probes(self, vector: NDArray[np.float32], share: float, lists: Counts | None) -> int:
        """How many of the nearest lists are to be read; ``lists`` [lists] counts the rows of each that pass the filters.

        Without filters this share of the lists. With them, so many that they hold this share of the rows that pass, and that
        as many of them hold any: a filter that goes with the content (a journal) leaves rows in few lists, near the query or far.
        """
        wanted = math.ceil(share * self.lists)
        if lists is None:
            return wanted
        tally = lists[np.argsort(-(self._centroids @ vector))]
        holding = np.flatnonzero(tally)
        if not len(holding):
            return 1
        held = np.cumsum(tally)
        enough = int(np.searchsorted(held, share * held[-1]))
        return max(enough, int(holding[min(wanted, len(holding)) - 1])) + 1


def _lists_of_rows(index: Any, lists: int, rows: int) -> Lists:
    import faiss

    found: Lists = np.empty(rows, np.int32)
    for number in range(lists):
        size = index.invlists.list_size(number)
        if size:
            found[faiss.rev_swig_ptr(index.invlists.get_ids(number), size)] = number
    return found
