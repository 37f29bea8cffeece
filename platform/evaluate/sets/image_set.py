"""A labelled set of images: its splits as numbers and names, its prompts, and where its pictures lie.

    ImageSet -> splits {train, val, test} -> Part: ids, labels, groups, positions -> Source: position -> bytes or pixels

A part may be any rows in any order of its source, so subsets and splits made here read the same files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from biomedray.artifacts import fingerprint
from biomedray.errors import UserError
from biomedray.evaluate.samples import Sample

IntVector = NDArray[np.int64]
Pixels = NDArray[np.uint8]

SPLITS = ("train", "val", "test")


class Source(Protocol):
    """Where the pictures of a split lie; it holds paths and offsets, never pictures, and survives pickling."""

    @property
    def identity(self) -> str:
        """The same for the same content, wherever it lies: from names, sizes and shapes."""
        ...

    def read(self, positions: Sequence[int]) -> list[bytes | Pixels]:
        """The pictures at ascending positions: a file's bytes, or pixels [H, W] or [H, W, 3] uint8.

        What no decoder takes comes as its bytes, so that whoever decodes counts it as a reject.

        Raises:
            UserError: a file can't be read.
        """
        ...


@dataclass(frozen=True)
class Part:
    """One split: row i is the picture at ``positions[i]`` of the source."""

    ids: tuple[str, ...]
    labels: IntVector
    groups: tuple[str, ...]
    """Patient, slide or whatever ties pictures together; the picture's own id where nothing is known."""
    positions: IntVector
    source: Source

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Sequence[int] | IntVector) -> Part:
        """Only these rows, in this order."""
        chosen = np.asarray(rows, np.int64)
        ids, groups = tuple(self.ids[i] for i in chosen), tuple(self.groups[i] for i in chosen)
        return replace(self, ids=ids, labels=self.labels[chosen], groups=groups, positions=self.positions[chosen])

    def read(self, start: int, stop: int) -> list[Sample]:
        """Rows ``start`` to ``stop`` with their pictures."""
        stop = min(stop, len(self))
        positions = self.positions[start:stop]
        order = np.argsort(positions, kind="stable")
        found: list[Any] = [None] * len(positions)
        for place, image in zip(order, self.source.read(positions[order].tolist()), strict=True):
            found[place] = image
        return [
            Sample(self.ids[row], image, int(self.labels[row]), group=self.groups[row])
            for row, image in zip(range(start, stop), found, strict=True)
        ]

    @property
    def identity(self) -> str:
        """The same for the same rows of the same content."""
        digest = hashlib.sha256(self.source.identity.encode())
        digest.update("\0".join((*self.ids, *self.groups)).encode())
        digest.update(self.labels.tobytes() + self.positions.tobytes())
        return digest.hexdigest()


def part(ids: Sequence[str], labels: Sequence[int] | NDArray[Any], source: Source, groups: Sequence[str] | None = None) -> Part:
    """All pictures of a source in its order; one whose group is empty is its own."""
    names = tuple(ids)
    found = np.asarray(labels, np.int64).reshape(-1)
    tied = tuple(group or name for group, name in zip(groups, names, strict=True)) if groups else names
    return Part(names, found, tied, np.arange(len(names)), source)


@dataclass(frozen=True)
class ImageSet:
    """A ``SampleSet`` of classes, with the words that prompts use for them."""

    name: str
    layout: str
    classes: tuple[str, ...]
    parts: Mapping[str, Part]
    prompts: tuple[str, ...]
    """What prompts call each class."""
    templates: tuple[str, ...]
    """Prompts with {} for the class."""
    metric: str = "accuracy"
    """The one number of this set in a table: accuracy or auroc."""
    grouped: str = ""
    """What its groups are (patient, slide); empty where each picture stands for itself."""
    paper: Mapping[str, float] | None = None
    """Its numbers in the paper, in percent: other weights, for reference."""
    notes: tuple[str, ...] = field(default=())
    """What the reader of a score must know: files left out, splits made here, known leaks."""
    cut_from: ImageSet | None = None
    """The set of one split that this one's splits were cut from: what is embedded of it serves both."""

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits that are there, of train, val and test."""
        return tuple(name for name in SPLITS if name in self.parts)

    @property
    def fingerprint(self) -> str:
        """Identity of the content, wherever the files lie."""
        return fingerprint([self.name, self.classes, {name: self.parts[name].identity for name in self.splits}])

    def size(self, split: str) -> int:
        """How many pictures a split has."""
        return len(self.part(split))

    def read(self, split: str, start: int, stop: int) -> list[Sample]:
        """Pictures ``start`` to ``stop`` of a split."""
        return self.part(split).read(start, stop)

    def part(self, split: str) -> Part:
        """One split.

        Raises:
            UserError: there is no such split.
        """
        if split not in self.parts:
            raise UserError(f"{self.name}: no split {split}; there is {', '.join(self.splits)}")
        return self.parts[split]

    def counts(self) -> dict[str, dict[str, int]]:
        """Pictures of each class by split."""
        return {
            split: dict(
                zip(self.classes, np.bincount(self.parts[split].labels, minlength=len(self.classes)).tolist(), strict=True)
            )
            for split in self.splits
        }

    def limited(self, split: str, limit: int | None, seed: int = 0) -> ImageSet:
        """At most ``limit`` pictures of one split, drawn at random with a fixed seed and left in their order."""
        whole = self.part(split)
        if limit is None or limit >= len(whole):
            return self
        rows = np.sort(np.random.default_rng(seed).choice(len(whole), limit, replace=False))
        note = f"{limit} of {len(whole)} pictures of split {split}, drawn at random"
        return replace(self, parts={**self.parts, split: whole.take(rows)}, notes=(*self.notes, note))
