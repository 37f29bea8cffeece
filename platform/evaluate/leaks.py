"""Leak check: what of an evaluation set was in the training pairs, by bytes, by look, by article, by caption, by id.

    evaluation samples -> one decode each -> prints (hashes, shape, entropy, colour) --+
    training pairs ---- columns, a batch at a time, pictures never read --------------+-> matches -> leak.parquet, summary

An image counts as alike when 64-bit hashes are at most four bits apart, 256-bit ones at most 14, and shapes agree. Ingest's rule
for near-duplicates asks for entropy and colour too, and so loses flat drawings that were saved as JPEG: a leak that is
overlooked costs more than a false alarm. A crop, a turn or a redrawn figure is not found.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image
from rich.progress import Progress

from biomedray import pixels
from biomedray.artifacts import (
    Manifest,
    atomic_path,
    claim_output,
    manifest_fingerprint,
    read_manifest,
    write_atomic,
    write_manifest,
)
from biomedray.errors import UserError
from biomedray.evaluate.samples import Sample, SampleSet
from biomedray.ingest.neardup import MAX_DISTANCE, Images, across, images_of
from biomedray.ingest.quality import measure, shrink

KINDS = ("same_id", "same_bytes", "alike", "same_article", "same_caption")
"""Ways in which a sample can be known from training; one sample may be known in several."""

IntVector = NDArray[np.int64]

_IMAGE_COLUMNS = ["image_sha256", "phash", "phash_fine", "width", "height", "entropy", "colourfulness"]
_COLUMNS = ["pair_id", "pmcid", "caption", *_IMAGE_COLUMNS]
_SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "kind", "pair_id", "pairs")])
# Captions such as "Figure 2" are the same everywhere and give nothing away.
_CAPTION_LETTERS = 20
_SCALED_SIDE = 128
_READ, _CHUNK = 256, 65_536


@dataclass(frozen=True)
class Match:
    """A sample and one training pair that it is known from."""

    id: str
    kind: str
    pair_id: str
    pairs: str
    """Name of the pairs artifact."""


@dataclass(frozen=True)
class Leak:
    """What was found; ``ids`` are the samples to leave out."""

    samples: int
    unreadable: int
    against: list[dict[str, Any]]
    matches: list[Match]

    @property
    def ids(self) -> frozenset[str]:
        """Samples known from training in any way."""
        return frozenset(match.id for match in self.matches)

    def summary(self) -> dict[str, Any]:
        """For ``scores.json``: counts of samples, by kind; a sample of several kinds counts in each."""
        by_kind = {kind: len({match.id for match in self.matches if match.kind == kind}) for kind in KINDS}
        return {
            "checked": bool(self.against),
            "against": self.against,
            "samples": self.samples,
            "without_hash": self.unreadable,
            "leaked": len(self.ids),
            "share": len(self.ids) / self.samples if self.samples else 0.0,
            "by": by_kind,
        }

    def write(self, path: Path) -> None:
        """All matches: the first training pair of each sample and kind."""
        table = pa.Table.from_pylist([vars(match) for match in self.matches], _SCHEMA)
        with atomic_path(path) as temporary:
            pq.write_table(table, temporary)


LEAKS = "leak.parquet"
_UNCHECKED: dict[str, Any] = {"checked": False, "reason": "no training pairs were named; say --against PAIRS"}


def examine(data: SampleSet, split: str, against: Sequence[Path], out: Path, progress: bool = True) -> Leak:
    """``check``, with its matches written to ``out/leak.parquet``; nothing is read where nothing is named."""
    if not against:
        return Leak(data.size(split), 0, [], [])
    found = check(data, split, against, progress)
    found.write(out / LEAKS)
    return found


def said(leak: Leak, ids: Sequence[str], again: Callable[[IntVector], dict[str, Any]]) -> dict[str, Any]:
    """The summary; where samples are known from training, with the scores of the others.

    ``ids`` are those that were scored, ``again`` scores some rows of them.
    """
    if not leak.against:
        return dict(_UNCHECKED)
    known = leak.ids
    rows = np.array([row for row, name in enumerate(ids) if name not in known], np.int64)
    without = again(rows) if 0 < len(rows) < len(ids) else None
    return leak.summary() | {"scored_without": len(rows), "without_leaked": without}


def identities(against: Sequence[Path]) -> list[str]:
    """Fingerprints of pairs artifacts, for a run's configuration.

    Raises:
        UserError: one is none.
    """
    for folder in against:
        read_manifest(folder, "pairs")
    return [manifest_fingerprint(folder) for folder in against]


def check(data: SampleSet, split: str, against: Sequence[Path], progress: bool = True) -> Leak:
    """Compare a split of a set with the training pairs (split train) of these artifacts.

    Raises:
        UserError: one of them is no pairs artifact or has no training pairs.
    """
    prints = Prints.of(data, split, progress)
    described, matches = [], []
    for folder in against:
        found, facts = _compare(prints, folder, progress)
        matches += found
        described.append(facts)
    return Leak(data.size(split), int((~prints.hashed).sum()), described, sorted(matches, key=_order))


def _order(match: Match) -> tuple[str, int, str]:
    return match.id, KINDS.index(match.kind), match.pairs


# ---- the evaluation set


@dataclass(frozen=True)
class Prints:
    """What is compared of n samples, as columns."""

    ids: pa.Array
    sha256: pa.Array
    """Of the file's bytes; null where the set holds pixels only."""
    articles: pa.Array
    """PMCID; null where the sample's group is none."""
    captions: pa.Array
    """Plain letters in lower case; null where they are few."""
    images: Images
    hashed: NDArray[np.bool_]
    """False where the image can't be decoded."""

    @classmethod
    def of(cls, data: SampleSet, split: str, progress: bool = True) -> Prints:
        """Read and decode every sample once; cores side by side, memory for some hundred samples."""
        rows: list[dict[str, Any]] = []
        with Progress(disable=not progress) as bar, ThreadPoolExecutor(os.cpu_count()) as pool:
            task = bar.add_task("leak check: hashes", total=data.size(split))
            for start in range(0, data.size(split), _READ):
                rows += pool.map(_print, data.read(split, start, min(start + _READ, data.size(split))))
                bar.update(task, completed=len(rows))
        schema = pa.schema(
            [(name, pa.string()) for name in ("id", "article", "caption", "image_sha256", "phash", "phash_fine")]
            + [(name, pa.float64()) for name in ("width", "height", "entropy", "colourfulness")]
        )
        table = pa.Table.from_pylist(rows, schema)
        ids, sha256, articles, captions = (table[name].combine_chunks() for name in ("id", "image_sha256", "article", "caption"))
        numbered = table.set_column(table.schema.get_field_index("image_sha256"), "image_sha256", pa.array(["0"] * len(rows)))
        return cls(ids, sha256, articles, captions, images_of(numbered), _has_hash(table["phash"]))


def _print(sample: Sample) -> dict[str, Any]:
    known = {"id": sample.id, "article": _article(sample.group), "caption": _letters(sample.caption)}
    if isinstance(sample.image, bytes):
        known["image_sha256"] = hashlib.sha256(sample.image).hexdigest()
    try:
        return known | _look(sample.image)
    except pixels.PixelError:
        return known | {"width": 1.0, "height": 1.0}


def _look(image: bytes | NDArray[np.uint8]) -> dict[str, Any]:
    """The same columns as ingest writes, of the picture as ingest looks at it."""
    if isinstance(image, bytes):
        header, whole, _ = pixels.examine(image, _SCALED_SIDE)
        size = (header.width, header.height)
    else:
        whole = Image.fromarray(image).convert("RGB")
        size = whole.size
    small = shrink(whole)
    quality = measure(small, small.convert("L"))
    return {**vars(quality), "width": float(size[0]), "height": float(size[1])}


def _article(group: str) -> str | None:
    found = re.fullmatch(r"(PMC\d+)(\.\d+)?", group)
    return found[1] if found else None


def _letters(caption: str) -> str | None:
    letters = "".join(character for character in caption.casefold() if character.isalnum())
    return letters if len(letters) >= _CAPTION_LETTERS else None


# ---- the training pairs


def _compare(prints: Prints, folder: Path, progress: bool) -> tuple[list[Match], dict[str, Any]]:
    read_manifest(folder, "pairs")
    dataset = ds.dataset(sorted((folder / "data" / "split=train").glob("*.parquet")), format="parquet")
    total = dataset.count_rows()
    if not total:
        raise UserError(f"{folder}: no training pairs (split train) to compare with")
    first: dict[tuple[str, str], Match] = {}
    unhashed = 0
    with Progress(disable=not progress) as bar:
        task = bar.add_task(f"leak check: {folder.name}", total=total)
        for rows in _chunks(dataset):
            for kind, sample, row in _meetings(prints, rows):
                key = (prints.ids[sample].as_py(), kind)
                first.setdefault(key, Match(*key, rows["pair_id"][row].as_py(), folder.name))
            unhashed += int((~_has_hash(rows["phash"])).sum())
            bar.advance(task, rows.num_rows)
    facts = {"name": folder.name, "fingerprint": manifest_fingerprint(folder), "pairs": total, "without_hash": unhashed}
    return list(first.values()), facts


def _has_hash(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    return np.array([bool(value) for value in column.to_pylist()], bool)


def _chunks(dataset: Any) -> Iterator[pa.Table]:
    held: list[pa.RecordBatch] = []
    for batch in dataset.to_batches(columns=_COLUMNS, batch_size=_CHUNK):
        held.append(batch)
        if sum(piece.num_rows for piece in held) >= _CHUNK:
            yield pa.Table.from_batches(held)
            held = []
    if held:
        yield pa.Table.from_batches(held)


def _meetings(prints: Prints, rows: pa.Table) -> Iterator[tuple[str, int, int]]:
    """Kind, position of a sample, position of a training row that it is known from."""
    captions = pa.array([_letters(caption) for caption in rows["caption"].to_pylist()], pa.string())
    columns = {
        "same_id": (prints.ids, rows["pair_id"]),
        "same_bytes": (prints.sha256, rows["image_sha256"]),
        "same_article": (prints.articles, rows["pmcid"]),
        "same_caption": (prints.captions, captions),
    }
    for kind, (mine, theirs) in columns.items():
        yield from ((kind, sample, row) for sample, row in _same(mine, theirs))
    hashed = np.flatnonzero(_has_hash(rows["phash"]))
    own = np.flatnonzero(prints.hashed)
    samples, others = across(_outline(prints.images.take(own)), _outline(images_of(rows.take(hashed))), MAX_DISTANCE)
    yield from (("alike", int(own[i]), int(hashed[j])) for i, j in zip(samples, others, strict=True))


def _outline(images: Images) -> Images:
    """Hashes and shapes alone: entropy and colour of all are made the same."""
    even = np.zeros(len(images.sha), np.float32)
    return replace(images, entropy=even, colour=even)


def _same(mine: pa.Array, theirs: pa.Array | pa.ChunkedArray) -> Iterator[tuple[int, int]]:
    """Positions of mine whose value stands among theirs, each with the first such row."""
    where = pc.index_in(mine, value_set=theirs.combine_chunks() if isinstance(theirs, pa.ChunkedArray) else theirs)
    found = where.is_valid().to_numpy(zero_copy_only=False) & mine.is_valid().to_numpy(zero_copy_only=False)
    for sample in np.flatnonzero(found):
        yield int(sample), where[int(sample)].as_py()


# ---- on its own


def write_leak(data: SampleSet, split: str, against: Sequence[Path], out: Path, progress: bool = True) -> Manifest:
    """The check alone, as a scores artifact of task ``leak``.

    Raises:
        UserError: the split is empty, no training pairs are named, or ``out`` is taken.
    """
    if not data.size(split):
        raise UserError(f"{data.name}: nothing in split {split}; there are {', '.join(data.splits) or 'none'}")
    if not against:
        raise UserError("name the training pairs to compare with")
    config = {"task": "leak", "set": data.fingerprint, "split": split, "against": identities(against)}
    claim_output(out, "scores", config)
    started = time.monotonic()
    found = examine(data, split, against, out, progress)
    scores = {"task": "leak", "set": data.name, "split": split, **found.summary()}
    write_atomic(out / "scores.json", json.dumps(scores, indent=2) + "\n")
    inputs = [{"name": "set", "fingerprint": data.fingerprint}]
    inputs += [{"name": "pairs", "uri": str(folder.resolve()), "fingerprint": manifest_fingerprint(folder)} for folder in against]
    manifest = Manifest(
        kind="scores",
        name=out.name,
        config=config,
        inputs=inputs,
        counts={"samples": scores["samples"], "leaked": scores["leaked"]},
        timings={"check": time.monotonic() - started},
        details=scores,
    )
    write_manifest(out, manifest)
    return manifest
