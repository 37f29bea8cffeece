"""Embeddings made ahead for what follows: any set on disk, split by split, into one folder that ``--embeddings`` names.

PATH -> pairs | captions | labelled set -> embed_once -> STORE/SET-SPLIT-MODEL-1a2b3c4d/ ...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from biomedray.artifacts import Manifest, read_manifest
from biomedray.errors import UserError
from biomedray.evaluate.captioned import open_captioned
from biomedray.evaluate.embed import embed_once
from biomedray.evaluate.models import open_model
from biomedray.evaluate.samples import SampleSet
from biomedray.evaluate.stream import Options

_DEFAULT = Options()


def open_any(path: Path, layout: str | None = None, options: Mapping[str, str] | None = None) -> SampleSet:
    """What lies at a path: a pairs artifact, pictures with captions, or a labelled set (at once if ``layout`` names one).

    Raises:
        UserError: neither fits.
    """
    from biomedray.evaluate.sets import open_set

    chosen = dict(options or {})
    if layout is not None:
        return open_set(path, layout, **chosen)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    try:
        return open_captioned(path, **chosen)
    except UserError as no_captions:
        try:
            return open_set(path, None, **chosen)
        except UserError as no_labels:
            raise UserError(f"{no_captions}; and as a labelled set: {no_labels}") from None


def fill(
    data: SampleSet,
    model: str,
    store: Path,
    splits: Sequence[str] = (),
    *,
    dtype: str = "float32",
    options: Options = _DEFAULT,
    progress: bool = True,
) -> list[Manifest]:
    """Embed splits of a set (by default all that are there), pictures and, where the set has them, captions.

    Raises:
        UserError: a split isn't there, or as ``embed_once``.
    """
    options.check()
    if strangers := [split for split in splits if split not in data.splits]:
        raise UserError(f"{data.name}: no split {strangers[0]}; there are {', '.join(data.splits) or 'none'}")
    opened, texts = open_model(model), not data.classes
    folders = [
        embed_once(data, split, model, store, opened=opened, dtype=dtype, texts=texts, progress=progress, options=options)
        for split in splits or data.splits
    ]
    return [read_manifest(folder) for folder in folders]
