"""Shuffled reading of the same pairs from Parquet and from WebDataset tars.

Method: rows of picture bytes and caption, nothing decoded; both shuffled alike: files or row groups in random order, then
a buffer of 1,000 rows. Files were read once before (page cache). A fresh process each, in turn; CPU seconds, medians.

    parquet, whole     row groups of 128 rows, image and caption
    parquet, caption   the same rows without the picture: what a scan for words costs
    webdataset         the webdataset library (shuffle of shards, shuffle of samples), as open_clip reads tars
    tarfile            Python's tarfile, members grouped by hand: the floor of tars

Usage: python benchmarks/ingest_reading.py [--articles 300] [--copies 8] [--rounds 3]
"""

from __future__ import annotations

import argparse
import random
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from _measure import in_turn, record, work

BUFFER = 1000


def shuffled(rows: Iterable[Any]) -> Iterator[Any]:
    """A buffer of rows, one drawn and replaced at a time."""
    rng, buffer = random.Random(0), []
    for row in rows:
        buffer.append(row)
        if len(buffer) > BUFFER:
            index = rng.randrange(len(buffer))
            buffer[index], buffer[-1] = buffer[-1], buffer[index]
            yield buffer.pop()
    rng.shuffle(buffer)
    yield from buffer


def summed(rows: Iterable[tuple[Any, ...]]) -> dict[str, Any]:
    """Rows and bytes seen, so that nothing is left out."""
    count = size = 0
    for row in rows:
        count += 1
        size += sum(len(value) for value in row)
    return {"rows": count, "mb": size / 1e6}


def parquet(folder: str, columns: tuple[str, ...] = ("image", "caption")) -> dict[str, Any]:
    """Row groups in random order."""
    import pyarrow.parquet as pq

    paths = sorted((Path(folder) / "pairs" / "data").rglob("*.parquet"))
    groups = [(path, index) for path in paths for index in range(pq.read_metadata(path).num_row_groups)]
    random.Random(0).shuffle(groups)

    def rows() -> Iterator[tuple[Any, ...]]:
        for path, index in groups:
            with pq.ParquetFile(path) as file:
                table = file.read_row_group(index, columns=list(columns))
            yield from zip(*(table[name].to_pylist() for name in columns), strict=True)

    return summed(shuffled(rows()))


def parquet_caption(folder: str) -> dict[str, Any]:
    """Without the pictures."""
    return parquet(folder, ("caption",))


def webdataset(folder: str) -> dict[str, Any]:
    """The library that open_clip uses."""
    import webdataset as wds

    shards = [str(path) for path in sorted((Path(folder) / "tars").rglob("*.tar"))]
    random.Random(0).shuffle(shards)
    stages = [wds.SimpleShardList(shards), wds.tarfile_to_samples(), wds.shuffle(BUFFER, initial=BUFFER)]
    stages += [wds.rename(image="jpg;png;jpeg;webp", text="txt"), wds.to_tuple("image", "text")]
    return summed(wds.DataPipeline(*stages))


def plain_tar(folder: str) -> dict[str, Any]:
    """Members in order, a sample is three of them."""
    shards = sorted((Path(folder) / "tars").rglob("*.tar"))
    random.Random(0).shuffle(shards)

    def rows() -> Iterator[tuple[Any, ...]]:
        for path in shards:
            with tarfile.open(path, "r|") as tar:
                sample: list[bytes] = []
                for member in tar:
                    file = tar.extractfile(member)
                    sample.append(file.read() if file else b"")
                    if len(sample) == 3:
                        yield sample[0], sample[1]
                        sample = []

    return summed(shuffled(rows()))


WAYS = {"parquet, whole": parquet, "parquet, caption": parquet_caption, "webdataset": webdataset, "tarfile": plain_tar}


def multiply(source: Path, copies: int) -> None:
    """More files of the same rows."""
    for path in sorted((source / "data").rglob("*.parquet")):
        for copy in range(1, copies):
            path.with_name(f"{path.stem}-{copy:03d}.parquet").write_bytes(path.read_bytes())


def prepare(scratch: Path, articles: int, copies: int) -> None:
    """Pairs from generated articles, in this process, and the same pairs as tars."""
    from biomedray.artifacts import write_manifest
    from biomedray.corpus import generate
    from biomedray.export import ExportConfig, export
    from biomedray.ingest import IngestConfig, pipeline

    generate(scratch / "corpus", articles, 0, "cloud", 0.0, progress=False)
    spread = pipeline.spread
    pipeline.spread = lambda numbers, task, **_: spread(numbers, task, here=True)  # type: ignore[assignment]  # no Ray
    manifest = pipeline.run([str(scratch / "corpus")], scratch / "pairs", IngestConfig(verify_decode=False), progress=False)
    multiply(scratch / "pairs", copies)
    write_manifest(scratch / "pairs", manifest)
    export(scratch / "pairs", scratch / "tars", "webdataset", ExportConfig(rows_per_shard=1000))


def main() -> None:
    """Print rows per CPU second."""
    if sys.argv[1:2] == ["--child"]:
        return work(WAYS, sys.argv[2], sys.argv[3:], sys.argv[3:])
    options = argparse.ArgumentParser(description="Shuffled reading of Parquet and tars.")
    options.add_argument("--articles", type=int, default=300)
    options.add_argument("--copies", type=int, default=8)
    options.add_argument("--rounds", type=int, default=3)
    given = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="biomedray-bench-") as scratch:
        prepare(Path(scratch), given.articles, given.copies)
        found = in_turn(__file__, [(way, scratch) for way in WAYS], given.rounds)
    rows = []
    for way, entry in found.items():
        numbers = {"rows": int(entry["rows"]), "mb": entry["mb"], "cpu_s": entry["cpu_s"]}
        rows.append({"way": way, **numbers, "rows_per_s": entry["rows"] / entry["cpu_s"], "peak_mb": int(entry["peak_mb"])})
    method = f"pairs of {given.articles} generated articles, {given.copies} times, median of {given.rounds}"
    record("ingest-reading", method, rows)
    return None


if __name__ == "__main__":
    main()
