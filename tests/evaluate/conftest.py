"""What tests of evaluation share: every layout of labelled images in miniature."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def mini(load_module: Callable[[Path], ModuleType]) -> ModuleType:
    """The makers of miniatures."""
    return load_module(Path(__file__).parent / "miniatures.py")
