"""The zero-shot hook of validation: labelled sets of pictures, each worker embedding its share, scored by evaluate's code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from biomedray.errors import UserError, WorkError
from biomedray.evaluate import zeroshot
from biomedray.model import features
from biomedray.pixels import PixelError
from biomedray.train.presets import ZeroShotSet
from biomedray.train.step import Tokenize

_BATCH = 64
_SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".gif", ".bmp", ".webp"}

Embed = Callable[[list[torch.Tensor]], torch.Tensor]


@dataclass(frozen=True)
class Labelled:
    """One set: its pictures' files with the numbers of their classes."""

    names: list[str]
    templates: tuple[str, ...]
    files: list[Path]
    labels: list[int]


def read_sets(sets: Mapping[str, ZeroShotSet]) -> dict[str, Labelled]:
    """Find the pictures of every set.

    Raises:
        UserError: a folder is missing, has fewer than two classes or a class without pictures, or a template has no {}.
    """
    return {name: _read(name, entry) for name, entry in sets.items()}


def _read(name: str, entry: ZeroShotSet) -> Labelled:
    what, root = f"validation.zeroshot.{name}", Path(entry.folder)
    if not root.is_dir():
        raise UserError(f"{what}: no such folder {root}; name one that has a folder for each class")
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    if unknown := sorted(set(entry.classes) - {path.name for path in folders}):
        raise UserError(f"{what}: no folder {unknown[0]} in {root}; there are {', '.join(path.name for path in folders)}")
    if len(folders) < 2:
        raise UserError(f"{what}: {root} has {len(folders)} folders; a class each, so two at least")
    if bad := [template for template in entry.templates if "{}" not in template] or (not entry.templates):
        raise UserError(f"{what}: a template needs {{}} for the class, unlike '{bad}'")
    pictures = [sorted(p for p in f.iterdir() if p.suffix.lower() in _SUFFIXES)[: entry.limit] for f in folders]
    if empty := [folder.name for folder, found in zip(folders, pictures, strict=True) if not found]:
        raise UserError(f"{what}: no pictures in {root / empty[0]}")
    names = [entry.classes.get(folder.name, folder.name.replace("_", " ")) for folder in folders]
    labels = [number for number, found in enumerate(pictures) for _ in found]
    return Labelled(names, entry.templates, [path for found in pictures for path in found], labels)


class ZeroShot:
    """Scores of all sets; ``gather`` brings every worker's rows together in the order of the set."""

    def __init__(
        self,
        sets: Mapping[str, ZeroShotSet],
        prepare: Callable[[bytes], torch.Tensor],
        tokenize: Tokenize,
        gather: Callable[[torch.Tensor, int], torch.Tensor],
        share: Callable[[int], list[int]],
    ) -> None:
        self._sets = read_sets(sets)
        self._prepare, self._tokenize, self._gather, self._share = prepare, tokenize, gather, share

    def __call__(self, clip: Any, device: str) -> dict[str, float]:
        """``val_zeroshot_NAME``: accuracy of each set, and ``..._auroc`` where it has two classes."""
        found = {}
        for name, labelled in self._sets.items():
            images = self._gather(self._images(clip, device, labelled), len(labelled.files)).cpu().numpy()
            classes = zeroshot.classifier(labelled.names, labelled.templates, lambda texts: self._texts(clip, device, texts))
            labels = np.asarray(labelled.labels)
            found[f"val_zeroshot_{name}"] = zeroshot.accuracy(images, classes, labels)
            if len(labelled.names) == 2:
                found[f"val_zeroshot_{name}_auroc"] = zeroshot.auroc(images, classes, labels)
        return found

    def _images(self, clip: Any, device: str, labelled: Labelled) -> torch.Tensor:
        own = [labelled.files[i] for i in self._share(len(labelled.files))]
        parts = []
        for start in range(0, len(own), _BATCH):
            batch = torch.stack([self._picture(path) for path in own[start : start + _BATCH]])
            parts.append(features.image_features(clip, batch.to(device)))
        return torch.cat(parts)

    def _picture(self, path: Path) -> torch.Tensor:
        try:
            return self._prepare(path.read_bytes())
        except PixelError as error:
            raise WorkError(f"{path}: cannot be decoded ({error}); take it out of the zero-shot set") from None

    def _texts(self, clip: Any, device: str, texts: list[str]) -> zeroshot.Vectors:
        vectors: zeroshot.Vectors = features.text_features(clip, self._tokenize(texts).to(device)).cpu().numpy()
        return vectors
