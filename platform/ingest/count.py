"""Counts of a pairs artifact, read back from its files, and the check that its ledger balances."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds

from biomedray.errors import WorkError
from biomedray.ingest.selection import plain_pmcid
from biomedray.records import SPLITS

_WHOLE_ARTICLE = ("source", "article")
_SUMS = ("figures", "graphics", "figures_without_graphic", "pairs", "rejects", "article_rejects")


def count_artifact(out: Path) -> dict[str, Any]:
    """Totals, and counts by split, reason, licence, container and flag.

    Raises:
        WorkError: an article's figures and graphics are not its pairs and rejects, or the files
            don't hold as many pairs and rejects as the ledger says.
    """
    ledger = _count_ledger(out)
    by_split = dict.fromkeys(SPLITS, 0)
    columns: dict[str, Counter[str]] = {name: Counter() for name in ("license_code", "license_group", "container", "flags")}
    for batch in _batches(out / "data", ["split", *columns]):
        for split, number in Counter(batch["split"].to_pylist()).items():
            by_split[split] += number
        for name in ("license_code", "license_group", "container"):
            columns[name].update(value or "unknown" for value in batch[name].to_pylist())
        columns["flags"].update(batch["flags"].flatten().to_pylist())
    figure_rejects, article_rejects = _count_rejects(out)
    _expect("pairs", ledger["pairs"], sum(by_split.values()))
    _expect("rejects", ledger["rejects"], sum(figure_rejects.values()))
    _expect("article rejects", ledger["article_rejects"], sum(article_rejects.values()))
    return {
        **ledger,
        "pairs_by_split": by_split,
        "rejects_by_reason": _sorted(figure_rejects),
        "article_rejects_by_reason": _sorted(article_rejects),
        "licenses": _sorted(columns["license_code"]),
        "license_groups": _sorted(columns["license_group"]),
        "containers": _sorted(columns["container"]),
        "flags": _sorted(columns["flags"]),
    }


def not_found(out: Path, pmcids: Iterable[str]) -> list[str]:
    """What of a list of PMCIDs (``PMC1``, ``PMC1.2``) no line of the ledger is about, not even a refusal."""
    wanted = {plain_pmcid(pmcid): pmcid for pmcid in pmcids}
    for batch in _batches(out / "ledger", ["pmcid", "version"]) if wanted else ():
        for pmcid, version in zip(batch["pmcid"].to_pylist(), batch["version"].to_pylist(), strict=True):
            wanted.pop(pmcid, None)
            wanted.pop(f"{pmcid}.{version}", None)
    return sorted(wanted.values())


def _count_ledger(out: Path) -> dict[str, int]:
    totals = dict.fromkeys(("articles", "articles_with_pairs", *_SUMS), 0)
    for batch in _batches(out / "ledger", ["source_uri", *_SUMS]):
        for row in batch.to_pylist():
            seen, accounted = row["graphics"] + row["figures_without_graphic"], row["pairs"] + row["rejects"]
            if seen != accounted:
                raise WorkError(f"{row['source_uri']}: {seen} figures and graphics in the XML, but {accounted} pairs and rejects")
            totals["articles"] += 1
            totals["articles_with_pairs"] += row["pairs"] > 0
            for name in _SUMS:
                totals[name] += row[name]
    return totals


def _count_rejects(out: Path) -> tuple[Counter[str], Counter[str]]:
    figures: Counter[str] = Counter()
    articles: Counter[str] = Counter()
    for batch in _batches(out / "rejects", ["stage", "reason"]):
        for stage, reason in zip(batch["stage"].to_pylist(), batch["reason"].to_pylist(), strict=True):
            (articles if stage in _WHOLE_ARTICLE else figures)[reason] += 1
    return figures, articles


def _batches(folder: Path, columns: list[str]) -> list[pa.RecordBatch] | Any:
    files = sorted(str(path) for path in folder.rglob("*.parquet") if not path.name.startswith("."))
    return ds.dataset(files, format="parquet").to_batches(columns=columns) if files else []


def _expect(what: str, ledger: int, files: int) -> None:
    if ledger != files:
        raise WorkError(f"the ledger counts {ledger} {what}, but the files hold {files}")


def _sorted(counter: Counter[str]) -> dict[str, int]:
    return dict(sorted(counter.items(), key=lambda item: (-item[1], item[0])))
