"""Hundreds of hostile requests on a real socket, beside a stream of good ones that loses none."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from biomedray.serve.access import Access
from biomedray.serve.engine import Engine
from biomedray.serve.images import ImageStore
from biomedray.serve.keys import add_key
from biomedray.serve.limits import Limits
from biomedray.serve.search import SearchIndex

from .. import dicoms
from . import hostile
from .conftest import FakeEncoder
from .hostile_cases import make
from .pages import serving

LIMITS = Limits(read_seconds=0.5, read_rate=1_000_000)


@pytest.fixture
def url_and_key(index_folder: Path, encoder: FakeEncoder, tmp_path: Path) -> Iterator[tuple[str, str]]:
    index = SearchIndex.open(index_folder, encoder.fingerprint)
    key = add_key(tmp_path / "keys", "hostile")
    engine = Engine(encoder, index, ImageStore(index.generation), LIMITS)
    with serving(engine, Access(keys=tmp_path / "keys")) as url:
        yield url, key


def test_hundreds_of_hostile_requests(url_and_key: tuple[str, str], caplog: pytest.LogCaptureFixture) -> None:
    url, key = url_and_key
    report = hostile.run(url, key, slow=2)
    assert report.sent >= 300
    assert report.failures == []
    assert report.good_sent >= 10
    assert report.good_failed == 0
    assert httpx.get(f"{url}/readyz").status_code == 200
    metrics = httpx.get(f"{url}/metrics", headers={"x-api-key": key}).text
    assert "biomedray_body_bytes_held 0.0" in metrics
    assert 'status="500"' not in metrics
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR and record.name.startswith("biomedray")]


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_from_dicom_to_hits_in_one_curl(url_and_key: tuple[str, str], tmp_path: Path) -> None:
    url, key = url_and_key
    red = np.tile(np.array([255, 0, 0], np.uint8), (9, 9, 1))
    (tmp_path / "scan.dcm").write_bytes(dicoms.dicom(red, "RGB"))
    command = [
        "curl",
        "-sS",
        "--data-binary",
        f"@{tmp_path}/scan.dcm",
        "-H",
        "content-type: application/dicom",
        "-u",
        f"me:{key}",
    ]
    found = subprocess.run([*command, f"{url}/v1/search/image?k=2&license_group=comm"], capture_output=True, check=True)
    hits = json.loads(found.stdout)["hits"]
    assert len(hits) == 2
    assert "red" in hits[0]["caption"]


def test_the_cases_are_the_same_for_a_seed() -> None:
    first, again, other = (list(make(seed, "host", None)) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert len({case.name for case in first}) > 300
