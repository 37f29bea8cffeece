"""The proxy in front: what a replica says of its full queue is kept in mind for a moment, and nothing else is refused for it."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from biomedray.serve import haproxy
from biomedray.serve.limits import LONG_BODY, QUEUE_HEADER

pytestmark = pytest.mark.skipif(haproxy.binary() is None, reason="Ray brings HAProxy on Linux only")

FULL, FREE, IMPATIENT = "/v1/embeddings/image", "/v1/classify", "/v1/search"
_CONFIG = """global
    tune.bufsize 65536
defaults
    mode http
    timeout connect 5s
    timeout client 10s
    timeout server 10s
    errorfile 504 nowhere
frontend prometheus
    bind :{spare}
frontend http_frontend
    bind 127.0.0.1:{port}
    default_backend app
backend app
    server one 127.0.0.1:{replica}
"""


@dataclass
class Front:
    """HAProxy, and what reached the replica behind it."""

    url: str
    seen: Counter[str] = field(default_factory=Counter)

    def post(self, path: str, size: int = 10) -> httpx.Response:
        return httpx.post(self.url + path, content=bytes(size), timeout=10)


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Front]:
    seen: Counter[str] = Counter()

    class Replica(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            length = int(self.headers["content-length"])
            self.rfile.read(length)
            seen[self.path] += 1
            full = self.path == FULL and (length > LONG_BODY or length < 100)
            self.send_response(503 if full or self.path == IMPATIENT else 200)
            if full:
                self.send_header(QUEUE_HEADER, "7")
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def do_GET(self) -> None:
            self.headers["content-length"] = "0"
            self.do_POST()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    replica = ThreadingHTTPServer(("127.0.0.1", 0), Replica)
    threading.Thread(target=replica.serve_forever, daemon=True).start()
    port, spare = _free_port(), _free_port()
    haproxy.environment(tmp_path, 2)
    (tmp_path / "x.cfg").write_text(_CONFIG.format(port=port, spare=spare, replica=replica.server_port))
    process = subprocess.Popen([tmp_path / "haproxy.sh", "-db", "-f", tmp_path / "x.cfg"])
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None
            time.sleep(0.05)
        yield Front(f"http://127.0.0.1:{port}", seen)
    finally:
        process.kill()
        process.wait()
        replica.shutdown()
        replica.server_close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_full_replica_is_left_alone_for_a_moment(front: Front) -> None:
    first = front.post(FULL)
    assert first.status_code == 503
    assert QUEUE_HEADER not in first.headers
    answers = [front.post(FULL) for _ in range(10)]
    assert front.seen[FULL] < 5
    for answer in answers:
        assert answer.status_code == 503
        assert QUEUE_HEADER not in answer.headers
    refused = next(answer for answer in answers if answer.text != "ok")
    assert refused.headers["retry-after"] == "7"
    assert refused.json()["error"]["code"] == "overloaded"
    asked = front.seen[FULL]
    time.sleep(0.5)
    front.post(FULL)
    assert front.seen[FULL] == asked + 1


def test_only_requests_that_would_wait_in_that_queue_are_refused(front: Front) -> None:
    front.post(FULL)
    assert front.post(FULL, 1000).status_code == 503  # of the same route and kind of length
    assert front.post(FREE).status_code == 200
    assert httpx.get(front.url + FREE).status_code == 200
    assert front.post(FULL, LONG_BODY + 1).text == "ok"  # asked: another kind of length
    assert front.seen[FULL] == 2
    time.sleep(0.5)
    assert front.post(FULL, 1000).status_code == 200


def test_a_large_body_is_answered_not_cut(front: Front) -> None:
    front.post(FULL, LONG_BODY + 1)
    for _ in range(5):
        assert front.post(FULL, 5_000_000).status_code == 503
    assert front.seen[FULL] < 4


def test_other_refusals_are_no_reason(front: Front) -> None:
    for number in range(5):
        assert front.post(IMPATIENT).status_code == 503
        assert front.seen[IMPATIENT] == number + 1
