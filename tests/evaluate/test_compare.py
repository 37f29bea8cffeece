"""Two scores artifacts on the same samples: paired, clustered, corrected; what does not match is counted and said."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from biomedray.artifacts import Manifest, read_manifest, write_manifest
from biomedray.errors import UserError
from biomedray.evaluate import compare
from biomedray.evaluate.classification import METRICS, Answers, value
from biomedray.evaluate.comparison import holm, mcnemar
from biomedray.evaluate.stats import paired_means

RNG = np.random.default_rng(0)


def write_scores(folder, table, name, **details):
    folder.mkdir()
    pq.write_table(pa.table(table), folder / name)
    write_manifest(folder, Manifest(kind="scores", name=folder.name, details=details))
    return folder


def labelled(folder, logits, labels, ids=None, **details):
    answers = Answers.of(labels, logits)
    table = {
        "id": ids or [f"s{i}" for i in range(len(labels))],
        "group": [f"p{i // 3}" for i in range(len(labels))],
        "label": labels,
        "predicted": answers.predicted,
        "probabilities": list(answers.probabilities),
    }
    facts = {"task": "zeroshot", "classes": ["no", "yes"], "over": "patients", "split": "test", "model": folder.name}
    return write_scores(folder, table, "samples.parquet", **(facts | details))


def ranked(folder, ranks, ids=None, groups=None, **details):
    n = len(ranks)
    table = {"id": ids or [f"q{i}" for i in range(n)], "group": groups or [f"a{i // 2}" for i in range(n)]}
    table |= {"image_to_text_rank": ranks, "text_to_image_rank": ranks[::-1].copy()}
    facts = {"task": "retrieval", "by": "caption", "split": "test", "over": "articles", "n": n, "model": folder.name}
    return write_scores(folder, table, "queries.parquet", **(facts | details))


@pytest.fixture
def case():
    labels = RNG.integers(0, 2, 240)
    good = np.column_stack([1 - labels, labels]) * 1.5 + RNG.normal(size=(240, 2))
    return labels, good, RNG.normal(size=(240, 2))


def test_a_better_classifier_is_told(tmp_path, case):
    labels, good, bad = case
    a, b = labelled(tmp_path / "a", good, labels), labelled(tmp_path / "b", bad, labels)
    scores = compare(a, b, tmp_path / "out", resamples=300).details
    assert scores["n"] == 240
    assert (scores["clusters"], scores["over"]) == (80, "patients")
    for name in METRICS:
        row = scores["metrics"][name]
        assert row["a"] == pytest.approx(value(Answers.of(labels, good), name))
        assert row["b"] == pytest.approx(value(Answers.of(labels, bad), name))
        assert row["value"] == pytest.approx(row["a"] - row["b"])
        assert row["low"] <= row["value"] <= row["high"]
        assert row["p"] <= row["p_holm"] <= 1
    assert scores["metrics"]["accuracy"]["p_holm"] < 0.05
    assert scores["mcnemar"]["accuracy"]["p"] < 0.001
    assert "prefer the bootstrap" in scores["notes"][0]
    assert json.loads((tmp_path / "out" / "scores.json").read_text()) == read_manifest(tmp_path / "out", "scores").details
    right = pq.read_table(tmp_path / "out" / "samples.parquet")
    assert np.mean(right["accuracy: a"].to_numpy()) == pytest.approx(scores["metrics"]["accuracy"]["a"])


def test_a_model_against_itself_is_no_difference(tmp_path, case):
    labels, good, _ = case
    a, b = labelled(tmp_path / "a", good, labels), labelled(tmp_path / "b", good, labels)
    scores = compare(a, b, tmp_path / "out", resamples=100).details
    assert {(row["value"], row["low"], row["high"], row["p_holm"]) for row in scores["metrics"].values()} == {(0, 0, 0, 1)}
    assert scores["mcnemar"]["accuracy"] == {"only_a_right": 0, "only_b_right": 0, "p": 1}


def test_undecided_answers_stay_wrong(tmp_path):
    labels = np.array([0, 1, 0, 1])
    logits = np.array([[1.0, 1.0], [0, 3], [3, 0], [0.3, 0.3]])
    a, b = (labelled(tmp_path / name, logits, labels) for name in "ab")
    assert compare(a, b, tmp_path / "out", resamples=100).details["metrics"]["accuracy"]["a"] == 0.5


def test_retrieval_is_compared_query_by_query_over_articles(tmp_path):
    first, second = RNG.integers(1, 8, 100), RNG.integers(1, 30, 100)
    scores = compare(ranked(tmp_path / "a", first), ranked(tmp_path / "b", second), tmp_path / "out", resamples=200).details
    expected = paired_means(first <= 5, second <= 5, np.arange(100) // 2, 200)
    row = scores["metrics"]["image_to_text R@5"]
    assert (row["a"], row["value"], row["low"], row["high"], row["p"]) == (
        expected.a,
        expected.difference.value,
        expected.difference.low,
        expected.difference.high,
        expected.p,
    )
    assert set(scores["metrics"]) == {
        f"{way} {m}" for way in ("image_to_text", "text_to_image") for m in ("R@1", "R@5", "R@10", "MRR")
    }


def test_samples_are_matched_by_id_and_the_rest_is_counted(tmp_path):
    ranks = np.arange(1, 11)
    order = RNG.permutation(10)
    ids = [f"q{i}" for i in range(10)]
    a = ranked(tmp_path / "a", ranks)
    b = ranked(tmp_path / "b", np.append(ranks[order][:8], 99), [ids[i] for i in order[:8]] + ["stranger"])
    scores = compare(a, b, tmp_path / "out", resamples=100).details
    assert (scores["n"], scores["only_a"], scores["only_b"]) == (8, 2, 1)
    assert scores["metrics"]["image_to_text MRR"]["value"] == 0
    assert "only a has" in scores["notes"][0]
    assert "different candidates" in scores["notes"][1]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"by": "figure"}, "differ in by"),
        ({"task": "compare"}, "compare takes"),
        ({"task": "zeroshot"}, "samples.parquet is missing"),
    ],
)
def test_what_cannot_be_compared(tmp_path, change, says):
    a = ranked(tmp_path / "a", np.arange(1, 5))
    with pytest.raises(UserError, match=says):
        compare(a, ranked(tmp_path / "b", np.arange(1, 5), **change), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_strangers_and_other_labels(tmp_path, case):
    labels, good, _ = case
    a = labelled(tmp_path / "a", good, labels)
    with pytest.raises(UserError, match="no sample in both"):
        compare(a, labelled(tmp_path / "b", good, labels, [f"t{i}" for i in range(240)]), tmp_path / "out")
    with pytest.raises(UserError, match="labels of the same samples differ"):
        compare(a, labelled(tmp_path / "c", good, 1 - labels), tmp_path / "out")


def test_mcnemar_golden():
    # 10 discordant samples, 9 of them to one side: 2 * (C(10, 9) + C(10, 10)) / 2 ** 10
    a, b = np.array([True] * 9 + [False] + [True] * 5), np.array([False] * 9 + [True] + [True] * 5)
    assert mcnemar(a, b) == {"only_a_right": 9, "only_b_right": 1, "p": pytest.approx(22 / 1024)}


def test_holm_golden():
    # Holm (1979): the smallest times m, the next times m - 1, never falling, at most 1
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([0.2]) == [0.2]
