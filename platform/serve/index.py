"""Make an index artifact of pairs, and bring it up to newer pairs: embed, then write the next generation.

pairs + model -> embed ==[embeddings/]==> vectors --+-> generations/000001/  -> CURRENT -> manifest.json
pairs -> metadata, and where each image lies -------+
newer pairs + index -> what changed -> embed ==[update/]==> generations/000002/ (a delta, tombstones, links) -> CURRENT
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from biomedray.artifacts import (
    Manifest,
    claim_output,
    is_finished,
    manifest_fingerprint,
    read_manifest,
    write_manifest,
)
from biomedray.errors import UserError
from biomedray.evaluate.vectors import read_rejects
from biomedray.records import SPLITS, Split
from biomedray.serve import updates
from biomedray.serve.generation import FOLDER, Generation, Source, current_name, generation_folder, set_current
from biomedray.serve.reading import EmbeddedRows, NewPairs, read_metadata, read_rows, without
from biomedray.serve.search import SearchIndex, open_generation
from biomedray.serve.updates import NEW, SHOWN_CHANGED, Change, Newer
from biomedray.serve.writing import Block, Draft, write_draft

__all__ = ["Embed", "Settings", "Update", "add_to_index", "build_index", "read_metadata", "update_index", "write_generation"]

EMBEDDINGS = "embeddings"
UPDATE = "update"
_PMCID = re.compile(r"PMC\d{1,12}")
_SHOWN = 80

Vectors = dict[str, NDArray[np.float32]]
Embed = Callable[[NewPairs], tuple[EmbeddedRows, set[str]]]
"""Embeds new pairs: their vectors in order, and the ids of those that could not be read."""


@dataclass(frozen=True)
class Settings:
    """How an index is laid out."""

    splits: Sequence[Split] = SPLITS
    layout: str = "auto"
    """auto, flat, rabitq or sq8."""
    shards: int = 1
    """Segments that several actors may hold, one each."""

    def check(self) -> None:
        """Raises UserError: there is no such layout, or no shard."""
        if self.layout not in ("auto", "flat", "rabitq", "sq8"):
            raise UserError(f"layout '{self.layout}': auto, flat, rabitq or sq8 is wanted")
        if self.shards < 1:
            raise UserError(f"shards {self.shards}: at least 1 is wanted")


@dataclass(frozen=True)
class Update:
    """What an index is brought up to."""

    withdraw: Sequence[str] = ()
    """Articles that are never shown again."""
    compact: bool = False
    """Write everything afresh even where deltas and tombstones are few."""


_SETTINGS = Settings()
_NOTHING_ELSE = Update()


def build_index(pairs: Path, model: str | Path, out: Path, settings: Settings = _SETTINGS, progress: bool = True) -> Manifest:
    """Make the index artifact ``out`` of the pairs of ``settings.splits``, searchable by figure and by caption.

    A run that was stopped goes on from the row groups that were embedded.

    Raises:
        UserError: an input is no such artifact, the splits hold no pair, or ``out`` is taken.
        WorkError: the embeddings and the pairs do not name the same rows.
    """
    from biomedray.evaluate.embed import embed
    from biomedray.model.encoder import Encoder

    settings.check()
    started = time.monotonic()
    read_manifest(pairs, "pairs")
    encoder = Encoder.load(str(model))
    config: dict[str, Any] = {"splits": list(settings.splits), "model": encoder.fingerprint}
    config |= {"pairs": manifest_fingerprint(pairs)}
    config |= {"layout": settings.layout, "shards": settings.shards}
    claim_output(out, "index", config)
    embeddings = out / EMBEDDINGS
    if not is_finished(embeddings):
        embed(pairs, model, embeddings, settings.splits, progress=progress)
    embedded = time.monotonic()
    rows = read_manifest(embeddings).counts["embedded"]
    unreadable = {reject["id"] for reject in read_rejects(embeddings)}
    if not rows:
        raise UserError(f"{pairs}: no picture of it could be embedded; see {embeddings}")
    draft = Draft(
        name=f"{1:06d}",
        encoder=encoder.name,
        encoder_fingerprint=encoder.fingerprint,
        dim=encoder.embed_dim,
        sources=[_source(pairs)],
        new=updates.fresh(rows, settings.shards),
        layout=settings.layout,
    )
    generation = write_draft(out, draft, _blocks(pairs, settings.splits, embeddings, unreadable))
    set_current(out, generation)
    timings = {"embed": embedded - started, "index": time.monotonic() - embedded}
    manifest = _manifest(out, generation, str(model), config, timings)
    manifest.counts |= {"unreadable": len(unreadable)} if unreadable else {}
    write_manifest(out, manifest)
    shutil.rmtree(embeddings)
    return manifest


def add_to_index(
    pairs: Path,
    model: str | Path,
    out: Path,
    settings: Settings = _SETTINGS,
    update: Update = _NOTHING_ELSE,
    progress: bool = True,
) -> Manifest:
    """Bring an index up to a newer or further pairs artifact: only rows that it does not have are embedded.

    Rows of articles that the artifact accounts for, but has no pair of any more, are withdrawn. A run that was stopped
    goes on when it is started again; where nothing has changed, nothing is written.

    Raises:
        UserError: an input is no such artifact, the model is not the index's, or an article's id is none.
        WorkError: the embeddings and the pairs do not name the same rows.
    """
    from biomedray.evaluate.embed import embed_splits
    from biomedray.model.encoder import Encoder

    settings.check()
    read_manifest(pairs, "pairs")
    articles = _articles(update.withdraw)
    encoder = Encoder.load(str(model))
    open_generation(out, encoder.fingerprint)
    claim = {"pairs": manifest_fingerprint(pairs), "model": encoder.fingerprint, "splits": list(settings.splits)}
    place = out / UPDATE
    claim_output(place, "index update", {**claim, "withdraw": articles})

    def embed(data: NewPairs) -> tuple[EmbeddedRows, set[str]]:
        folder = place / f"{EMBEDDINGS}-{data.fingerprint}"
        embed_splits(data, list(data.splits), model, folder, texts=True, progress=progress)
        return EmbeddedRows(folder), {reject["id"] for reject in read_rejects(folder)}

    try:
        manifest = update_index(pairs, out, encoder.fingerprint, embed, settings, replace(update, withdraw=articles))
    except UserError:
        shutil.rmtree(place)  # refused for good: what it left would stand in the way of every other update
        raise
    shutil.rmtree(place)
    return manifest


def update_index(
    pairs: Path, out: Path, encoder_fingerprint: str, embed: Embed, settings: Settings = _SETTINGS, update: Update = _NOTHING_ELSE
) -> Manifest:
    """As ``add_to_index``, with ``embed`` for the model."""
    started = time.monotonic()
    folder, generation = open_generation(out, encoder_fingerprint)
    index = SearchIndex(folder, generation)
    try:
        written = _next_generation(
            Newer(pairs, settings.splits, _source_number(generation, pairs)), out, index, embed, settings, update
        )
    finally:
        index.close()
    if written is not None:
        set_current(out, written)
        _prune(out, written)
    manifest = read_manifest(out, "index")
    new = _manifest(out, written or generation, _model_of(manifest), manifest.config, manifest.timings)
    if written is not None or new.details != manifest.details:
        new.timings["update"] = time.monotonic() - started
        write_manifest(out, new)
    return read_manifest(out, "index")


def write_generation(
    out: Path, metadata: pa.Table, vectors: Vectors, origin: dict[str, str], layout: str = "auto", shards: int = 1
) -> Generation:
    """Write the next generation of rows in memory.

    ``vectors`` holds [n, d] L2-normalised rows by file stem (image, text) in the order of ``metadata``;
    ``origin`` the encoder's name and fingerprint, and address and fingerprint of the pairs.
    """
    draft = Draft(
        name=_next_name(out),
        encoder=origin["encoder"],
        encoder_fingerprint=origin["encoder_fingerprint"],
        dim=vectors["image"].shape[1],
        sources=[Source(uri=origin["pairs_uri"], fingerprint=origin["pairs_fingerprint"])],
        new=updates.fresh(metadata.num_rows, shards),
        layout=layout,
    )
    return write_draft(out, draft, [Block(metadata, vectors)])


def _next_generation(
    newer: Newer, out: Path, index: SearchIndex, embed: Embed, settings: Settings, update: Update
) -> Generation | None:
    """Write the generation after the current one; None where it would be the same."""
    generation, segments = index.generation, index.segments()
    withdrawn = {*generation.withdrawn, *update.withdraw}
    change = updates.compare(newer, segments, withdrawn)
    data = updates.to_embed(newer, change)
    embedded, rejected = embed(data) if data.splits else (EmbeddedRows(out), set[str]())
    new = change.count(NEW) - len(rejected)
    added = new + change.count(SHOWN_CHANGED)
    if not update.compact and _same(generation, newer, change, added, withdrawn):
        return None
    if generation.slots + added == len(change.dead):
        raise UserError(f"{newer.folder}: nothing would be left in the index; delete the index instead")
    sources = list(generation.sources)
    if newer.source == len(sources):
        sources.append(_source(newer.folder))
    kept = updates.kept_segments(generation_folder(out, generation.name), generation, segments, change)
    draft = updates.next_draft(generation, _next_name(out), sources, change, withdrawn)
    draft = replace(draft, layout=settings.layout)
    blocks = updates.new_blocks(newer, change, segments, embedded, rejected)
    if update.compact or updates.worth_compacting(generation, change, added):
        shards = max(settings.shards, sum(not updates.is_delta(card) for card in generation.segments))
        fresh = updates.fresh(generation.slots - len(change.dead) + added, shards)
        draft = replace(draft, new=fresh, dead=np.empty(0, np.int64))
        return write_draft(out, draft, _chained(updates.living_blocks(segments, kept, change.dead), blocks))
    delta = [(f"delta-{draft.name}", added)] if added else []
    return write_draft(out, replace(draft, kept=kept, new=delta), blocks)


def _same(generation: Generation, newer: Newer, change: Change, added: int, withdrawn: set[str]) -> bool:
    known = newer.source < len(generation.sources)
    return known and not added and len(change.dead) == generation.dead and withdrawn == set(generation.withdrawn)


def _chained(*parts: Iterator[Block]) -> Iterator[Block]:
    for part in parts:
        yield from part


def _blocks(pairs: Path, splits: Sequence[str], embeddings: Path, unreadable: set[str]) -> Iterator[Block]:
    embedded = EmbeddedRows(embeddings)
    for table in read_rows(pairs, splits):
        kept = without(table, unreadable)
        if kept.num_rows:
            yield Block(kept, embedded.take(kept["pair_id"].to_pylist()))


def _manifest(out: Path, generation: Generation, model: str, config: dict[str, Any], timings: dict[str, float]) -> Manifest:
    manifest = Manifest(kind="index", name=out.name, config=config, timings=dict(timings))
    manifest.inputs = [{"name": "pairs", "uri": source.uri, "fingerprint": source.fingerprint} for source in generation.sources]
    manifest.inputs.append({"name": "model", "uri": model, "fingerprint": generation.encoder_fingerprint})
    manifest.counts = {"rows": generation.rows, "embed_dim": generation.dim, "splits": generation.facets["split"]}
    manifest.counts |= {"withdrawn": generation.dead} if generation.dead else {}
    manifest.details = {"generation": generation.name, "index_key": generation.index_key, "recall@10": generation.recall}
    return manifest


def _model_of(manifest: Manifest) -> str:
    return next((entry["uri"] for entry in manifest.inputs if entry["name"] == "model"), "")


def _source(pairs: Path) -> Source:
    return Source(uri=pairs.resolve().as_uri(), fingerprint=manifest_fingerprint(pairs))


def _source_number(generation: Generation, pairs: Path) -> int:
    found = manifest_fingerprint(pairs)
    known = [number for number, source in enumerate(generation.sources) if source.fingerprint == found]
    return known[0] if known else len(generation.sources)


def _articles(names: Sequence[str]) -> list[str]:
    """PMCIDs, given as such or as files that list them."""
    found: set[str] = set()
    for name in names:
        found |= {name} if _PMCID.fullmatch(name) else _listed(name)
    if wrong := sorted(name for name in found if not _PMCID.fullmatch(name)):
        raise _no_article(wrong[0])
    return sorted(found)


def _listed(name: str) -> set[str]:
    try:
        return set(Path(name).read_text().split())
    except (OSError, ValueError):  # no such file, none that can be read, no name of one, no text
        raise _no_article(name) from None


def _no_article(name: str) -> UserError:
    shown = name if len(name) <= _SHOWN else f"{name[:_SHOWN]}..."
    return UserError(f"withdraw '{shown}': neither a PMCID such as PMC1234567 nor a file that lists them")


def _next_name(out: Path) -> str:
    """The one after the current: what a killed run left under that name is written again."""
    return f"{int(current_name(out) or 0) + 1:06d}"


def _prune(out: Path, written: Generation) -> None:
    """Keep the generation before, which a service may still be opening; older ones go."""
    for folder in (out / FOLDER).glob("[0-9]*"):
        if int(folder.name) < int(written.name) - 1:
            shutil.rmtree(folder, ignore_errors=True)
