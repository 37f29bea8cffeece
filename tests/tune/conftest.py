"""Pairs that a tiny model learns in seconds: those of the training tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

LoadModule = Callable[[Path], ModuleType]


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory, load_module: LoadModule) -> Path:
    """48 train, 16 val and 8 test pairs."""
    builder = load_module(Path(__file__).parents[1] / "train" / "conftest.py")
    folder: Path = builder.write_pairs(tmp_path_factory.mktemp("tune") / "toy", train=48, val=16)
    return folder
