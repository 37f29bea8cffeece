r"""Evaluate: held-out pairs and a model in, scores with honest error bars out.

    pairs + model -> embed (Ray Data, once) ==[embeddings]==> retrieval -> ranks -> recalls, intervals ==[scores]==> report

    labelled set + model -> embed -> zeroshot: prompts -> nearest class   \ metrics, intervals over patients, slides or
                                  \-> probe: 1, 10, 100 % of training -> /  pictures ==[scores]==> report

``retrieval`` is the paper's cross-modal benchmark: find the caption of a figure and the figure of a
caption among all held-out ones. ``zeroshot`` and ``probe`` are its image classification (Fig. 3), on any layout of
``biomedray.evaluate.sets``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from biomedray.artifacts import Manifest

if TYPE_CHECKING:
    from biomedray.evaluate.labelled import Choice, Located
    from biomedray.evaluate.models import Model


def retrieval(
    pairs: Path,
    model: str,
    out: Path,
    split: str = "test",
    *,
    by: Literal["caption", "figure"] = "caption",
    ann: str | None = None,
    limit: int | None = None,
    options: Mapping[str, str] | None = None,
    embeddings: Path | None = None,
    resamples: int = 1000,
    against: Sequence[Path] = (),
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
        options: of a set of captions, as ``evaluate.captioned.open_captioned`` takes them.
        embeddings: a folder in which embeddings are kept and found again; by default inside ``out``.
        resamples: draws of each bootstrap interval.
        against: pairs that the model was trained on, for the leak check; by default the train split of ``pairs``.
        progress: show bars.

    Raises:
        UserError: an input is no such artifact, the split is too small, or ``out`` is taken.
    """
    from biomedray.evaluate.scores import Options, write_retrieval_scores

    chosen = Options(by, ann, limit, options or {}, embeddings, resamples, against, progress)
    return write_retrieval_scores(pairs, model, out, split, chosen)


def zeroshot(
    data: Path | Sequence[Path],
    model: str,
    out: Path,
    *,
    layout: str | None = None,
    split: str = "test",
    choice: Choice | None = None,
    embeddings: Path | None = None,
    resamples: int = 1000,
    against: Sequence[Path] = (),
    progress: bool = True,
) -> Manifest:
    """Classify labelled images by prompts; several sets give the paper's table, each set's scores in a folder of ``out``.

    Args:
        data: sets in any layout of ``evaluate.sets``; the folder of LC25000 holds two.
        model: as ``evaluate.models.open_model`` takes it.
        out: folder for the scores.
        layout: name of the layout; recognised by what is on disk where it is not given.
        split: train, val or test.
        choice: options of the layout, prompts and a limit.
        embeddings: a folder in which embeddings are kept and found again; by default inside ``out``.
        resamples: draws of each bootstrap interval.
        against: pairs artifacts that the model was trained on, for the leak check.
        progress: show bars.

    Raises:
        UserError: a set is not whole or has no such split, the model can't be loaded, or ``out`` is taken.
    """
    from biomedray.evaluate.paper_table import write_table
    from biomedray.evaluate.zero_shot import write_zero_shot

    sets, opened = _opened([data] if isinstance(data, Path) else data, model, layout, choice, split)
    more: dict[str, Any] = {"store": embeddings, "resamples": resamples, "against": against, "progress": progress}
    if len(sets) > 1:
        return write_table(sets, split, model, opened, out, **more)
    found, where = sets[0]
    return write_zero_shot(found, where, split, model, opened, out, **more)


def probe(
    data: Path,
    model: str,
    out: Path,
    *,
    layout: str | None = None,
    split: str = "test",
    fractions: Sequence[float] = (0.01, 0.1, 1.0),
    seeds: Sequence[int] = (0, 1, 2),
    head: Literal["zero", "text"] = "zero",
    search: Literal["lbfgs", "elevater"] = "lbfgs",
    floor: bool = False,
    choice: Choice | None = None,
    embeddings: Path | None = None,
    resamples: int = 1000,
    against: Sequence[Path] = (),
    progress: bool = True,
) -> Manifest:
    """Train linear heads on shares of a set's training split and test them, as a scores artifact.

    Args:
        data: one set in any layout of ``evaluate.sets``; one without splits is cut, and the scores say so.
        model: as ``evaluate.models.open_model`` takes it.
        out: folder for the scores.
        layout: as ``zeroshot``.
        split: what is tested on.
        fractions: shares of the training split; the smaller samples lie in the larger ones.
        seeds: of the samples.
        head: what the head starts from, and with lbfgs is tied to: nothing, or the prompts' embeddings.
        search: logistic regression with C chosen on validation, or ELEVATER's search of learning rate and weight decay.
        floor: probe the raw pixels at 28 px too.
        choice: as ``zeroshot``.
        embeddings: as ``zeroshot``, and shared with it.
        resamples: draws of each bootstrap interval.
        against: as ``zeroshot``.
        progress: show bars.

    Raises:
        UserError: as ``zeroshot``; there is no training split; a setting is off.
    """
    from biomedray.errors import UserError
    from biomedray.evaluate.linear_probe import Settings, write_linear_probe

    settings = Settings(tuple(fractions), tuple(seeds), head, search, floor, resamples)
    settings.check()
    sets, opened = _opened([data], model, layout, choice, None)
    if len(sets) > 1:
        raise UserError(f"{data}: holds several sets ({', '.join(one.layout for one, _ in sets)}); choose one with --layout")
    found, where = sets[0]
    more: dict[str, Any] = {"store": embeddings, "against": against, "progress": progress}
    return write_linear_probe(found, where, split, model, opened, out, settings, **more)


def _opened(
    data: Sequence[Path], model: str, layout: str | None, choice: Choice | None, split: str | None
) -> tuple[list[Located], Model]:
    """The sets with where they lie, and the model; ``split`` is the only one that a limit has to cut."""
    from dataclasses import replace

    from biomedray.evaluate.labelled import Choice, limited, open_all
    from biomedray.evaluate.models import best_device, open_model

    chosen = choice or Choice()
    chosen = replace(chosen, layout=layout) if layout else chosen
    sets = [(limited(one, chosen.limit, split), where) for one, where in open_all(data, chosen)]
    return sets, open_model(model, best_device())


def compare(a: Path, b: Path, out: Path, resamples: int = 1000) -> Manifest:
    """Two scores artifacts of one task (retrieval, zeroshot, probe) on the same samples, as a scores artifact.

    Raises:
        UserError: they can't be compared, or ``out`` is taken.
    """
    from biomedray.evaluate.comparison import write_comparison

    return write_comparison(a, b, out, resamples)


def leak(
    data: Path,
    pairs: Sequence[Path],
    out: Path,
    *,
    split: str = "test",
    layout: str | None = None,
    options: Mapping[str, str] | None = None,
    progress: bool = True,
) -> Manifest:
    """What of a set was in training pairs, by bytes, look, article, caption or id; a scores artifact with all matches.

    Args:
        data: a pairs artifact, images with captions, or a labelled set.
        pairs: the pairs artifacts that a model was trained on; their train split counts.
        out: folder for scores.json and leak.parquet.
        split: of ``data``.
        layout: of a labelled set, if it is to be taken as one.
        options: of the set.
        progress: show bars.

    Raises:
        UserError: the set can't be read, a pairs artifact is none, or ``out`` is taken.
    """
    from biomedray.evaluate.leaks import write_leak
    from biomedray.evaluate.store import open_any

    return write_leak(open_any(data, layout, options), split, list(pairs), out, progress)
