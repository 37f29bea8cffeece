"""A Ray cluster of its own for tests that ask one from outside, as users of a cluster do."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def head(environment: Mapping[str, str], cpus: int, ready: str) -> Iterator[str]:
    """Address of the dashboard of a fresh ``ray start --head``, once ``ready``, a path of it, answers with anything."""
    port = free_port()
    # A short path: Ray puts sockets below it, whose names may have 107 characters at most.
    folder = tempfile.mkdtemp(prefix="head", dir="/tmp")
    command = [str(BIN / "ray"), "start", "--head", "--block", f"--port={free_port()}", f"--dashboard-port={port}"]
    # The agent that takes jobs has a fixed port by default: the cluster of the other tests already listens there.
    command += [f"--dashboard-agent-listen-port={free_port()}", f"--dashboard-agent-grpc-port={free_port()}"]
    process = subprocess.Popen(
        [*command, f"--num-cpus={cpus}", f"--temp-dir={folder}", "--disable-usage-stats"],
        env=dict(environment),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def answered() -> bool:
        assert process.poll() is None
        return status(f"http://127.0.0.1:{port}{ready}") is not None

    try:
        wait(answered, 300)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def status(address: str) -> int | None:
    """What a GET is answered with, None if by nothing."""
    try:
        return httpx.get(address, timeout=5).status_code
    except httpx.TransportError:
        return None


def wait(condition: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.5)
