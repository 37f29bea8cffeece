"""Artifacts on disk: the manifest, atomic writes, and who may write into an output folder.

claim_output -> (parts, each by atomic rename) -> write_manifest     finished = manifest.json is there
     |  run.json names the configuration while the run is unfinished
     +- a finished artifact, or another run's parts: UserError
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from biomedray.errors import UserError
from biomedray.records import SCHEMA_VERSION

MANIFEST = "manifest.json"
RUN_FILE = "run.json"
_SOFTWARE = ("biomedray", "ray", "torch", "open_clip_torch", "transformers", "pyarrow", "pillow", "lxml", "faiss-cpu")


def software_versions() -> dict[str, str]:
    """Versions of what made the artifact, by distribution name."""
    versions = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in _SOFTWARE:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


class Manifest(BaseModel):
    """What an artifact is: written last, so its presence says that the artifact is whole."""

    model_config = ConfigDict(extra="forbid")

    kind: str
    name: str
    schema_version: int = SCHEMA_VERSION
    config: dict[str, Any] = Field(default_factory=dict)
    inputs: list[dict[str, str]] = Field(default_factory=list)
    software: dict[str, str] = Field(default_factory=software_versions)
    counts: dict[str, Any] = Field(default_factory=dict)
    timings: dict[str, float] = Field(default_factory=dict)
    details: dict[str, Any] = Field(default_factory=dict)


def fingerprint(value: Any) -> str:
    """First 16 hex digits of the SHA-256 of a JSON-able value; the same for the same content."""
    data = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(data.encode()).hexdigest()[:16]


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a whole file under a temporary name in the same folder, then rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that replaces it on success and vanishes on error."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def is_finished(folder: Path) -> bool:
    """Whether the folder holds a whole artifact."""
    return (folder / MANIFEST).is_file()


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Finish an artifact: the manifest appears, the claim of the unfinished run goes."""
    write_atomic(folder / MANIFEST, manifest.model_dump_json(indent=2) + "\n")
    (folder / RUN_FILE).unlink(missing_ok=True)


def read_manifest(folder: Path, kind: str | None = None) -> Manifest:
    """The manifest of a finished artifact.

    Raises:
        UserError: the folder is missing, unfinished, damaged or of another kind.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    path = folder / MANIFEST
    if not path.is_file():
        hint = "; it is an unfinished run: start the command that makes it again" if (folder / RUN_FILE).is_file() else ""
        raise UserError(f"{folder}: not a {kind or 'biomedray'} artifact (no {MANIFEST}){hint}")
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise UserError(f"{path}: damaged manifest: {error.errors()[0]['msg']}") from None
    if kind is not None and manifest.kind != kind:
        raise UserError(f"{folder}: {one(manifest.kind)} artifact, but {one(kind)} artifact is wanted")
    return manifest


def manifest_fingerprint(folder: Path) -> str:
    """Identity of an input artifact: the hash of its manifest file."""
    return hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()[:16]


def one(kind: str) -> str:
    """A kind with its article: a model, an index."""
    return f"{'an' if kind[:1] in 'aeiou' else 'a'} {kind}"


def claim_output(folder: Path, kind: str, config: Mapping[str, Any]) -> bool:
    """Take an output folder for a run; True when an unfinished run of the same configuration resumes.

    Raises:
        UserError: the folder holds a finished artifact, another run's parts or foreign files.
    """
    claim = {"kind": kind, "config": fingerprint(dict(config))}
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: a file is in the way; name a folder for the output")
    if is_finished(folder):
        raise UserError(f"{folder}: holds a finished {read_manifest(folder).kind} artifact; choose another folder or delete it")
    run_file = folder / RUN_FILE
    if run_file.is_file():
        if _read_claim(run_file) == claim:
            return True
        raise UserError(f"{folder}: holds the parts of another run (other input or settings); choose another folder or delete it")
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder}: is not empty and not an unfinished run of this command; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(run_file, json.dumps(claim))
    return False


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Work in a folder that no other process of this machine works in.

    Raises:
        UserError: one does.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system may know no locks
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(f"{folder}: another process is at work in it; wait for it or stop it first") from None
        yield
    finally:
        os.close(handle)


def _read_claim(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None
