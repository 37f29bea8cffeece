"""The zero-shot hook of validation: labelled sets of pictures, each worker embedding its share, scored by evaluate's code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from biomedray.errors import UserError, WorkError
from biomedray.evaluate import zero_shot
from biomedray.evaluate.classification import Answers, value
from biomedray.evaluate.sets import ImageSet, open_set
from biomedray.evaluate.sets.image_set import Part, Pixels
from biomedray.evaluate.sets.prompts import reworded
from biomedray.model import features
from biomedray.pixels import PixelError
from biomedray.train.presets import ZeroShotSet
from biomedray.train.step import Tokenize

_BATCH = 64


@dataclass(frozen=True)
class Labelled:
    """One set, and those of its pictures that are looked at."""

    data: ImageSet
    part: Part


def read_sets(sets: Mapping[str, ZeroShotSet]) -> dict[str, Labelled]:
    """Open every set, in whatever layout it lies.

    Raises:
        UserError: a set is not there, not whole or of one class, a class has no pictures, or a template no {}.
    """
    return {name: _read(name, entry) for name, entry in sets.items()}


def _read(name: str, entry: ZeroShotSet) -> Labelled:
    try:
        data = reworded(open_set(Path(entry.folder)), entry.classes, entry.templates)
    except UserError as error:
        raise UserError(f"validation.zeroshot.{name}: {error}") from None
    whole = data.part("val" if "val" in data.splits else data.splits[-1])
    rows = [np.flatnonzero(whole.labels == number)[: entry.limit] for number in range(len(data.classes))]
    return Labelled(data, whole.take(np.concatenate(rows)))


class ZeroShot:
    """Scores of all sets; ``gather`` brings every worker's rows together in the order of the set."""

    def __init__(
        self,
        sets: Mapping[str, ZeroShotSet],
        prepare: Callable[[bytes | Pixels], torch.Tensor],
        tokenize: Tokenize,
        gather: Callable[[torch.Tensor, int], torch.Tensor],
        share: Callable[[int], list[int]],
    ) -> None:
        self._sets = read_sets(sets)
        self._prepare, self._tokenize, self._gather, self._share = prepare, tokenize, gather, share

    def __call__(self, clip: Any, device: str) -> dict[str, float]:
        """``val_zeroshot_NAME``: accuracy of each set, and ``..._auroc`` where it has two classes."""
        found = {}
        for name, one in self._sets.items():
            images = self._gather(self._images(clip, device, one.part), len(one.part)).cpu().numpy()
            classes = zero_shot.classifier(one.data.prompts, one.data.templates, lambda texts: self._texts(clip, device, texts))
            answers = Answers.of(one.part.labels, zero_shot.logits(images, classes))
            found[f"val_zeroshot_{name}"] = value(answers, "accuracy")
            if answers.classes == 2:
                found[f"val_zeroshot_{name}_auroc"] = value(answers, "auroc")
        return found

    def _images(self, clip: Any, device: str, part: Part) -> torch.Tensor:
        own = part.take(self._share(len(part)))
        parts = []
        for start in range(0, len(own), _BATCH):
            batch = torch.stack([self._picture(sample.id, sample.image) for sample in own.read(start, start + _BATCH)])
            parts.append(features.image_features(clip, batch.to(device)))
        return torch.cat(parts)

    def _picture(self, name: str, image: bytes | Pixels) -> torch.Tensor:
        try:
            return self._prepare(image)
        except PixelError as error:
            raise WorkError(f"{name}: cannot be decoded ({error}); take it out of the zero-shot set") from None

    def _texts(self, clip: Any, device: str, texts: list[str]) -> zero_shot.FloatMatrix:
        vectors: zero_shot.FloatMatrix = features.text_features(clip, self._tokenize(texts).to(device)).cpu().numpy()
        return vectors
