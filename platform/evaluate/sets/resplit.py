"""Splits for a set that has none: whole groups, each class in its share, the same on every machine."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from biomedray.evaluate.sets.image_set import ImageSet

SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}


def assign(groups: Sequence[str], labels: Sequence[int], shares: Mapping[str, float], seed: int = 0) -> list[str]:
    """The split of each row: groups in the order of their hash, cut where the shares of rows end, class by class.

    A group belongs to the class that most of its rows have. A row's split depends on its own class's groups alone, not on
    the order of the rows.
    """
    votes: dict[str, Counter[int]] = defaultdict(Counter)
    for group, label in zip(groups, labels, strict=True):
        votes[group][label] += 1
    kinds: dict[int, list[str]] = defaultdict(list)
    for group in sorted(votes, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest()):
        kinds[max(votes[group], key=lambda label: (votes[group][label], -label))].append(group)
    found: dict[str, str] = {}
    for members in kinds.values():
        sizes = np.array([votes[group].total() for group in members])
        middles = (np.cumsum(sizes) - sizes / 2) / sizes.sum()
        cuts = np.cumsum(list(shares.values()))[:-1]
        names = list(shares)
        found |= {
            group: names[int(np.searchsorted(cuts, middle, side="right"))] for group, middle in zip(members, middles, strict=True)
        }
    return [found[group] for group in groups]


def with_splits(image_set: ImageSet, shares: Mapping[str, float] | None = None, seed: int = 0) -> ImageSet:
    """A set of one split cut into train, val and test; its notes say so.

    Raises:
        ValueError: it has several splits.
    """
    (name,) = image_set.splits
    whole, chosen = image_set.part(name), shares or SHARES
    split = np.array(assign(whole.groups, whole.labels.tolist(), chosen, seed))
    parts = {part: whole.take(np.flatnonzero(split == part)) for part in chosen if (split == part).any()}
    what = "/".join(f"{100 * share:.0f}" for share in chosen.values())
    by = image_set.grouped or "picture"
    note = f"splits {what} made here by the hash of the {by}, each class about in its share: the set has none"
    return replace(image_set, parts=parts, notes=(*image_set.notes, note), cut_from=image_set)
