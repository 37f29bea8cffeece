"""Peak memory of the driver over the number of articles in a run.

Method: sparse articles (a folder PMC<n>.1 with an XML of one figure whose file is missing), ingested through Ray; the
driver's own peak resident memory (Ray's workers are other processes). What grows with the rows is the
list of sources while it is frozen, and what settling keeps of each article.

Usage: python benchmarks/ingest_memory.py [--rows 1000,10000,30000]       100000 takes some minutes on 2 cores
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from _measure import child, peak_mb, record, work

XML = (
    '<article xmlns:xlink="http://www.w3.org/1999/xlink"><front><article-meta><article-id pub-id-type="pmcid">PMC{0}</article-id>'
    "</article-meta></front><body><fig id='F1'><caption><p>Caption {0}.</p></caption><graphic xlink:href='f.jpg'/></fig></body>"
    "</article>"
)


def sparse(folder: Path, number: int) -> None:
    """So many articles without pictures."""
    for n in range(number):
        name = f"PMC{10_000_000 + n}.1"
        (folder / name).mkdir(parents=True)
        (folder / name / f"{name}.xml").write_text(XML.format(10_000_000 + n))


def run(folder: str, out: str) -> dict[str, Any]:
    """Ingest; the peak before and after."""
    from biomedray import cluster
    from biomedray.ingest import IngestConfig, ingest

    cluster.start()
    before = peak_mb()
    manifest = ingest([folder], Path(out), IngestConfig(), progress=False)
    return {"before_mb": before, "driver_peak_mb": peak_mb(), "articles": manifest.counts["articles"], **manifest.timings}


def main() -> None:
    """Print the driver's peak by number of rows."""
    if sys.argv[1:2] == ["--child"]:
        return work({"ingest": run}, sys.argv[2], sys.argv[3:])
    options = argparse.ArgumentParser(description="Driver memory over manifest rows.")
    options.add_argument("--rows", default="1000,10000,30000")
    given = options.parse_args()
    rows = []
    for number in map(int, given.rows.split(",")):
        with tempfile.TemporaryDirectory(prefix="biomedray-bench-") as scratch:
            sparse(Path(scratch) / "articles", number)
            found = child(__file__, "ingest", Path(scratch) / "articles", Path(scratch) / "pairs")
        keep = ("articles", "before_mb", "driver_peak_mb", "total_s")
        rows.append({key: int(found[key]) if key.endswith(("_mb", "articles")) else found[key] for key in keep})
        record("ingest-memory", "sparse articles through Ray, peak resident memory of the driver's process", rows)
    return None


if __name__ == "__main__":
    main()
