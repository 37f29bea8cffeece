"""The road through ``ray job submit`` to a cluster on this machine, with the package shipped to the workers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from biomedray.artifacts import read_manifest

from .clusters import head

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(2400)]

ROOT = Path(__file__).parents[1]
RAY = Path(sys.executable).with_name("ray")


# Ray guards a cluster with a token where one exists, and its job client must be told to use it.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {
    "PATH": f"{RAY.parent}:{os.environ['PATH']}",
    "RAY_AUTH_MODE": "token",
}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of the jobs API of a fresh cluster; it wants the token that 'ray job submit' brings along."""
    subprocess.run([str(RAY), "get-auth-token", "--generate"], check=True, capture_output=True, env=ENVIRONMENT)
    with head(ENVIRONMENT, 4, "/api/jobs/") as found:
        yield found


def submit(address: str, road: list[str]) -> subprocess.CompletedProcess[str]:
    """Submit and wait for the end; the API answers some seconds before the node's agent takes jobs."""
    command = [str(RAY), "job", "submit", "--address", address, "--working-dir", str(ROOT / ".link"), "--", *road]
    for _ in range(30):
        done = subprocess.run(command, capture_output=True, text=True, timeout=1500, check=False, env=ENVIRONMENT)
        if "No available agent" not in done.stdout + done.stderr:
            break
        time.sleep(2)
    return done


def test_the_whole_road_as_a_job(address, tmp_path):
    out = tmp_path / "demo"
    road = ["python", "-m", "biomedray.cli", "demo", "--out", str(out), "--generate", "40", "--epochs", "1"]
    done = submit(address, road)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert "succeeded" in done.stdout
    assert (out / "report.html").is_file()
    assert read_manifest(out / "model", "model").counts["steps"] > 0
