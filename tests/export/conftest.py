"""What the export tests share: a small pairs artifact with every kind of picture, written row by row."""

from __future__ import annotations

import hashlib
import io
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from biomedray.artifacts import Manifest, write_manifest
from biomedray.records import LEDGER_SCHEMA, PAIR_SCHEMA, REJECT_SCHEMA, SPLITS, license_group, make_pair_id

ENCODED = {"jpeg": "JPEG", "png": "PNG", "webp": "WEBP", "gif": "GIF", "tiff": "TIFF", "bmp": "BMP"}


def picture(kind: str = "jpeg", seed: int = 0, size: tuple[int, int] = (40, 30)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, ENCODED[kind])
    return out.getvalue()


def pair(number: int = 1, fig_id: str = "F1", kind: str = "jpeg", **changes: Any) -> dict[str, Any]:
    """One row of the pairs table; the n-th article's."""
    pmcid, index = changes.get("pmcid", f"PMC{number}"), changes.get("graphic_index", 0)
    image = changes.get("image") or picture(kind, hash_of(f"{pmcid}{fig_id}{index}") % 1000)
    code = changes.get("license_code", "CC BY")
    row = dict.fromkeys(PAIR_SCHEMA.names)
    row |= {
        "pair_id": make_pair_id(pmcid, 1, fig_id, index),
        "pmcid": pmcid,
        "version": 1,
        "pmid": f"{9000 + number}",
        "doi": f"10.1/{number}",
        "journal": f"Journal {number % 3}",
        "year": 2010 + number % 5,
        "license_code": code,
        "license_group": license_group(code),
        "fig_id": fig_id,
        "fig_label": f"Figure {fig_id[1:]}",
        "container": "body",
        "graphic_index": index,
        "n_graphics": 1,
        "graphic_ref": f"{fig_id.lower()}.jpg",
        "image": image,
        "image_format": kind,
        "width": 40,
        "height": 30,
        "flags": [],
        "image_sha256": hashlib.sha256(image).hexdigest(),
        "caption": f"Caption of {fig_id}.{index} in {pmcid}: 5 µm, à 20 °C.",
        "caption_raw": "raw",
        "caption_markup": [{"kind": "bold", "start": 0, "end": 7}],
        "citances": [{"section": "Results", "text": f"See {fig_id}.", "start": 4, "end": 6}],
        "n_tokens": 9,
        "split": SPLITS[number % 3],
        "dup_cluster": hashlib.sha256(image).hexdigest()[:16],
        "article_cluster": pmcid,
        "source_uri": f"mirror/{pmcid}.1",
        "extractor_version": "test",
    }
    return row | changes


def hash_of(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def write_pairs(folder: Path, rows: list[dict[str, Any]], parts: int = 2, group: int = 4) -> Path:
    """A pairs artifact as ingest writes it: parts by article, rows by the hash of their id."""
    files: dict[tuple[str, int], list[dict[str, Any]]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: hashlib.sha256(row["pair_id"].encode()).digest()):
        files[row["split"], hash_of(row["source_uri"]) % parts].append(row)
    for (split, part), found in files.items():
        path = folder / "data" / f"split={split}" / f"part-{part:05d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(found, PAIR_SCHEMA), path, row_group_size=group)
    reject = {"pmcid": "PMC1", "version": 1, "source_uri": "mirror/PMC1.1", "stage": "image", "reason": "file_missing"}
    account = {"source_uri": "mirror/PMC1.1", "figures": len(rows) + 1, "graphics": len(rows) + 1, "figures_without_graphic": 0}
    account |= {"pairs": len(rows), "rejects": 1, "article_rejects": 0}
    for name, schema, row in (("rejects", REJECT_SCHEMA, reject), ("ledger", LEDGER_SCHEMA, account)):
        (folder / name).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist([row], schema), folder / name / "part-00000.parquet")
    inputs = [{"name": "mirror", "path": "/somewhere/mirror"}, {"name": "population", "fingerprint": "0123456789abcdef"}]
    manifest = Manifest(kind="pairs", name=folder.name, config={"seed": 0}, inputs=inputs, counts={"pairs": len(rows)})
    write_manifest(folder, manifest)
    return folder


def sample_rows(articles: int = 9) -> list[dict[str, Any]]:
    """Every format, two graphics in one figure, a second F10, odd ids, no pmid, a cut-off JPEG, a copy of a TIFF."""
    rows = [pair(n, f"F{k}", kind) for n in range(1, articles + 1) for k, kind in enumerate(("jpeg", "png"), 1)]
    rows += [
        pair(1, "F10", "webp"),
        pair(1, "F2", "jpeg", graphic_index=1, graphic_ref="../other/f2.jpg", n_graphics=2),
        pair(2, "F3", "gif"),
        pair(2, "F4", "tiff", image_copy=picture("png", 5)),
        pair(2, "F5", "bmp"),
        pair(3, "fig.1_a/b", "jpeg", license_code="CC BY-NC-ND", fig_third_party=True),
        pair(3, "F6", "jpeg", image=picture("jpeg", 6, (200, 200))[:-2500], flags=["truncated"]),
        pair(4, "F1", pmcid="10.1_odd", pmid=None, fig_label=None, license_code=None, flags=["odd"], journal="A | B"),
    ]
    return rows


@pytest.fixture(scope="session")
def rows() -> list[dict[str, Any]]:
    return sample_rows()


@pytest.fixture(scope="session")
def pairs(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("export") / "pairs", rows)


@pytest.fixture(scope="session")
def make() -> object:
    """The helpers above, for test modules that can't import a conftest."""
    import types

    return types.SimpleNamespace(picture=picture, pair=pair, write_pairs=write_pairs, sample_rows=sample_rows)
