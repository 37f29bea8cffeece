r"""Contrastive pretraining of a two-tower model on a pairs artifact.

    [pairs] -> feed (order, decode, crop) -> step (towers, sharded loss, AdamW) -> [model]
                     \------ fit: N workers, checkpoints, validation ------/
    presets: smoke, demo, small, biomedclip

The loop is pure torch (``fit``); ``loop`` runs it in Ray Train's workers.
"""

from __future__ import annotations

from pathlib import Path

from biomedray.artifacts import Manifest
from biomedray.train.presets import TrainConfig, preset

__all__ = ["TrainConfig", "preset", "train"]


def train(pairs: Path, out: Path, config: TrainConfig, workers: int = 1, progress: bool = True) -> Manifest:
    """Train on a pairs artifact into a model folder; started again, an unfinished run goes on.

    Raises:
        UserError: the pairs, the model or the settings are off, or ``out`` is taken.
        WorkError: training failed more often than it may.
    """
    from biomedray.train.loop import train as run

    return run(pairs, out, config, workers, progress)
