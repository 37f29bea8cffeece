"""The generated corpus against its own truth: every picture, caption, right, citance and damage, in both layouts."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from biomedray.corpus import generate
from biomedray.ingest.count import count_artifact
from biomedray.ingest.settings import IngestConfig
from biomedray.ingest.sources import discover

# Where ingest decides otherwise than the corpus expects, on purpose; docs/reference says why.
TOLERATED = {
    "archive_path_traversal": "a member outside the archive that no figure names is ignored",
    "archive_absolute_name": "same",
    "archive_symlink": "same",
    "archive_hardlink": "same",
    "xml_not_well_formed": "read as far as it goes, with the flag xml_recovered",
    "fig_without_caption": "the label is the caption, with the flag label_caption",
    "fig_empty_caption": "same",
    "fig_duplicate_id": "the second id is made unique, with the flag duplicate_fig_id",
}

Rows = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def result(
    tmp_path_factory: pytest.TempPathFactory, run_here: Callable[..., list[int]]
) -> tuple[list[dict[str, Any]], Rows, Rows]:
    """Truth lines, and pairs and rejects by source."""
    root = tmp_path_factory.mktemp("corpus")
    source, out, config = root / "corpus", root / "pairs", IngestConfig()
    generate(source, 12, seed=3, layout="mixed", broken=0.5, progress=False)
    run_here(source, out, config.model_copy(update={"articles_per_part": 8}))
    count_artifact(out)
    table = ds.dataset(sorted(map(str, (out / "data").rglob("*.parquet"))), format="parquet").to_table()
    rejects = [row for path in sorted((out / "rejects").iterdir()) for row in pq.read_table(path).to_pylist()]
    lines = [json.loads(line) for line in (source / "truth.jsonl").read_text().splitlines()]
    return lines, _by_source(table.drop_columns(["image"]).to_pylist()), _by_source(rejects)


def _by_source(rows: list[dict[str, Any]]) -> Rows:
    by_source: Rows = defaultdict(list)
    for row in rows:
        by_source[row["source_uri"].partition("/")[2]].append(row)
    return by_source


def _graphics(line: dict[str, Any]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return [(figure, graphic) for figure in line["figures"] for graphic in figure["graphics"]]


def test_whole_articles(result: tuple[list[dict[str, Any]], Rows, Rows]) -> None:
    lines, pairs, rejects = result
    for line in lines:
        expected, source = line["expected"], line["source"]
        whole = [row for row in rejects[source] if row["stage"] in ("source", "article")]
        if expected["outcome"] == "pairs":
            assert not whole or line["damage"] == "no_figures", (line["damage"], whole)
        elif not (line["damage"] in TOLERATED or (expected.get("may_survive") and pairs[source])):
            assert not pairs[source], line["damage"]
            assert len(whole) == 1, line["damage"]
            assert whole[0]["stage"] == expected["stage"], line["damage"]
            assert whole[0]["reason"] in (expected["reason"], *expected.get("also", ())), (line["damage"], whole)


def test_every_picture_has_its_caption_and_its_place(result: tuple[list[dict[str, Any]], Rows, Rows]) -> None:
    lines, pairs, _ = result
    checked = 0
    for line in lines:
        if line["expected"]["outcome"] != "pairs" or line["damage"] in TOLERATED:
            continue
        found = {(row["fig_id"], row["graphic_ref"]): row for row in pairs[line["source"]]}
        for figure, graphic in _graphics(line):
            if graphic["expected"]["outcome"] != "pair":
                continue
            row = found[figure["fig_id"] or "fig-auto-1", graphic["href"]]
            checked += 1
            where = (line["damage"], line["source"], figure["fig_id"])
            assert row["caption"] == figure["caption"], where
            assert (row["fig_label"], row["fig_parent_id"], row["fig_rights"]) == (
                figure["label"],
                figure["parent_id"],
                figure["rights"],
            ), where
            assert row["container"] == figure["container"] or figure["container"] == "boxed-text", where
            assert (row["width"], row["height"], row["image_format"].upper()) == (
                graphic["width"],
                graphic["height"],
                graphic["format"],
            ), where
            assert set(graphic["expected"]["flags"]) <= set(row["flags"]), where
            for key in ("pmcid", "version", "license_code", "license_group", "pmid", "doi", "journal", "year", "article_type"):
                assert row[key] == line[key], (key, where)
    assert checked > 60


def test_every_mention_is_a_citance(result: tuple[list[dict[str, Any]], Rows, Rows]) -> None:
    lines, pairs, _ = result
    for line in lines:
        found = {row["fig_id"]: row for row in pairs[line["source"]]}
        for figure in line["figures"]:
            if (row := found.get(figure["fig_id"])) and line["damage"] not in TOLERATED:
                ours = sorted(((c["section"] or "").split(" > ")[-1], c["text"]) for c in row["citances"])
                assert ours == sorted((m["section"] or "", m["text"]) for m in figure["mentions"]), (
                    line["source"],
                    figure["fig_id"],
                )


def test_every_other_graphic_has_its_reason(result: tuple[list[dict[str, Any]], Rows, Rows]) -> None:
    lines, _, rejects = result
    for line in lines:
        if line["expected"]["outcome"] != "pairs" or line["damage"] in TOLERATED:
            continue
        reasons = {(row["graphic_ref"], row["stage"], row["reason"]) for row in rejects[line["source"]]}
        for item in [graphic for _, graphic in _graphics(line)] + line["other_graphics"]:
            expected = item["expected"]
            if expected["outcome"] == "reject":
                allowed = {(item["href"], expected["stage"], r) for r in (expected["reason"], *expected.get("also", ()))}
                assert allowed & reasons, (line["damage"], item["href"], reasons)


def test_tolerated_damage_is_flagged_or_harmless(result: tuple[list[dict[str, Any]], Rows, Rows]) -> None:
    lines, pairs, _ = result
    flags = {line["damage"]: {f for row in pairs[line["source"]] for f in row["flags"]} for line in lines if line["damage"]}
    assert "xml_recovered" in flags["xml_not_well_formed"]
    assert "label_caption" in flags["fig_without_caption"]
    assert "duplicate_fig_id" in flags["fig_duplicate_id"]


def test_truth_is_where_the_corpus_says(tmp_path: Path) -> None:
    generate(tmp_path / "c", 2, seed=1, layout="package", progress=False)
    assert all(ref.kind == "archive" for ref in discover([str(tmp_path / "c")]))
