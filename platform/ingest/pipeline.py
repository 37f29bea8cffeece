r"""The run: population, parts through Ray Data, settling across parts, counts, manifest. The only file here that knows Ray.

sources --freeze--> population --one task a part--> staged --gather, join, decide--> decision --one task a part--> data
                                |  reads, extracts, writes its own files, returns a few numbers
"""

from __future__ import annotations

import gc
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from biomedray import cluster
from biomedray.artifacts import Manifest, claim_output, read_manifest, write_atomic, write_manifest
from biomedray.errors import UserError, WorkError, error_lines
from biomedray.ingest import settle
from biomedray.ingest.articles import extract
from biomedray.ingest.count import count_artifact, not_found
from biomedray.ingest.delta import FOLDER as UPDATE
from biomedray.ingest.delta import Underway, adopt, begin, compare_part, end, reopen, stage_update
from biomedray.ingest.inventory import absent_refs, cloud_sources, is_cloud, read_inventory
from biomedray.ingest.neardup import TABLES
from biomedray.ingest.packages import open_refs
from biomedray.ingest.population import (
    Population,
    fingerprint_refs,
    freeze,
    group,
    merge,
    number_of_parts,
    read_population,
    read_refs,
)
from biomedray.ingest.settings import FetchConfig, IngestConfig
from biomedray.ingest.sources import ArticleRef, discover
from biomedray.ingest.store import StoreDownError
from biomedray.ingest.tables import progress_bar
from biomedray.ingest.write import PartWriter, part_name

# Fewer images or parts than these are settled in the driver: that takes less time than Ray needs to start a task.
_SMALL_JOIN = 100_000
_FEW = 3
_SOME = 20

Row = dict[str, Any]
Task = Callable[[Row], Row]


def run(sources: Sequence[str], out: Path, config: IngestConfig, progress: bool) -> Manifest:
    """Ingest the sources into ``out``; see ``biomedray.ingest.ingest``."""
    started = time.monotonic()
    population, resumed = _populate(sources, out, config, progress)
    run_parts(out, population.sizes, partial(_extract_task, out=str(out.resolve()), config=config.resolved()), progress)
    extracted = time.monotonic()
    settle_all(out.resolve(), list(population.sizes), config, progress)
    timings = {"extract_s": extracted - started, "settle_s": time.monotonic() - extracted}
    return finish(sources, out, config, population, {"resumed": resumed}, timings)


def finish(
    sources: Sequence[str], out: Path, config: IngestConfig, population: Population, details: Row, timings: dict[str, float]
) -> Manifest:
    """Count what is there, check that it balances, write the manifest, remove what only an unfinished run needs."""
    (out / "data").mkdir(exist_ok=True)
    before = time.monotonic()
    counts = count_artifact(out)
    timings = timings | {"count_s": time.monotonic() - before}
    if missing := not_found(out, config.select.pmcids):
        details = details | {"pmcids_not_found": {"number": len(missing), "some": missing[:_SOME]}}
    what = {"name": "population", "fingerprint": population.fingerprint}
    what |= {"snapshot": population.snapshot} if population.snapshot else {}
    manifest = Manifest(
        kind="pairs",
        name=out.resolve().name,
        config=config.resolved(),
        inputs=[*map(_describe_input, sources), what],
        counts=counts | (settle.decided(out) or {}),
        timings={name: round(seconds, 3) for name, seconds in {**timings, "total_s": sum(timings.values())}.items()},
        details={"balanced": True, "parts": len(population.sizes), **details},
    )
    write_manifest(out, manifest)
    settle.clean_up(out)
    return manifest


def update(sources: Sequence[str], out: Path, fetch: Row, progress: bool) -> Manifest:
    """Bring a finished artifact up to what the sources hold now; see ``biomedray.ingest.delta``."""
    if not sources:
        raise UserError("no source given; name the sources that the pairs came from")
    _check_out(sources, out)
    underway = begin(out, sources)
    if not underway.finished:
        config = IngestConfig.model_validate(underway.manifest.config)
        config = config.model_copy(update={"fetch": FetchConfig(**{**config.fetch.model_dump(), "snapshot": None, **fetch})})
        timings = {} if underway.settled else _update_parts(sources, out.resolve(), config, underway, progress)
        details = {"resumed": underway.resumed, "update": _changes(out)}
        finish(sources, out, config, adopt(out), details, timings)
    end(out)
    return read_manifest(out)


def _update_parts(
    sources: Sequence[str], out: Path, config: IngestConfig, underway: Underway, progress: bool
) -> dict[str, float]:
    """Stage what changed, settle everything; returns the timings."""
    started = time.monotonic()
    remove_torn(out)
    new = read_population(out / UPDATE)
    if new is None:
        new = _freeze_newer(sources, out, config, underway, progress)
    sizes = {part: new.sizes.get(part, 0) for part in sorted({*underway.old_parts, *new.sizes})}
    run_parts(out, sizes, partial(_update_task, out=str(out), config=config.resolved(), snapshot=new.snapshot), progress)
    extracted = time.monotonic()
    reopen(out)
    settle_all(out, list(sizes), config, progress)
    return {"extract_s": extracted - started, "settle_s": time.monotonic() - extracted}


def _freeze_newer(sources: Sequence[str], out: Path, config: IngestConfig, underway: Underway, progress: bool) -> Population:
    local, stores = cloud_sources(sources)
    try:
        refs = discover(local) if local else []
        return _freeze(refs, stores, out / UPDATE, config, progress, underway.n_parts)
    except (UserError, StoreDownError) as error:
        if not underway.resumed and (isinstance(error, UserError) or not _has_files(out / UPDATE / "inventory")):
            end(out)
        raise


def _update_task(row: Row, out: str, config: Row, snapshot: str | None) -> Row:
    part = int(row["part"])
    return {"part": part, **update_part(Path(out), part, IngestConfig(**config), snapshot)}


def update_part(out: Path, part: int, config: IngestConfig, snapshot: str | None = None) -> dict[str, int]:
    """Stage a part again if anything in it changed; plain Python, also what each Ray task does."""
    difference = compare_part(out, part, config)
    counts = dict.fromkeys(("articles", "pairs", "rejects", "added", "replaced", "withdrawn", "read"), 0)
    if not difference.nothing:
        counts = stage_update(out, part, difference, config, snapshot)
    commit_part(out, part, counts)
    return counts


def _changes(out: Path) -> dict[str, int]:
    """What an update changed, summed over its parts' sidecars."""
    found = [json.loads(path.read_bytes()) for path in sorted((out / "parts").glob("*.json"))]
    return {name: sum(counts[name] for counts in found) for name in ("added", "replaced", "withdrawn", "read")}


# ---- population


def _populate(sources: Sequence[str], out: Path, config: IngestConfig, progress: bool) -> tuple[Population, bool]:
    """The frozen population of this run, and whether an earlier attempt at it goes on.

    Local sources are looked through each time: where they have changed, the parts that are there don't fit them.
    An inventory is read once; what was frozen from it stands.
    """
    _check_out(sources, out)
    local, stores = cloud_sources(sources)
    refs = discover(local) if local or not stores else []
    new = not out.exists()
    claim = {"config": config.identity(), "population": fingerprint_refs(refs), **({"stores": stores} if stores else {})}
    resumed = claim_output(out, "pairs", claim)
    if resumed:
        remove_torn(out)
        if (population := read_population(out)) is not None:
            return population, resumed
    try:
        return _freeze(refs, stores, out, config, progress), resumed
    except (UserError, StoreDownError) as error:
        if new and (isinstance(error, UserError) or not _has_files(out / "inventory")):
            shutil.rmtree(out, ignore_errors=True)
        raise


def _has_files(folder: Path) -> bool:
    """Whether anything was fetched that the next attempt needn't fetch again."""
    return any(path.is_file() for path in folder.rglob("*"))


def _freeze(
    refs: Sequence[ArticleRef], stores: Sequence[str], out: Path, config: IngestConfig, progress: bool, n_parts: int = 0
) -> Population:
    """Write down the population under ``out``; ``n_parts``: 0 for as many as fit."""
    scratch = out / "inventory"
    found = [read_inventory(store, config, scratch, progress) for store in stores]
    n_parts = n_parts or number_of_parts(len(refs) + sum(each.n_wanted for each in found), config.articles_per_part)
    absent = group(absent_refs(found, refs), n_parts)
    groups = merge(group(refs, n_parts), absent, *(each.groups(n_parts) for each in found))
    fingerprint = "+".join([*([fingerprint_refs(refs)] if refs or not found else []), *(each.fingerprint for each in found)])
    population = freeze(out, groups, fingerprint, n_parts, found[0].snapshot if found else None, config.media)
    shutil.rmtree(scratch, ignore_errors=True)
    return population


def _check_out(sources: Sequence[str], out: Path) -> None:
    target = out.resolve()
    for source in map(Path, cloud_sources(sources)[0]):
        if source.is_dir() and target.is_relative_to(source.resolve()):
            raise UserError(f"{out}: lies inside the source {source}; name a folder outside of it")
        if source.resolve().is_relative_to(target) and target.exists():
            raise UserError(f"{out}: holds the source {source}; name another folder for the output")


def remove_torn(out: Path) -> None:
    """Temporary files of a run that was killed while it wrote."""
    for path in out.rglob(".*.tmp"):
        path.unlink(missing_ok=True)


def _describe_input(source: str) -> dict[str, str]:
    if is_cloud(source) and not Path(source).exists():
        return {"name": source}
    path = Path(source).resolve()
    return {"name": path.name, "path": str(path)}


# ---- parts


def sidecar(out: Path, part: int) -> Path:
    """The file whose presence says that a part is staged and gathered."""
    return out / "parts" / f"{part_name(part)}.json"


def extract_part(out: Path, part: int, config: IngestConfig) -> dict[str, int]:
    """Read, extract and stage one part; plain Python, also what each Ray task does."""
    fetched = out / "fetched" / part_name(part)
    writer = PartWriter(out / settle.STAGED, part, config)
    with _modules_left_alone():
        for item in open_refs(read_refs(out, part), config, fetched):
            for rows in extract(item, config):
                writer.add(rows)
        counts = writer.close()
        commit_part(out, part, counts)
    return counts


@contextmanager
def _modules_left_alone() -> Iterator[None]:
    """Python's collector doesn't look through what was there before, which takes it as long as reading some fifty articles."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def commit_part(out: Path, part: int, counts: dict[str, int]) -> None:
    """Gather what settling needs to know of a staged part, and say that it is whole."""
    settle.gather(out, part)
    write_atomic(sidecar(out, part), json.dumps(counts))
    shutil.rmtree(out / "fetched" / part_name(part), ignore_errors=True)


def _extract_task(row: Row, out: str, config: Row) -> Row:
    return {"part": row["part"], **extract_part(Path(out), int(row["part"]), IngestConfig(**config))}


def run_parts(out: Path, sizes: dict[int, int], task: Task, progress: bool) -> None:
    """Run the task for each part that has no sidecar yet."""
    waiting = [part for part in sizes if not sidecar(out, part).is_file()]
    done = sum(sizes.values()) - sum(sizes[part] for part in waiting)
    totals = {"pairs": 0, "rejects": 0}
    with progress_bar(progress) as bar:
        task_id = bar.add_task("ingest", total=sum(sizes.values()), completed=done, note="")
        for row in spread(waiting, task):
            totals = {name: totals[name] + int(row[name]) for name in totals}
            note = f"{totals['pairs']:,} pairs, {totals['rejects']:,} rejects"
            bar.update(task_id, advance=sizes[int(row["part"])], note=note)


def spread(numbers: Sequence[int], task: Task, here: bool = False) -> Iterator[Row]:
    """Results of a task for each number, through Ray Data, as they get done: one block and one task each, so no more than the
    running ones are in memory. ``here``: in this process, for what takes less time than sending it away.

    Raises:
        WorkError: a task failed, or Ray did; what is done stays.
    """
    if here:
        yield from (task({"part": number}) for number in numbers)
        return
    if not numbers:
        return
    import ray

    cluster.start()
    cluster.quiet_data()
    rows = [{"part": number} for number in numbers]
    mapped = ray.data.from_items(rows, override_num_blocks=len(rows)).map(task, num_cpus=1)
    try:
        yield from mapped.iter_rows()
    except (ray.exceptions.RayError, OSError) as error:
        raise WorkError(f"ingest stopped: {failure(error)}; start the same command again to resume") from error


def failure(error: BaseException) -> str:
    """The line of a remote traceback that names what went wrong; Ray's own last lines are advice on retries."""
    lines = error_lines(str(error))
    own = [line for line in lines if not line.startswith("ray.exceptions.")]
    return (own or lines or [type(error).__name__])[0][:300]


# ---- settling


def settle_all(out: Path, parts: Sequence[int], config: IngestConfig, progress: bool, here: bool = False) -> None:
    """Copies, duplicates, clusters and the split, then every part to its place; ``here``: without Ray."""
    if settle.decided(out) is None:
        dropped = settle.find_dropped(out)
        _join(out, config, here)
        settle.decide(out, dropped, config)
    waiting = [part for part in parts if not settle.is_applied(out, part)]
    with progress_bar(progress) as bar:
        task_id = bar.add_task("settle", total=len(parts), completed=len(parts) - len(waiting), note="")
        task = partial(_apply_task, out=str(out), config=config.resolved())
        for _ in spread(waiting, task, here=here or len(waiting) < _FEW):
            bar.advance(task_id)


def _join(out: Path, config: IngestConfig, here: bool) -> None:
    """Near-duplicates, table by table of the banded join; a table is one task."""
    if config.near_duplicate_bits < 0 or not config.verify_decode:
        return
    task = partial(_join_task, out=str(out), distance=config.near_duplicate_bits)
    waiting = [table for table in range(len(TABLES)) if not settle.edges_file(out, table).is_file()]
    for _ in spread(waiting, task, here=here or settle.n_images(out) < _SMALL_JOIN):
        pass


def _join_task(row: Row, out: str, distance: int) -> Row:
    return {"edges": settle.join_images(Path(out), int(row["part"]), distance)}


def _apply_task(row: Row, out: str, config: Row) -> Row:
    settle.apply(Path(out), int(row["part"]), IngestConfig(**config))
    return {"part": row["part"]}
