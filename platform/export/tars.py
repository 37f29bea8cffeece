"""WebDataset tars that open_clip's own loader reads: key.jpg, key.txt (caption), key.json (all other columns).

The headers carry no time and no owner, so the same rows give the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from biomedray.artifacts import atomic_path, write_atomic
from biomedray.export.pictures import loadable
from biomedray.records import PAIR_SCHEMA

COLUMNS = tuple(PAIR_SCHEMA.names)
_NOT_IN_JSON = {"image", "image_copy", "caption"}
_PLAIN_ID = re.compile(r"(PMC\d+)\.(\d+)/([A-Za-z0-9-]{1,60})/(\d+)")


def sample_key(pair_id: str) -> str:
    """A pair's key: unique like the pair_id, without a dot or slash.

    ``PMC1.2/F3/0`` is ``PMC1_2_F3_0``; other ids end in a part of their hash, behind two underscores.
    """
    if plain := _PLAIN_ID.fullmatch(pair_id):
        return "_".join(plain.groups())
    words = re.sub(r"[^A-Za-z0-9]+", "-", pair_id).strip("-")[:60]
    return f"{words}__{hashlib.sha256(pair_id.encode()).hexdigest()[:16]}"


def write_tar(path: Path, tables: Iterable[pa.Table]) -> None:
    """One shard, whole or not at all; a picture that nothing can decode is left out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
        for table in tables:
            for row in table.to_pylist():
                for name, data in members(row):
                    tar.addfile(_header(name, len(data)), io.BytesIO(data))


def members(row: dict[str, Any]) -> list[tuple[str, bytes]]:
    """The files of one sample; none where its picture can't be decoded."""
    picture = loadable(row)
    if picture is None:
        return []
    data, suffix = picture
    key = sample_key(row["pair_id"])
    rest = {name: value for name, value in row.items() if name not in _NOT_IN_JSON}
    text = json.dumps(rest, ensure_ascii=False, separators=(",", ":"))
    return [(f"{key}.{suffix}", data), (f"{key}.txt", row["caption"].encode()), (f"{key}.json", text.encode())]


def count_samples(path: Path) -> int:
    """Samples in a shard, read back from its headers."""
    with tarfile.open(path, "r:") as tar:
        return sum(member.name.endswith(".txt") for member in tar)


def write_sizes(folder: Path) -> dict[str, int]:
    """Samples by shard as ``sizes.json``, where open_clip looks for them."""
    sizes = {path.name: count_samples(path) for path in sorted(folder.glob("*.tar"))}
    write_atomic(folder / "sizes.json", json.dumps(sizes, indent=1) + "\n")
    return sizes


def _header(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = 0o644
    return info
