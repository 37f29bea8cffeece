"""What a trial holds of the cluster is given back: its controller first, then the placement groups that this one made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray
from ray.exceptions import RayActorError
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group

from biomedray.tune.places import Places, give_back

pytestmark = pytest.mark.usefixtures("ray_cluster")


@ray.remote(num_cpus=0)
class Controller:
    """Does what Ray Train's controller does when it starts workers."""

    def __init__(self, folder: Path) -> None:
        self._places = Places(folder)

    def start(self) -> PlacementGroup:
        self._places.before_worker_group_start(None)
        group = placement_group([{"CPU": 1}])
        ray.get(group.ready())
        return group


def state(group: PlacementGroup) -> Any:
    return placement_group_table(group).get("state")


def test_the_controller_is_ended_and_all_its_groups_removed(tmp_path: Path) -> None:
    mine, other = Controller.remote(tmp_path / "mine"), Controller.remote(tmp_path / "other")  # type: ignore[attr-defined]
    # The second is what a controller takes whose first workers have gone.
    groups = [ray.get(mine.start.remote()), ray.get(mine.start.remote())]
    kept = ray.get(other.start.remote())
    assert [state(group) for group in (*groups, kept)] == ["CREATED"] * 3
    give_back(tmp_path / "mine")
    with pytest.raises(RayActorError):
        ray.get(mine.start.remote())
    assert [state(group) for group in groups] == ["REMOVED"] * 2
    assert state(kept) == "CREATED"
    give_back(tmp_path / "mine")
    give_back(tmp_path / "other")
    assert state(kept) == "REMOVED"


def test_a_controller_that_has_ended_by_itself_leaves_its_groups(tmp_path: Path) -> None:
    controller = Controller.remote(tmp_path)  # type: ignore[attr-defined]
    group = ray.get(controller.start.remote())
    ray.kill(controller)
    give_back(tmp_path)
    assert state(group) == "REMOVED"


def test_where_nothing_was_taken_nothing_is_given_back(tmp_path: Path) -> None:
    group = placement_group([{"CPU": 1}])
    ray.get(group.ready())
    give_back(tmp_path)
    assert state(group) == "CREATED"
    remove_placement_group(group)
