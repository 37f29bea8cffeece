"""Zero-shot by arithmetic, and as an artifact on miniatures whose answers are known."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from biomedray.artifacts import read_manifest
from biomedray.errors import UserError
from biomedray.evaluate.labelled import Choice, open_all
from biomedray.evaluate.paper_table import in_paper_order, write_table
from biomedray.evaluate.sets import open_set
from biomedray.evaluate.zero_shot import classifier, logits, write_zero_shot

WORDS = {
    "normal lymph node": 60 / 255,
    "lymph node metastasis": 120 / 255,
    "lung adenocarcinomas": 60 / 255,
    "normal lung tissue": 120 / 255,
    "lung squamous cell carcinomas": 180 / 255,
    "colon adenocarcinomas": 60 / 255,
    "normal colonic tissue": 120 / 255,
    "none": 60 / 255,
    "tumor infiltrating lymphocytes": 120 / 255,
    "normal lung": 60 / 255,
    "pneumonia": 120 / 255,
}


def test_prompts_are_averaged_and_normalised():
    seen = []

    def encode(texts):
        seen.extend(texts)
        return np.array([[1, 0], [0, 1], [0, 1], [0, 1]], dtype=np.float32)

    found = classifier(["a", "b"], ["one {}", "{} two"], encode)
    assert seen == ["one a", "a two", "one b", "b two"]
    np.testing.assert_allclose(found, [[2**-0.5, 2**-0.5], [0, 1]], atol=1e-6)


def test_equal_classes_give_exactly_equal_logits():
    rng = np.random.default_rng(0)
    images, one = rng.normal(size=(50, 33)).astype(np.float32), rng.normal(size=33).astype(np.float32)
    found = logits(images, np.stack([one, one, one]), 7.0)
    assert (found == found[:, :1]).all()


@pytest.fixture
def scored(mini, brightness_model, tmp_path):
    def run(data, words=WORDS, split="test", name="out", **more):
        model = brightness_model(words)
        return write_zero_shot(data, tmp_path, split, "fake", model, tmp_path / name, resamples=50, progress=False, **more)

    return run


def test_an_artifact_of_scores(mini, scored, tmp_path):
    manifest = scored(open_set(mini.pcam(tmp_path / "pcam")))
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert manifest.details == scores
    assert read_manifest(tmp_path / "out", "scores").config["task"] == "zeroshot"
    assert (scores["task"], scores["set"], scores["split"], scores["n"], scores["groups"]) == ("zeroshot", "pcam", "test", 12, 6)
    assert scores["over"] == "slides"
    assert scores["metrics"]["accuracy"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert scores["metrics"]["auroc"]["value"] == 1
    assert scores["paper"] == {"224px": 73.41, "384px": 67.15}
    assert scores["prompts"]["1"] == "lymph node metastasis"
    assert set(scores["templates"]) == {"this is an image of {}", "{} presented in image"}
    assert scores["confusion"] == [[6, 0, 0], [0, 6, 0]]
    rows = pq.read_table(tmp_path / "out" / "samples.parquet").to_pylist()
    assert [row["predicted"] for row in rows] == [row["label"] for row in rows] == [0, 1] * 6
    assert rows[0]["id"] == "test/000000"
    assert sum(rows[0]["probabilities"]) == pytest.approx(1)
    with pytest.raises(UserError, match="finished scores artifact"):
        scored(open_set(tmp_path / "pcam"))


def test_each_template_is_scored_alone(mini, scored, tmp_path):
    """The second template names the classes the wrong way round, so it gets everything wrong."""
    data = open_all([mini.pcam(tmp_path / "pcam")], Choice(templates=["{}", "not {}"]))[0][0]
    swapped = WORDS | {"not normal lymph node": 120 / 255, "not lymph node metastasis": 60 / 255}
    scores = scored(data, swapped).details
    assert [found["accuracy"] for found in scores["templates"].values()] == [1, 0]
    assert scores["template_spread"] == 1
    assert scores["undecided"] == 12  # on average both classes are called the same
    assert scores["metrics"]["accuracy"]["value"] == 0


def test_unreadable_pictures_are_counted(mini, scored, tmp_path):
    root = mini.csv_set(tmp_path / "cells", n=16)
    image_set = open_set(root)
    (root / "crops" / image_set.part("test").ids[0]).write_bytes(b"no picture")
    scores = scored(image_set, {"RBC": 60 / 255, "WBC": 120 / 255}).details
    assert scores["rejects"] == {"unsupported_format": 1}
    assert scores["n"] == 7
    assert scores["metrics"]["accuracy"]["value"] == 1


def test_a_limit_draws_a_part_and_says_so(mini, scored, tmp_path):
    data = open_set(mini.pcam(tmp_path / "pcam")).limited("test", 5)
    scores = scored(data).details
    assert scores["n"] == 5
    assert any("5 of 12 pictures" in note for note in scores["notes"])


def test_the_papers_table(mini, brightness_model, tmp_path):
    paths = [mini.rsna(tmp_path / "rsna"), mini.lc25000(tmp_path / "lc"), mini.pcam(tmp_path / "pcam")]
    paths += [mini.csv_set(tmp_path / "cells"), mini.til_500(tmp_path / "til")]
    sets = open_all(paths, Choice())
    assert [one.name for one, _ in in_paper_order(sets)] == [
        "pcam",
        "lc25000-lung",
        "lc25000-colon",
        "tcga-til",
        "rsna",
        "cells",
    ]
    model = brightness_model(WORDS | {"RBC": 0.2, "WBC": 0.5})
    manifest = write_table(sets, "test", "fake", model, tmp_path / "out", resamples=20, progress=False)
    scores = manifest.details
    assert [column["title"] for column in scores["columns"]][:3] == ["PCam", "LC25000 (Lung)", "LC25000 (Colon)"]
    assert [column["metric"] for column in scores["columns"]][3:5] == ["auroc", "accuracy"]
    assert scores["mean"]["value"] == pytest.approx(np.mean([column["value"] for column in scores["columns"][:5]]))
    assert scores["mean"]["paper"]["224px"] == 75.52
    assert read_manifest(tmp_path / "out" / "tcga-til", "scores").details["n"] == 8
    part = write_table(sets[:2], "test", "fake", model, tmp_path / "part", resamples=20, progress=False).details
    assert part["mean"]["value"] is None
    assert part["mean"]["missing"] == ["pcam", "lc25000-colon", "tcga-til"]


def test_a_table_that_was_killed_goes_on(mini, brightness_model, tmp_path, monkeypatch):
    paths = [mini.pcam(tmp_path / "pcam"), mini.csv_set(tmp_path / "cells")]
    sets = open_all(paths, Choice())
    model = brightness_model(WORDS | {"RBC": 0.2, "WBC": 0.5})
    from biomedray.evaluate import paper_table

    whole, calls = paper_table.write_zero_shot, []

    def dies_at_the_second(data, *args, **kwargs):
        calls.append(data.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(data, *args, **kwargs)

    monkeypatch.setattr(paper_table, "write_zero_shot", dies_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        write_table(sets, "test", "fake", model, tmp_path / "out", resamples=20, progress=False)
    write_table(sets, "test", "fake", model, tmp_path / "out", resamples=20, progress=False)
    assert calls == ["pcam", "cells", "cells"]


def test_sets_are_opened_with_the_users_choice(mini, tmp_path):
    pcam, til = mini.pcam(tmp_path / "pcam"), mini.til(tmp_path / "til")
    found = open_all([pcam, til / "images-tcga-tils" / "luad"], Choice(options={"cancer": "luad"}))
    assert [one.name for one, _ in found] == ["pcam", "tcga-til"]
    for choice, paths, says in (
        (Choice(options={"cancr": "luad"}), [pcam, til], "no layout has an option cancr"),
        (Choice(options={"cancer": "luad"}), [pcam], "layout pcam: no option cancer"),
        (Choice(classes={"0": "x"}), [pcam, til / "images-tcga-tils" / "luad"], "class names of one"),
        (Choice(), [pcam, pcam], "pcam is named twice"),
    ):
        with pytest.raises(UserError, match=says):
            open_all(paths, choice)
