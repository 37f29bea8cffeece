"""What Ray Train's controller tells Ray Tune of a trial.

A module of its own: the controller is a process per trial that needs neither torch's models nor their seconds of import.
"""

from __future__ import annotations

from typing import Any

from ray.tune.integration.ray_train import TuneReportCallback

SCORE = "score"
"""What schedulers and searches compare: the mean of both R@1 of the validation."""
LAST = "last"
"""Whether the report is of the last epoch."""


class Relay(TuneReportCallback):
    """Passes a report on to Tune, with the number that trials are compared by, and says which is the last of so many epochs."""

    def __init__(self, epochs: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # ray's own signature
        self._epochs = epochs

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """Called by Ray Train's controller after each epoch."""
        found = metrics[0]
        recalls = [found[name] for name in ("val_r1_i2t", "val_r1_t2i") if name in found]
        score = sum(recalls) / len(recalls) if recalls else -found["train_loss"]
        last = found["epoch"] + 1 >= self._epochs
        super().after_report(run_context, [found | {SCORE: score, LAST: last}], checkpoint)
