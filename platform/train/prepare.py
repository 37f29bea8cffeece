"""Before and after the loop: check everything, claim the output, make the first weights, write the result."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from biomedray.artifacts import Manifest, claim_output, manifest_fingerprint, read_manifest, write_manifest
from biomedray.errors import UserError
from biomedray.model import towers, weights
from biomedray.records import SPLITS, Split
from biomedray.train import checkpoint
from biomedray.train.feed import PairsReader, count_rows
from biomedray.train.fit import Job
from biomedray.train.plan import Plan
from biomedray.train.presets import TrainConfig
from biomedray.train.step import Stepper

# So many captions are enough to learn a vocabulary from; all of PMC would take minutes more.
_VOCABULARY_CAPTIONS = 200_000


def check(pairs: Path, out: Path, config: TrainConfig, workers: int) -> int:
    """Refuse, before anything is started or written, what can't be trained; pairs of the train split.

    Raises:
        UserError: the pairs, the model or the settings are off, or ``out`` is taken.
    """
    read_manifest(pairs, "pairs")
    rows = count_rows(pairs, "train")
    if rows == 0:
        raise UserError(f"{pairs}: its train split is empty; ingest more articles")
    count_rows(pairs, "val")
    uneven = [size for size in Plan(rows, config.train).batch_sizes if size % workers]
    if uneven:
        raise UserError(f"train.batch_size {uneven[0]}: not a multiple of {workers} workers")
    towers.check(config.model)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        _claim(pairs, out, config)
    return rows


def prepare(pairs: Path, out: Path, config: TrainConfig, rows: int) -> Job:
    """Take the output folder and write the weights to start from, unless an unfinished run has them.

    Raises:
        UserError: ``out`` is taken, or the parts of the model do not fit together.
    """
    _claim(pairs, out, config)
    job = Job(pairs.resolve(), out.resolve(), rows, config)
    if not (job.start / weights.CONFIG).is_file():
        _initialise(job)
    return job


def _claim(pairs: Path, out: Path, config: TrainConfig) -> None:
    claim_output(out, "model", {"pairs": manifest_fingerprint(pairs), **config.resolved()})


def _initialise(job: Job) -> None:
    """The start folder, whole or absent; without it nothing of this run is worth keeping."""
    job.checkpoints.mkdir(exist_ok=True)
    captions = PairsReader(job.pairs, "train", keep=1).captions(_VOCABULARY_CAPTIONS)
    temporary = Path(tempfile.mkdtemp(prefix=".start-", dir=job.checkpoints))
    try:
        towers.initialise(job.config.model, captions, temporary, job.config.train.seed)
        shutil.rmtree(job.start, ignore_errors=True)
        temporary.chmod(0o755)
        temporary.rename(job.start)
    except UserError:
        shutil.rmtree(job.checkpoints, ignore_errors=True)
        (job.out / "run.json").unlink(missing_ok=True)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def finish(job: Job, workers: int) -> Manifest:
    """Export the newest checkpoint as an open_clip folder and write the manifest.

    Raises:
        WorkError: the checkpoint is damaged.
    """
    found = checkpoint.latest(job.checkpoints)
    assert found is not None, "a run ends with a checkpoint"
    opened = weights.open_folder(job.start)
    progress = checkpoint.load(found, opened.clip, Stepper(opened.clip, job.config.train).optimizer)
    weights.export(job.out, opened.clip, opened.config, job.start)
    manifest = Manifest(
        kind="model",
        name=job.out.name,
        config=job.config.resolved(),
        inputs=[{"name": job.pairs.name, "fingerprint": manifest_fingerprint(job.pairs)}],
        counts=_counts(job, progress, opened.clip),
        timings={"train_seconds": round(progress.seconds, 3)},
        details={"history": progress.history, "workers": workers, "start": opened.fingerprint},
    )
    write_manifest(job.out, manifest)
    return manifest


def _counts(job: Job, progress: checkpoint.Progress, clip: Any) -> dict[str, Any]:
    splits: dict[Split, int] = {split: count_rows(job.pairs, split) for split in SPLITS}
    return {
        "pairs_by_split": splits,
        "samples_seen": progress.seen,
        "steps": progress.steps,
        "epochs": len(progress.history),
        "parameters": weights.parameter_count(clip),
        "parameters_image": weights.parameter_count(clip.visual),
    }
