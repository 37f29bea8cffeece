"""What a trial holds of the cluster: the controller of its training, and the placement groups that this one has made.

Tune stops a driver by waiting some seconds, then by killing it. In between Ray Train's controller lives on: it would start
workers anew where the old ones' places were taken away, and a controller that is killed leaves its placement groups to the
end of the job. So a trial that has ended gives back its controller first, then whatever that one held.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle
from ray.core.generated import gcs_pb2
from ray.exceptions import GetTimeoutError, RayActorError, RayError
from ray.experimental import internal_kv
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.util.placement_group import PlacementGroup, remove_placement_group

_NAMESPACE = "biomedray"
_DYING_SECONDS = 10.0


class Places(WorkerGroupCallback):
    """Tells the cluster which controller trains in a folder, before it takes any place.

    Ray Train's own cleaner asks the dashboard whether the controller lives, and waits for ever where there is none.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def before_worker_group_start(self, worker_group_context: Any) -> None:  # noqa: ARG002  # Ray's signature
        """Called in Ray Train's controller."""
        handle: bytes = cloudpickle.dumps(ray.get_runtime_context().current_actor)  # type: ignore[no-untyped-call]  # ray's own signature
        internal_kv._internal_kv_put(str(self._folder), handle, namespace=_NAMESPACE)  # noqa: SLF001  # ray's own name


def give_back(folder: Path) -> None:
    """End the controller that trains in this folder and remove its placement groups, if any of it is still there.

    Called more than once it does no harm; of a cluster that is gone there is nothing to give back.
    """
    if not ray.is_initialized():
        return
    with contextlib.suppress(RayError, ConnectionError):
        found = internal_kv._internal_kv_get(str(folder), namespace=_NAMESPACE)  # noqa: SLF001
        if found is None:
            return
        controller = cloudpickle.loads(found)
        _end(controller)
        for group in _groups_of(controller):
            remove_placement_group(group)
        internal_kv._internal_kv_del(str(folder), namespace=_NAMESPACE)  # noqa: SLF001


def _end(controller: Any) -> None:
    """Kill an actor and wait some seconds until it is dead."""
    ray.kill(controller)
    end = time.monotonic() + _DYING_SECONDS
    while time.monotonic() < end:
        try:
            ray.get(controller.__ray_ready__.remote(), timeout=end - time.monotonic())
        except (RayActorError, GetTimeoutError):
            return
        time.sleep(0.05)


def _groups_of(controller: Any) -> list[PlacementGroup]:
    """The placement groups that an actor has made and that still stand; Ray's public table doesn't say who made one."""
    accessor = ray._private.state.state._connect_and_get_accessor()  # noqa: SLF001
    message: Any = gcs_pb2.PlacementGroupTableData  # type: ignore[attr-defined]  # protobuf makes it when it is imported
    tables = [message.FromString(data) for data in accessor.get_placement_group_table()]
    return [
        PlacementGroup(ray.PlacementGroupID(table.placement_group_id))
        for table in tables
        if table.creator_actor_id == controller._actor_id.binary() and table.state != table.REMOVED  # noqa: SLF001
    ]
