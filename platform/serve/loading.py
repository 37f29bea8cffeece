"""From paths to an engine: what is served, whether it has changed on disk, and how it is loaded.

    biomedray serve MODEL --index INDEX        these paths are watched: another model folder, a new generation
    biomedray serve serving.yaml               {model: ..., index: ..., pairs: ...}, read again when it changes

A model and an index that don't belong together are not put in: the engine before goes on until both do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from biomedray.artifacts import read_manifest
from biomedray.config import Config
from biomedray.errors import UserError
from biomedray.serve.engine import Engine
from biomedray.serve.generation import CURRENT
from biomedray.serve.images import ImageStore
from biomedray.serve.lanes import Lanes, Towers
from biomedray.serve.limits import Limits
from biomedray.serve.metrics import Metrics
from biomedray.serve.search import Index, SearchIndex

_SUFFIXES = frozenset({".yaml", ".yml", ".json"})


class Holding(Config):
    """What a replica serves."""

    model: str
    """Model folder, local-dir:FOLDER, hf-hub:org/name, or a file that says model, index and pairs."""
    index: Path | None = None
    """Index artifact; without it there is no search."""
    pairs: Path | None = None
    """Where the index's pairs artifact lies if it has moved."""

    def placed(self) -> Holding:
        """With whole paths: replicas run in another folder."""
        paths = {name: path.resolve() for name in ("index", "pairs") if (path := getattr(self, name))}
        model = str(Path(self.model).resolve()) if Path(self.model).exists() else self.model
        return self.model_copy(update={**paths, "model": model})


@dataclass(frozen=True)
class Mark:
    """A fingerprint of a holding's files by name, size and time: cheap, and different when something was replaced."""

    model: str
    index: str


@dataclass(frozen=True)
class Loaded:
    """An engine, and the mark of what it was made of."""

    engine: Engine
    mark: Mark


@dataclass(frozen=True)
class Place:
    """Where and within which bounds an engine runs; ``metrics`` go on across engines."""

    device: str
    limits: Limits
    metrics: Metrics | None = None
    precision: str = "float32"
    backend: str = "torch"
    towers: Callable[[str, str], Towers] | None = None
    """Of a model's fingerprint and spec, towers that run elsewhere; None: here."""
    open_index: Callable[[Path, str], Index] = SearchIndex.open
    """Of an index's folder and an encoder's fingerprint, the index: here, or in shards."""


def resolve(holding: Holding) -> Holding:
    """The holding itself, or what the file that it names says now; relative paths start at that file's folder.

    Raises:
        UserError: the file can't be read or says something else.
    """
    path = Path(holding.model)
    if path.suffix not in _SUFFIXES or not path.is_file():
        return holding
    try:
        said = Holding.model_validate(yaml.safe_load(path.read_text()))
    except (OSError, yaml.YAMLError, ValidationError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: not a serving file ({_first_line(error)}); it says model, and index and pairs if wanted"
        ) from None
    beside = path.resolve().parent
    model = str(beside / said.model) if (beside / said.model).exists() else said.model
    return Holding(model=model, index=said.index and beside / said.index, pairs=said.pairs and beside / said.pairs)


def check_paths(holding: Holding) -> None:
    """Tell what is plainly not there, in no time; ``load`` finds the rest.

    Raises:
        UserError: a serving file that can't be read, no such model folder, no such artifact.
    """
    found = resolve(holding)
    folder = Path(found.model.removeprefix("local-dir:"))
    if not found.model.startswith("hf-hub:") and not folder.is_dir():
        raise UserError(f"{folder}: no such model folder")
    for path, kind in ((found.index, "index"), (found.pairs, "pairs")):
        if path is not None:
            read_manifest(path, kind)


def mark(holding: Holding) -> Mark:
    """The mark of what the holding's paths hold now.

    Raises:
        UserError: it names a serving file that can't be read.
    """
    found = resolve(holding)
    folder = Path(found.model.removeprefix("local-dir:"))
    files = sorted(path for path in folder.glob("*") if path.is_file()) if folder.is_dir() else []
    index = [] if found.index is None else [found.index / CURRENT]
    return Mark(_mark(str(folder), files), _mark(f"{found.index} {found.pairs}", index))


def load(holding: Holding, place: Place, before: Loaded | None = None) -> Loaded:
    """An engine of what the holding's paths hold now; a model that has not changed since ``before`` is not loaded again.

    Raises:
        UserError: something is missing, damaged, or does not belong to the rest.
    """
    from biomedray.model.encoder import Encoder

    marked = mark(holding)
    found = resolve(holding)
    lanes = before.engine.lanes if before is not None and before.mark.model == marked.model else None
    encoder: Any = lanes.encoder if lanes else Encoder.load(found.model, place.device, place.precision, place.backend)
    index = images = None
    if found.index is not None:
        index = place.open_index(found.index, encoder.fingerprint)
        images = ImageStore(index.generation, found.pairs)
    metrics = place.metrics or Metrics()
    if lanes is None and place.towers is not None:
        encoder.let_go()
        lanes = Lanes(encoder, place.limits, metrics, place.towers(encoder.fingerprint, found.model))
    return Loaded(Engine(encoder, index, images, place.limits, metrics, lanes), marked)


def _mark(name: str, files: list[Path]) -> str:
    digest = hashlib.sha256(name.encode())
    for path in files:
        try:
            stat = path.stat()
            digest.update(f"{path.name} {stat.st_ino} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        except OSError:
            digest.update(f"{path.name} missing\n".encode())
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return (str(error).splitlines() or [type(error).__name__])[0]
