"""Several scores on one page: those of one task and set stand side by side, others do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from biomedray.artifacts import Manifest
from biomedray.report.side_by_side import side_by_side


def scored(name: str, task: str, data: str, value: float | None, model: str = "", n: int = 100) -> tuple[Path, Manifest]:
    interval = {"value": value, "low": None if value is None else value - 0.1, "high": None if value is None else value + 0.1}
    names = ("accuracy", "auroc") if task != "retrieval" else ("image_to_text R@1", "text_to_image R@1")
    details: dict[str, Any] = {"task": task, "set": data, "split": "test", "n": n, "model": model or name}
    details["metrics"] = dict.fromkeys(names, interval)
    return Path(name), Manifest(kind="scores", name=name, details=json.loads(json.dumps(details)))


def test_one_section_for_each_task_and_set_that_several_share() -> None:
    runs = [scored("a", "zeroshot", "pcam", 0.7), scored("b", "probe", "pcam", 0.8), scored("c", "zeroshot", "pcam", 0.6)]
    runs += [scored("d", "zeroshot", "rsna", 0.5), (Path("p"), Manifest(kind="pairs", name="p"))]
    [section] = side_by_side(runs)
    assert section.title == "Zero-shot on pcam (test), side by side"
    assert section.grids[0].header == ["model", "n", "accuracy", "AUROC"]
    assert [row[:3] for row in section.grids[0].rows] == [["a", "100", "70.0 [60.0, 80.0]"], ["c", "100", "60.0 [50.0, 70.0]"]]
    assert [plot.title for plot in section.plots] == ["accuracy", "AUROC"]
    assert all(plot.svg.startswith("<svg") for plot in section.plots)


def test_runs_of_one_model_are_told_apart_and_other_numbers_of_samples_are_said() -> None:
    [section] = side_by_side([scored("a", "retrieval", "x", 0.1, "m"), scored("b", "retrieval", "x", None, "m", n=50)])
    assert [row[0] for row in section.grids[0].rows] == ["m (a)", "m (b)"]
    assert section.grids[0].rows[1][2] == "-"
    assert "same number" in section.grids[0].note
    assert section.plots[0].title == "figure → caption R@1"


@pytest.mark.parametrize("task", ["leak", "compare", "table"])
def test_other_tasks_stand_alone(task: str) -> None:
    one, other = (scored(name, "zeroshot", "x", 0.5) for name in "ab")
    for _, manifest in (one, other):
        manifest.details["task"] = task
    assert side_by_side([one, other]) == []
