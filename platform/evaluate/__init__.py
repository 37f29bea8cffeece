"""Evaluate: held-out pairs and a model in, scores with honest error bars out.

    pairs + model -> embed (Ray Data, once) ==[embeddings]==> retrieval -> ranks -> recalls, intervals ==[scores]==> report

``retrieval`` is the paper's cross-modal benchmark: find the caption of a figure and the figure of a
caption among all held-out ones.
"""

from __future__ import annotations

from pathlib import Path

from biomedray.artifacts import Manifest
from biomedray.records import Split


def retrieval(pairs: Path, model: str, out: Path, split: Split = "test", progress: bool = True) -> Manifest:
    """Recall at 1, 5 and 10 both ways on one split, against chance, as a scores artifact.

    Raises:
        UserError: an input is no such artifact, the split is too small, or ``out`` is taken.
    """
    from biomedray.evaluate.scores import write_retrieval_scores

    return write_retrieval_scores(pairs, model, out, split, progress)
