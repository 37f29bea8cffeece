"""PMC's daily inventory in a store: which snapshot is the newest whole one, and its shards on disk.

inventory-reports/BUCKET/metadata/2026-11-20T01-00Z/manifest.json --names, MD5--> data/*.csv.gz (hive/ is another reader's)
"""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from biomedray.errors import UserError
from biomedray.ingest.settings import FetchConfig
from biomedray.ingest.staging import Staging, plain_md5
from biomedray.ingest.store import FetchError, Store

_HOUR = "T01-00Z"
_DAYS_BACK = 45
_AT_ONCE = 8
_BUCKET = "pmc-oa-opendata"
_MOST_MANIFEST = 64 * 2**20


@dataclass(frozen=True)
class Snapshot:
    """One day's inventory: the columns of its shards, and the shards, fetched and checked."""

    name: str
    bucket: str
    columns: tuple[str, ...]
    shards: tuple[Path, ...]


class _IncompleteError(ValueError):
    """The snapshot is still being written, or damaged: an older one has to do."""


async def newest_snapshot(store: Store, fetch: FetchConfig, staging: Staging, today: date | None = None) -> Snapshot:
    """The newest whole snapshot, or the one that ``fetch.snapshot`` names. Articles are never listed.

    Raises:
        UserError: there is none, or the one that is named is not whole.
    """
    folder = fetch.inventory or f"inventory-reports/{_bucket(store.address)}/metadata"
    folder = folder.strip("/")
    if fetch.snapshot is not None:
        try:
            return await _snapshot(store, folder, _named(fetch.snapshot), staging)
        except (FetchError, _IncompleteError) as error:
            raise UserError(f"{store.address}: the inventory of {fetch.snapshot} can't be read: {error}") from None
    last = "none found"
    for names in _candidates(store, folder, today or datetime.now(UTC).date()):
        there = await asyncio.gather(*(store.size(f"{folder}/{name}/manifest.json") for name in names))
        for name in (name for name, size in zip(names, there, strict=True) if size is not None):
            try:
                return await _snapshot(store, folder, name, staging)
            except (FetchError, _IncompleteError) as error:
                last = f"{name}: {error}"
    last += f", {store.refusal} instead" if store.refusal else ""
    raise UserError(
        f"{store.address}: no inventory of the last {_DAYS_BACK} days under {folder}/ ({last}); name one with --snapshot DATE, "
        "or the articles themselves (PMC123.1)"
    )


def _named(text: str) -> str:
    if not re.fullmatch(r"\d{4}-\d\d-\d\d(T\d\d-\d\dZ)?", text):
        raise UserError(f"--snapshot {text}: write a date such as 2026-11-20")
    return text if "T" in text else text + _HOUR


def _candidates(store: Store, folder: str, today: date) -> list[list[str]]:
    """Names of snapshots, newest first, some at a time: a folder is looked into, other stores are asked day by day."""
    if store.folder is not None:
        found = [path.name for path in (store.folder / folder).glob("*T*Z") if re.match(r"\d{4}-\d\d-\d\dT", path.name)]
        return [[name] for name in sorted(found, reverse=True)]
    days = [(today - timedelta(days=n)).isoformat() + _HOUR for n in range(-1, _DAYS_BACK + 1)]
    return [days[i : i + _AT_ONCE] for i in range(0, len(days), _AT_ONCE)]


def _bucket(address: str) -> str:
    return address.removeprefix("s3://").split("/")[0] if address.startswith("s3://") else _BUCKET


async def _snapshot(store: Store, folder: str, name: str, staging: Staging) -> Snapshot:
    data = (await store.fetch(f"{folder}/{name}/manifest.json", staging, limit=_MOST_MANIFEST)).read_bytes()
    try:
        manifest = json.loads(data)
        columns = tuple(column.strip() for column in manifest["fileSchema"].split(","))
        wanted = [(str(file["key"]), plain_md5(file.get("MD5checksum"))) for file in manifest["files"]]
        bucket = str(manifest["sourceBucket"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _IncompleteError(f"damaged manifest ({type(error).__name__})") from None
    if manifest.get("fileFormat") != "CSV" or not {"Key", "ETag"} <= set(columns):
        raise UserError(
            f"{store.address}: the inventory {name} is {manifest.get('fileFormat')} with {', '.join(columns)}; CSV wanted"
        )
    shards = await asyncio.gather(*(store.fetch(key, staging, md5) for key, md5 in wanted if "/hive/" not in key))
    return Snapshot(name, bucket, columns, tuple(shards))
