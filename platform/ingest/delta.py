r"""Bringing a finished pairs artifact up to a newer population: which articles changed, and a part's rows without the old ones.

old and new population --by digest--> kept, read again, withdrawn --> staged part = rows kept + rows read again + withdrawals
"""

from __future__ import annotations

import json
import re
import shutil
from collections import defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from biomedray.artifacts import MANIFEST, Manifest, is_finished, read_manifest, write_atomic
from biomedray.errors import UserError
from biomedray.ingest import split as splits
from biomedray.ingest.articles import ArticleRows, extract, refused_rows
from biomedray.ingest.packages import Refused, open_refs
from biomedray.ingest.population import FOLDER as POPULATION
from biomedray.ingest.population import Population, read_digests, read_population
from biomedray.ingest.settings import IngestConfig
from biomedray.ingest.settle import STAGED, data_files
from biomedray.ingest.sources import ArticleRef
from biomedray.ingest.write import PartWriter, part_name
from biomedray.records import Reason, Stage

FOLDER = "update"
_CLAIM, _SETTLED = "update.json", "settled"
# Rejects that another article, another day or a better line decides: these articles are always read again.
_OTHERS = (Reason.DUPLICATE_ARTICLE, Reason.SUPERSEDED_VERSION)
_UNSETTLED = {reason.value for reason in (*_OTHERS, Reason.FETCH_FAILED, Reason.CHECKSUM_MISMATCH, Reason.WITHDRAWN)}
# What a store said that it hasn't: a mirror may have been half filled. What its record doesn't name changes with the record.
_MISSING = {Reason.FILE_MISSING.value, Reason.NO_ARTICLE_XML.value}
_ANSWERED = re.compile(r": (?:HTTP \d+|no such file)$")


@dataclass(frozen=True)
class Difference:
    """What became of a part's references between two populations."""

    kept: tuple[str, ...]
    again: tuple[ArticleRef, ...]
    gone: tuple[str, ...]
    added: int

    @property
    def nothing(self) -> bool:
        """Whether the part may stay as it is."""
        return not self.again and not self.gone


@dataclass(frozen=True)
class Underway:
    """An update that has begun: what it starts from, and how far it is."""

    manifest: Manifest
    n_parts: int
    old_parts: tuple[int, ...]
    resumed: bool
    settled: bool
    """Every part is in its place; the new population may be too."""
    finished: bool
    """The new manifest is there; only the traces are left."""


def begin(out: Path, sources: Sequence[str]) -> Underway:
    """Start an update of a finished pairs artifact, or go on with one that was killed.

    Raises:
        UserError: there is no finished pairs artifact, or an update from other sources is under way.
    """
    claim = out / FOLDER / _CLAIM
    resumed = claim.is_file()
    if not resumed:
        _claim(out, sources)
    facts = json.loads(claim.read_bytes())
    if facts["sources"] != list(sources):
        raise UserError(f"{out}: an update from other sources is under way; finish that one first: {', '.join(facts['sources'])}")
    settled = (out / FOLDER / _SETTLED).is_file()
    manifest = read_manifest(out / FOLDER, "pairs")
    return Underway(manifest, facts["n_parts"], tuple(facts["parts"]), resumed, settled, settled and is_finished(out))


def _claim(out: Path, sources: Sequence[str]) -> None:
    read_manifest(out, "pairs")
    population = read_population(out)
    if population is None:
        raise UserError(f"{out}: made without a record of its population, so it can't be updated; ingest into a new folder")
    shutil.rmtree(out / FOLDER, ignore_errors=True)
    (out / FOLDER).mkdir()
    write_atomic(out / FOLDER / MANIFEST, (out / MANIFEST).read_bytes())
    facts = {"sources": list(sources), "n_parts": population.n_parts, "parts": list(population.sizes)}
    write_atomic(out / FOLDER / _CLAIM, json.dumps(facts))


def reopen(out: Path) -> None:
    """From here the artifact is unfinished: its parts move. Readers find no manifest."""
    (out / MANIFEST).unlink(missing_ok=True)


def adopt(out: Path) -> Population:
    """Put the new population in the old one's place; may be repeated."""
    write_atomic(out / FOLDER / _SETTLED, "")
    if read_population(out / FOLDER) is not None:
        shutil.rmtree(out / POPULATION, ignore_errors=True)
        (out / FOLDER / POPULATION).replace(out / POPULATION)
    found = read_population(out)
    assert found is not None  # it was there, or was moved here a moment or a run ago
    return found


def end(out: Path) -> None:
    """Forget the update, after the manifest was written."""
    shutil.rmtree(out / FOLDER, ignore_errors=True)


def compare_part(out: Path, part: int, config: IngestConfig) -> Difference:
    """Old against new references of a part."""
    before = read_digests(out, part)
    old = {ref.uri: digest for ref, digest in before}
    new = read_digests(out / FOLDER, part)
    unsettled = _unsettled_refs(out, part, {ref.uri: ref for ref, _ in before if ref.problem is None}, config)
    again = tuple(ref for ref, digest in new if old.get(ref.uri) != digest or ref.uri in unsettled)
    wanted = {ref.uri for ref, _ in new}
    kept = wanted - {ref.uri for ref in again}
    gone = tuple(sorted(set(old) - wanted))
    added = sum(ref.uri not in old for ref in again)
    return Difference(tuple(sorted(kept)), again, gone, added)


def _unsettled_refs(out: Path, part: int, old: Mapping[str, ArticleRef], config: IngestConfig) -> set[str]:
    """References among ``old`` with rejects that may end otherwise today, though nothing is known to have changed."""
    path = out / "rejects" / f"{part_name(part)}.parquet"
    rows = pq.read_table(path, columns=["source_uri", "reason", "detail"]).to_pylist() if path.is_file() else []
    owned = ((row, _owner(row["source_uri"], old)) for row in rows)
    return {uri for row, uri in owned if uri is not None and _may_end_otherwise(row, old[uri], config)}


def _may_end_otherwise(reject: Mapping[str, Any], ref: ArticleRef, config: IngestConfig) -> bool:
    if reject["reason"] in _UNSETTLED:
        return True
    if ref.kind == "cloud":
        return reject["reason"] in _MISSING and _ANSWERED.search(reject["detail"] or "") is not None
    # The folder of media is nobody's own: what came into it can be told only by looking for it.
    return config.media is not None and reject["reason"] == Reason.FILE_MISSING.value


def stage_update(out: Path, part: int, difference: Difference, config: IngestConfig, snapshot: str | None) -> dict[str, int]:
    """Stage a part anew: rows of articles that stay, of those read again, and a reject for each that is gone."""
    writer = PartWriter(out / STAGED, part, config)
    counts = {"added": difference.added, "replaced": 0, "withdrawn": 0, "read": len(difference.again)}
    withdrawn: list[ArticleRows] = []
    present: set[str | None] = set()
    fresh, kept, gone = {ref.uri for ref in difference.again}, set(difference.kept), set(difference.gone)
    for rows in _old_rows(out, part, config):
        uri = str(rows.ledger["source_uri"])
        if _owner(uri, kept):
            writer.add(rows)
            present |= {rows.ledger["pmcid"], _named(rows)}
        elif _owner(uri, fresh):
            counts["replaced"] += 1
        elif _owner(uri, gone) or _is_withdrawn(rows):
            withdrawn.append(rows)
    for item in open_refs(difference.again, config, out / "fetched" / part_name(part)):
        for rows in extract(item, config):
            writer.add(rows)
            present |= {rows.ledger["pmcid"], _named(rows)}
    for rows in withdrawn:
        # Under another address it may still be there: a source was renamed, or another copy is left.
        if _named(rows) is None or _named(rows) not in present:
            counts["withdrawn"] += not _is_withdrawn(rows)
            writer.add(rows if _is_withdrawn(rows) else refused_rows(_withdrawn(rows.ledger, snapshot)))
    return writer.close() | counts


def _named(rows: ArticleRows) -> str | None:
    """What an article is called, with its version where that is known."""
    pmcid, version = rows.ledger["pmcid"], rows.ledger["version"]
    return pmcid if pmcid is None or version is None else f"{pmcid}.{version}"


def _owner(uri: str, wanted: Container[str]) -> str | None:
    """The reference that an article came from: itself, its file before '#2', or the archive above it."""
    base = uri if uri in wanted else uri.partition("#")[0]
    while base and base not in wanted:
        base = base.rpartition("/")[0]
    return base or None


def _old_rows(out: Path, part: int, config: IngestConfig) -> Iterator[ArticleRows]:
    """The part's rows article by article, as they were extracted: what settling decides is undone."""
    name = f"{part_name(part)}.parquet"
    if not (out / "ledger" / name).is_file():
        return
    pairs: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for path in data_files(out, part):
        for row in pq.read_table(path, partitioning=None).to_pylist():
            pairs[row["source_uri"]].append(_unsettled(row, config))
    rejects: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in pq.read_table(out / "rejects" / name).to_pylist():
        rejects[row["source_uri"]].append(row)
    for ledger in pq.read_table(out / "ledger" / name).to_pylist():
        uri = ledger["source_uri"]
        yield ArticleRows(_unsettled_ledger(ledger, config), pairs[uri], rejects[uri])


def _unsettled(row: dict[str, Any], config: IngestConfig) -> dict[str, Any]:
    own = splits.dup_cluster(row["image_sha256"])
    return row | {"split": _split(row["pmcid"], config), "dup_cluster": own, "article_cluster": row["pmcid"]}


def _unsettled_ledger(row: dict[str, Any], config: IngestConfig) -> dict[str, Any]:
    return row if row["split"] is None else row | {"split": _split(row["pmcid"], config)}


def _split(pmcid: str, config: IngestConfig) -> str:
    return splits.assign_split(pmcid, config.seed, config.val_fraction, config.test_fraction)


def _is_withdrawn(rows: ArticleRows) -> bool:
    return any(row["reason"] == Reason.WITHDRAWN.value for row in rows.rejects)


def _withdrawn(ledger: Mapping[str, Any], snapshot: str | None) -> Refused:
    detail = f"not in the inventory of {snapshot}" if snapshot else "no longer in the sources"
    return Refused(ledger["source_uri"], Reason.WITHDRAWN, detail, Stage.ARTICLE, ledger["pmcid"], ledger["version"])
