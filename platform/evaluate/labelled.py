"""What zero-shot and probe share: opening sets with a user's options, embedding once, writing the scores of labelled samples.

paths + options -> ImageSets -> embeddings in a store (made once) -> ... -> samples.parquet, scores.json, manifest.json
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from biomedray.artifacts import Manifest, atomic_path, write_atomic, write_manifest
from biomedray.errors import UserError
from biomedray.evaluate.classification import Answers
from biomedray.evaluate.models import Model
from biomedray.evaluate.sets import LAYOUTS, ImageSet, open_sets
from biomedray.evaluate.sets.prompts import reworded
from biomedray.evaluate.stats import IntVector, number_groups
from biomedray.evaluate.vectors import Embedded, read_rejects, read_vectors

EMBEDDINGS = "embeddings"


@dataclass(frozen=True)
class Choice:
    """What a user says of the data, beside where they are."""

    layout: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    """Of the layout."""
    classes: Mapping[str, str] = field(default_factory=dict)
    """What prompts call a class."""
    templates: Sequence[str] = ()
    prompts: Path | None = None
    """A JSON file with classes and templates."""
    limit: int | None = None
    """Most pictures of a split, drawn at random."""


@dataclass(frozen=True)
class Clock:
    """Seconds since it was made."""

    started: float = field(default_factory=time.monotonic)

    def __call__(self) -> float:
        """Seconds."""
        return time.monotonic() - self.started


Located = tuple[ImageSet, Path]


def open_all(paths: Sequence[Path], choice: Choice) -> list[Located]:
    """All sets at these paths, each with its path, in the words that the user chose.

    Raises:
        UserError: as ``open_sets``; an option that none of their layouts has; one name twice; prompts for several sets.
    """
    found = [(one, path) for path in paths for one in open_sets(path, choice.layout, **_options(path, choice, len(paths)))]
    if len(found) > 1 and (choice.classes or choice.prompts):
        raise UserError(f"{len(found)} sets, but class names of one; score the sets one by one, or leave the names out")
    if twice := [name for name, count in Counter(one.name for one, _ in found).items() if count > 1]:
        raise UserError(f"{twice[0]} is named twice; name every set once")
    return [(reworded(one, choice.classes, choice.templates, choice.prompts), path) for one, path in found]


def limited(data: ImageSet, limit: int | None, split: str | None = None) -> ImageSet:
    """At most so many pictures of a split, or of every split."""
    for name in data.splits if split is None else [split]:
        data = data.limited(name, limit)
    return data


def _options(path: Path, choice: Choice, paths: int) -> Mapping[str, str]:
    """Of several sets each takes the options that its layout has."""
    if paths == 1 or not choice.options:
        return choice.options
    if unknown := sorted(set(choice.options) - {name for layout in LAYOUTS.values() for name in layout.options}):
        raise UserError(f"no layout has an option {unknown[0]}")
    known = set(LAYOUTS[open_sets(path, choice.layout)[0].layout].options)
    return {name: value for name, value in choice.options.items() if name in known}


@dataclass(frozen=True)
class Vectors:
    """One split's embeddings, with what was left out."""

    embedded: Embedded
    rejects: dict[str, int]
    """Unreadable pictures by reason."""

    @property
    def clusters(self) -> IntVector:
        """[n] number of each sample's group."""
        return number_groups(self.embedded.groups)


def vectors_of(
    data: ImageSet, split: str, spec: str | Path, store: Path, *, opened: Model | None = None, progress: bool = True
) -> Vectors:
    """The embeddings of a split, from the store or made into it; splits that were cut here are rows of the whole's.

    Raises:
        UserError: the split is empty or nothing in it can be read.
    """
    from biomedray.evaluate.embed import embed_once

    source = data.cut_from or data
    of = split if data.cut_from is None else source.splits[0]
    folder = embed_once(source, of, spec, store, opened=opened, progress=progress)
    embedded, rejects = read_vectors(folder), read_rejects(folder)
    if data.cut_from is not None:
        ids = set(data.part(split).ids)
        embedded = _only(embedded, np.flatnonzero([name in ids for name in embedded.ids]))
        rejects = [row for row in rejects if row["id"] in ids]
    if not embedded.ids:
        raise UserError(f"{data.name}: none of the {data.size(split)} pictures of split {split} can be read")
    return Vectors(embedded, dict(sorted(Counter(row["reason"] for row in rejects).items())))


def _only(embedded: Embedded, rows: IntVector) -> Embedded:
    """These rows; texts have no part in classification."""
    ids, groups = ([values[i] for i in rows] for values in (embedded.ids, embedded.groups))
    return Embedded(ids, embedded.labels[rows], groups, embedded.images[rows], None)


def described(data: ImageSet, split: str, vectors: Vectors) -> dict[str, Any]:
    """What every scores.json says of the samples that it is about."""
    return {
        "set": data.name,
        "layout": data.layout,
        "split": split,
        "n": len(vectors.embedded.ids),
        "rejects": vectors.rejects,
        "classes": list(data.classes),
        "counts": dict(Counter(data.classes[label] for label in vectors.embedded.labels)),
        "groups": int(vectors.clusters.max()) + 1,
        "over": f"{data.grouped}s" if data.grouped else "pictures",
        "notes": list(data.notes),
        "metric": data.metric,
        "paper": None if data.paper is None else dict(data.paper),
    }


def write_samples(path: Path, embedded: Embedded, answers: Answers) -> None:
    """One row a sample: id, group, label, predicted (-1: undecided), probabilities by class."""
    columns = {
        "id": pa.array(embedded.ids, pa.string()),
        "group": pa.array(embedded.groups, pa.string()),
        "label": pa.array(answers.labels, pa.int64()),
        "predicted": pa.array(answers.predicted, pa.int64()),
        "probabilities": pa.array(list(answers.probabilities), pa.list_(pa.float64())),
    }
    with atomic_path(path) as temporary:
        pq.write_table(pa.table(columns), temporary)


def finish(out: Path, config: dict[str, Any], inputs: list[dict[str, str]], scores: dict[str, Any], seconds: float) -> Manifest:
    """Write scores.json and the manifest with the same details."""
    write_atomic(out / "scores.json", json.dumps(scores, indent=2, allow_nan=False) + "\n")
    counts = {name: scores[name] for name in ("n", "groups") if name in scores} | {
        "rejects": sum(scores.get("rejects", {}).values())
    }
    manifest = Manifest(
        kind="scores", name=out.name, config=config, inputs=inputs, counts=counts, timings={"score": seconds}, details=scores
    )
    write_manifest(out, manifest)
    return manifest


def inputs_of(data: ImageSet, where: Path, spec: str | Path, model: Model) -> list[dict[str, str]]:
    """Set and model as a manifest names them."""
    return [
        {"name": "set", "uri": str(where.resolve()), "fingerprint": data.fingerprint},
        {"name": "model", "uri": str(spec), "fingerprint": model.fingerprint},
    ]
