"""Zero-shot classification: prompts to a classifier, every picture to its nearest class, each template also alone.

    classes x templates -> texts -> unit vectors -> mean over templates, unit again -> [K, D]
    pictures [n, D] -> logits = scale * cosine -> argmax, softmax -> scores, intervals, confusion, reliability

As in the CLIP paper (section 3.1.4) and in ELEVATER. A class is one of the paper's Supplementary Table 10 where the set is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biomedray.artifacts import Manifest, claim_output
from biomedray.evaluate import leaks
from biomedray.evaluate.classification import METRICS, Answers, confusion, plain, reliability, score, value
from biomedray.evaluate.labelled import EMBEDDINGS, Clock, Vectors, described, finish, inputs_of, vectors_of, write_samples
from biomedray.evaluate.models import Model
from biomedray.evaluate.sets import ImageSet

FloatMatrix = NDArray[np.float32]
IntVector = NDArray[np.int64]
Encode = Callable[[list[str]], FloatMatrix]


def classifier(names: Sequence[str], templates: Sequence[str], encode: Encode) -> FloatMatrix:
    """[classes, D] unit vectors; ``encode`` turns texts into [n, D] unit vectors, a template holds {} for the name."""
    return _mean(prompt_vectors(names, templates, encode))


def prompt_vectors(names: Sequence[str], templates: Sequence[str], encode: Encode) -> FloatMatrix:
    """[classes, templates, D] unit vectors of every prompt."""
    prompts = encode([template.replace("{}", name) for name in names for template in templates])
    return prompts.reshape(len(names), len(templates), -1)


def logits(images: FloatMatrix, classes: FloatMatrix, scale: float = 1.0) -> NDArray[np.float64]:
    """[n, K] scaled cosines of [n, D] pictures and [K, D] classes, each class by itself: equal classes give equal numbers."""
    return scale * np.stack([images @ vector for vector in classes], axis=1).astype(np.float64)


def _mean(prompts: FloatMatrix) -> FloatMatrix:
    means = prompts.mean(axis=1)
    vectors: FloatMatrix = means / np.linalg.norm(means, axis=1, keepdims=True).clip(1e-12)
    return vectors


@dataclass(frozen=True)
class Judged:
    """The answers with all templates, and how each does alone."""

    answers: Answers
    alone: dict[str, dict[str, float]]
    """Template -> metric -> value."""


def judge(vectors: Vectors, data: ImageSet, encode: Encode, scale: float) -> Judged:
    """Classify every picture by the set's prompts."""
    prompts = prompt_vectors(data.prompts, data.templates, encode)
    images, labels = vectors.embedded.images, vectors.embedded.labels
    alone = {}
    for number, template in enumerate(data.templates):
        answers = Answers.of(labels, logits(images, prompts[:, number], scale))
        alone[template] = {name: value(answers, name) for name in METRICS}
    return Judged(Answers.of(labels, logits(images, _mean(prompts), scale)), alone)


def scores_of(data: ImageSet, split: str, vectors: Vectors, judged: Judged, resamples: int = 1000) -> dict[str, Any]:
    """What scores.json says."""
    answers, main = judged.answers, data.metric
    each = [found[main] for found in judged.alone.values()]
    return {
        "task": "zeroshot",
        **described(data, split, vectors),
        "prompts": dict(zip(data.classes, data.prompts, strict=True)),
        "metrics": plain(score(answers, vectors.clusters, resamples)),
        "templates": {name: {k: _number(v) for k, v in found.items()} for name, found in judged.alone.items()},
        "template_spread": _number(max(each) - min(each)),
        "undecided": int((answers.predicted < 0).sum()),
        "confusion": confusion(answers).astype(int).tolist(),
        "reliability": [dataclasses.asdict(one) for one in reliability(answers)],
    }


def _number(found: float) -> float | None:
    return None if np.isnan(found) else float(found)


def write_zero_shot(
    data: ImageSet,
    where: Path,
    split: str,
    spec: str | Path,
    model: Model,
    out: Path,
    *,
    store: Path | None = None,
    resamples: int = 1000,
    against: Sequence[Path] = (),
    progress: bool = True,
) -> Manifest:
    """Score one set into ``out``, a scores artifact; embeddings come from ``store`` (or are made in it).

    Raises:
        UserError: the split is not there or unreadable, or ``out`` is taken.
    """
    clock = Clock()
    data.part(split)
    config = {
        "task": "zeroshot",
        "set": data.fingerprint,
        "split": split,
        "model": model.fingerprint,
        "prompts": list(data.prompts),
        "templates": list(data.templates),
        "resamples": resamples,
        "against": leaks.identities(against),
    }
    claim_output(out, "scores", config)
    leaked = leaks.examine(data, split, against, out, progress)
    vectors = vectors_of(data, split, spec, store or out / EMBEDDINGS, opened=model, progress=progress)
    judged = judge(vectors, data, model.encode_texts, model.logit_scale)
    write_samples(out / "samples.parquet", vectors.embedded, judged.answers)
    scores = scores_of(data, split, vectors, judged, resamples) | {"model": model.name}

    def again(rows: IntVector) -> dict[str, Any]:
        answers = Answers(judged.answers.labels[rows], judged.answers.logits[rows])
        return plain(score(answers, vectors.clusters[rows], resamples))

    scores["leak"] = leaks.said(leaked, vectors.embedded.ids, again)
    return finish(out, config, inputs_of(data, where, spec, model), scores, clock())
