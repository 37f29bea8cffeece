r"""The run: parts through Ray Data, resume, duplicates across parts, counts, manifest. The only file here that knows Ray.

discover -> parts by hash of the source's name -> Ray Data, one task a part -> duplicates -> count and balance -> manifest
                                                   |  reads, extracts, writes its own files, returns three numbers
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from biomedray import cluster
from biomedray.artifacts import Manifest, claim_output, fingerprint, write_manifest
from biomedray.errors import UserError, WorkError
from biomedray.ingest.articles import Identity, extract
from biomedray.ingest.count import count_artifact
from biomedray.ingest.packages import Refused, open_ref
from biomedray.ingest.settings import IngestConfig
from biomedray.ingest.sources import ArticleRef, cloud_version, discover
from biomedray.ingest.tables import progress_bar
from biomedray.ingest.write import PartWriter, drop_articles, sidecar
from biomedray.records import Reason, Stage

_PARTS_WANTED = 256
_SMALLEST_PART, _LARGEST_PART = 32, 1024

_ERROR_LINE = re.compile(r"[A-Za-z_][\w.]*(?:Error|Exception)\b(?::|$)")

Row = dict[str, Any]


def run(sources: Sequence[str], out: Path, config: IngestConfig, progress: bool) -> Manifest:
    """Ingest the sources into ``out``; see ``biomedray.ingest.ingest``."""
    started = time.monotonic()
    refs = discover(sources)
    _check_out(sources, out)
    resumed = claim_output(out, "pairs", {"config": config.resolved(), "population": population(refs)})
    if resumed:
        _remove_torn(out)
    (out / "data").mkdir(exist_ok=True)
    parts = plan_parts(refs, config.articles_per_part)
    _run_parts(parts, out.resolve(), config, progress)
    extracted = time.monotonic()
    settle_duplicates(out, sorted(parts), config)
    counts = count_artifact(out)
    now = time.monotonic()
    manifest = Manifest(
        kind="pairs",
        name=out.resolve().name,
        config=config.resolved(),
        inputs=[_describe_input(source) for source in sources] + [{"name": "population", "fingerprint": population(refs)}],
        counts=counts,
        timings={"extract_s": round(extracted - started, 3), "total_s": round(now - started, 3)},
        details={"balanced": True, "parts": len(parts), "resumed": resumed},
    )
    write_manifest(out, manifest)
    shutil.rmtree(out / "parts", ignore_errors=True)
    return manifest


def population(refs: Sequence[ArticleRef]) -> str:
    """Identity of what there is to ingest: names and sizes; a touched file is the same file."""
    return fingerprint([[ref.kind, ref.uri, ref.size] for ref in refs])


def plan_parts(refs: Sequence[ArticleRef], per_part: int = 0) -> dict[int, list[ArticleRef]]:
    """Articles by part: a function of the articles alone, so every machine cuts alike.

    The part is a hash of the source's name without version, so copies of an article meet in one part,
    and every part is a random sample of the articles: with rows in hash order inside, the whole is shuffled.
    """
    size = per_part or min(_LARGEST_PART, max(_SMALLEST_PART, len(refs) // _PARTS_WANTED))
    number = max(1, -(-len(refs) // size))
    parts: dict[int, list[ArticleRef]] = defaultdict(list)
    for ref in refs:
        key = (cloud_version(ref.name) or (ref.name,))[0]
        parts[int.from_bytes(hashlib.sha256(str(key).encode()).digest()[:8], "big") % number].append(ref)
    return dict(parts)


def run_part(part: int, refs: Sequence[ArticleRef], out: Path, config: IngestConfig) -> dict[str, int]:
    """Read, extract and write one part; plain Python, also what each Ray task does."""
    writer = PartWriter(out, part, config)
    for ref in refs:
        for item in open_ref(ref, config):
            for rows in extract(item, config):
                writer.add(rows)
    return writer.close()


def _task(row: Row, out: str, config: Row) -> Row:
    refs: list[ArticleRef] = pickle.loads(row["refs"])  # noqa: S301  # written a moment ago by this very run
    return {"sources": len(refs), **run_part(int(row["part"]), refs, Path(out), IngestConfig(**config))}


def _run_parts(parts: dict[int, list[ArticleRef]], out: Path, config: IngestConfig, progress: bool) -> None:
    waiting = [part for part in sorted(parts) if not sidecar(out, part).is_file()]
    done = sum(len(parts[part]) for part in parts) - sum(len(parts[part]) for part in waiting)
    totals = {"pairs": 0, "rejects": 0}
    with progress_bar(progress) as bar:
        total = done + sum(len(parts[part]) for part in waiting)
        task = bar.add_task("ingest", total=total, completed=done, note="")
        for row in _stream(parts, waiting, out, config):
            totals = {name: totals[name] + int(row[name]) for name in totals}
            bar.update(task, advance=int(row["sources"]), note=f"{totals['pairs']:,} pairs, {totals['rejects']:,} rejects")


def _stream(parts: dict[int, list[ArticleRef]], waiting: list[int], out: Path, config: IngestConfig) -> Iterator[Row]:
    """Counts of each part as it gets done: one block and one task a part, so no more than the running parts are in memory."""
    if not waiting:
        return
    import ray

    cluster.start()
    cluster.quiet_data()
    rows = [{"part": part, "refs": pickle.dumps(parts[part])} for part in waiting]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    task = partial(_task, out=str(out), config=config.resolved())
    mapped = dataset.map(task, num_cpus=1)
    try:
        yield from mapped.iter_rows()
    except (ray.exceptions.RayError, OSError) as error:
        raise WorkError(f"ingest stopped: {failure(error)}; start the same command again to resume") from error


def failure(error: BaseException) -> str:
    """The line of a remote traceback that names what went wrong; Ray's own last lines are advice on retries."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if _ERROR_LINE.match(line) and not line.startswith("ray.exceptions.")]
    return (named or lines or [type(error).__name__])[0][:300]


def _check_out(sources: Sequence[str], out: Path) -> None:
    target = out.resolve()
    for source in map(Path, sources):
        if source.is_dir() and target.is_relative_to(source.resolve()):
            raise UserError(f"{out}: lies inside the source {source}; name a folder outside of it")
        if source.resolve().is_relative_to(target) and target.exists():
            raise UserError(f"{out}: holds the source {source}; name another folder for the output")


def _remove_torn(out: Path) -> None:
    """Temporary files of a run that was killed while it wrote."""
    for path in out.rglob(".*.tmp"):
        path.unlink(missing_ok=True)


def _describe_input(source: str) -> dict[str, str]:
    path = Path(source).resolve()
    return {"name": path.name, "path": str(path)}


def settle_duplicates(out: Path, parts: Sequence[int], config: IngestConfig) -> None:
    """Keep one copy of each article: the highest version, then the one with most pairs, then the first by uri.

    Decided from the sidecars alone, which stay as they were, so a run that is killed here settles alike.
    """
    best: dict[str, Identity] = {}
    for _, article in _identities(out, parts):
        if (rival := best.get(article.pmcid)) is None or _rank(article) < _rank(rival):
            best[article.pmcid] = article
    dropped: dict[int, dict[str, Refused]] = defaultdict(dict)
    for part, article in _identities(out, parts):
        if (kept := best[article.pmcid]).uri != article.uri:
            dropped[part][article.uri] = _duplicate(article, kept)
    for part, articles in sorted(dropped.items()):
        drop_articles(out, part, articles, config.rows_per_group)


def _identities(out: Path, parts: Sequence[int]) -> Iterator[tuple[int, Identity]]:
    for part in parts:
        for values in json.loads(sidecar(out, part).read_bytes())["articles"]:
            yield part, Identity(*values)


def _rank(article: Identity) -> tuple[int, int, str]:
    return (-article.version, -article.pairs, article.uri)


def _duplicate(article: Identity, kept: Identity) -> Refused:
    if article.version < kept.version:
        reason, detail = Reason.SUPERSEDED_VERSION, f"version {kept.version} is there: {kept.uri}"
    else:
        same = "the same XML" if article.md5 == kept.md5 else "the same id"
        reason, detail = Reason.DUPLICATE_ARTICLE, f"{same} as {kept.uri}"
    return Refused(article.uri, reason, detail, Stage.ARTICLE, article.pmcid, article.version)
