"""A small corpus with every class of damage, made once, and readers of its files."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from biomedray.corpus import generate

Files = Callable[[dict[str, Any]], dict[str, bytes]]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("corpus") / "out"
    generate(out, articles=30, seed=1, broken=0.01, progress=False)
    return out


@pytest.fixture(scope="session")
def truths(corpus: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (corpus / "truth.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="session")
def whole(truths: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [truth for truth in truths if truth["damage"] is None]


@pytest.fixture(scope="session")
def read_files(corpus: Path) -> Files:
    """The files of an article by name, whatever its layout; the XML under the name ``xml``."""

    def read(truth: dict[str, Any]) -> dict[str, bytes]:
        source = corpus / truth["source"]
        if truth["layout"] == "package":
            with tarfile.open(fileobj=io.BytesIO(source.read_bytes())) as tar:
                found = {info.name.partition("/")[2]: tar.extractfile(info).read() for info in tar if info.isfile()}
        else:
            found = {path.name: path.read_bytes() for path in source.iterdir()}
        names = [name for name in found if name.endswith((".nxml", ".xml"))]
        return found | {"xml": found[names[0]]} if names else found

    return read
