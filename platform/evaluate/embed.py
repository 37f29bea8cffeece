"""Embed a set once, with Ray Data actors, a Parquet file for each stretch of it.

    set -> stretches -- Ray Data actors (a model each), or here --> part-000000.parquet ... -> rejects.parquet, manifest.json

This is the room's only file that knows Ray. A stretch is one unit of work: read, encode, write by atomic rename with the
rejects in the file's own metadata. A killed run that is started again skips the stretches that are there.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from biomedray import cluster
from biomedray.artifacts import Manifest, atomic_path, claim_output, is_finished, read_manifest, write_manifest
from biomedray.errors import UserError, WorkError
from biomedray.evaluate import vectors
from biomedray.evaluate.models import Model, best_device, open_model, placed
from biomedray.evaluate.pairs import open_pairs
from biomedray.evaluate.samples import SampleSet
from biomedray.evaluate.stream import Options, Stream
from biomedray.records import SPLITS, Split

STRETCH = 256
# Stretches that a model is fed with at a time: one ends while the next begins.
_AT_ONCE = 2
# Up to this many stretches are embedded in this process: starting Ray takes longer.
_FEW = 2
_CORES_A_MODEL = 4
_MOST_DECODERS = 16
_REJECTS_KEY = b"biomedray.rejects"
_DEFAULT = Options()


@dataclass(frozen=True)
class _Unit:
    number: int
    split: str
    start: int
    stop: int


@dataclass(frozen=True)
class _Job:
    """What every worker needs to know; it is pickled."""

    data: SampleSet
    model: str
    out: Path
    dtype: str
    texts: bool
    options: Options


def embed(pairs: Path, model: str | Path, out: Path, splits: Sequence[Split] = SPLITS, progress: bool = True) -> Path:
    """Embed images and captions of splits of a pairs artifact; returns ``out``, an embeddings artifact.

    Raises:
        UserError: an input is no such artifact, the splits hold no pair, or ``out`` is taken.
        WorkError: Ray failed; what is done stays.
    """
    data = open_pairs(pairs)
    wanted = [split for split in splits if data.size(split)]
    if not wanted:
        raise UserError(f"{pairs}: no pair in split {', '.join(splits)}; ingest more articles or choose another split")
    return embed_splits(data, wanted, model, out, texts=True, progress=progress)


def embed_once(
    data: SampleSet,
    split: str,
    model: str | Path,
    store: Path,
    *,
    opened: Model | None = None,
    dtype: str = "float32",
    texts: bool = False,
    progress: bool = True,
    options: Options = _DEFAULT,
) -> Path:
    """The embeddings of a split, made in a folder of ``store`` unless they are there already (or ``store`` is they).

    ``opened`` is the model if the caller has loaded it. ``biomedray evaluate embed`` fills such a store.

    Raises:
        UserError: as ``embed_set``.
    """
    known = opened or open_model(model)
    names = (data.name, split, known.name)
    config = vectors.identity(data.fingerprint, [split], known.fingerprint, dtype, options.precision, texts)
    if there := vectors.found(store, names, config):
        return there
    if is_finished(store):
        raise UserError(
            f"{store}: embeddings of another set, split or model (or without captions); "
            "name another folder, and they are made in it"
        )
    out = vectors.place(store, names, config)
    return embed_splits(data, [split], model, out, opened=known, dtype=dtype, texts=texts, progress=progress, options=options)


def embed_set(
    data: SampleSet,
    split: str,
    model: str | Path,
    out: Path,
    *,
    dtype: str = "float32",
    texts: bool = False,
    progress: bool = True,
    options: Options = _DEFAULT,
) -> Path:
    """Embed one split of a set; returns ``out``, an embeddings artifact whose rows keep the order of the set.

    Columns: id, label, group, image_embedding[, text_embedding] (fixed-size lists of ``dtype``, of length 1). Samples that
    can't be read are in ``rejects.parquet`` (id, split, reason, detail). The same artifact made before is kept.

    Raises:
        UserError: the split is empty, the model can't be loaded, or ``out`` is taken by something else.
        WorkError: Ray failed; what is done stays.
    """
    return embed_splits(data, [split], model, out, dtype=dtype, texts=texts, progress=progress, options=options)


def embed_splits(
    data: SampleSet,
    splits: Sequence[str],
    model: str | Path,
    out: Path,
    *,
    opened: Model | None = None,
    dtype: str = "float32",
    texts: bool = False,
    progress: bool = True,
    options: Options = _DEFAULT,
) -> Path:
    """As ``embed_set``, several splits one after the other in one artifact."""
    options.check()
    known = opened or open_model(model)
    config = vectors.identity(data.fingerprint, splits, known.fingerprint, dtype, options.precision, texts)
    if is_finished(out) and read_manifest(out).config == config:
        return out
    units = _units(data, splits)
    if not units:
        raise UserError(f"{data.name}: no sample in split {', '.join(splits)}")
    claim_output(out, vectors.KIND, config)
    started = time.monotonic()
    job = _Job(data, placed(model), out.resolve(), dtype, texts, options)
    left = [unit for unit in units if not vectors.part_path(out, unit.number).is_file()]
    speed = _run(job, left, known, progress)
    _finish(job, units, known, config, speed, time.monotonic() - started)
    return out


def read_embeddings(folder: Path) -> tuple[list[str], vectors.FloatMatrix, vectors.FloatMatrix]:
    """Ids and the image and text embeddings, [n, D] each, of an embeddings artifact with texts."""
    embedded = vectors.read_vectors(folder)
    if embedded.texts is None:
        raise UserError(f"{folder}: embeddings without texts; embed the set again with its captions")
    return embedded.ids, embedded.images, embedded.texts


# ---- what there is to do


def _units(data: SampleSet, splits: Sequence[str]) -> list[_Unit]:
    spans = [(split, start, stop) for split in splits for start, stop in _stretches(data, split)]
    return [_Unit(number, *span) for number, span in enumerate(spans)]


def _stretches(data: SampleSet, split: str) -> Iterator[tuple[int, int]]:
    """A set may say itself what is read well in one go."""
    own = getattr(data, "stretches", None)
    if own is not None:
        yield from own(split)
        return
    size = data.size(split)
    for start in range(0, size, STRETCH):
        yield start, min(start + STRETCH, size)


# ---- a stretch


@dataclass(frozen=True)
class _Done:
    """What the bar and the manifest are told of a stretch; times are those of its machine's clock."""

    samples: int
    texts: int
    image_seconds: float
    text_seconds: float
    began: float
    ended: float


def _embed_unit(job: _Job, stream: Stream, unit: _Unit) -> _Done:
    began = time.time()
    samples = job.data.read(unit.split, unit.start, unit.stop)
    stretch = stream.embed(samples, job.texts)
    rejects = [{**reject, "split": unit.split} for reject in stretch.rejects]
    table = stretch.rows.replace_schema_metadata({_REJECTS_KEY: json.dumps(rejects).encode()})
    with atomic_path(vectors.part_path(job.out, unit.number)) as temporary:
        pq.write_table(table, temporary)
    return _Done(len(samples), stretch.texts, stretch.image_seconds, stretch.text_seconds, began, time.time())


class _Embedder:
    """A Ray Data actor: one model, and threads that call it."""

    def __init__(self, job: _Job, threads: int) -> None:
        import torch

        self._job = job
        device = best_device()
        if device == "cpu":
            torch.set_num_threads(threads)
        self._stream = Stream(open_model(job.model, device), job.options, job.dtype, max(2, threads))

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        rows = zip(*(batch[name].tolist() for name in ("number", "split", "start", "stop")), strict=True)
        done = [_embed_unit(self._job, self._stream, _Unit(*row)) for row in rows]
        return {name: np.array([getattr(one, name) for one in done]) for name in _Done.__dataclass_fields__}


# ---- the run


def _run(job: _Job, units: Sequence[_Unit], model: Model, progress: bool) -> dict[str, float]:
    """Embed what is left; how fast that went, {} if there was nothing left."""
    if not units:
        return {}
    speed = _Speed()
    total = sum(unit.stop - unit.start for unit in units)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    with Progress(*columns, TimeRemainingColumn(), disable=not progress) as bar:
        task = bar.add_task(f"embed {job.data.name}", total=total, rate="")
        for done in _here(job, units, model) if _stays_here(job.options, units) else _on_ray(job, units):
            speed.add(done)
            bar.update(task, advance=done.samples, rate=speed.line())
    return speed.facts()


def _stays_here(options: Options, units: Sequence[_Unit]) -> bool:
    if options.here is not None:
        return options.here
    return len(units) <= _FEW and options.workers is None and not os.environ.get("RAY_ADDRESS")


def _here(job: _Job, units: Sequence[_Unit], model: Model) -> Iterator[_Done]:
    """In this process; a GPU is used if there is one."""
    if (device := best_device()) != model.device.split(":")[0]:
        model = open_model(job.model, device)
    stream = Stream(model, job.options, job.dtype, max(2, os.cpu_count() or 2))
    with closing(stream), ThreadPoolExecutor(_AT_ONCE) as pool:
        try:
            yield from pool.map(partial(_embed_unit, job, stream), units)
        except UserError:
            raise
        except Exception as error:
            pool.shutdown(cancel_futures=True)
            raise _failed(error) from error


def _on_ray(job: _Job, units: Sequence[_Unit]) -> Iterator[_Done]:
    import ray

    cluster.start()
    cluster.quiet_data()
    items = [{"number": unit.number, "split": unit.split, "start": unit.start, "stop": unit.stop} for unit in units]
    workers, cpus, gpus = _shape(job.options)
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        _Embedder,
        batch_size=1,
        fn_constructor_args=(job, cpus),
        compute=ray.data.ActorPoolStrategy(
            size=min(workers, len(units)),
            max_concurrent_calls_per_actor=_AT_ONCE,
            enable_true_multi_threading=True,
        ),
        num_cpus=cpus,
        num_gpus=gpus,
    )
    try:
        for batch in dataset.iter_batches(batch_size=None, prefetch_batches=0):
            for row in zip(*(batch[name].tolist() for name in _Done.__dataclass_fields__), strict=True):
                yield _Done(*row)
    except (ray.exceptions.RayError, OSError) as error:
        raise _failed(error) from error


def _failed(error: BaseException) -> UserError | WorkError:
    """The user's mistake that a worker found, or why the work stopped."""
    cause: BaseException = error
    while (inner := getattr(cause, "cause", None) or cause.__cause__) is not None:
        cause = inner
    if isinstance(cause, UserError):
        return UserError(str(cause).splitlines()[0])
    line = next((line.strip() for line in str(cause).splitlines() if line.strip()), "")
    return WorkError(f"embedding stopped: {type(cause).__name__}: {line[:300]}; start the same command again to resume")


def _shape(options: Options) -> tuple[int, int, int | None]:
    """Models side by side, cores of each, GPUs of each."""
    cores, gpus = cluster.cpus(), cluster.gpus()
    workers = options.workers or gpus or max(1, cores // _CORES_A_MODEL)
    each = max(1, cores // workers)
    return workers, min(each, _MOST_DECODERS) if gpus else each, 1 if gpus else None


class _Speed:
    """Pictures and texts a second while there is work: from the first stretch's begin to the last one's end."""

    def __init__(self) -> None:
        self._done: list[_Done] = []

    def add(self, done: _Done) -> None:
        self._done.append(done)

    def line(self) -> str:
        facts = self.facts()
        texts = f", {facts['texts_per_s']:,.1f} texts/s" if facts["texts_per_s"] else ""
        return f"{facts['images_per_s']:,.1f} images/s{texts}"

    def facts(self) -> dict[str, float]:
        seconds = max(one.ended for one in self._done) - min(one.began for one in self._done)
        sums = {name: sum(getattr(one, name) for one in self._done) for name in _Done.__dataclass_fields__}
        rates = {f"{kind}_per_s": sums[name] / max(seconds, 1e-9) for kind, name in (("images", "samples"), ("texts", "texts"))}
        return {**rates, "seconds": seconds, "image_seconds": sums["image_seconds"], "text_seconds": sums["text_seconds"]}


# ---- the manifest


def _finish(
    job: _Job, units: Sequence[_Unit], model: Model, config: dict[str, Any], speed: dict[str, float], seconds: float
) -> None:
    """Rejects in a file of their own, counts from the files, the manifest last."""
    rows, rejects = 0, []
    for unit in units:
        metadata = pq.read_metadata(vectors.part_path(job.out, unit.number))
        rows += metadata.num_rows
        rejects += json.loads(metadata.metadata[_REJECTS_KEY])
    wanted = sum(unit.stop - unit.start for unit in units)
    if rows + len(rejects) != wanted:
        raise WorkError(f"{job.out}: {rows} rows and {len(rejects)} rejects of {wanted} samples; delete it and start again")
    rejects += _left_out(job.data, config["splits"])
    with atomic_path(job.out / vectors.REJECTS) as temporary:
        pq.write_table(pa.Table.from_pylist(rejects, vectors.REJECT_SCHEMA), temporary)
    reasons = sorted(reject["reason"] for reject in rejects)
    manifest = Manifest(
        kind=vectors.KIND,
        name=job.out.name,
        config=config,
        inputs=[
            {"name": "set", "uri": job.data.name, "fingerprint": config["set"]},
            {"name": "model", "uri": job.model, "fingerprint": config["model"]},
        ],
        counts={
            "samples": rows + len(rejects),
            "embedded": rows,
            "rejected": {reason: reasons.count(reason) for reason in sorted(set(reasons))},
            "embed_dim": model.embed_dim,
        },
        timings={"embed": seconds},
        details={"throughput": speed, "batch_size": job.options.batch_size, "logit_scale": model.logit_scale},
    )
    write_manifest(job.out, manifest)


def _left_out(data: SampleSet, splits: Sequence[str]) -> list[dict[str, str]]:
    """What a set lists but can't give, if it knows of such."""
    own = getattr(data, "left_out", None)
    return [{**reject, "split": split} for split in splits for reject in own(split)] if own is not None else []
