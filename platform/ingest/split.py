"""Which articles are one work, and which split a work belongs to: nothing that is shared stands on both sides.

copies, versions --> one is kept            images alike  \
same DOI, preprint and journal, same title  --------------- > article clusters --hash--> train, val, test
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from biomedray.records import Split

# A cluster of more articles than this (a logo that many show) is no sample to test on.
LARGEST_HELD_OUT = 50

_NOTICE = re.compile(
    r"^(?:(?:author|publisher)\s+)?(?:correction|corrigendum|erratum|retraction|retracted(?: article)?|addendum|"
    r"expression of concern|withdrawn)\b(?:\s+(?:to|for|of|note|notice))*\s*[:.\u2013\u2014-]*\s*",
    re.IGNORECASE,
)
_WORD = re.compile(r"\w+")
_FEWEST_WORDS = 6


@dataclass(frozen=True, slots=True)
class Work:
    """An article that was read, as far as it can be told from others."""

    uri: str
    pmcid: str
    version: int
    pairs: int
    md5: str | None
    doi: str | None
    title: str | None
    related: tuple[str, ...] = ()

    @property
    def rank(self) -> tuple[int, int, str]:
        """Of copies the smallest is kept: the highest version, then most pairs, then the first by uri."""
        return (-self.version, -self.pairs, self.uri)


def assign_split(cluster: str, seed: int, val_fraction: float, test_fraction: float) -> Split:
    """The split of an article cluster, from nothing but its id and the seed.

    All figures and all versions of an article fall into one split, on any machine, in any order,
    and an article keeps its split when others that have nothing to do with it are added.
    """
    digest = hashlib.sha256(f"{seed}:{cluster}".encode()).digest()
    point = int.from_bytes(digest[:8], "big") / 2**64
    if point < test_fraction:
        return "test"
    return "val" if point < test_fraction + val_fraction else "train"


def cluster_split(cluster: str, articles: int, seed: int, val_fraction: float, test_fraction: float) -> Split:
    """As ``assign_split``; a cluster of more than ``LARGEST_HELD_OUT`` articles is for training."""
    return "train" if articles > LARGEST_HELD_OUT else assign_split(cluster, seed, val_fraction, test_fraction)


def dup_cluster(image_sha256: str) -> str:
    """The cluster of byte-identical images: 16 hex digits."""
    return image_sha256[:16]


def kept_copies(works: Iterable[Work]) -> dict[str, Work]:
    """Of each article (by PMCID) the copy that is kept."""
    best: dict[str, Work] = {}
    for work in works:
        if (rival := best.get(work.pmcid)) is None or work.rank < rival.rank:
            best[work.pmcid] = work
    return best


def title_key(title: str | None) -> str | None:
    """A title as letters and digits in lower case, without 'Correction to:'; None for one too short to tell works apart."""
    if not title:
        return None
    words = _WORD.findall(_NOTICE.sub("", unicodedata.normalize("NFKC", title)).lower())
    return " ".join(words) if len(words) >= _FEWEST_WORDS else None


def keys(work: Work) -> list[str]:
    """What an article shares with other forms of the same work."""
    dois = {doi.lower() for doi in (work.doi, *work.related) if doi}
    title = title_key(work.title)
    return sorted(f"doi:{doi}" for doi in dois) + ([f"title:{title}"] if title else [])


def join(groups: Iterable[Iterable[str]]) -> dict[str, str]:
    """Articles that any group holds together: each with its cluster, the lowest PMCID in it; articles alone are left out."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while (above := parent.setdefault(name, name)) != name:
            parent[name] = parent[above]
            name = above
        return name

    for group in groups:
        members = sorted(set(group), key=pmcid_order)
        for other in members[1:]:
            one, two = sorted((root(members[0]), root(other)), key=pmcid_order)
            parent[two] = one
    found = {name: root(name) for name in parent}
    sizes = Counter(found.values())
    return {name: cluster for name, cluster in found.items() if sizes[cluster] > 1}


def sharing(pairs: Iterable[tuple[str, str]]) -> list[list[str]]:
    """From (key, article): the groups of articles under one key that has more than one."""
    groups: Mapping[str, set[str]] = defaultdict(set)
    for key, article in pairs:
        groups[key].add(article)
    return [sorted(group) for group in groups.values() if len(group) > 1]


def pmcid_order(name: str) -> tuple[int, int, str]:
    """PMC9 before PMC10, PMCIDs before other names."""
    number = name.removeprefix("PMC")
    return (0, int(number), name) if number.isdigit() and name != number else (1, 0, name)
