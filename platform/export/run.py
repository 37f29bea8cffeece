"""The run of an export: shard by shard, each by atomic rename, then the card, counts read back, the manifest.

plan (footers, filter columns) -> shards or parts that are not there yet -> card, croissant.json -> manifest
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from biomedray.artifacts import Manifest, claim_output, manifest_fingerprint, read_manifest, write_atomic, write_manifest
from biomedray.errors import UserError
from biomedray.export import huggingface, jsonl, tars
from biomedray.export.card import Facts, write_card
from biomedray.export.croissant import croissant
from biomedray.export.huggingface import SPLIT_NAMES
from biomedray.export.settings import FORMATS, ExportConfig, Format
from biomedray.export.source import Source, shards
from biomedray.export.survey import survey
from biomedray.records import Split
from biomedray.where import parse

Counts = dict[str, Any]
# Called with the number of pairs that are done, and of all.
Notify = Callable[[int, int], None]


@dataclass(frozen=True)
class _Job:
    source: Source
    out: Path
    config: ExportConfig
    notify: Notify


def run(pairs: Path, out: Path, kind: str, config: ExportConfig, notify: Notify) -> Manifest:
    """Export a pairs artifact; see ``biomedray.export.export``."""
    started = time.monotonic()
    if kind not in FORMATS:
        raise UserError(f"format '{kind}': there are {', '.join(FORMATS)}")
    form: Format = kind
    manifest = read_manifest(pairs, "pairs")
    where = parse(config.where)
    if out.resolve().is_relative_to(pairs.resolve()):
        raise UserError(f"{out}: lies inside the pairs artifact; name a folder outside of it")
    fingerprint = manifest_fingerprint(pairs)
    resumed = claim_output(out, "export", {"format": form, "config": config.resolved(), "pairs": fingerprint})
    if resumed:
        for torn in out.rglob(".*.tmp"):
            torn.unlink(missing_ok=True)
    files, counts = _WRITERS[form](_Job(Source(pairs, where), out, config, notify))
    found = survey(pairs, config.splits, where)
    left_out = found.rows - counts["pairs"] if "pairs" in counts else 0
    facts = Facts(manifest, fingerprint, found, config, form, files, left_out)
    write_atomic(out / "README.md", write_card(facts))
    write_atomic(out / "croissant.json", json.dumps(croissant(facts), indent=1, ensure_ascii=False) + "\n")
    finished = Manifest(
        kind="export",
        name=out.resolve().name,
        config={"format": form, **config.resolved()},
        inputs=[{"name": "pairs", "path": str(pairs.resolve()), "fingerprint": fingerprint}],
        counts={"pairs": found.rows - left_out, "left_out": left_out, **counts},
        timings={"total_s": round(time.monotonic() - started, 3)},
        details={"resumed": resumed, "files": dict(files), **_hints(form, files, counts)},
    )
    write_manifest(out, finished)
    return finished


def _sharded(
    job: _Job, columns: tuple[str, ...], name: Callable[[Split, int, int], str], write: Callable[..., None]
) -> dict[Split, list[Path]]:
    """Write the shards that are not there yet; returns all of them by split."""
    groups = {split: job.source.groups(split) for split in job.config.splits}
    total = sum(group.rows for found in groups.values() for group in found)
    done = 0
    paths: dict[Split, list[Path]] = {}
    for split, found in groups.items():
        pieces = shards(split, sum(group.rows for group in found), job.config.rows_per_shard)
        paths[split] = [job.out / name(split, piece.number, len(pieces)) for piece in pieces]
        for piece, path in zip(pieces, paths[split], strict=True):
            if not path.is_file():
                write(path, job.source.read(found, piece, columns))
            done += piece.stop - piece.start
            job.notify(done, total)
    return paths


def _webdataset(job: _Job) -> tuple[dict[str, str], Counts]:
    paths = _sharded(job, tars.COLUMNS, lambda split, number, _: f"{split}/{number:05d}.tar", tars.write_tar)
    sizes = {split: tars.write_sizes(job.out / split) for split, found in paths.items() if found}
    by_split = {split: sum(found.values()) for split, found in sizes.items()}
    files = {SPLIT_NAMES[split]: f"{split}/*.tar" for split in sizes}
    return files, {
        "pairs": sum(by_split.values()),
        "pairs_by_split": by_split,
        "shards": {split: len(found) for split, found in sizes.items()},
    }


def _huggingface(job: _Job) -> tuple[dict[str, str], Counts]:
    def name(split: Split, number: int, total: int) -> str:
        return f"data/{SPLIT_NAMES[split]}-{number:05d}-of-{total:05d}.parquet"

    paths = _sharded(job, huggingface.COLUMNS, name, huggingface.write_parquet)
    by_split = {split: sum(map(huggingface.count_rows, found)) for split, found in paths.items()}
    files = {SPLIT_NAMES[split]: f"data/{SPLIT_NAMES[split]}-*.parquet" for split, found in paths.items() if found}
    return files, {
        "pairs": sum(by_split.values()),
        "pairs_by_split": by_split,
        "shards": {split: len(found) for split, found in paths.items()},
    }


def _jsonl(job: _Job) -> tuple[dict[str, str], Counts]:
    files: dict[str, str] = {}
    articles: Counts = {}
    by_split: Counts = {}
    for split in job.config.splits:
        path = job.out / f"{split}.jsonl"
        if not path.is_file():
            jsonl.join(_jsonl_parts(job, split), path)
        articles[split], by_split[split] = jsonl.count_lines(path)
        if articles[split]:
            files[SPLIT_NAMES[split]] = path.name
        else:
            path.unlink()
    shutil.rmtree(job.out / "parts", ignore_errors=True)
    return files, {"pairs": sum(by_split.values()), "pairs_by_split": by_split, "articles_by_split": articles}


def _jsonl_parts(job: _Job, split: Split) -> list[Path]:
    """Lines of a split by part of the artifact; a part's pictures are there before its lines."""
    parts = job.source.parts(split)
    paths = []
    for number, (part, files) in enumerate(parts):
        path = job.out / "parts" / split / f"{part}.jsonl"
        if not path.is_file():
            folder = f"images/{split}/{part}" if job.config.images else None
            rows = (row for table in job.source.rows(files, jsonl.COLUMNS) for row in table.to_pylist())
            found = jsonl.articles(rows, folder)
            if folder is not None:
                jsonl.write_images(job.out, found, job.source.rows(files, ("pair_id", "image")))
            jsonl.write_lines(path, found)
        paths.append(path)
        job.notify(number + 1, len(parts))
    return paths


def _card(job: _Job) -> tuple[dict[str, str], Counts]:
    """Nothing but the card: its file patterns are those of the pairs artifact."""
    return {SPLIT_NAMES[split]: f"data/split={split}/*.parquet" for split in job.config.splits if job.source.files(split)}, {}


def _hints(form: Format, files: dict[str, str], counts: Counts) -> dict[str, Any]:
    """Options for open_clip_train, which wants the number of samples."""
    if form != "webdataset" or "train" not in files:
        return {}
    last = counts["shards"]["train"] - 1
    return {
        "open_clip": f"--dataset-type webdataset --train-data 'train/{{00000..{last:05d}}}.tar' "
        f"--train-num-samples {counts['pairs_by_split']['train']}"
    }


_WRITERS: dict[Format, Callable[[_Job], tuple[dict[str, str], Counts]]] = {
    "webdataset": _webdataset,
    "huggingface": _huggingface,
    "jsonl": _jsonl,
    "card": _card,
}
