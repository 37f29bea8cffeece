"""The access log: one JSON line a request, on stderr of the replica; never a query, a body, a path's values or an address."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

_LOG = logging.getLogger("biomedray.access")


@dataclass(frozen=True)
class Line:
    """What is kept of a request; ``route`` is its template, ``status`` 499 if the caller left first."""

    request_id: str
    key: str | None
    method: str
    route: str
    status: int
    bytes_in: int
    items: int
    seconds: float
    refusal: str | None = None


def start() -> None:
    """Let lines appear on stderr; once for each process."""
    if not _LOG.handlers:
        # Ray Serve may put a logger of its own, with its own level, in place of sys.stderr.
        handler = logging.StreamHandler(sys.__stderr__ or sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        _LOG.addHandler(handler)
        _LOG.propagate = False
    _LOG.setLevel(logging.INFO)


def write(line: Line) -> None:
    """One line."""
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    _LOG.info("%s", json.dumps({"time": time, **asdict(line), "seconds": round(line.seconds, 4)}))
