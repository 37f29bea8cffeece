"""The card and the Croissant file: counts are those of the rows, both are read by the tools they are for."""

from __future__ import annotations

import json

import pytest
import yaml

from biomedray.export import FORMATS, ExportConfig, export
from biomedray.export.survey import clusters, survey
from biomedray.where import parse


@pytest.fixture(scope="module", params=FORMATS)
def exported(request, pairs, tmp_path_factory):
    out = tmp_path_factory.mktemp("card") / "out"
    export(pairs, out, request.param)
    return request.param, out


def test_front_matter_names_files_that_are_there(exported, pairs):
    form, out = exported
    head = yaml.safe_load((out / "README.md").read_text().split("---\n")[1])
    assert head["license"] == "other"
    folder = pairs if form == "card" else out
    for entry in head["configs"][0]["data_files"]:
        assert list(folder.glob(entry["path"]))


def test_counts_on_the_card(exported):
    text = (exported[1] / "README.md").read_text()
    for line in (
        "| CC BY-NC-ND | 1 |",
        "| none known | 1 |",
        "| train | 8 |",
        "| image: file_missing | 1 |",
        "| A \\| B | 1 |",
        "- 1 pairs are under a non-commercial licence",
        "- 1 pairs are under a licence without derivatives",
        "- 1 pairs have no Creative Commons licence on record",
        "- 1 pairs belong to somebody else",
        "fingerprint 0123456789abcdef",
        "10.1056/AIoa2400640",
    ):
        assert line in text, line
    assert "/somewhere" not in text


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_croissant_is_valid(exported, caplog):
    import mlcroissant

    dataset = mlcroissant.Dataset(jsonld=str(exported[1] / "croissant.json"))
    assert not dataset.metadata.issues.errors
    sets = {record.name for record in dataset.metadata.record_sets}
    assert sets == {"train", "validation", "test"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_croissants_records_can_be_read(pairs, rows, tmp_path):
    import mlcroissant

    export(pairs, tmp_path / "out", "huggingface", ExportConfig(rows_per_shard=4))
    dataset = mlcroissant.Dataset(jsonld=str(tmp_path / "out" / "croissant.json"))
    found = {row["train/pair_id"].decode() for row in dataset.records("train")}
    assert found == {row["pair_id"] for row in rows if row["split"] == "train"}


def test_a_selection_is_named_and_counted(pairs, rows, tmp_path):
    config = ExportConfig(where="license_group == 'comm' and 'truncated' not in flags", splits=("train", "val"))
    manifest = export(pairs, tmp_path / "out", "webdataset", config)
    wanted = [r for r in rows if r["license_group"] == "comm" and not r["flags"] and r["split"] != "test"]
    assert manifest.counts["pairs"] == len(wanted)
    text = (tmp_path / "out" / "README.md").read_text()
    assert f"`{config.where}`" in text
    assert "NC-ND |" not in text
    assert not (tmp_path / "out" / "test").exists()


def test_survey_counts_what_the_rows_hold(pairs, rows):
    found = survey(pairs)
    assert found.rows == len(rows)
    for name in ("license_code", "journal", "year", "image_format"):
        for value, number in found.counts[name].items():
            assert number == sum(str("" if row[name] is None else row[name]) == value for row in rows)
    assert found.counts["flags"] == {"truncated": 1, "odd": 1}
    assert found.lengths["short_side"][30] == len(rows)
    assert (found.share_over("n_tokens", 8), found.share_over("n_tokens", 9), found.mean("n_tokens")) == (1.0, 0.0, 9.0)
    assert found.missing["entropy"] == len(rows)
    assert (found.unbalanced, found.ledger["articles"]) == (0, 1)
    assert survey(pairs, where=parse("image_format == 'gif'")).rows == 1


def test_clusters_are_counted_exactly_however_many_passes(make, tmp_path, monkeypatch):
    rows = [make.pair(n, "F1", dup_cluster=f"c{n % 7}") for n in range(1, 30)] + [make.pair(31, "F1", dup_cluster="alone")]
    pairs = make.write_pairs(tmp_path / "pairs", rows)
    once = clusters(pairs, "dup_cluster", len(rows))
    assert (once.number, once.shared, once.largest) == (8, 29, 5)
    monkeypatch.setattr("biomedray.export.survey._PER_PASS", 4)
    assert clusters(pairs, "dup_cluster", len(rows)) == once


def test_card_is_json_and_has_no_path_of_this_machine(exported):
    text = (exported[1] / "croissant.json").read_text()
    assert json.loads(text)["@type"] == "sc:Dataset"
    assert "/somewhere" not in text
