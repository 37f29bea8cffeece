"""Near-duplicates: how many distinct pictures are joined wrongly, and how many re-encoded copies are found.

Wrong: all pictures of a generated corpus are drawn anew, so whatever two are joined are a mistake (byte-identical ones
aside); of real packages, where given, the joined pictures are listed to be looked at. Found: every fifth picture once
more, scaled to 70 % and saved as JPEG of quality 70; counted is whether it ends in its original's cluster. Both with the
64-bit hash alone (3 bits) and with the 256-bit hash beside it, which is what ingest does.

Usage: python benchmarks/ingest_duplicates.py [--articles 200] [--real FOLDER]
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from _measure import REAL_PACKAGES, record
from biomedray.corpus import generate
from biomedray.ingest.articles import extract
from biomedray.ingest.images import FigureImage, inspect_image
from biomedray.ingest.neardup import TABLES, Images, clusters, distinct, table_edges
from biomedray.ingest.packages import open_ref
from biomedray.ingest.settings import IngestConfig
from biomedray.ingest.sources import discover
from biomedray.pixels import PixelError, decode

CONFIG = IngestConfig()


def pictures(source: Path) -> Iterator[bytes]:
    """Distinct pictures of all pairs of a source."""
    seen = set()
    for ref in discover([str(source)]):
        for item in open_ref(ref, CONFIG):
            for row in (row for rows in extract(item, CONFIG) for row in rows.pairs):
                if row["image_sha256"] not in seen:
                    seen.add(row["image_sha256"])
                    yield row["image"]


def copy_of(data: bytes) -> bytes:
    """The picture at 70 % of its size, as JPEG of quality 70."""
    picture, _ = decode(data)
    out = io.BytesIO()
    picture.resize((max(2, picture.width * 7 // 10), max(2, picture.height * 7 // 10))).save(out, "JPEG", quality=70)
    return out.getvalue()


def columns(found: list[FigureImage]) -> Images:
    """The columns that ingest compares."""
    quality = [each.quality for each in found]
    fine = [[int((q.phash_fine or "0" * 64)[i : i + 16], 16) for i in range(0, 64, 16)] for q in quality]
    shape = np.log([each.width / each.height for each in found]).astype(np.float32)
    floats = [np.array([getattr(q, name) for q in quality], np.float32) for name in ("entropy", "colourfulness")]
    sha = np.array([int(each.sha256[:16], 16) for each in found], np.uint64)
    return Images(sha, np.array([int(q.phash or "0", 16) for q in quality], np.uint64), np.array(fine, np.uint64), shape, *floats)


def joined(images: Images, fine: bool) -> dict[int, int]:
    """Picture -> cluster, of those in clusters of several."""
    if not fine:
        images = Images(images.sha, images.phash, np.zeros_like(images.fine), images.shape, images.entropy, images.colour)
    sides = [table_edges(distinct(images), table, CONFIG.near_duplicate_bits) for table in TABLES]
    member, cluster = clusters(*(np.concatenate(side) for side in zip(*sides, strict=True)))
    return dict(zip(member.tolist(), cluster.tolist(), strict=True))


def measure(name: str, source: Path) -> list[dict[str, object]]:
    """One row with the short hash alone, one with both."""
    originals = [inspect_image("a.jpg", data, CONFIG) for data in pictures(source)]
    copies: list[tuple[FigureImage, FigureImage]] = []
    for original in originals[::5]:
        try:
            copies.append((original, inspect_image("b.jpg", copy_of(original.data), CONFIG)))
        except PixelError:
            continue
    rows: list[dict[str, object]] = []
    for fine in (False, True):
        alone = joined(columns(originals), fine)
        both = joined(columns([*originals, *(copy for _, copy in copies)]), fine)
        numbers = [(int(a.sha256[:16], 16), int(b.sha256[:16], 16)) for a, b in copies]
        hits = sum(a in both and both.get(a) == both.get(b) for a, b in numbers)
        rows.append(
            {
                "pictures": f"{name}, {'both hashes' if fine else 'short hash'}",
                "number": len(originals),
                "joined": len(alone),
                "copies": len(copies),
                "copies_found_percent": 100 * hits / max(1, len(copies)),
            }
        )
    return rows


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--articles", type=int, default=200)
    parser.add_argument("--real", type=Path, default=REAL_PACKAGES)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        generate(corpus, arguments.articles, seed=5, layout="cloud", progress=False)
        rows = measure("generated", corpus)
    if arguments.real.is_dir():
        rows += measure("real", arguments.real)
    record("ingest-duplicates", f"{arguments.articles} generated articles; copies at 70 % and JPEG quality 70", rows)


if __name__ == "__main__":
    main()
