"""A Serve config file: the same service for ``serve deploy`` on a cluster that runs already.

In the file ``args`` is what a replica is (size, limits, keys) and ``user_config`` what it holds: when only the latter
has changed, ``serve deploy`` swaps model and index in the replicas that run, and no request is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from biomedray.artifacts import write_atomic
from biomedray.config import Config

_HEAD = """# biomedray behind Ray Serve. On every node, before 'ray start' (Linux; leave it out for Ray's Python proxy):
#   export RAY_SERVE_ENABLE_HA_PROXY=1
# then, where the cluster's dashboard answers:   serve deploy {name}    and    serve status
# Paths must lie where every node sees them. Another model or index: change user_config, deploy again.
"""

PROXY_GRACE_SECONDS = 15.0
"""The proxy gives up so much later than the replica, so that a caller gets the replica's JSON refusal."""


@dataclass(frozen=True)
class Application:
    """One application of the file: its values of app.ServeConfig, and what it holds."""

    name: str
    prefix: str
    config: dict[str, Any]
    holding: Config


def deploy_config(applications: Sequence[Application], host: str, port: int, request_seconds: float) -> dict[str, Any]:
    """The file's content."""
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": host, "port": port, "request_timeout_s": request_seconds + PROXY_GRACE_SECONDS},
        "logging_config": {"log_level": "WARNING", "enable_access_log": False},
        "applications": [_application(one) for one in applications],
    }


def _application(one: Application) -> dict[str, Any]:
    service = {"name": "Service", "user_config": one.holding.model_dump(mode="json")}
    return {
        "name": one.name,
        "route_prefix": one.prefix,
        "import_path": "biomedray.serve.app:build_app",
        "args": one.config,
        "deployments": [service],
    }


def write(path: Path, content: dict[str, Any]) -> None:
    """Write the file, with what to do with it on top."""
    write_atomic(path, _HEAD.format(name=path.name) + yaml.safe_dump(content, sort_keys=False))
