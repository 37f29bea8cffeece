"""What all tests share: one Ray cluster per session, a small generated corpus and what follows from it."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import settings

# No property is about time, and a machine that is busy with other things may stand still for a second.
settings.register_profile("biomedray", deadline=None)
settings.load_profile("biomedray")

# Train's controller polls every two seconds by default; tests report often and would wait for it.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local Ray cluster for the whole session."""
    import ray

    from biomedray import cluster

    cluster.start()
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def load_module() -> Callable[[Path], ModuleType]:
    """A helper that stands beside the tests as a file: test folders are no packages."""

    def load(path: Path) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module

    return load
