"""A search of a user's own: what it may draw, and the trials that draws make. No Ray here."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from biomedray.artifacts import fingerprint
from biomedray.config import override
from biomedray.errors import UserError
from biomedray.train.presets import TrainConfig, preset
from biomedray.tune.space import Dimension, parse
from biomedray.tune.trial import Trial

Drawn = dict[str, Any]
"""A value for each dimension, by its key."""


@dataclass(frozen=True)
class Quest:
    """A preset, what may be tried around it, and how."""

    base: str
    space: tuple[Dimension, ...]
    number: int
    how: Literal["grid", "random", "optuna"]
    extra: tuple[str, ...] = ()
    seed: int = 0

    @classmethod
    def of(cls, base: str, space: Sequence[str], number: int, how: str, extra: tuple[str, ...], seed: int = 0) -> Quest:
        """From the words of the command line.

        Raises:
            UserError: they don't fit together, name no setting, or a value does not fit its setting.
        """
        dimensions = tuple(parse(space))
        if not dimensions:
            raise UserError("name what is to be tried: --space 'train.lr=loguniform(1e-4, 1e-2)', or an --ablation")
        kinds = {dimension.kind for dimension in dimensions}
        if how == "grid" and kinds != {"grid"}:
            raise UserError("--search grid: every --space must be grid(a, b, ...)")
        if how != "grid" and "grid" in kinds:
            raise UserError(f"--search {how}: draws from choice(...) and ranges; grid(...) goes with --search grid")
        if how not in ("grid", "random", "optuna"):
            raise UserError(f"--search {how}: there are grid, random and optuna")
        found = cls(base, dimensions, number, how, extra, seed)  # type: ignore[arg-type]  # checked just above
        start = found.start()
        try:
            for dimension in dimensions:
                for value in dimension.ends():
                    override(start, [_setting(dimension.key, value)])
        except UserError as error:
            raise UserError(str(error).replace("--set", "--space")) from None
        return found

    def start(self) -> TrainConfig:
        """What is tried around.

        Raises:
            UserError: a setting doesn't fit.
        """
        return override(preset(self.base), list(self.extra))

    def trial(self, drawn: Mapping[str, Any]) -> Trial:
        """What these values make; each of them fits its setting, as ``of`` has seen."""
        values = {dimension.key: drawn[dimension.key] for dimension in self.space}
        name = f"trial-{fingerprint(values)[:10]}"
        config = override(self.start(), [_setting(key, value) for key, value in values.items()])
        return Trial(name, name, config.train.seed, config, settings=values)

    def fixed(self) -> list[Trial] | None:
        """All trials of a grid or of a random search, which depend on no result; None for the others."""
        if self.how == "optuna":
            return None
        drawn = self.combinations() if self.how == "grid" else itertools.islice(self.draws(), self.most())
        return [self.trial(values) for values in drawn]

    def examples(self) -> list[Trial]:
        """What a plan can show: all trials where they are known beforehand, else what is tried around."""
        config = self.start()
        return self.fixed() or [Trial("each", "each", config.train.seed, config)]

    def most(self) -> int:
        """How many trials there will be: a space of few choices may hold less than was asked for."""
        there = math.prod(dimension.size() for dimension in self.space)
        return self.number if there > self.number and self.how != "grid" else int(there)

    def combinations(self) -> Iterator[Drawn]:
        """Every one, of values that were named."""
        keys = [dimension.key for dimension in self.space]
        for values in itertools.product(*[dimension.values for dimension in self.space]):
            yield dict(zip(keys, values, strict=True))

    def draws(self) -> Iterator[Drawn]:
        """Draws without end, each once; the same ones for the same seed. At most ``most`` are there."""
        random, seen = np.random.default_rng(self.seed), set()
        while True:
            values = {dimension.key: dimension.draw(random) for dimension in self.space}
            if (mark := fingerprint(values)) not in seen:
                seen.add(mark)
                yield values


def _setting(key: str, value: Any) -> str:
    return f"{key}={_yaml(value)}"


def _yaml(value: Any) -> str:
    """As YAML reads it back: a float with all its digits needs a point to be a number, a word quotes to be no other thing."""
    if isinstance(value, float):
        mantissa, e, exponent = repr(value).partition("e")
        return f"{mantissa if '.' in mantissa else f'{mantissa}.0'}{e}{exponent}"
    return json.dumps(value)
