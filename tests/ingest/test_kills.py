"""kill -9 of a worker, of the driver and of the node: the same command again ends with the same bytes."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from biomedray.artifacts import read_manifest
from biomedray.ingest import IngestConfig, ingest

RunHere = Callable[..., list[int]]
SMALL = IngestConfig(articles_per_part=4, val_fraction=0.2, test_fraction=0.2)

CODE = """
import sys
from pathlib import Path
from biomedray.ingest import IngestConfig, ingest
ingest([sys.argv[1]], Path(sys.argv[2]), IngestConfig.model_validate_json(sys.argv[3]), progress=False)
"""


def _files(out: Path) -> dict[str, str]:
    """Every table of an artifact by name, with its hash."""
    tables = [path for folder in ("data", "rejects", "ledger") for path in (out / folder).rglob("*.parquet")]
    return {path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in tables}


@pytest.fixture(scope="module")
def slow_source(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """Articles that take long enough to be killed in the middle."""
    import io

    import numpy as np
    from PIL import Image

    folder = tmp_path_factory.mktemp("slow") / "articles"
    out = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (1400, 1400, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, "JPEG", quality=70)
    for i in range(24):
        article = folder / f"PMC{i}"
        article.mkdir(parents=True)
        figs = "".join(
            f'<fig id="F{n}"><label>Figure {n}</label><caption><p>Caption.</p></caption><graphic xlink:href="f.jpg"/></fig>'
            for n in range(8)
        )
        (article / "a.nxml").write_text(f'<article xmlns:xlink="http://www.w3.org/1999/xlink"><body>{figs}</body></article>')
        (article / "f.jpg").write_bytes(out.getvalue())
    return folder


@pytest.fixture(scope="module")
def whole(slow_source: Path, tmp_path_factory: pytest.TempPathFactory, run_here: RunHere) -> dict[str, str]:
    """What a run without Ray and without interruption writes."""
    out = tmp_path_factory.mktemp("whole") / "pairs"
    run_here(slow_source, out, SMALL)
    return _files(out)


@pytest.mark.ray
def test_killed_workers_are_replaced(slow_source: Path, tmp_path: Path, ray_cluster: None, whole: dict[str, str]) -> None:
    killed: list[int] = []
    stop = threading.Event()

    def kill_one() -> None:
        while not stop.is_set() and not killed:
            for process in psutil.process_iter(["cmdline"]):
                if "_task" in " ".join(process.info["cmdline"] or []) and "ray::" in " ".join(process.info["cmdline"] or []):
                    time.sleep(0.05)
                    process.kill()
                    killed.append(process.pid)
                    return
            time.sleep(0.01)

    thread = threading.Thread(target=kill_one)
    thread.start()
    try:
        ingest([str(slow_source)], tmp_path / "pairs", SMALL, progress=False)
    finally:
        stop.set()
        thread.join()
    assert killed
    assert _files(tmp_path / "pairs") == whole


# Short paths, for Ray's sockets; they go when the tests end.
_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []


def _start(source: Path, out: Path) -> subprocess.Popen[bytes]:
    """The same run in a process of its own, with a Ray of its own that dies with it."""
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    _FOLDERS.append(tempfile.TemporaryDirectory(prefix="rk", dir="/tmp", ignore_cleanup_errors=True))
    environment["RAY_TMPDIR"] = _FOLDERS[-1].name
    command = [sys.executable, "-c", CODE, str(source), str(out), SMALL.model_dump_json()]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


def _wait(process: subprocess.Popen[bytes], until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 400
    while not until() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Nothing of a killed run stays behind on the machine."""
    for child in psutil.process_iter(["pid"]):
        try:
            if os.getsid(child.pid) == process.pid:
                child.kill()
        except (ProcessLookupError, PermissionError, psutil.NoSuchProcess):
            continue
    process.wait(60)


def _raylet(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return [child for child in psutil.Process(process.pid).children(recursive=True) if child.name() == "raylet"]


@pytest.mark.heavy
def test_the_driver_killed_again_and_again(slow_source: Path, tmp_path: Path, whole: dict[str, str], ray_cluster: None) -> None:
    """While parts are extracted, when the last was, while they are brought to their place; then a run to the end."""
    out = tmp_path / "pairs"
    moments: list[Callable[[], bool]] = [
        lambda: len(list(out.glob("parts/*.json"))) >= 1,
        (out / "settle" / "decision" / "decision.json").is_file,
        lambda: len(list(out.glob("settle/parts/*.json"))) >= 2,
    ]
    killed = 0
    for moment in moments:
        process = _start(slow_source, out)
        _wait(process, moment)
        killed += process.poll() is None
        process.send_signal(signal.SIGKILL)
        _end(process)
        if (out / "manifest.json").exists():
            break
    assert killed >= 2
    if not (out / "manifest.json").exists():
        assert ingest([str(slow_source)], out, SMALL, progress=False).details["resumed"] is True
    assert _files(out) == whole
    assert sorted(path.name for path in out.iterdir()) == ["data", "ledger", "manifest.json", "population", "rejects"]


@pytest.mark.heavy
def test_the_node_killed(slow_source: Path, tmp_path: Path, whole: dict[str, str], ray_cluster: None) -> None:
    out = tmp_path / "pairs"
    process = _start(slow_source, out)
    _wait(process, lambda: bool(list(out.glob("parts/*.json"))))
    for raylet in _raylet(process):
        raylet.kill()
    _wait(process, lambda: False)
    _end(process)
    if not (out / "manifest.json").exists():
        ingest([str(slow_source)], out, SMALL, progress=False)
    assert read_manifest(out, "pairs").details["balanced"] is True
    assert _files(out) == whole
