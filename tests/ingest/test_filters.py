"""Filters of a run, in the language of --where: what they let pass, how they say no, and what is no filter."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from biomedray.config import override
from biomedray.errors import UserError
from biomedray.ingest import IngestConfig
from biomedray.ingest.settings import parse_filters

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
        ("lang == 'en'", True),
        ("lang in ['de', 'en']", True),
        ("lang not in ('de', 'en')", False),
        ("year >= 2000", False),
        ("year != 2000", False),
        ("year != 2000 or year is None", True),
        ("year in [1999, 2000]", False),
        ("'cmyk' in flags", True),
        ("'cmyk' not in flags", False),
        ("'truncated' not in flags", True),
        ("entropy < 6", True),
        ("fig_third_party == False", True),
        ("journal == 'A, B and C'", True),
    ],
)
def test_what_passes(text: str, passes: bool) -> None:
    [one] = parse_filters((text,))
    assert one.holds(ROW) is passes


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("n_tokens", "not true or false"),
        ("n_tokens >", "not an expression"),
        ("tokens > 5", "no column 'tokens'"),
        ("n_tokens > 'many'", "filter: n_tokens > 'many'"),
        ("flags == 'cmyk'", "filter: flags == 'cmyk'"),
        ("5 in lang", "'in' wants"),
        ("split == 'train'", "export --where"),
        ("n_tokens > 3 and article_cluster == 'PMC1'", "export --where"),
        ("image == 'x'", "no column 'image'"),
        ("'x' in citances", "filter: 'x' in citances"),
        ("fig_third_party == 'maybe'", "filter: fig_third_party"),
    ],
)
def test_what_is_refused(text: str, words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        override(IngestConfig(), [f"filters=[{json.dumps(text)}]"])


def test_what_is_left_out_is_a_reject_with_the_condition(tmp_path: Path, make: SimpleNamespace, run_here: Any) -> None:
    import pyarrow.parquet as pq

    from biomedray.ingest.count import count_artifact

    make.write_package(tmp_path / "in", "PMC1", figures=3)
    config = IngestConfig(filters=("graphic_ref != 'f2.jpg'",))
    run_here(tmp_path / "in", tmp_path / "out", config)
    counts = count_artifact(tmp_path / "out")
    rejects = pq.read_table(next((tmp_path / "out" / "rejects").iterdir())).to_pylist()
    assert counts["pairs"] == 2
    assert [(row["stage"], row["reason"]) for row in rejects] == [("figure", "filtered")]
    assert rejects[0]["detail"] == "graphic_ref != 'f2.jpg': graphic_ref = 'f2.jpg'"
