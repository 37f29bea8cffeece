"""Optuna's draws through Ray Tune, each once: a trial is its settings, and the same settings train the same model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from ray.tune.search.optuna import OptunaSearch

from biomedray.artifacts import fingerprint
from biomedray.tune.quest import Quest

_TRIES = 20


class Distinct(OptunaSearch):
    """Asks Optuna again when it draws what was drawn before, and after some tries takes a draw at random."""

    def __init__(self, quest: Quest, taken: Sequence[Mapping[str, Any]], space: Mapping[str, Any], **options: Any) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        super().__init__(space=OptunaSearch.convert_search_space(dict(space)), **options)
        self._quest = quest
        self._taken = {fingerprint(dict(drawn)) for drawn in taken}

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """The settings of the next trial; there must be some that were not drawn yet."""
        study: Any = self._ot_study
        for _ in range(_TRIES):
            drawn: dict[str, Any] = super().suggest(trial_id) or {}
            if self._take(drawn):
                return drawn
            study.tell(self._ot_trials.pop(trial_id), state=optuna.trial.TrialState.FAIL)
        other = next(drawn for drawn in self._quest.draws() if self._take(drawn))
        study.enqueue_trial(other)
        super().suggest(trial_id)  # which is what was put into its queue
        return other

    def _take(self, drawn: Mapping[str, Any]) -> bool:
        mark = fingerprint(dict(drawn))
        new = mark not in self._taken
        self._taken.add(mark)
        return new
