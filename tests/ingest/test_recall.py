"""Caption character recall against an oracle that reads the XML with plain lxml: benchmarks/ingest_recall.py."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
CONFORMANCE = Path(__file__).parent / "conformance"
DATA = ROOT / ".." / "shared" / "data"
real = pytest.mark.skipif(not (DATA / "packages").is_dir(), reason="the real articles are not on this machine")


@pytest.fixture(scope="module")
def recall() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ingest_recall", ROOT / "benchmarks" / "ingest_recall.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_conformance_set_loses_nothing_but_by_rule(recall: ModuleType) -> None:
    tally = recall.measure(CONFORMANCE)
    assert tally.articles == len(list(CONFORMANCE.glob("*.xml")))
    assert (tally.lost, tally.unbalanced) == ([], [])
    assert tally.chars - tally.by_rule.total() == tally.kept
    assert tally.raw_kept >= tally.chars - tally.by_rule.total()
    assert set(tally.by_rule) == {"FORMULA", "FLOAT", "IDENTIFIER"}


def test_the_oracle_sees_a_loss(recall: ModuleType) -> None:
    fig = recall.etree.fromstring("<fig id='F1'><caption><p>A cell. <object-id>10.1/x</object-id></p></caption></fig>")
    tally = recall.Tally()
    recall.measure_figure(fig, "A cel", "A cell.", tally, "name")
    assert (tally.captions, tally.chars, tally.kept, tally.raw_kept) == (1, 12, 4, 6)
    assert tally.by_rule == Counter(IDENTIFIER=6)
    assert tally.lost == ["name F1: .l"]


@real
@pytest.mark.parametrize("source", ["packages", pytest.param("xml/articles.tar.xz", marks=pytest.mark.heavy)])
def test_real_captions_keep_every_character_but_by_rule(recall: ModuleType, source: str) -> None:
    tally = recall.measure(DATA / source)
    assert tally.captions > 700
    assert (tally.lost, tally.unbalanced) == ([], [])
    assert tally.raw_kept == tally.chars
    assert tally.kept / tally.chars > 0.995
