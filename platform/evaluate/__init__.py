"""Evaluate: held-out pairs and a model in, scores with honest error bars out.

    pairs + model -> embed (Ray Data, once) ==[embeddings]==> retrieval -> ranks -> recalls, intervals ==[scores]==> report

``retrieval`` is the paper's cross-modal benchmark: find the caption of a figure and the figure of a
caption among all held-out ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from biomedray.artifacts import Manifest


def retrieval(
    pairs: Path,
    model: str,
    out: Path,
    split: str = "test",
    *,
    by: Literal["caption", "figure"] = "caption",
    ann: str | None = None,
    limit: int | None = None,
    embeddings: Path | None = None,
    resamples: int = 1000,
    progress: bool = True,
) -> Manifest:
    """Recall at 1, 5 and 10 both ways on one split, against chance, as a scores artifact.

    Args:
        pairs: a pairs artifact, or a set of images with captions.
        model: as ``evaluate.models.open_model`` takes it.
        out: folder for the scores.
        split: train, val or test.
        by: what makes pairs gold for each other: the same caption, or the same figure.
        ann: score an approximate index too, as the paper did: "auto" or a key of faiss.index_factory.
        limit: the first so many pairs of the split only.
        embeddings: a folder in which embeddings are kept and found again; by default inside ``out``.
        resamples: draws of each bootstrap interval.
        progress: show bars.

    Raises:
        UserError: an input is no such artifact, the split is too small, or ``out`` is taken.
    """
    from biomedray.evaluate.scores import Options, write_retrieval_scores

    options = Options(by, ann, limit, embeddings, resamples, progress)
    return write_retrieval_scores(pairs, model, out, split, options)
