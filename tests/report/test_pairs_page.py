"""The page of a pairs artifact: its numbers are those of the rows, its sample is seeded, nothing on it needs a network."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from biomedray.artifacts import read_manifest
from biomedray.errors import UserError
from biomedray.records import SPLITS
from biomedray.report import inspect_table, write_report
from biomedray.report.pairs import pairs_section
from biomedray.report.sample import browse, draw, draw_captions, kind_of
from biomedray.report.tokens import clip_counter, file_counter


def load_helpers():
    spec = importlib.util.spec_from_file_location("export_conftest", Path(__file__).parents[1] / "export" / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def helpers():
    return load_helpers()


@pytest.fixture(scope="module")
def rows(helpers):
    rows = [helpers.pair(n, f"F{k}", n_tokens=10 * n, width=300 + 5 * n, height=900) for n in range(1, 40) for k in (1, 2)]
    rows[0] |= {"caption": "<script>alert('x')</script> & more", "compound_hint": 0.9, "entropy": 4.0, "lang": "pt"}
    rows[1] |= {"chart_hint": 0.8, "compound_hint": 0.1, "fig_third_party": True, "year": None}
    rows[2]["image"] = b"not a picture"
    return rows


@pytest.fixture(scope="module")
def pairs(helpers, rows, tmp_path_factory):
    return helpers.write_pairs(tmp_path_factory.mktemp("report") / "pairs", rows, parts=3, group=5)


@pytest.fixture(scope="module")
def page(pairs, tmp_path_factory):
    return write_report([pairs], tmp_path_factory.mktemp("page") / "page.html").read_text()


def test_numbers_are_those_of_the_rows(pairs, rows):
    section = pairs_section(pairs, read_manifest(pairs), pictures=True)
    facts = dict(section.facts)
    large = sum(min(row["width"], row["height"]) > 336 for row in rows) / len(rows)
    assert facts["larger than 336 pixels"] == f"{100 * large:.1f} %"
    assert (facts["pairs"], facts["ledger"]) == (str(len(rows)), "balances")
    grids = {grid.title: grid.rows for grid in section.grids}
    over = [f"{100 * sum(row['n_tokens'] > n for row in rows) / len(rows):.1f} %" for n in (77, 256)]
    assert grids["Caption length"][0][-2:] == over
    assert grids["Languages"] == [["not given", "77", "98.7 %"], ["pt", "1", "1.3 %"]]
    assert ["somebody else's", "1", "1.3 %"] in grids["Whose figure it is"]
    assert sum(int(row[1]) for row in grids["Pairs by split"]) == len(rows)
    plots = {plot.title: plot.note for plot in section.plots}
    assert plots["Entropy of the grey values, bits"] == "77 pairs without"
    assert "Colourfulness, M3" not in plots  # nobody has filled it
    assert plots["Year of publication"] == "1 pairs without a year"


def test_an_account_that_does_not_balance_is_shouted(helpers, rows, tmp_path, monkeypatch):
    pairs = helpers.write_pairs(tmp_path / "pairs", rows[:4])
    path = pairs / "ledger" / "part-00000.parquet"
    table = pq.read_table(path)
    [row] = table.to_pylist()
    pq.write_table(pa.Table.from_pylist([row | {"graphics": 99}], table.schema), path)
    assert dict(pairs_section(pairs, read_manifest(pairs), pictures=False).facts)["ledger"] == "1 ARTICLES DON'T BALANCE"


def test_page_is_self_contained_and_trusts_no_caption(page):
    assert "alert('x')" not in page
    assert "&lt;script&gt;alert" in page
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert "http://www.w3.org" in page  # of the plots' SVG, which is no address to load from
    assert not re.search(r"url\((?!#)|@import|fetch\(|XMLHttp", page)


def test_sample_can_be_sifted(page, rows):
    assert page.count("<figure data-split=") == len(rows)
    for name in ("split", "license", "kind"):
        assert f'<select name="{name}">' in page
    assert 'data-kind="several panels"' in page
    assert 'data-kind="chart or drawing"' in page
    assert "nothing decodes it" in page


def test_sample_is_seeded_and_holds_every_split(pairs):
    def ids(seed: int) -> list[str]:
        return [sample.picture.pair_id for sample in browse(pairs, 20, seed).samples]

    assert ids(1) == ids(1) != ids(2)
    assert len(set(ids(1))) == 20
    assert {sample.split for sample in browse(pairs, 20, 1).samples} == set(SPLITS)


@pytest.mark.parametrize("count", [1, 7, 60, 78, 500])
def test_captions_are_drawn_without_repeats(pairs, rows, count):
    drawn = [row["caption"] for row in draw_captions(pairs, count)]
    assert len(drawn) == len(set(drawn)) == min(count, len(rows))


def test_nothing_to_draw():
    assert list(draw([], 5, ("caption",), "0")) == []


def test_kinds():
    assert kind_of({"compound_hint": None, "chart_hint": None}) == "not looked at"
    assert kind_of({"compound_hint": 0.2, "chart_hint": None}) == "single picture"


def test_an_artifact_without_pairs(helpers, tmp_path):
    pairs = helpers.write_pairs(tmp_path / "pairs", [])
    assert "Pairs" in write_report([pairs], tmp_path / "page.html").read_text()
    assert inspect_table(pairs).row_count > 3


TEXTS = [
    "Figure 1. Brain MRI: T2-weighted image, 5 µm.",
    "CO2 (10^4 cells/ml) didn't rise; p<0.05!!",
    "naïve Überlebende, 日本, β-actin",
    "",
    "It's  'quoted' text",
]


def test_clip_counts_are_those_of_open_clip():
    from open_clip.tokenizer import SimpleTokenizer

    theirs = SimpleTokenizer()
    assert clip_counter()(TEXTS) == [len(theirs.encode(text)) for text in TEXTS]


def test_a_vocabulary_at_hand(tmp_path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nbrain\nmr\n##i\n.")
    assert file_counter(tmp_path / "vocab.txt")(["Brain MRI.", "brain"]) == [4, 1]
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="no tokenizer"):
        file_counter(tmp_path / "tokenizer.json")
    with pytest.raises(UserError, match="no tokenizer"):
        file_counter(tmp_path / "vocab2.txt")
