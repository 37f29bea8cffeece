r"""What is known only when all articles were read: copies, duplicate images, article clusters, the split; and its writing.

staged or finished parts --gather--> settle/images, settle/works --> copies to drop --join--> clusters --> settle/decision
each part: decision --rewrite, or just rename--> data/split=*, rejects, ledger      (a marker first, so a killed move goes on)
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from biomedray.artifacts import atomic_path, write_atomic
from biomedray.ingest import split as splits
from biomedray.ingest.articles import refused_rows
from biomedray.ingest.neardup import TABLES, Images, clusters, distinct, images_of, table_edges
from biomedray.ingest.packages import Refused
from biomedray.ingest.settings import IngestConfig
from biomedray.ingest.write import by_source, part_name, row_order, write_rows, write_tables
from biomedray.records import LEDGER_SCHEMA, PAIR_SCHEMA, REJECT_SCHEMA, SPLITS, Reason, Stage

STAGED, FOLDER = "staged", "settle"
_DECIDED = ("source_uri", "pmcid", "image_sha256", "split", "dup_cluster", "article_cluster")
_FEATURES = ["source_uri", "pmcid", "image_sha256", "phash", "phash_fine", "width", "height", "entropy", "colourfulness"]


def root_of(out: Path, part: int) -> Path:
    """Where a part's rows lie before they are settled: newly extracted, or in the finished artifact that is updated."""
    staged = out / STAGED
    return staged if (staged / "ledger" / f"{part_name(part)}.parquet").is_file() else out


def data_files(root: Path, part: int) -> list[Path]:
    """The files with pairs of a part, sorted."""
    return sorted(path for split in SPLITS for path in (root / "data" / f"split={split}").glob(f"{part_name(part)}*.parquet"))


# ---- gather: what tells images and articles apart, small enough to look at all of it


def gather(out: Path, part: int) -> None:
    """Write a part's image features and works under ``settle/``; may be repeated."""
    root = root_of(out, part)
    # A table's reader takes longer to set up, as a dataset, than to read these few columns.
    tables = [pq.ParquetFile(path).read(columns=_FEATURES) for path in data_files(root, part)]
    rows = pa.concat_tables(tables) if tables else PAIR_SCHEMA.empty_table().select(_FEATURES)
    _write(out / FOLDER / "images" / f"{part_name(part)}.parquet", _features(rows))
    works = pq.ParquetFile(root / "ledger" / f"{part_name(part)}.parquet").read()
    _write(out / FOLDER / "works" / f"{part_name(part)}.parquet", works.filter(works["split"].is_valid()))


def _features(rows: pa.Table) -> pa.Table:
    images = images_of(rows)
    return pa.table(
        {
            "sha": images.sha,
            "phash": images.phash,
            "hashed": rows["phash"].is_valid(),
            **{f"fine{i}": images.fine[:, i] for i in range(4)},
            "shape": images.shape,
            "entropy": images.entropy,
            "colour": images.colour,
            "article": np.array([number(name) for name in rows["pmcid"].to_pylist()], np.uint64),
            "source": np.array([number(name) for name in rows["source_uri"].to_pylist()], np.uint64),
        }
    )


def number(name: str) -> int:
    """The first 64 bits of a name's SHA-256: stands for it in columns."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


# ---- decide


@dataclass(frozen=True)
class Decision:
    """What is to be changed: articles to drop by uri, images with another cluster than their own, articles not alone."""

    dropped: dict[str, Refused]
    images: dict[str, str]
    articles: dict[str, tuple[str, str]]
    """PMCID -> article cluster, split."""


def find_dropped(out: Path) -> list[Refused]:
    """The copies and older versions that another copy replaces; written down for the steps that follow."""
    works = list(_works(out, _repeated(out, "pmcid")))
    best = splits.kept_copies(works)
    dropped = [_duplicate(work, best[work.pmcid]) for work in works if best[work.pmcid].uri != work.uri]
    rows = [{"source": number(refused.uri)} for refused in dropped]
    _write(out / FOLDER / "dropped.parquet", pa.Table.from_pylist(rows, pa.schema([pa.field("source", pa.uint64())])))
    return sorted(dropped, key=lambda refused: refused.uri)


def n_images(out: Path) -> int:
    """Images that were gathered."""
    return sum(pq.read_metadata(path).num_rows for path in (out / FOLDER / "images").glob("*.parquet"))


def edges_file(out: Path, table: int) -> Path:
    """Where the near-duplicates that a table finds are written."""
    return out / FOLDER / "edges" / f"table-{table}.parquet"


def join_images(out: Path, table: int, distance: int) -> int:
    """Write the near-duplicates among all images that one table of the banded join finds; returns how many."""
    fine = [f"fine{i}" for i in range(4)]
    rows = _images(out, ["sha", "phash", "hashed", *fine, "shape", "entropy", "colour"])
    sha, phash, shape, entropy, colour = (rows[name].to_numpy() for name in ("sha", "phash", "shape", "entropy", "colour"))
    bits = np.stack([rows[name].to_numpy() for name in fine], axis=1)
    images = Images(sha, phash, bits, shape, entropy, colour).take(rows["hashed"].to_numpy())
    left, right = table_edges(distinct(images), TABLES[table], distance)
    _write(edges_file(out, table), pa.table({"left": left, "right": right}))
    return len(left)


def decide(out: Path, dropped: list[Refused], config: IngestConfig) -> None:
    """Clusters of images, then of articles, then their splits; written to ``settle/decision``, whole or not at all."""
    edges = [pq.read_table(path) for path in sorted((out / FOLDER / "edges").glob("*.parquet"))]
    none = np.empty(0, np.uint64)
    left, right = (np.concatenate([none, *(table[side].to_numpy() for table in edges)]) for side in ("left", "right"))
    member, cluster = clusters(left, right)
    by_image = _articles_by_image(out, member, cluster)
    groups = [*_sharing_images(out, by_image), *splits.sharing(_shared_keys(out, {refused.uri for refused in dropped}))]
    joined = splits.join(groups)
    sizes = Counter(joined.values())
    share = (config.seed, config.val_fraction, config.test_fraction)
    moved = {name: splits.cluster_split(own, sizes[own], *share) for name, own in joined.items()}
    other = member != cluster
    images = {f"{m:016x}": f"{c:016x}" for m, c in zip(member[other].tolist(), cluster[other].tolist(), strict=True)}
    found = {
        "dropped": [_refused_row(refused) for refused in dropped],
        "images": [{"image": image, "cluster": own} for image, own in sorted(images.items())],
        "articles": [{"pmcid": name, "cluster": joined[name], "split": moved[name]} for name in sorted(joined)],
    }
    folder = out / FOLDER / "decision"
    for name, rows in found.items():
        _write(folder / f"{name}.parquet", pa.Table.from_pylist(rows, _DECISION[name]))
    largest = max(sizes.values(), default=1)
    facts = {"near_duplicate_images": len(member), "article_clusters": len(sizes), "largest_article_cluster": largest}
    write_atomic(folder / "decision.json", json.dumps(facts))


def decided(out: Path) -> dict[str, int] | None:
    """Numbers of a decision that was made; None before that."""
    path = out / FOLDER / "decision" / "decision.json"
    return dict(json.loads(path.read_bytes())) if path.is_file() else None


_TEXT = pa.string()
_DECISION = {
    "dropped": pa.schema([(name, pa.int64() if name == "version" else _TEXT) for name in Refused.__dataclass_fields__]),
    "images": pa.schema([("image", _TEXT), ("cluster", _TEXT)]),
    "articles": pa.schema([("pmcid", _TEXT), ("cluster", _TEXT), ("split", _TEXT)]),
}


def _articles_by_image(out: Path, member: NDArray[np.uint64], cluster: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """(image cluster, article) as rows of numbers, each once, in order."""
    rows = _images(out, ["sha", "article"])
    sha = rows["sha"].to_numpy().copy()
    if member.size:
        place = np.minimum(np.searchsorted(member, sha), member.size - 1)
        sha = np.where(member[place] == sha, cluster[place], sha)
    return np.unique(np.stack([sha, rows["article"].to_numpy()], axis=1), axis=0)


def _sharing_images(out: Path, rows: NDArray[np.uint64]) -> list[list[str]]:
    same = np.flatnonzero(rows[1:, 0] == rows[:-1, 0]) if len(rows) else np.empty(0, np.intp)
    shared = rows[np.unique(np.concatenate([same, same + 1]))]
    wanted = set(shared[:, 1].tolist())
    names = {number(name): name for name in _column(out, "pmcid") if number(name) in wanted}
    return splits.sharing((str(image), names[article]) for image, article in shared.tolist() if article in names)


def _shared_keys(out: Path, dropped: set[str]) -> Iterator[tuple[str, str]]:
    for work in _works(out):
        if work.uri not in dropped:
            yield from ((key, work.pmcid) for key in splits.keys(work))


def _column(out: Path, name: str) -> Iterator[str]:
    for path in sorted((out / FOLDER / "works").glob("*.parquet")):
        yield from pq.read_table(path, columns=[name])[name].to_pylist()


def _repeated(out: Path, name: str) -> set[str]:
    return {value for value, times in Counter(_column(out, name)).items() if times > 1}


def _works(out: Path, pmcids: set[str] | None = None) -> Iterator[splits.Work]:
    for path in sorted((out / FOLDER / "works").glob("*.parquet")):
        for row in pq.read_table(path).to_pylist():
            if pmcids is None or row["pmcid"] in pmcids:
                yield _work(row)


def _work(row: dict[str, Any]) -> splits.Work:
    return splits.Work(
        uri=row["source_uri"],
        pmcid=row["pmcid"],
        version=row["version"],
        pairs=row["pairs"],
        md5=row["source_md5"],
        doi=row["doi"],
        title=row["article_title"],
        related=tuple(row["related_dois"] or ()),
    )


def _images(out: Path, columns: list[str]) -> pa.Table:
    """Features of all images of articles that are kept."""
    dropped = pq.read_table(out / FOLDER / "dropped.parquet")["source"].to_numpy()
    paths = sorted((out / FOLDER / "images").glob("*.parquet"))
    tables = [pq.read_table(path, columns=[*columns, "source"]) for path in paths]
    rows = pa.concat_tables(tables)
    return rows.filter(pa.array(~np.isin(rows["source"].to_numpy(), dropped)))


def _duplicate(work: splits.Work, kept: splits.Work) -> Refused:
    if work.version < kept.version:
        reason, detail = Reason.SUPERSEDED_VERSION, f"version {kept.version} is there: {kept.uri}"
    else:
        same = "the same XML" if work.md5 == kept.md5 else "the same id"
        reason, detail = Reason.DUPLICATE_ARTICLE, f"{same} as {kept.uri}"
    return Refused(work.uri, reason, detail, Stage.ARTICLE, work.pmcid, work.version)


def _refused_row(refused: Refused) -> dict[str, Any]:
    return {name: getattr(refused, name) for name in Refused.__dataclass_fields__}


def _write(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


# ---- apply


@lru_cache(maxsize=1)
def read_decision(out: Path, made: int) -> Decision:  # noqa: ARG001  # 'made' tells the decisions of two updates of one folder apart
    """The decision of a run."""
    dropped, images, articles = (pq.read_table(out / FOLDER / "decision" / f"{name}.parquet").to_pylist() for name in _DECISION)
    return Decision(
        {row["uri"]: Refused(**{**row, "reason": Reason(row["reason"]), "stage": Stage(row["stage"])}) for row in dropped},
        {row["image"]: row["cluster"] for row in images},
        {row["pmcid"]: (row["cluster"], row["split"]) for row in articles},
    )


def is_applied(out: Path, part: int) -> bool:
    """Whether a part is in its place, with nothing left to move and nothing of old beside it."""
    marker = _marker(out, part)
    if not marker.is_file():
        return False
    plan = json.loads(marker.read_bytes())
    if plan["root"] is None:
        return True
    waiting = any((out / plan["root"] / name).exists() for name in plan["files"])
    return not waiting and set(_present(out, part)) == set(plan["files"])


def _marker(out: Path, part: int) -> Path:
    return out / FOLDER / "parts" / f"{part_name(part)}.json"


def apply(out: Path, part: int, config: IngestConfig) -> None:
    """Bring one part to its place with the decided columns; killed at any moment and repeated, it ends the same."""
    marker = _marker(out, part)
    if not marker.is_file():
        root, made = root_of(out, part), (out / FOLDER / "decision" / "decision.json").stat().st_mtime_ns
        decision = read_decision(out, made)
        if _is_settled(root, part, decision, config):
            plan = {"root": STAGED if root != out else None, "files": _names(root, part)}
        else:
            new = out / FOLDER / "new"
            _rewrite(root, new, part, decision, config)
            plan = {"root": f"{FOLDER}/new", "files": _names(new, part)}
        write_atomic(marker, json.dumps(plan))
    _move(out, part, json.loads(marker.read_bytes()))


def _names(root: Path, part: int) -> list[str]:
    tables = [root / folder / f"{part_name(part)}.parquet" for folder in ("rejects", "ledger")]
    return [path.relative_to(root).as_posix() for path in (*data_files(root, part), *tables)]


def _move(out: Path, part: int, plan: dict[str, Any]) -> None:
    if plan["root"] is None:
        return
    wanted = set(plan["files"])
    for name in plan["files"]:
        if (source := out / plan["root"] / name).is_file():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            source.replace(out / name)
    for name in set(_present(out, part)) - wanted:
        (out / name).unlink(missing_ok=True)
    if plan["root"] != STAGED and (out / STAGED).is_dir():
        for name in _present(out / STAGED, part):
            (out / STAGED / name).unlink(missing_ok=True)


def _present(root: Path, part: int) -> list[str]:
    return [name for name in _names(root, part) if (root / name).is_file()]


def _is_settled(root: Path, part: int, decision: Decision, config: IngestConfig) -> bool:
    for path in data_files(root, part):
        rows = pq.read_table(path, columns=list(_DECIDED), partitioning=None)
        if any(uri in decision.dropped for uri in rows["source_uri"].to_pylist()):
            return False
        if any(rows[name].to_pylist() != values for name, values in _columns(rows, decision, config).items()):
            return False
    ledger = pq.read_table(root / "ledger" / f"{part_name(part)}.parquet").to_pylist()
    return all(row == _settled_ledger(row, decision, config) and row["source_uri"] not in decision.dropped for row in ledger)


def _columns(rows: pa.Table, decision: Decision, config: IngestConfig) -> dict[str, list[str]]:
    """The columns that a decision fills, row by row."""
    own = [splits.dup_cluster(sha) for sha in rows["image_sha256"].to_pylist()]
    articles = [_place(pmcid, decision, config) for pmcid in rows["pmcid"].to_pylist()]
    return {
        "split": [split for _, split in articles],
        "dup_cluster": [decision.images.get(image, image) for image in own],
        "article_cluster": [cluster for cluster, _ in articles],
    }


def _place(pmcid: str, decision: Decision, config: IngestConfig) -> tuple[str, str]:
    alone = (pmcid, splits.assign_split(pmcid, config.seed, config.val_fraction, config.test_fraction))
    return decision.articles.get(pmcid, alone)


def _settled_ledger(row: dict[str, Any], decision: Decision, config: IngestConfig) -> dict[str, Any]:
    return row if row["split"] is None else row | {"split": _place(row["pmcid"], decision, config)[1]}


def _rewrite(root: Path, new: Path, part: int, decision: Decision, config: IngestConfig) -> None:
    for name in _names(new, part):
        (new / name).unlink(missing_ok=True)
    for name in sorted({path.name for path in data_files(root, part)}):
        _rewrite_pairs([path for path in data_files(root, part) if path.name == name], new, decision, config)
    dropped = decision.dropped
    name = f"{part_name(part)}.parquet"
    rejects, ledger = (pq.read_table(root / folder / name).to_pylist() for folder in ("rejects", "ledger"))
    here = [refused_rows(dropped[row["source_uri"]]) for row in ledger if row["source_uri"] in dropped]
    rejects = [row for row in rejects if row["source_uri"] not in dropped] + [row for rows in here for row in rows.rejects]
    ledger = [_settled_ledger(row, decision, config) for row in ledger if row["source_uri"] not in dropped]
    write_rows(new / "rejects" / name, sorted(rejects, key=by_source), REJECT_SCHEMA)
    write_rows(new / "ledger" / name, sorted([*ledger, *(rows.ledger for rows in here)], key=by_source), LEDGER_SCHEMA)


def _rewrite_pairs(paths: Sequence[Path], new: Path, decision: Decision, config: IngestConfig) -> None:
    """The files of one name in the splits' folders, once more with the decided columns; images of one file are in memory."""
    rows = pa.concat_tables([pq.read_table(path, partitioning=None).unify_dictionaries() for path in paths])
    rows = rows.filter(pa.array([uri not in decision.dropped for uri in rows["source_uri"].to_pylist()], pa.bool_()))
    columns = _columns(rows, decision, config)
    for name, values in columns.items():
        place = PAIR_SCHEMA.get_field_index(name)
        rows = rows.set_column(place, PAIR_SCHEMA.field(name), pa.array(values, PAIR_SCHEMA.field(name).type))
    ids = rows["pair_id"].to_pylist()
    order = sorted(range(len(ids)), key=lambda i: row_order(ids[i]))
    for split in SPLITS:
        if chosen := [i for i in order if columns["split"][i] == split]:
            size = config.rows_per_group
            tables = (rows.take(chosen[i : i + size]) for i in range(0, len(chosen), size))
            write_tables(new / "data" / f"split={split}" / paths[0].name, tables, PAIR_SCHEMA, size)


def clean_up(out: Path) -> None:
    """Remove what only an unfinished run needs."""
    for name in (STAGED, FOLDER, "fetched", "parts"):
        shutil.rmtree(out / name, ignore_errors=True)
