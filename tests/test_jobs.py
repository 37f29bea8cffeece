"""The road through ``ray job submit`` to a cluster on this machine, with the package shipped to the workers."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from biomedray.artifacts import read_manifest

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(2400)]

ROOT = Path(__file__).parents[1]
RAY = Path(sys.executable).with_name("ray")


# Ray guards a cluster with a token where one exists, and its job client must be told to use it.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {
    "PATH": f"{RAY.parent}:{os.environ['PATH']}",
    "RAY_AUTH_MODE": "token",
}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def head() -> Iterator[str]:
    """Address of the jobs API of a fresh ``ray start --head``."""
    port = free_port()
    # A short path: Ray puts sockets below it, whose names may have 107 characters at most.
    folder = tempfile.mkdtemp(prefix="rayjob", dir="/tmp")
    subprocess.run([str(RAY), "get-auth-token", "--generate"], check=True, capture_output=True, env=ENVIRONMENT)
    command = [str(RAY), "start", "--head", "--block", f"--port={free_port()}", f"--dashboard-port={port}", "--num-cpus=4"]
    # The agent that takes jobs has a fixed port by default: the cluster of the other tests already listens there.
    command += [f"--dashboard-agent-listen-port={free_port()}", f"--dashboard-agent-grpc-port={free_port()}"]
    process = subprocess.Popen(
        [*command, f"--temp-dir={folder}", "--disable-usage-stats"],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{port}"
    wait_for_jobs_api(address, process)
    yield address
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(60)
    shutil.rmtree(folder, ignore_errors=True)


def wait_for_jobs_api(address: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        assert process.poll() is None
        try:
            urllib.request.urlopen(f"{address}/api/jobs/", timeout=2).close()
        except urllib.error.HTTPError:
            return  # it is up and wants the token that 'ray job submit' brings along
        except OSError:
            time.sleep(0.5)
        else:
            return
    raise AssertionError("the jobs API did not come up")


def submit(address: str, road: list[str]) -> subprocess.CompletedProcess[str]:
    """Submit and wait for the end; the API answers some seconds before the node's agent takes jobs."""
    command = [str(RAY), "job", "submit", "--address", address, "--working-dir", str(ROOT / ".link"), "--", *road]
    for _ in range(30):
        done = subprocess.run(command, capture_output=True, text=True, timeout=1500, check=False, env=ENVIRONMENT)
        if "No available agent" not in done.stdout + done.stderr:
            break
        time.sleep(2)
    return done


def test_the_whole_road_as_a_job(head, tmp_path):
    out = tmp_path / "demo"
    road = ["python", "-m", "biomedray.cli", "demo", "--out", str(out), "--generate", "40", "--epochs", "1"]
    done = submit(head, road)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert "succeeded" in done.stdout
    assert (out / "report.html").is_file()
    assert read_manifest(out / "model", "model").counts["steps"] > 0
