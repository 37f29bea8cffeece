"""The population of a run: which articles there are to ingest, frozen on disk part by part before anything is read."""

from __future__ import annotations

import hashlib


def part_of(name: str, n_parts: int) -> int:
    """The part of an article, from its name without version: copies and versions of an article meet in one part."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % n_parts
