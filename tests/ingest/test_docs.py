"""The reference pages name every reason and every column."""

from __future__ import annotations

from pathlib import Path

from biomedray.ingest import IngestConfig
from biomedray.records import PAIR_SCHEMA, Reason

DOCS = Path(__file__).parents[2] / "docs"


def test_every_reason_is_explained() -> None:
    text = (DOCS / "reference" / "rejects.md").read_text()
    assert [reason for reason in Reason if f"`{reason.value}`" not in text] == []


def test_every_column_is_explained() -> None:
    text = (DOCS / "reference" / "pairs.md").read_text()
    assert [name for name in PAIR_SCHEMA.names if f"`{name}`" not in text] == []


def test_every_setting_is_named() -> None:
    text = (DOCS / "guides" / "ingest.md").read_text()
    assert [name for name in IngestConfig.model_fields if f"`{name}`" not in text] == []
