"""Ray Serve around the HTTP application: one deployment whose replica holds encoder, batchers and index.

    serve() -> cluster.start -> proxy (Python, or HAProxy with RAY_SERVE_ENABLE_HA_PROXY=1) -> replica: routes.create_app(Engine)

The room's only module that knows Ray. FastAPI reads annotations at run time inside Serve's wrapper
classes, so nothing here is annotated with names that exist only for type checkers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import ray
from pydantic import AfterValidator, Field
from ray import serve as ray_serve
from ray.exceptions import RayError
from ray.serve.config import HTTPOptions, ProxyLocation

from biomedray import cluster
from biomedray.config import Config
from biomedray.errors import UserError, WorkError
from biomedray.model.malloc import keep_freed
from biomedray.serve.access import Access
from biomedray.serve.deploy import PROXY_GRACE_SECONDS
from biomedray.serve.limits import Limits
from biomedray.serve.loading import Holding, Loaded, Mark, Place, check_paths, load, mark
from biomedray.serve.shards import ShardedIndex
from biomedray.serve.slot import Slot
from biomedray.serve.split import Towers, remote_towers

APP_NAME = "biomedray"
_BESIDE = r"^[a-z0-9][a-z0-9-]{0,40}$"
_ROUTES = frozenset({"v1", "docs", "static", "metrics", "livez", "readyz", "healthz"})

_LOG = logging.getLogger(__name__)

# Serve's own default of 5 would hold requests at the proxy, where the batcher can't see them, and its refusals would hit probes
# too. The replica refuses by items, before it reads a body; these bounds are far above what it holds.
_MAX_ONGOING = 4096
_MAX_QUEUED = 4096
_READY_SECONDS = 300.0
_DRAIN_SECONDS = 30.0
_PATIENCE_SECONDS = 10.0
_TRIM_SECONDS = 60.0
# Ray's access log would write the queries of shared page addresses, and costs more than a small request does.
_QUIET = {"log_level": "WARNING", "enable_access_log": False}
# Ray gives a new proxy five seconds to answer and then kills it; a machine that is still busy with its pipeline needs longer.
_CONTROLLER = {"runtime_env": {"env_vars": {"RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30"}}}


def _not_a_route(name: str) -> str:
    if name in _ROUTES:
        raise ValueError(f"{name} is a route of every service; choose another name")
    return name


class ServeConfig(Config):
    """What one replica loads and how large it is."""

    model: str
    """Model folder, local-dir:FOLDER, hf-hub:org/name, or a file that says model, index and pairs (see loading)."""
    index: Path | None = None
    """Index artifact; without it there is no search."""
    pairs: Path | None = None
    """Where the index's pairs artifact lies if it has moved."""
    replicas: int = Field(default=1, ge=1)
    """Replica processes; each holds a model and an index."""
    max_replicas: int | None = None
    """Up to so many replicas as load grows; none keeps ``replicas``."""
    ongoing: int = Field(default=32, ge=1)
    """Requests that run at a time in a replica before another one is wanted."""
    cpus: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1)
    """CPUs of a replica: what Ray reserves, and the threads of torch and faiss."""
    profile: Literal["one", "split"] = "one"
    """one: a replica holds all. split: the model runs in replicas of its own, on GPUs where there are any."""
    towers: int = Field(default=1, ge=1)
    """Replicas of the model in the split profile."""
    shards: int = Field(default=1, ge=1)
    """Actors that hold the index's segments between them; 1: the replica holds it itself."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 where the device computes in it and the vectors stay the same (see model.encoder)."""
    backend: Literal["torch", "openvino"] = "torch"
    """What computes the towers."""
    watch_seconds: float = Field(default=2.0, ge=0)
    """How often paths are looked at for another model or generation; 0 never."""
    beside: dict[Annotated[str, Field(pattern=_BESIDE), AfterValidator(_not_a_route)], Holding] = Field(default={})
    """More models, each an application of its own under /NAME with replicas like these."""
    limits: Limits = Limits()
    """Bounds of requests and queues."""
    access: Access = Access()
    """Keys, rates, origins and the access log."""

    def placed(self) -> ServeConfig:
        """With whole paths: replicas run in another folder."""
        paths: dict[str, Any] = {}
        if self.access.keys is not None:
            paths["access"] = self.access.model_copy(update={"keys": self.access.keys.resolve()})
        beside = {name: holding.placed() for name, holding in self.beside.items()}
        return self.model_copy(update={**paths, **self.holding().placed().model_dump(), "beside": beside})

    def applications(self) -> list[tuple[str, str, ServeConfig]]:
        """Name, route prefix and configuration of each application: this model's, and those beside it."""
        alone = self.model_copy(update={"beside": {}})
        found = [(APP_NAME, "/", alone)]
        for name, holding in self.beside.items():
            found.append((f"{APP_NAME}-{name}", f"/{name}", alone.model_copy(update=dict(holding))))
        return found

    def holding(self) -> Holding:
        """The part that can change while it runs."""
        return Holding(model=self.model, index=self.index, pairs=self.pairs)


@ray_serve.deployment(name="Service", max_ongoing_requests=_MAX_ONGOING, max_queued_requests=_MAX_QUEUED)
@ray_serve.ingress()
class Service:
    """A replica. Serve calls ``__serve_build_asgi_app__`` once after the constructor, then ``reconfigure``."""

    def __init__(self, config: ServeConfig, towers: Any = None) -> None:
        _use_threads(config.cpus)
        self._config = config
        self._slot = Slot(limits=config.limits)
        self._place = Place(_device(), config.limits, self._slot.metrics, config.precision, config.backend)
        if towers is not None:
            # float32 here: what computes is elsewhere.
            there = partial(remote_towers, towers, config.towers)
            self._place = replace(self._place, precision="float32", backend="torch", towers=there)
        if config.shards > 1:
            self._place = replace(self._place, open_index=partial(ShardedIndex.open, shards=config.shards))
        self._holding = config.holding()
        self._loaded: Loaded | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def __serve_build_asgi_app__(self) -> Any:
        from biomedray.serve.routes import create_app

        return create_app(self._slot, send_request_id=False, access=self._config.access)

    async def reconfigure(self, holding: dict[str, Any]) -> None:
        """Load what is to be served; called again by ``serve deploy`` when only ``user_config`` has changed."""
        self._holding = Holding.model_validate(holding)
        if self._loaded is None:
            await self._load()
            self._start(self._watch())
            self._start(self._trim())
        else:
            # Serve sends no request here before this returns, so the other model is loaded beside the requests.
            self._start(self._try())

    async def drain(self, seconds: float) -> int:
        """Refuse new requests and wait for those that run; how many still run after ``seconds``."""
        return await self._slot.drain(seconds)

    async def check_health(self) -> None:
        """Serve restarts the replica after three failures in a row."""
        if self._slot.engine is not None and not (health := self._slot.engine.lanes.health()).ok:
            raise RuntimeError(health.reason)

    async def _load(self) -> None:
        """Put in what the paths hold now.

        Raises:
            UserError: it can't be served.
        """
        loop = asyncio.get_running_loop()
        loaded = await loop.run_in_executor(None, load, self._holding, self._place, self._loaded)
        await loaded.engine.warm_up()
        keep_freed(self._place.device)
        self._loaded = loaded
        self._slot.put(loaded.engine)

    async def _try(self) -> None:
        try:
            await self._load()
            _LOG.warning("now serving %s", self._slot.described())
        except Exception as error:  # noqa: BLE001  # whatever ails the new one, the engine that runs goes on
            self._slot.trouble = "another model or index was found and can't be served; the service's log says why"
            _LOG.error("what was found can't be served, the one before goes on: %s", error)  # one line, no traceback

    async def _watch(self) -> None:
        """Load again when the paths hold something else; what failed is tried again when it has changed once more."""
        loop = asyncio.get_running_loop()
        seen = self._loaded.mark if self._loaded else None
        while self._config.watch_seconds:
            await asyncio.sleep(self._config.watch_seconds)
            with contextlib.suppress(UserError):
                now = await loop.run_in_executor(None, mark, self._holding)
                # Twice the same: whoever writes a folder has finished.
                if now != seen and now == await self._again():
                    seen = now
                    if self._loaded is not None and now == self._loaded.mark:
                        self._slot.trouble = None  # what runs is wanted again
                    else:
                        await self._try()

    async def _trim(self) -> None:
        """Give back now and then what lies free between blocks in use, or memory would grow for hours; takes some 10 ms."""
        while True:
            await asyncio.sleep(_TRIM_SECONDS)
            await asyncio.get_running_loop().run_in_executor(None, keep_freed, self._place.device)

    async def _again(self) -> Mark:
        await asyncio.sleep(min(1.0, self._config.watch_seconds))
        return await asyncio.get_running_loop().run_in_executor(None, mark, self._holding)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def build_app(config: ServeConfig | dict[str, Any]) -> ray_serve.Application:
    """The Serve application, for ``serve.run`` and, with the ``args`` of a Serve config file, for ``serve deploy``."""
    config = ServeConfig.model_validate(config)
    resources: dict[str, float] = ray.cluster_resources() if ray.is_initialized() else {}  # type: ignore[no-untyped-call]  # Ray's
    here, there = (config.replicas, 0) if config.profile == "one" else (0, config.towers)
    gpus = 1 if resources.get("GPU", 0) >= max(here, there) else 0
    options: dict[str, Any] = {
        "ray_actor_options": {"num_cpus": config.cpus, "num_gpus": gpus if here else 0},
        "user_config": config.holding().model_dump(mode="json"),
    }
    if config.max_replicas is None:
        options["num_replicas"] = config.replicas
    else:
        options["autoscaling_config"] = {
            "min_replicas": config.replicas,
            "max_replicas": config.max_replicas,
            "target_ongoing_requests": config.ongoing,
        }
    service: Any = Service  # what the decorator returns is a Deployment, which Ray's types do not say
    arguments: list[Any] = [config]
    if there:
        actor = {"num_cpus": config.cpus, "num_gpus": gpus}
        towers: Any = Towers
        towers = towers.options(num_replicas=config.towers, ray_actor_options=actor)
        arguments.append(towers.bind(config.cpus, config.precision, config.backend))
    application: ray_serve.Application = service.options(**options).bind(*arguments)
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
        UserError: the model or the index can't be served, the port is taken, or others can reach it without a key.
        WorkError: the replica did not come up.
    """
    config = config.placed()
    config = config.model_copy(update={"access": config.access.on(host)})
    _check_port(host, port)
    for _, _, one in config.applications():
        check_paths(one.holding())  # before Ray, which takes its time
    with ThreadPoolExecutor(1) as pool:
        checked = pool.submit(_check, config)  # what is wrong is said here, not in a replica's log
        cluster.start()
        checked.result()
    options = HTTPOptions(host=host, port=port, request_timeout_s=config.limits.request_seconds + PROXY_GRACE_SECONDS)
    url = f"http://{_shown_host(host)}:{port}"
    try:
        _start(options)
        for name, prefix, one in _sharing(config):
            ray_serve.run(build_app(one), name=name, route_prefix=prefix, logging_config=_QUIET)
            _wait_until_ready(url + prefix.rstrip("/"))
    except (RuntimeError, TimeoutError, RayError) as error:
        stop()
        raise WorkError(f"the service did not come up: {str(error).splitlines()[0]}") from error
    if on_ready is not None:
        on_ready(url)
    if block:
        _wait_for_interrupt()
    return url


def _check(config: ServeConfig) -> None:
    for _, _, one in config.applications():
        load(one.holding(), Place("cpu", one.limits)).engine.close()


def _sharing(config: ServeConfig) -> list[tuple[str, str, ServeConfig]]:
    """The applications; on a Ray of this process' own, replicas that want more CPUs than there are share them."""
    found = config.applications()
    replicas = sum(one.replicas + (one.towers if one.profile == "split" else 0) for _, _, one in found)
    if os.environ.get("RAY_ADDRESS"):
        return found
    share = max(1, int(ray.cluster_resources().get("CPU", 1) // replicas))  # type: ignore[no-untyped-call]  # Ray's
    return [(name, prefix, one.model_copy(update={"cpus": min(one.cpus, share)})) for name, prefix, one in found]


def _start(options: HTTPOptions) -> None:
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    ray_serve.start(
        proxy_location=ProxyLocation.HeadOnly, http_options=options, controller_options=_CONTROLLER, logging_config=_QUIET
    )


def stop(drain_seconds: float = _DRAIN_SECONDS) -> None:
    """Take the service down; the Ray cluster stays. What runs is answered first, within ``drain_seconds``.

    Serve's own shutdown takes the proxies away at once, and with them the answers of requests that still run.
    """
    with contextlib.suppress(Exception):  # there may be no replica, or none that answers: then nothing has to be waited for
        handles: list[Any] = [ray_serve.get_app_handle(name) for name in ray_serve.status().applications]
        draining = [handle.broadcast("drain", drain_seconds) for handle in handles]
        for answers in draining:
            answers.results(timeout_s=drain_seconds + _PATIENCE_SECONDS)
    ray_serve.shutdown()  # type: ignore[no-untyped-call]  # Ray's


def _use_threads(count: int) -> None:
    import faiss
    import torch

    torch.set_num_threads(count)
    faiss.omp_set_num_threads(count)


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() and ray.get_runtime_context().get_accelerator_ids().get("GPU") else "cpu"


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
