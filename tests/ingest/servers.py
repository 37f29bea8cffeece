r"""Servers on loopback that hand out a bucket, badly when told to: a folder over HTTP, or moto's S3 behind a proxy.

client --> Faulty (log of requests, faults by key) --> a folder, or moto's S3 server
"""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import socket
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

S = TypeVar("S", bound=ThreadingHTTPServer)


@dataclass(frozen=True)
class Fault:
    """What goes wrong with the next answers for a key; ``times`` -1: for ever.

    status: that code, with ``headers``; cut: only the first ``at`` bytes of the promised length, then the connection
    ends; reset: the same with a TCP reset; wrong: one byte of the body is another; stall: ``seconds`` before the answer;
    drip: ``seconds`` after ``at`` bytes of the body; changed: another ETag and body, as after an update of the object.
    """

    kind: str
    times: int = 1
    status: int = 503
    headers: tuple[tuple[str, str], ...] = ()
    at: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Asked:
    """One request that came in and the status that went out."""

    method: str
    path: str
    query: str
    range: str | None
    status: int
    when: float


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class Faulty(ThreadingHTTPServer):
    """A folder, or an S3 server, with a log and faults."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, root: Path | None = None, upstream: str | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root, self.upstream = root, upstream
        self.lock = threading.Lock()
        self.log: list[Asked] = []
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        self.most_at_once = self.at_once = 0
        self.delay = 0.0
        self.no_head = 0
        """The status that every HEAD gets, where not 0."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def fail(self, key: str, *faults: Fault) -> None:
        """Answers for keys that match the regular expression fail in turn."""
        self.faults[key] += faults

    def take(self, path: str) -> Fault | None:
        with self.lock:
            for pattern, faults in self.faults.items():
                if faults and re.search(pattern, path):
                    fault = faults[0]
                    if fault.times == 1:
                        faults.pop(0)
                    elif fault.times > 1:
                        faults[0] = Fault(**{**vars(fault), "times": fault.times - 1})
                    return fault
        return None

    def paths(self, method: str = "GET", served: bool = True) -> list[str]:
        """Paths asked for, without the leading slash, in order; ``served``: only those that got their bytes."""
        return [a.path.lstrip("/") for a in self.log if a.method == method and (not served or a.status in (200, 206))]

    def listings(self) -> list[Asked]:
        """Requests that would list the bucket."""
        return [a for a in self.log if "list-type" in a.query or "prefix=" in a.query or a.path.strip("/").count("/") == 0]

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Faulty

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class names it so
        pass

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def _serve(self) -> None:
        server = self.server
        with server.lock:
            server.at_once += 1
            server.most_at_once = max(server.most_at_once, server.at_once)
        try:
            time.sleep(server.delay)
            self._answer()
        finally:
            with server.lock:
                server.at_once -= 1

    def _answer(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        fault = self.server.take(path)
        if self.server.no_head and self.command == "HEAD":
            answer = Answer(self.server.no_head, {}, b"")
        elif fault and fault.kind == "status":
            answer = Answer(fault.status, dict(fault.headers), b"<Error><Code>Injected</Code></Error>")
        elif self.server.root is not None:
            answer = _from_folder(self.server.root, path, headers)
        else:
            answer = _from_upstream(str(self.server.upstream), self.command, self.path, headers)
        asked = Asked(self.command, path, url.query, self.headers.get("Range"), answer.status, time.monotonic())
        with self.server.lock:
            self.server.log.append(asked)
        self._send(answer, fault if answer.status in (200, 206) else None)

    def _send(self, answer: Answer, fault: Fault | None) -> None:
        kind = fault.kind if fault else ""
        if fault and kind == "stall":
            time.sleep(fault.seconds)
        body = answer.body
        if kind == "changed":
            body = bytes(reversed(body))
            answer.headers["ETag"] = f'"{hashlib.md5(body).hexdigest()}"'
        if kind == "wrong" and body:
            body = bytes([body[0] ^ 255]) + body[1:]
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)) if self.command != "HEAD" else answer.headers.get("x-length", "0"))
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault and kind in ("cut", "reset", "drip"):
            self.wfile.write(body[: fault.at])
            self.wfile.flush()
            if kind == "drip":
                time.sleep(fault.seconds)
                self.wfile.write(body[fault.at :])
            else:
                if kind == "reset":
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
            return
        self.wfile.write(body)


def _from_folder(root: Path, path: str, headers: dict[str, str]) -> Answer:
    file = root / path.lstrip("/")
    if not file.is_file():
        return Answer(404, {}, b"<Error><Code>NoSuchKey</Code></Error>")
    data = file.read_bytes()
    etag = f'"{hashlib.md5(data).hexdigest()}"'
    fixed = {"ETag": etag, "Accept-Ranges": "bytes", "x-length": str(len(data))}
    if headers.get("if-match", etag) != etag:
        return Answer(412, {}, b"")
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("range", ""))
    if match is None:
        return Answer(200, fixed, data)
    start, end = int(match[1]), int(match[2] or len(data) - 1)
    if start >= len(data):
        return Answer(416, {"Content-Range": f"bytes */{len(data)}"}, b"")
    return Answer(206, {**fixed, "Content-Range": f"bytes {start}-{end}/{len(data)}"}, data[start : end + 1])


def _from_upstream(upstream: str, method: str, target: str, headers: dict[str, str]) -> Answer:
    connection = http.client.HTTPConnection(urlsplit(upstream).netloc, timeout=60)
    passed = {name: value for name, value in headers.items() if name not in ("connection", "accept-encoding")}
    try:
        connection.request(method, target, headers=passed)
        found = connection.getresponse()
        body = found.read()
        kept = {n: v for n, v in found.getheaders() if n.lower() in ("etag", "content-range", "content-type", "last-modified")}
        return Answer(found.status, kept | {"x-length": found.getheader("Content-Length") or "0"}, body)
    finally:
        connection.close()


@contextmanager
def running(server: S) -> Iterator[S]:
    """The server, answering until the end of the block."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


@contextmanager
def moto_bucket(folder: Path, bucket: str) -> Iterator[str]:
    """moto's S3 server with a bucket that anybody may read, filled from a folder; gives its address."""
    import logging

    import boto3
    from botocore.config import Config
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    try:
        host, port = moto.get_host_and_port()
        address = f"http://{host}:{port}"
        client = boto3.client(
            "s3",
            endpoint_url=address,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
            config=Config(retries={"max_attempts": 2}),
        )
        client.create_bucket(Bucket=bucket)
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            client.put_object(Bucket=bucket, Key=path.relative_to(folder).as_posix(), Body=path.read_bytes(), ACL="public-read")
        yield address
    finally:
        moto.stop()


def article_version(name: str, xml: bytes | None, media: dict[str, bytes], **record: object) -> dict[str, bytes]:
    """The objects of one article version, as PMC's bucket has them, by key; ``record`` overrides its JSON."""

    def url(file: str, data: bytes) -> str:
        return f"s3://pmc-oa-opendata/{name}/{file}?md5={hashlib.md5(data).hexdigest()}"

    pmcid, _, version = name.partition(".")
    fields = {
        "pmcid": pmcid,
        "version": int(version),
        "license_code": "CC BY",
        "is_pmc_openaccess": True,
        "is_retracted": False,
        "is_manuscript": False,
        "is_historical_ocr": False,
        "xml_url": None if xml is None else url(f"{name}.xml", xml),
        "media_urls": [url(file, data) for file, data in media.items()],
    }
    data = json.dumps(fields | record).encode()
    files = {f"{name}/{name}.json": data, f"metadata/{name}.json": data}
    files |= {f"{name}/{file}": content for file, content in media.items()}
    return files if xml is None else files | {f"{name}/{name}.xml": xml}


def write_bucket(root: Path, *articles: dict[str, bytes], snapshot: str = "2026-11-20T01-00Z") -> Path:
    """A folder with the objects and one inventory of their records."""
    from biomedray.corpus.inventory import inventory

    files = {key: data for article in articles for key, data in article.items()}
    etags = {key: hashlib.md5(data).hexdigest() for key, data in files.items() if key.startswith("metadata/")}
    for key, data in (files | inventory(etags, snapshot)).items():
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        (root / key).write_bytes(data)
    return root
