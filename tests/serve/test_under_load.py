"""A service of two replicas behind HAProxy, asked without pause: index and model are swapped, its processes killed."""

from __future__ import annotations

import ast
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from biomedray.model.encoder import Encoder
from biomedray.model.settings import ModelConfig
from biomedray.model.towers import initialise
from biomedray.serve import haproxy

from ..clusters import status, wait
from . import hostile
from .conftest import COLORS, pair_row, write_index, write_pairs

pytestmark = [
    pytest.mark.ray,
    pytest.mark.heavy,
    pytest.mark.skipif(haproxy.binary() is None, reason="Ray brings HAProxy on Linux only"),
]

# Asked from a process of its own: the tests' own Ray is another cluster.
STATES = """
import sys, ray
from ray import serve
ray.init(sys.argv[1], logging_level="ERROR", log_to_driver=False)
states = serve.status().applications["biomedray"].deployments["Service"].replica_states
print("\\n", {str(getattr(state, "value", state)): count for state, count in states.items()})
"""

QUESTIONS = ["a red field", "a blue field", "something else", "a green field, number 6"]
STREAMS = 3


@dataclass
class Service:
    """A running ``biomedray serve`` and the file that says what it serves."""

    process: subprocess.Popen[bytes]
    url: str
    serving: Path
    models: dict[str, Path]
    indexes: dict[str, Path]
    expected: dict[str, np.ndarray]

    def hold(self, name: str) -> None:
        temporary = self.serving.with_suffix(".new")
        temporary.write_text(json.dumps({"model": str(self.models[name]), "index": str(self.indexes[name])}))
        temporary.replace(self.serving)

    def processes(self, title: str) -> list[psutil.Process]:
        return [p for p in psutil.Process(self.process.pid).children(recursive=True) if title in "".join(_cmdline(p))]

    def pids(self, title: str) -> set[int]:
        return {process.pid for process in self.processes(title)}

    def settled(self) -> set[int]:
        """Replicas, once the controller has brought up two and is at work on no other: a process alone may still be starting."""
        raylet = self.processes("raylet/raylet")[0]
        address = " ".join(_cmdline(raylet)).partition("--gcs-address=")[2].split()[0]
        environment = raylet.environ()  # with the token that guards this Ray

        def states() -> dict[str, int]:
            command = [sys.executable, "-c", STATES, address]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
            found = done.stdout.strip().splitlines()
            return ast.literal_eval(found[-1].strip()) if done.returncode == 0 and found else {}

        wait(lambda: states() == {"RUNNING": 2} and len(self.pids("ServeReplica:biomedray:Service")) == 2, 180)
        return self.pids("ServeReplica:biomedray:Service")

    def info(self) -> dict:
        answer: dict = httpx.get(f"{self.url}/v1/info", timeout=30).json()
        return answer


@dataclass
class Stream:
    """Requests one after another from several threads; ``wrong`` holds every answer that was not a right one."""

    service: Service
    answered: list[tuple[float, str]] = field(default_factory=list)
    failed: list[tuple[float, str]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def __enter__(self) -> Stream:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(STREAMS)]
        for thread in self._threads:
            thread.start()
        time.sleep(1)
        return self

    def __exit__(self, *_: object) -> None:
        time.sleep(1)
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _run(self, number: int) -> None:
        with httpx.Client(base_url=self.service.url, timeout=60) as client:
            while not self._stop.is_set():
                number += 1
                self._ask(client, number % len(QUESTIONS))

    def _ask(self, client: httpx.Client, question: int) -> None:
        try:
            answer = client.post("/v1/embeddings", json={"input": QUESTIONS[question]})
        except httpx.TransportError as error:
            self.failed.append((time.monotonic(), type(error).__name__))
            return
        if not answer.is_success:
            self.failed.append((time.monotonic(), f"{answer.status_code} {answer.text[:200]}"))
            return
        body = answer.json()
        self.answered.append((time.monotonic(), body["model"]))
        vector = np.array(body["data"][0]["embedding"])
        if float(vector @ self.service.expected[body["model"]][question]) < 0.999:
            self.wrong.append(body["model"])


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("load")
    pairs = write_pairs(folder / "pairs", [pair_row(number) for number in range(24)])
    captions = [f"A {color} field, number {n}." for color in COLORS for n in range(50)]
    models, indexes, expected = {}, {}, {}
    for seed, name in enumerate(("first", "second")):
        models[name] = folder / name
        initialise(ModelConfig(name="tiny"), captions, models[name], seed=seed)
        encoder = Encoder.load(models[name])
        indexes[name] = write_index(folder / f"index-{name}", pairs, encoder)
        expected[name] = encoder.encode_texts(QUESTIONS)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    made = Service(_start(folder, port), f"http://127.0.0.1:{port}", folder / "serving.json", models, indexes, expected)
    made.hold("first")
    try:
        wait(lambda: status(f"{made.url}/readyz") == 200, 240)
        yield made
    finally:
        made.process.send_signal(signal.SIGTERM)
        made.process.wait(120)


def test_a_model_and_its_index_are_swapped_under_load(service: Service) -> None:
    with Stream(service) as stream:
        service.hold("second")
        wait(lambda: {name for moment, name in stream.answered if moment > time.monotonic() - 1} == {"second"}, 120)
    assert not stream.failed
    assert not stream.wrong
    assert {name for _, name in stream.answered} == {"first", "second"}
    assert service.info()["index"]["encoder_fingerprint"] == Encoder.load(service.models["second"]).fingerprint


def test_an_index_of_another_model_is_not_put_in(service: Service) -> None:
    before = service.info()
    with Stream(service) as stream:
        service.serving.write_text(json.dumps({"model": str(service.models["second"]), "index": str(service.indexes["first"])}))
        time.sleep(8)
        said = service.info()
        service.hold("second")
        wait(lambda: all(service.info()["trouble"] is None for _ in range(8)), 30)
    assert not stream.failed
    assert said["model"] == before["model"]
    assert said["index"]["generation"] == before["index"]["generation"]
    assert "can't be served" in said["trouble"]


def test_a_killed_replica_costs_what_it_was_answering(service: Service) -> None:
    victims = service.processes("ServeReplica:biomedray:Service")
    assert len(victims) == 2
    with Stream(service) as stream:
        victims[0].kill()
        killed = time.monotonic()
        time.sleep(5)
    assert not stream.wrong
    assert len(stream.failed) <= STREAMS, stream.failed
    assert all(moment < killed + 5 for moment, _ in stream.failed)
    assert victims[0].pid not in service.settled()


def test_a_killed_controller_is_not_noticed(service: Service) -> None:
    replicas = service.settled()
    (controller,) = service.processes("ServeController")
    with Stream(service) as stream:
        controller.kill()
        time.sleep(10)
    assert not stream.failed
    assert not stream.wrong
    wait(lambda: bool(service.pids("ServeController") - {controller.pid}), 120)
    assert service.settled() == replicas


def test_hostile_requests_through_the_proxy_cost_nobody_else(service: Service) -> None:
    replicas = service.settled()
    report = hostile.run(service.url, slow=4)
    assert report.sent >= 300
    assert report.failures == []
    assert report.good_sent >= 10
    assert report.good_failed == 0
    assert service.pids("ServeReplica:biomedray:Service") == replicas


def test_what_runs_is_answered_before_the_service_stops(service: Service) -> None:
    texts = [f"a long text, number {number} " * 40 for number in range(200)]
    outcome: list[int] = []
    with httpx.Client(base_url=service.url, timeout=120) as client:
        client.get("/livez")
        asking = threading.Thread(
            target=lambda: outcome.append(
                client.post("/v1/embeddings", json={"input": texts, "encoding_format": "base64"}).status_code
            )
        )
        asking.start()
        time.sleep(0.2)
        service.process.send_signal(signal.SIGTERM)
        asking.join(120)
    assert outcome == [200]
    assert service.process.wait(120) in (0, -signal.SIGTERM)


def _start(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """The command as a user starts it, with a Ray of its own: HAProxy has to be chosen before Ray starts."""
    command = [sys.executable, "-c", "from biomedray.cli import main; main()", "serve", str(folder / "serving.json")]
    options = ["--port", str(port), "--proxy", "haproxy", "--set", "replicas=2", "--set", "cpus=1", "--set", "watch_seconds=0.5"]
    (folder / "serving.json").write_text(json.dumps({"model": str(folder / "first"), "index": str(folder / "index-first")}))
    with (folder / "log").open("wb") as log:
        return subprocess.Popen([*command, *options], env=_own_ray(), stdout=log, stderr=log)


def _own_ray() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTEST_"))}


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
