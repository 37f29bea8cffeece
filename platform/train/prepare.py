"""Before and after the loop: check everything, claim the output, make the first weights, write the result."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biomedray.artifacts import Manifest, claim_output, fingerprint, write_atomic, write_manifest
from biomedray.errors import UserError
from biomedray.model import towers, weights
from biomedray.model.settings import ModelConfig
from biomedray.records import SPLITS
from biomedray.train import checkpoint, sinks, zeroshot
from biomedray.train.feed import BROKEN
from biomedray.train.fit import Job
from biomedray.train.mirror import Mirror
from biomedray.train.plan import Plan, Workers
from biomedray.train.presets import TrainConfig
from biomedray.train.rows import PairsReader, RowIndex, index_rows
from biomedray.train.source import Source, public
from biomedray.train.step import Stepper
from biomedray.train.texts import index_for

# So many captions are enough to learn a vocabulary from; all of PMC would take minutes more.
_VOCABULARY_CAPTIONS = 200_000
_SIGLIP_BIAS = -10.0  # section 3.3 of the SigLIP paper


@dataclass(frozen=True)
class Checked:
    """Pairs that can be trained on."""

    source: Source
    fingerprint: str
    train: RowIndex
    val: RowIndex


def check(pairs: Path | str, out: Path, config: TrainConfig, workers: int | str | Workers = 1) -> Checked:
    """Refuse, before anything is started or written, what can't be trained.

    Raises:
        UserError: the pairs, the model or the settings are off, or ``out`` is taken.
    """
    source = Source.of(pairs)
    source.manifest()
    found = Checked(source, source.fingerprint(), index_for(source, config.data), index_rows(source, "val"))
    if found.train.rows == 0:
        raise UserError(f"{public(source.address)}: its train split is empty; ingest more articles")
    Workers.of(workers).check(Plan(found.train.rows, config.train).batch_sizes)
    towers.check(config.model)
    sinks.check(config.watch)
    zeroshot.read_sets(config.validation.zeroshot)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        claim_output(out, "model", _claim(found, config))
    return found


def prepare(out: Path, config: TrainConfig, checked: Checked, storage: str | None = None) -> Job:
    """Take the output folder and write the weights to start from, unless an unfinished run has them.

    Raises:
        UserError: ``out`` or ``storage`` is taken, or the parts of the model do not fit together.
    """
    claim = _claim(checked, config)
    identity = fingerprint(claim)
    mirror = Mirror(storage, identity) if storage else None
    stored = mirror is not None and mirror.is_claimed()
    claim_output(out, "model", claim)
    job = Job(checked.source, out.resolve(), checked.train.rows, config, identity, storage)
    if not (job.start / weights.CONFIG).is_file():
        _initialise(job, checked, mirror if stored else None)
    if mirror is not None and not stored:
        mirror.claim(job.start)
    if found := checkpoint.latest(job.checkpoints):
        checkpoint.check_identity(found, identity)
    return job


def _claim(checked: Checked, config: TrainConfig) -> dict[str, Any]:
    return {"pairs": checked.fingerprint, **config.identity()}


def model_settings(config: TrainConfig) -> ModelConfig:
    """The model's settings, with what the loss needs of it."""
    if config.train.loss == "siglip" and config.model.logit_bias is None:
        return config.model.model_copy(update={"logit_bias": _SIGLIP_BIAS})
    return config.model


def _initialise(job: Job, checked: Checked, mirror: Mirror | None) -> None:
    """The start folder, whole or absent; without it nothing of this run is worth keeping."""
    job.checkpoints.mkdir(exist_ok=True)
    if mirror is not None:
        mirror.fetch(job.start.name, job.checkpoints)
        return
    temporary = Path(tempfile.mkdtemp(prefix=".start-", dir=job.checkpoints))
    try:
        captions = PairsReader(job.source, checked.train).captions(_VOCABULARY_CAPTIONS)
        towers.initialise(model_settings(job.config), captions, temporary, job.config.train.seed)
        checked.train.save(temporary / job.index_file("train").name)
        checked.val.save(temporary / job.index_file("val").name)
        shutil.rmtree(job.start, ignore_errors=True)
        temporary.chmod(0o755)
        temporary.rename(job.start)
    except UserError:
        shutil.rmtree(job.checkpoints, ignore_errors=True)
        (job.out / "run.json").unlink(missing_ok=True)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def finish(job: Job, workers: int | str | Workers) -> Manifest:
    """Export the newest checkpoint as an open_clip folder and write the manifest.

    Raises:
        WorkError: the checkpoint is damaged.
    """
    name = checkpoint.newest(job.checkpoints, job.mirror)
    assert name is not None, "a run ends with a checkpoint"
    opened = weights.open_folder(job.start)
    stepper = Stepper(opened.clip, job.config.train)
    progress = checkpoint.load(checkpoint.find(job.checkpoints, name, job.mirror), stepper, job.identity)
    if stepper.ema is not None and job.config.train.export_ema:
        stepper.ema.copy_to(opened.clip)
    weights.export(job.out, opened.clip, opened.config, job.start)
    manifest = Manifest(
        kind="model",
        name=job.out.name,
        config=job.config.resolved(),
        inputs=[{"name": job.source.name, "fingerprint": job.source.fingerprint()}],
        counts=_counts(job, progress, opened.clip),
        timings={"train_seconds": round(progress.seconds, 3)},
        details={
            "history": progress.history,
            "workers": str(count) if (count := Workers.of(workers)).elastic else count.least,
            "start": opened.fingerprint,
        },
    )
    write_manifest(job.out, manifest)
    return manifest


def _counts(job: Job, progress: checkpoint.Progress, clip: Any) -> dict[str, Any]:
    test = index_rows(job.source, "test").rows
    broken = _broken(job)
    return {
        "pairs_by_split": dict(zip(SPLITS, (job.rows, job.index("val").rows, test), strict=True)),
        "samples_seen": progress.seen,
        "steps": progress.steps,
        "epochs": len(progress.history),
        "parameters": weights.parameter_count(clip),
        "parameters_image": weights.parameter_count(clip.visual),
        **({"broken_images": broken} if broken else {}),
    }


def _broken(job: Job) -> int:
    """How many pictures were skipped; they are named in ``broken.jsonl``, each once."""
    lines = {line for path in job.checkpoints.glob(f"rank-*-{BROKEN}") for line in path.read_text().splitlines()}
    if lines:
        write_atomic(job.out / BROKEN, "".join(line + "\n" for line in sorted(lines)))
    return len(lines)
