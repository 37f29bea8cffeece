"""A running ``biomedray serve`` for the benchmarks: started as a user starts it, its processes counted, then stopped."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

_READY_SECONDS = 240.0
_STOP_SECONDS = 120.0


@dataclass
class Service:
    """The process, its address, and seconds from the command to ready."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path
    ready_s: float = 0.0

    def __enter__(self) -> Service:
        """Use in a with statement: leaving it stops the service."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it as a user does."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def tree(self) -> list[psutil.Process]:
        """All its processes: the command, Ray, the proxy, replicas."""
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]

    def cpu_s(self, title: str = "") -> float:
        """CPU seconds so far of the processes whose command line holds ``title``."""
        return sum(sum(process.cpu_times()[:2]) for process in self._named(title))

    def memory_mb(self, title: str = "ServeReplica") -> float:
        """Resident memory of such processes."""
        return sum(process.memory_info().rss for process in self._named(title)) / (1 << 20)

    def pids(self, title: str) -> list[int]:
        """Process ids of such processes."""
        return [process.pid for process in self._named(title)]

    def metric(self, name: str) -> float:
        """Sum of a Prometheus metric over its labels."""
        lines = httpx.get(f"{self.url}/metrics", timeout=30).text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((f"{name} ", f"{name}{{")))

    def _named(self, title: str) -> list[psutil.Process]:
        found = []
        for process in self.tree():
            try:
                if title in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.Error:
                continue
        return found


def start(model: Path, *options: str) -> Service:
    """Start a service of a model, with a Ray of its own; returns when it is ready."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = Path(tempfile.mkstemp(prefix="serve-", suffix=".log")[1])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = [sys.executable, "-c", "from biomedray.cli import main; main()", "serve", str(model), "--port", str(port), *options]
    began = time.perf_counter()
    with log.open("wb") as file:
        service = Service(subprocess.Popen(command, env=environment, stdout=file, stderr=file), f"http://127.0.0.1:{port}", log)
    while not _ready(service.url):
        if service.process.poll() is not None or time.perf_counter() - began > _READY_SECONDS:
            service.process.kill()
            raise SystemExit(f"the service did not come up:\n{log.read_text()[-3000:]}")
        time.sleep(0.2)
    service.ready_s = time.perf_counter() - began
    return service


def limits(**values: Any) -> list[str]:
    """``--set`` options for limits."""
    return [word for name, value in values.items() for word in ("--set", f"limits.{name}={json.dumps(value)}")]


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=5).is_success
    except httpx.TransportError:
        return False
