r"""Contrastive pretraining of a two-tower model on a pairs artifact.

    [pairs] -> feed (order, decode, crop) -> step (towers, sharded loss, AdamW) -> [model]
                     \------ fit: N workers, checkpoints, validation ------/
    presets: smoke, demo, small, biomedclip

The loop is pure torch (``fit``); ``loop`` runs it in Ray Train's workers, ``alone`` in this process or torchrun's.
"""

from __future__ import annotations

from pathlib import Path

from biomedray.artifacts import Manifest
from biomedray.train.presets import TrainConfig, preset

__all__ = ["TrainConfig", "preset", "train", "train_alone"]


def train(
    pairs: Path | str,
    out: Path,
    config: TrainConfig,
    workers: int | str = 1,
    progress: bool = True,
    storage: str | None = None,
) -> Manifest:
    """Train on a pairs artifact into a model folder; started again, an unfinished run goes on.

    ``pairs`` is a folder or an address (s3://, https://), ``workers`` a number or a range like ``1-4`` (as machines come
    and go), ``storage`` a folder or an address to which checkpoints are copied.

    Raises:
        UserError: the pairs, the model or the settings are off, or ``out`` is taken.
        WorkError: training failed more often than it may.
    """
    from biomedray.train.loop import train as run

    return run(pairs, out, config, workers, progress, storage)


def train_alone(
    pairs: Path | str, out: Path, config: TrainConfig, progress: bool = True, storage: str | None = None
) -> Manifest | None:
    """As ``train``, without Ray: in this process, or as one of torchrun's; None on all but the first of these.

    Raises:
        UserError, WorkError: as ``train``, and WorkError when told to stop (SIGTERM).
    """
    from biomedray.train.alone import train_alone as run

    return run(pairs, out, config, storage, progress)
