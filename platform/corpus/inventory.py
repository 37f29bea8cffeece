"""The daily inventory of PMC's bucket: which metadata records there are, with their ETags."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
from collections.abc import Mapping

from biomedray.corpus.layouts import BUCKET

SNAPSHOT = "2026-11-20T01-00Z"
EARLIER = "2026-11-13T01-00Z"
# In the earlier snapshot only, and its files are gone: PMC has withdrawn it.
WITHDRAWN = "metadata/PMC10990001.1.json"
_FOLDER = f"inventory-reports/{BUCKET}/metadata"
_MODIFIED = "2026-11-19T08:00:00.000Z"
_SHARDS = 2


def earlier(etags: Mapping[str, str]) -> dict[str, str]:
    """What the bucket held a week before: second versions were not there yet, an article has been withdrawn since."""
    return {key: tag for key, tag in etags.items() if key.endswith(".1.json")} | {WITHDRAWN: _md5(WITHDRAWN.encode())}


def inventory(etags: Mapping[str, str], snapshot: str = SNAPSHOT) -> dict[str, bytes]:
    """Files of one snapshot, by key: CSV shards without header, the manifest that names them, and its checksum.

    ``etags`` maps keys such as ``metadata/PMC1.1.json`` to the MD5 of the object. A sibling
    ``hive/`` lists the same for another reader and has to be passed over.
    """
    rows = [(BUCKET, key, _MODIFIED, tag) for key, tag in sorted(etags.items())]
    shards = {}
    for i in range(_SHARDS):
        data = _csv(rows[i::_SHARDS])
        shards[f"{_FOLDER}/data/{_md5(data)[:8]}-{i:04d}.csv.gz"] = data
    manifest = _manifest(shards)
    return shards | {
        f"{_FOLDER}/{snapshot}/manifest.json": manifest,
        f"{_FOLDER}/{snapshot}/manifest.checksum": _md5(manifest).encode() + b"\n",
        f"{_FOLDER}/hive/dt={snapshot[:10]}-01-00/symlink.txt": "".join(f"s3://{BUCKET}/{key}\n" for key in shards).encode(),
    }


def _manifest(shards: Mapping[str, bytes]) -> bytes:
    manifest = {
        "sourceBucket": BUCKET,
        "destinationBucket": f"arn:aws:s3:::{BUCKET}",
        "version": "2016-11-30",
        "creationTimestamp": "1795136400000",
        "fileFormat": "CSV",
        "fileSchema": "Bucket, Key, LastModifiedDate, ETag",
        "files": [{"key": key, "size": len(data), "MD5checksum": _md5(data)} for key, data in shards.items()],
    }
    return json.dumps(manifest, indent=2).encode() + b"\n"


def _csv(rows: list[tuple[str, str, str, str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(rows)
    return gzip.compress(text.getvalue().encode(), mtime=0)


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
