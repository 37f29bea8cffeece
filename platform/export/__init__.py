"""Export: a pairs artifact in, the formats of other people's tools out, each with a dataset card.

    [pairs] -> source (shards) -+-> tars         WebDataset, for open_clip
                                                +-> jsonl        Microsoft's PMC-15M schema
                                                +-> huggingface  Parquet with images
                 survey (numbers) -> card, croissant             README.md, croissant.json in every export

Only pyarrow and the schemas of records.py are needed to read the artifact; one row group is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from biomedray.artifacts import Manifest
from biomedray.export.settings import FORMATS, ExportConfig

__all__ = ["FORMATS", "ExportConfig", "export"]

_DEFAULTS = ExportConfig()


def export(
    pairs: Path,
    out: Path,
    format: str,  # noqa: A002  # the word that users know
    config: ExportConfig = _DEFAULTS,
    notify: Callable[[int, int], None] = lambda _done, _total: None,
) -> Manifest:
    """Write a pairs artifact in another format (docs/guides/export.md); a run that was killed resumes.

    ``format`` is one of FORMATS; ``notify`` is called with the pairs done (parts, with jsonl) and their number.

    Raises:
        UserError: no pairs artifact, an unknown format, an expression that is not understood, or ``out`` is taken.
    """
    from biomedray.export.run import run

    return run(pairs, out, format, config, notify)
