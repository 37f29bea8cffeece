"""Hostile inputs end in rejects, or in a valid pair where they can be read: no exception, no file, no flood of memory."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pyarrow.parquet as pq
import pytest

from biomedray.ingest import ingest
from biomedray.ingest.articles import ArticleRows, extract
from biomedray.ingest.packages import open_refs
from biomedray.ingest.settings import IngestConfig
from biomedray.ingest.sources import discover
from biomedray.pixels import PixelError, decode
from biomedray.records import Reason

Case = tuple[str, Callable[[Path], object], str]
CONFIG = IngestConfig(max_archive_bytes=200_000_000, max_buffer_bytes=100_000_000, max_pixels=25_000_000)
HERE = Path(__file__).parent / "hostile"
# 100 million pixels may be decoded by default, in colour and as floating point; what is claimed beyond must cost nothing.
MOST_MEMORY_MIB = 1_400


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"hostile_{name}", HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


XML, IMAGES, ARCHIVES = (_load(name) for name in ("xml_cases", "image_cases", "archive_cases"))
PICTURE = IMAGES.encoded("jpeg")


def _article(path: Path, xml: bytes, picture: bytes) -> None:
    path.mkdir()
    (path / "a.nxml").write_bytes(xml)
    (path / "f1.jpg").write_bytes(picture)


def _cases() -> Iterator[Case]:
    article = ARCHIVES._XML
    for name, xml, outcome in XML.cases():
        yield f"xml-{name}", lambda path, xml=xml: _article(path, xml(), PICTURE), outcome
    for name, picture, outcome in IMAGES.cases():
        yield f"image-{name}", lambda path, picture=picture: _article(path, article, picture()), outcome
    yield from ARCHIVES.cases(PICTURE)


CASES = list(_cases())


def _rows(root: Path, config: IngestConfig = CONFIG) -> list[ArticleRows]:
    items = open_refs(discover([str(root)]), config, root.parent / "staging")
    return [rows for item in items for rows in extract(item, config)]


def _check(rows: list[ArticleRows], outcome: str) -> None:
    assert rows
    pairs = [pair for article in rows for pair in article.pairs]
    reasons = [Reason(reject["reason"]) for article in rows for reject in article.rejects]
    assert Reason.ENGINE_FAILED not in reasons, [r["detail"] for a in rows for r in a.rejects]
    for article in rows:
        ledger = article.ledger
        assert ledger["graphics"] + ledger["figures_without_graphic"] == ledger["pairs"] + ledger["rejects"]
        assert (ledger["pairs"], ledger["rejects"] + ledger["article_rejects"]) == (len(article.pairs), len(article.rejects))
        assert article.pairs or article.rejects
    for pair in pairs:
        assert decode(pair["image"])[0].mode == "RGB"
        assert "root:" not in pair["caption"] + pair["caption_raw"]
    assert outcome != "reject" or not pairs
    assert outcome != "pair" or pairs, reasons


def _files(root: Path) -> list[str]:
    return sorted(os.path.join(folder, name) for folder, _, names in os.walk(root) for name in names)  # noqa: PTH118  # odd names


def test_there_are_at_least_two_hundred_and_their_names_differ() -> None:
    assert len({name for name, _, _ in CASES}) == len(CASES) >= 200


@pytest.mark.parametrize(("name", "build", "outcome"), CASES, ids=[ascii(name) for name, _, _ in CASES])
def test_ends_as_reject_or_valid_pair(tmp_path: Path, name: str, build: Callable[[Path], object], outcome: str) -> None:
    root = tmp_path / "in"
    root.mkdir()
    build(root / name)
    before = _files(tmp_path)
    _check(_rows(root), outcome)
    assert _files(tmp_path) == before


MEASURE = """
import json, resource, sys
from pathlib import Path
from biomedray.ingest.articles import extract
from biomedray.ingest.packages import open_refs
from biomedray.ingest.settings import IngestConfig
from biomedray.ingest.sources import discover
config = IngestConfig(max_archive_bytes=200_000_000, max_buffer_bytes=100_000_000)
peaks = {}
for root in sorted(Path(sys.argv[1]).iterdir()):
    for item in open_refs(discover([str(root)]), config, root.parent / "staging"):
        for rows in extract(item, config):
            rows.pairs.clear()
    peaks[root.name] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
print(json.dumps(peaks))
"""
GREEDY = re.compile("bomb|large|giant|huge|many|deep|blowup|laughs|open-|gz-zeros|spaces|dots|chain|times")


@pytest.mark.heavy
def test_memory_stays_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(IMAGES, "LARGE", 9_999)
    greedy = [case for case in CASES if GREEDY.search(case[0])]
    assert len(greedy) > 40
    for number, (name, build, _) in enumerate(greedy):
        (tmp_path / f"{number:03}-{name}").mkdir()
        build(tmp_path / f"{number:03}-{name}" / name)
    done = subprocess.run([sys.executable, "-c", MEASURE, str(tmp_path)], capture_output=True, text=True, check=True)
    peaks = json.loads(done.stdout)
    assert max(peaks.values()) < MOST_MEMORY_MIB, peaks


@pytest.mark.heavy
@pytest.mark.ray
def test_one_run_over_all_of_them_balances(tmp_path: Path, ray_cluster: None) -> None:
    root = tmp_path / "in"
    root.mkdir()
    for name, build, _ in CASES:
        build(root / name)
    out = tmp_path / "out"
    before = _files(root)
    manifest = ingest([str(root)], out, CONFIG)
    assert _files(root) == before
    counts = manifest.counts
    ledger = [row for path in (out / "ledger").iterdir() for row in pq.read_table(path).to_pylist()]
    rejects = sum(pq.read_metadata(path).num_rows for path in (out / "rejects").iterdir())
    units = sum(row["graphics"] + row["figures_without_graphic"] for row in ledger)
    assert units == counts["pairs"] + counts["rejects"] == sum(row["pairs"] + row["rejects"] for row in ledger)
    assert rejects == sum(row["rejects"] + row["article_rejects"] for row in ledger)
    assert len(ledger) >= len(CASES)
    assert "engine_failed" not in counts["rejects_by_reason"]
    assert "engine_failed" not in counts["article_rejects_by_reason"]


def test_the_cases_bite() -> None:
    """Most pictures among the cases are no pictures to the decoder, or no whole ones."""
    spoilt = 0
    for name, picture, _ in IMAGES.cases():
        if not name.partition("-")[2].startswith(("flipped", "cut")):
            continue
        try:
            spoilt += bool(set(decode(picture())[1]) & {"truncated", "damaged"})
        except PixelError:
            spoilt += 1
    assert spoilt > 40
