"""What all tests share: one Ray cluster per session, a small generated corpus and what follows from it."""

from __future__ import annotations

import os
from collections.abc import Iterator

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
