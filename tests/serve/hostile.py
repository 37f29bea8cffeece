"""Hostile requests against a running service, made from a seed, while a stream of good ones goes on.

    report = run("http://127.0.0.1:8000", key)      report.failures == [] and report.good_failed == 0

Written to sockets byte by byte, so that also what no client would send is sent. A case passes when the answer is a refusal
(4xx) in the shape of OpenAI's errors that tells nothing of the server's inside; what breaks HTTP itself may be
answered by the server's own 400 or be cut. Some fuzzed requests happen to be good and may get 200.
"""

from __future__ import annotations

import base64
import json
import random
import re
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx

from .hostile_cases import Case, make, picture

_LEAKS = re.compile(rb"Traceback|site-packages|\.py\b|File \"|/(?:root|home|tmp|work|usr|etc)/|0x[0-9a-f]{8}")
_LARGEST_ANSWER = 4_000_000
_PROTOCOL = (501, 505)
_FIELDS = {"message", "type", "param", "code", "request_id"}


@dataclass
class Report:
    """What came of it."""

    sent: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    """0 stands for a connection that was cut."""
    failures: list[str] = field(default_factory=list)
    good_sent: int = 0
    good_failed: int = 0


def run(url: str, key: str | None = None, seed: int = 0, threads: int = 4, slow: float = 3.0, patience: float = 60.0) -> Report:
    """Send all cases; ``slow`` is how long a slow sender keeps at it, ``patience`` how long an answer may take."""
    cases = list(make(seed, urlsplit(url).netloc, key, slow))
    random.Random(seed).shuffle(cases)
    report, stop = Report(sent=len(cases)), threading.Event()
    good = threading.Thread(target=_good_stream, args=(url, key, stop, report))
    good.start()
    try:
        with ThreadPoolExecutor(threads) as pool:
            for case, (status, trouble) in zip(cases, pool.map(lambda case: _try(url, case, patience), cases), strict=True):
                report.statuses[status] += 1
                if trouble:
                    report.failures.append(f"{case.name}: {trouble}")
    finally:
        stop.set()
        good.join()
    return report


def _good_stream(url: str, key: str | None, stop: threading.Event, report: Report) -> None:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    png = base64.b64encode(picture("PNG")).decode()
    bodies = [{"input": "a red field"}, {"input": [f"data:image/png;base64,{png}", "words"]}]
    with httpx.Client(base_url=url, headers=headers, timeout=60) as client:
        while not stop.is_set():
            for count, body in enumerate(bodies, 1):
                report.good_sent += 1
                try:
                    found = client.post("/v1/embeddings", json=body)
                    report.good_failed += found.status_code != 200 or len(found.json()["data"]) != count
                except (httpx.HTTPError, ValueError, KeyError):
                    report.good_failed += 1
            time.sleep(0.02)


def _try(url: str, case: Case, patience: float) -> tuple[int, str]:
    """Status (0: cut) and what is wrong with the answer, if anything is."""
    answer = _exchange(url, case, patience)
    if answer is None:
        return 0, "" if case.broken_http else "no answer"
    head, _, body = answer.partition(b"\r\n\r\n")
    try:
        status = int(head.split(b" ", 2)[1])
    except (IndexError, ValueError):
        return 0, "" if case.broken_http else f"not HTTP: {head[:80]!r}"
    return status, _judge(case, status, head.lower(), _unchunked(head.lower(), body))


def _judge(case: Case, status: int, head: bytes, body: bytes) -> str:
    if status >= 500 and not (case.broken_http and status in _PROTOCOL):
        return f"{status} {body[:200]!r}"
    if status < 400:
        return "" if case.may_pass else f"{status} was not expected"
    if leak := _LEAKS.search(body):
        return f"{status} tells {leak[0]!r}: {body[:200]!r}"
    if b"content-type: application/json" not in head:
        return "" if case.broken_http else f"{status} is no JSON: {body[:100]!r}"
    try:
        error = json.loads(body or b"null")
    except ValueError:  # after a body of the wrong length a proxy answers the rest as a request of its own
        return "" if case.broken_http else f"{status} broken JSON: {body[:100]!r}"
    fields = set(error["error"]) if isinstance(error, dict) and isinstance(error.get("error"), dict) else None
    return (
        ""
        if fields == {"message", "type", "param", "code", "request_id"} or b"content-length: 0" in head
        else f"shape: {body[:100]!r}"
    )


def _exchange(url: str, case: Case, patience: float) -> bytes | None:
    parts = urlsplit(url)
    try:
        with socket.create_connection((parts.hostname, parts.port or 80), timeout=patience) as line:
            sender = threading.Thread(target=_send, args=(line, case), daemon=True)
            sender.start()
            answer = _receive(line)
            line.close()
            sender.join(patience)
            return answer
    except OSError:
        return None


def _send(line: socket.socket, case: Case) -> None:
    try:
        for number, piece in enumerate(case.pieces):
            if number and case.pause:
                time.sleep(case.pause)
            line.sendall(piece)
    except OSError:
        pass  # the server has hung up, which is its right


def _receive(line: socket.socket) -> bytes | None:
    data = b""
    try:
        while len(data) < _LARGEST_ANSWER and not _is_whole(data):
            chunk = line.recv(65536)
            if not chunk:
                break
            data += chunk
    except OSError:
        pass
    return data or None


def _is_whole(data: bytes) -> bool:
    head, split, body = data.partition(b"\r\n\r\n")
    if not split:
        return False
    head = head.lower()
    length = re.search(rb"content-length: (\d+)", head)
    return len(body) >= int(length[1]) if length else b"transfer-encoding: chunked" in head and body.endswith(b"0\r\n\r\n")


def _unchunked(head: bytes, body: bytes) -> bytes:
    if b"transfer-encoding: chunked" not in head:
        return body
    found = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        count = int(size or b"0", 16)
        found, body = found + body[:count], body[count + 2 :]
    return found
