"""Which split an article belongs to, and which images are the same."""

from __future__ import annotations

import hashlib

from biomedray.records import Split


def assign_split(pmcid: str, seed: int, val_fraction: float, test_fraction: float) -> Split:
    """The split of an article, from nothing but its id and the seed.

    All figures and all versions of an article fall into one split, on any machine, in any order,
    and an article keeps its split when others are added.
    """
    digest = hashlib.sha256(f"{seed}:{pmcid}".encode()).digest()
    point = int.from_bytes(digest[:8], "big") / 2**64
    if point < test_fraction:
        return "test"
    return "val" if point < test_fraction + val_fraction else "train"


def dup_cluster(image_sha256: str) -> str:
    """The cluster of byte-identical images; near-duplicates are not joined here."""
    return image_sha256[:16]
