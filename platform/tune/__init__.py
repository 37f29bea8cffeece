r"""Tune: one question, several trainings, one table.

    [pairs] -> trials (variant x seed, or drawn from a space) -> Ray Tune -> train, many times -> [ablation] -> report
                     \- presets: Supplementary Tables 1 to 8, and what the paper names as future work

Each trial is a model artifact under ``OUT/trials/``; its ``outcome.json`` says what became of it. A sweep that is started
again runs the open trials only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biomedray.artifacts import Manifest

if TYPE_CHECKING:
    from biomedray.tune.run import Options

__all__ = ["ablate", "search"]

Told = Callable[[str, dict[str, Any]], None]


def ablate(
    pairs: Path | str,
    out: Path,
    ablation: str,
    scale: str = "small",
    seeds: int = 1,
    options: Options | None = None,
    given: Mapping[str, str] | None = None,
    settings: Sequence[str] = (),
    only: Sequence[str] = (),
    told: Told | None = None,
) -> Manifest:
    """Run a table of the paper (``context-length``, ...) at ``smoke``, ``small`` or ``paper`` scale, over so many seeds.

    ``given`` holds what some ablations need: ``general`` (a model), ``image_weights`` (a file, or timm). ``settings`` are
    ``key=value`` for all trials. ``told`` hears of every trial's reports.

    Raises:
        UserError: the input is off; the line says what to do.
        WorkError: no trial ended well.
    """
    from biomedray.tune.presets import ablation as named
    from biomedray.tune.run import Options, Study, run_study

    study = Study(named(ablation), scale_of(scale), tuple(range(seeds)), dict(given or {}), tuple(settings), tuple(only))
    return run_study(pairs, out, study, options or Options(), told or _silent)


def search(
    pairs: Path | str,
    out: Path,
    base: str,
    space: Sequence[str],
    number: int = 8,
    how: str = "optuna",
    options: Options | None = None,
    settings: Sequence[str] = (),
    told: Told | None = None,
) -> Manifest:
    """Try settings drawn from a space (``train.lr=loguniform(1e-4, 1e-2)``) around a training preset.

    Raises:
        UserError, WorkError: as ``ablate``.
    """
    from biomedray.tune.quest import Quest
    from biomedray.tune.run import Options, run_quest

    quest = Quest.of(base, space, number, how, tuple(settings))
    return run_quest(pairs, out, quest, options or Options(), told or _silent)


def scale_of(name: str) -> Any:
    """The scale of that name.

    Raises:
        UserError: there is none.
    """
    from biomedray.errors import UserError
    from biomedray.tune.ablation import SCALES

    if name not in SCALES:
        raise UserError(f"--scale {name}: there are {', '.join(SCALES)}")
    return name


def _silent(_name: str, _values: dict[str, Any]) -> None:
    return None
