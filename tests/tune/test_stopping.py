"""Early stops: who falls behind at a rung is stopped, and who has trained to the end never is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from biomedray.tune.relay import LAST, SCORE
from biomedray.tune.sweep import Stopping, _asha


def race(*trials: list[tuple[int, float, bool]]) -> list[str]:
    """What the scheduler says to the last report of each, one trial after the other."""
    scheduler: Any = _asha(Stopping(grace=48), metric=SCORE, mode="max")
    said = []
    for number, reports in enumerate(trials):
        trial = SimpleNamespace(trial_id=str(number))
        scheduler.on_trial_add(None, trial)
        for seen, score, last in reports:
            answer = scheduler.on_trial_result(None, trial, {"samples_seen": seen, SCORE: score, LAST: last})
        said.append(answer)
    return said


def test_who_falls_behind_at_a_rung_is_stopped() -> None:
    assert race([(48, 0.9, False)], [(48, 0.1, False)]) == ["CONTINUE", "STOP"]
    assert race([(48, 0.9, False), (144, 0.9, False)], [(48, 0.95, False), (144, 0.1, False)]) == ["CONTINUE", "STOP"]


def test_beyond_the_rungs_a_trial_runs_to_an_end_of_its_own() -> None:
    good, late = ([(48, score, False), (144, score, False)] for score in (0.9, 1.0))
    assert race([*good, (400, 0.9, False)], [*late, (9000, 0.0, False)]) == ["CONTINUE", "CONTINUE"]


def test_who_has_trained_to_the_end_is_not_stopped_at_its_last_report() -> None:
    assert race([(48, 0.9, False)], [(48, 0.1, True)]) == ["CONTINUE", "CONTINUE"]
