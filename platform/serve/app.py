"""Ray Serve around the HTTP application: one deployment whose replica holds encoder, batchers and index.

    serve() -> cluster.start -> proxy (Python, or HAProxy with RAY_SERVE_ENABLE_HA_PROXY=1) -> replica: routes.create_app(Engine)

The room's only module that knows Ray. FastAPI reads annotations at run time inside Serve's wrapper
classes, so nothing here is annotated with names that exist only for type checkers.
"""

from __future__ import annotations

import logging
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray import serve as ray_serve
from ray.exceptions import RayError
from ray.serve.config import HTTPOptions, ProxyLocation

from biomedray import cluster
from biomedray.config import Config
from biomedray.errors import UserError, WorkError
from biomedray.serve.limits import Limits

APP_NAME = "biomedray"

# Serve's own default of 5 would hold requests at the proxy, where the batcher can't see them; ours refuses by items instead.
_MAX_ONGOING = 256
_MAX_QUEUED = 512
# The proxy gives up later than the replica, so that a caller gets the replica's JSON refusal.
_PROXY_GRACE_SECONDS = 15.0
_READY_SECONDS = 300.0
# Ray's access log would write the queries of shared page addresses, and costs more than a small request does.
_QUIET = {"log_level": "WARNING", "enable_access_log": False}
# Ray gives a new proxy five seconds to answer and then kills it; a machine that is still busy with its pipeline needs longer.
_CONTROLLER = {"runtime_env": {"env_vars": {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30"}}}


class ServeConfig(Config):
    """What one replica loads and how large it is."""

    model: str
    """Model folder, local-dir:FOLDER or hf-hub:org/name."""
    index: Path | None = None
    """Index artifact; without it there is no search."""
    pairs: Path | None = None
    """Where the index's pairs artifact lies if it has moved."""
    replicas: int = 1
    """Replica processes; each holds a model and an index."""
    cpus: int = 2
    """CPUs of a replica: what Ray reserves, and the threads of torch and faiss."""
    limits: Limits = Limits()
    """Bounds of requests and queues."""


@ray_serve.deployment(name="Service", max_ongoing_requests=_MAX_ONGOING, max_queued_requests=_MAX_QUEUED)
@ray_serve.ingress()
class Service:
    """A replica. Serve calls ``__serve_build_asgi_app__`` once after the constructor."""

    def __init__(self, config: ServeConfig) -> None:
        _use_threads(config.cpus)
        self._engine = load_engine(config, _device())

    def __serve_build_asgi_app__(self) -> Any:
        from biomedray.serve.routes import create_app

        return create_app(self._engine, send_request_id=False)

    async def check_health(self) -> None:
        """Serve restarts the replica after three failures in a row."""
        await self._engine.lanes.canary()


def build_app(config: ServeConfig) -> ray_serve.Application:
    """The Serve application, for ``serve.run`` or a Serve config file."""
    resources: dict[str, float] = ray.cluster_resources() if ray.is_initialized() else {}  # type: ignore[no-untyped-call]  # Ray's
    gpus = 1 if resources.get("GPU", 0) >= config.replicas else 0
    actor = {"num_cpus": config.cpus, "num_gpus": gpus}
    service: Any = Service  # what the decorator returns is a Deployment, which Ray's types do not say
    application: ray_serve.Application = service.options(num_replicas=config.replicas, ray_actor_options=actor).bind(config)
    return application


def serve(
    config: ServeConfig,
    host: str = "127.0.0.1",
    port: int = 8000,
    block: bool = True,
    on_ready: Callable[[str], None] | None = None,
) -> str:
    """Serve until Ctrl-C (``block``), or return the URL once requests are answered.

    Raises:
        UserError: the model or the index can't be served, or the port is taken.
        WorkError: the replica did not come up.
    """
    config = _absolute(config)
    load_engine(config, "cpu").close()  # what is wrong with the input is said here, not in a replica's log
    _check_port(host, port)
    cluster.start()
    options = HTTPOptions(host=host, port=port, request_timeout_s=config.limits.request_seconds + _PROXY_GRACE_SECONDS)
    url = f"http://{_shown_host(host)}:{port}"
    try:
        _start(options)
        ray_serve.run(build_app(config), name=APP_NAME, route_prefix="/", logging_config=_QUIET)
        _wait_until_ready(url)
    except (RuntimeError, TimeoutError, RayError) as error:
        stop()
        raise WorkError(f"the service did not come up: {str(error).splitlines()[0]}") from error
    if on_ready is not None:
        on_ready(url)
    if block:
        _wait_for_interrupt()
    return url


def _start(options: HTTPOptions) -> None:
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    ray_serve.start(
        proxy_location=ProxyLocation.HeadOnly, http_options=options, controller_options=_CONTROLLER, logging_config=_QUIET
    )


def stop() -> None:
    """Take the service down; the Ray cluster stays."""
    ray_serve.shutdown()  # type: ignore[no-untyped-call]  # Ray's


def load_engine(config: ServeConfig, device: str) -> Any:
    """An engine with the model, the index and its figures.

    Raises:
        UserError: one of them is missing, damaged, or does not belong to the others.
    """
    from biomedray.model.encoder import Encoder
    from biomedray.serve.engine import Engine
    from biomedray.serve.images import ImageStore
    from biomedray.serve.search import SearchIndex

    encoder = Encoder.load(str(config.model), device)
    if config.index is None:
        return Engine(encoder, limits=config.limits)
    index = SearchIndex.open(config.index, encoder.fingerprint)
    return Engine(encoder, index, ImageStore(index.generation, config.pairs), config.limits)


def _use_threads(count: int) -> None:
    import faiss
    import torch

    torch.set_num_threads(count)
    faiss.omp_set_num_threads(count)


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() and ray.get_runtime_context().get_accelerator_ids().get("GPU") else "cpu"


def _absolute(config: ServeConfig) -> ServeConfig:
    """Replicas run in another folder."""
    paths = {name: path.resolve() for name in ("index", "pairs") if (path := getattr(config, name))}
    model = Path(config.model)
    return config.model_copy(update={**paths, "model": str(model.resolve() if model.is_dir() else config.model)})


def _check_port(host: str, port: int) -> None:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or "no such port"
        raise UserError(f"can't listen on {host}:{port} ({reason}); choose another --port or --host") from None


def _shown_host(host: str) -> str:
    if host in ("0.0.0.0", "::"):  # noqa: S104  # not bound here, only shown
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _wait_until_ready(url: str) -> None:
    import httpx

    deadline = time.monotonic() + _READY_SECONDS
    while True:
        try:
            if httpx.get(f"{url}/readyz", timeout=_READY_SECONDS).is_success:
                return
        except httpx.TransportError:
            pass
        if time.monotonic() > deadline:
            raise TimeoutError(f"{url} did not become ready in {_READY_SECONDS:g} s (was Ray Serve already running elsewhere?)")
        time.sleep(0.2)


def _wait_for_interrupt() -> None:
    """Until Ctrl-C or SIGTERM, then take the service down."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        pass
    finally:
        stop()
