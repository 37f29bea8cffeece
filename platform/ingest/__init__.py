"""Ingest: articles on disk in, figure-caption pairs in Parquet out, and a reject row for everything else.

    sources -> population -> packages -> jats -> figures, captions, citances, meta -> images -> articles -> write
     (where)    (frozen)      (bytes)    (tree)       (what the XML says)            (files)     (rows)     (staged)
                                                                   staged -> settle (copies, duplicates, split) ==[pairs]==>

One ``<graphic>`` of the XML, or one ``<fig>`` without a graphic, is one unit; each unit ends as exactly
one pair or one reject, and the ledger says so article by article. Only ``pipeline`` knows Ray.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biomedray.artifacts import Manifest
from biomedray.ingest.settings import IngestConfig

if TYPE_CHECKING:
    from rich.table import Table

    from biomedray.ingest.pubmed import Comparison

__all__ = ["IngestConfig", "advice", "compare", "comparison_table", "ingest", "summary_table", "update"]

_DEFAULTS = IngestConfig()


def ingest(sources: Sequence[str], out: Path, config: IngestConfig = _DEFAULTS, progress: bool = True) -> Manifest:
    """Articles to a pairs artifact (docs/reference/pairs.md); a run that was killed resumes.

    Each source is a folder that is walked (packages, unpacked articles, the PMC Cloud layout), one
    archive, one XML file, or a list file with one path a line.

    Raises:
        UserError: a source is missing or holds no article, or ``out`` is taken; nothing was written.
        WorkError: the work failed, or the ledger doesn't balance.
    """
    from biomedray.ingest.pipeline import run

    return run(sources, out, config, progress)


def update(sources: Sequence[str], out: Path, fetch: Mapping[str, Any] | None = None, progress: bool = True) -> Manifest:
    """Bring a finished pairs artifact up to what the same sources hold now, with its own settings.

    Articles that are new or whose files changed are read; those that are gone become a reject ``withdrawn``; everything
    else stays. Copies, duplicates, clusters and the split are settled anew over all articles, so the rows are those of
    a fresh run on the same sources. Killed and started again, it goes on. ``fetch`` overrides fields of
    ``IngestConfig.fetch``; the newest inventory is taken unless it names a ``snapshot``.

    Raises:
        UserError: ``out`` holds no finished pairs artifact, or a source is missing.
        WorkError: the work failed.
    """
    from biomedray.ingest.pipeline import update as run

    return run(sources, out, dict(fetch or {}), progress)


def compare(sources: Sequence[str], progress: bool = True) -> Comparison:
    """What pubmed_parser makes of the same articles: caption text lost, figures lost, articles lost.

    Raises:
        UserError: a source is missing or holds no article.
    """
    from biomedray.ingest.pubmed import compare_engines

    return compare_engines(sources, progress)


def summary_table(manifest: Manifest) -> Table:
    """The closing table of a run: what was seen, what was kept, and why the rest was not."""
    from biomedray.ingest.tables import summary

    return summary(manifest)


def advice(manifest: Manifest) -> str | None:
    """One line on what to do differently, where a split got no pair; else None."""
    from biomedray.ingest.tables import advice as found

    return found(manifest)


def comparison_table(comparison: Comparison) -> Table:
    """Articles on which the two engines differ, and the totals."""
    from biomedray.ingest.tables import differences

    return differences(comparison)
