"""JSON lines in the schema of Microsoft's PMC-15M pipeline: a golden line, every pair once, paths that can be opened."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from biomedray.export import ExportConfig, export

STRINGS = {"type": "string"}
FIGURE = ["fig_caption", "fig_id", "fig_label", "graphic_ref", "pair_id"]
ARTICLE = ["pmid", "pmc", "location", "figures"]
# As in the notebook of microsoft/BiomedCLIP_data_pipeline: these keys and no others, all of them strings.
SCHEMA = {
    "type": "object",
    "required": ARTICLE,
    "additionalProperties": False,
    "properties": dict.fromkeys(ARTICLE[:3], STRINGS)
    | {
        "figures": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": FIGURE,
                "additionalProperties": False,
                "properties": dict.fromkeys(FIGURE, STRINGS),
            },
        }
    },
}
GOLDEN = (
    '{"pmid": "9003", "pmc": "3", "location": "images/train/part-00000/PMC3.1", "figures": [{"fig_caption": "Growth of '
    '\\u00e9.", "fig_id": "F2", "fig_label": "Figure 2", "graphic_ref": "images/train/part-00000/PMC3.1/pone.0001.g002.jpg", '
    '"pair_id": "9003_F2"}, {"fig_caption": "Last.", "fig_id": "F10", "fig_label": "", "graphic_ref": '
    '"images/train/part-00000/PMC3.1/x.f10.jpg", "pair_id": "9003_F10"}]}\n'
)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_golden_line(make, tmp_path):
    rows = [
        make.pair(3, "F10", caption="Last.", fig_label=None, graphic_ref="fig/x.f10.JPG"),
        make.pair(3, "F2", caption="Growth of é.", graphic_ref="pone.0001.g002"),
    ]
    export(make.write_pairs(tmp_path / "pairs", rows, parts=1), tmp_path / "out", "jsonl")
    assert (tmp_path / "out" / "train.jsonl").read_text() == GOLDEN


@pytest.fixture(scope="module")
def exported(pairs, tmp_path_factory):
    out = tmp_path_factory.mktemp("jsonl") / "out"
    return out, export(pairs, out, "jsonl")


def test_schema_one_line_an_article_each_pair_once(exported, rows):
    out, manifest = exported
    for split in ("train", "val", "test"):
        wanted = [row for row in rows if row["split"] == split]
        found = lines(out / f"{split}.jsonl")
        for line in found:
            jsonschema.validate(line, SCHEMA)
            assert [list(figure) for figure in line["figures"]] == [FIGURE] * len(line["figures"])
            assert list(line) == ARTICLE
            assert all(figure["pair_id"] == f"{line['pmid']}_{figure['fig_id']}" for figure in line["figures"])
        assert sorted(line["pmc"] for line in found) == sorted({row["pmcid"].removeprefix("PMC") for row in wanted})
        captions = [figure["fig_caption"] for line in found for figure in line["figures"]]
        assert sorted(captions) == sorted(row["caption"] for row in wanted)
        ids = [(line["pmc"], figure["pair_id"]) for line in found for figure in line["figures"]]
        assert len(set(ids)) == len(ids) == manifest.counts["pairs_by_split"][split]


def test_graphic_refs_are_the_original_bytes(exported, rows):
    by_caption = {row["caption"]: [] for row in rows}
    for row in rows:
        by_caption[row["caption"]].append(row["image"])
    out = exported[0]
    for line in [line for split in ("train", "val", "test") for line in lines(out / f"{split}.jsonl")]:
        for figure in line["figures"]:
            path = out / figure["graphic_ref"]
            assert path.parent == out / line["location"]
            assert path.resolve().is_relative_to(out.resolve())
            assert path.read_bytes() in by_caption[figure["fig_caption"]]


def test_pictures_that_would_share_a_name_are_told_apart(make, tmp_path):
    refs = {"F1": "a/x.jpg", "F2": "b/X.jpg", "F3": "../../x", "F4": "..", "F5": "c\\d:e.jpg", "F6": "x.tif"}
    rows = [make.pair(3, fig, graphic_ref=ref) for fig, ref in refs.items()]
    export(make.write_pairs(tmp_path / "pairs", rows), tmp_path / "out", "jsonl")
    [line] = lines(tmp_path / "out" / "train.jsonl")
    paths = [tmp_path / "out" / figure["graphic_ref"] for figure in line["figures"]]
    assert [path.read_bytes() for path in paths] == [row["image"] for row in rows]
    assert len({str(path).lower() for path in paths}) == len(rows)
    assert {path.parent for path in paths} == {tmp_path / "out" / line["location"]}


def test_without_pictures_the_location_is_the_source(pairs, tmp_path):
    export(pairs, tmp_path / "out", "jsonl", ExportConfig(images=False, splits=("train",)))
    assert not (tmp_path / "out" / "images").exists()
    assert not (tmp_path / "out" / "val.jsonl").exists()
    for line in lines(tmp_path / "out" / "train.jsonl"):
        assert line["location"] == f"mirror/PMC{line['pmc']}.1"
        assert line["figures"][0]["graphic_ref"].startswith(line["location"] + "/")
