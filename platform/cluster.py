"""The only place that starts or joins a Ray cluster."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import ray

from biomedray.errors import WorkError

PACKAGE_ROOT = Path(__file__).parent

# Train and Tune reserve a logical CPU for each worker and each driver beside those that Data uses;
# with fewer than this many logical CPUs a small laptop would wait on itself for ever.
_MIN_LOGICAL_CPUS = 4
_START_ATTEMPTS = 3


def start(dashboard: bool = False) -> None:
    """Join the cluster of ``RAY_ADDRESS`` (or the running job's), else start a local one.

    On a cluster that was joined from outside a job the package itself travels with the run, so
    that workers import the same code. What workers print stays in Ray's log folder
    (/tmp/ray/session_latest/logs); what they raise reaches the driver.
    """
    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Ray guards its cluster with a token of its own making and warns that it does.
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    if os.environ.get("RAY_ADDRESS"):
        inside_job = bool(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR"))
        environment = None if inside_job else {"py_modules": [link_path()]}
        ray.init(runtime_env=environment, logging_level=logging.WARNING, log_to_driver=False)
        return
    _start_local(dashboard)


def exists() -> bool:
    """Whether ``start`` will find a cluster: one that this process started or joined, or the one of ``RAY_ADDRESS``."""
    return ray.is_initialized() or bool(os.environ.get("RAY_ADDRESS"))


def _start_local(dashboard: bool) -> None:
    cpus = max(_MIN_LOGICAL_CPUS, os.cpu_count() or 1)
    for attempt in range(1, _START_ATTEMPTS + 1):
        try:
            # "local": else it would join whatever cluster somebody else runs on this machine.
            ray.init("local", num_cpus=cpus, include_dashboard=dashboard, logging_level=logging.WARNING, log_to_driver=False)
        except Exception as error:  # ray raises a bare Exception when a node is not up within its 30 seconds
            ray.shutdown()
            if attempt == _START_ATTEMPTS:
                message = f"Ray did not start on this machine ({error}); if it is overloaded, start the same command again later"
                raise WorkError(message) from error
        else:
            return


def link_path() -> str:
    """The package folder under the name ``biomedray``, as Ray's ``py_modules`` wants it."""
    if PACKAGE_ROOT.name == "biomedray":
        return str(PACKAGE_ROOT)
    return str(PACKAGE_ROOT.parent / ".link" / "biomedray")


def gpus() -> int:
    """How many GPUs the cluster has in all."""
    return int(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]  # ray gives it no types


def cpus() -> int:
    """How many CPUs the cluster has in all; of a single machine, no more than it really has."""
    logical = int(ray.cluster_resources().get("CPU", 1))  # type: ignore[no-untyped-call]  # ray gives it no types
    return min(logical, os.cpu_count() or 1) if len(ray.nodes()) == 1 else logical  # type: ignore[no-untyped-call]  # same


def quiet_data() -> None:
    """Ray Data says nothing of its own: one bar is enough, and it is ours."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # warns that its bars are off
