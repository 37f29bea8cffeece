"""Filters: what they let pass, how they say no, and what is no filter."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from biomedray.config import override
from biomedray.errors import UserError
from biomedray.ingest import IngestConfig
from biomedray.ingest.filters import parse_filter

ROW: dict[str, Any] = {
    "n_tokens": 12,
    "lang": "en",
    "year": None,
    "flags": ["cmyk", "alpha"],
    "entropy": 5.5,
    "fig_third_party": False,
    "journal": "A, B and C",
    "license_group": "comm",
}


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("n_tokens >= 12", True),
        ("n_tokens>12", False),
        ("n_tokens != 3", True),
        ("lang == en", True),
        ("lang = 'en'", True),
        ("lang in de, en", True),
        ("lang not in de,en", False),
        ("year >= 2000", False),
        ("year != 2000", True),
        ("year in 1999,2000", False),
        ("flags has cmyk", True),
        ("flags lacks cmyk", False),
        ("flags lacks truncated", True),
        ("entropy < 6", True),
        ("fig_third_party == false", True),
        ("journal == A, B and C", True),
    ],
)
def test_what_passes(text: str, passes: bool) -> None:
    assert parse_filter(text).holds(ROW) is passes


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("n_tokens", "no filter"),
        ("tokens > 5", "no column"),
        ("n_tokens > many", "number"),
        ("flags == cmyk", "has or lacks"),
        ("lang has en", "has and lacks are for lists"),
        ("split == train", "no column"),
        ("image == x", "no column"),
        ("citances has x", "list of records"),
        ("fig_third_party == maybe", "true or false"),
    ],
)
def test_what_is_refused(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        override(IngestConfig(), [f"filters=[{text!r}]"])


def test_what_is_left_out_is_a_reject_with_the_condition(tmp_path: Path, make: SimpleNamespace, run_here: Any) -> None:
    import pyarrow.parquet as pq

    from biomedray.ingest.count import count_artifact

    make.write_package(tmp_path / "in", "PMC1", figures=3)
    config = IngestConfig(filters=("graphic_ref != f2.jpg",))
    run_here(tmp_path / "in", tmp_path / "out", config)
    counts = count_artifact(tmp_path / "out")
    rejects = pq.read_table(next((tmp_path / "out" / "rejects").iterdir())).to_pylist()
    assert counts["pairs"] == 2
    assert [(row["stage"], row["reason"]) for row in rejects] == [("figure", "filtered")]
    assert rejects[0]["detail"] == "graphic_ref != f2.jpg: f2.jpg"
