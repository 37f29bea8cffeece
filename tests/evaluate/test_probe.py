"""The probe: nested samples, heads against scikit-learn, the text head, the search, and an artifact on a miniature."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from biomedray.artifacts import read_manifest
from biomedray.errors import UserError
from biomedray.evaluate import elevater, heads
from biomedray.evaluate.labelled import Choice, open_all
from biomedray.evaluate.linear_probe import Settings, prepared, write_linear_probe
from biomedray.evaluate.nested import held_out, nested
from biomedray.evaluate.raw_pixels import as_features, raw_pixels
from biomedray.evaluate.sets import open_set


def blobs(n, classes, dim, seed, gap=1.0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, gap, (classes, dim))
    labels = np.arange(n) % classes
    return (centres[labels] + rng.normal(0, 1, (n, dim))).astype(np.float32), labels


# ---- samples


@settings(max_examples=40)
@given(st.lists(st.integers(0, 3), min_size=4, max_size=300), st.integers(0, 9))
def test_samples_are_nested_and_stratified(labels, seed):
    labels = np.array(labels)
    small, middle, large = nested(labels, [0.05, 0.4, 1.0], seed)
    assert set(small) <= set(middle) <= set(large) == set(range(len(labels)))
    for rows, fraction in ((small, 0.05), (middle, 0.4)):
        assert (np.diff(rows) > 0).all()
        for number in np.unique(labels):
            wanted = fraction * (labels == number).sum()
            assert abs((labels[rows] == number).sum() - wanted) <= max(0.5, 1 - wanted)
    assert (nested(labels, [0.4], seed)[0] == middle).all()


def test_seeds_draw_different_samples():
    labels = np.arange(200) % 2
    one, other = nested(labels, [0.1], 0)[0], nested(labels, [0.1], 1)[0]
    assert set(one) != set(other)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 1)), min_size=2, max_size=60), st.integers(0, 5))
def test_what_is_held_out_shares_no_group_and_no_row(rows, seed):
    groups, labels = [f"g{g}" for g, _ in rows], np.array([label for _, label in rows])
    parts = held_out(labels, groups, seed)
    if parts is not None:
        fit, choose = parts
        assert sorted([*fit, *choose]) == list(range(len(rows)))
        assert not {groups[i] for i in fit} & {groups[i] for i in choose}
        assert set(labels[fit]) == set(labels[choose]) == set(labels)


def test_nothing_is_held_out_of_a_class_of_one():
    assert held_out(np.array([0, 0, 0, 1]), list("abcd"), 0) is None
    assert held_out(np.array([0, 0, 1, 1]), list("abcd"), 0) is not None


# ---- heads


@settings(max_examples=10)
@given(st.integers(2, 4), st.integers(0, 100), st.sampled_from([0.01, 1.0, 100.0]))
def test_the_text_head_without_a_text_is_logistic_regression(classes, seed, c):
    """With a zero prior it is scikit-learn's, whose unpenalised intercept is replaced by a constant feature."""
    x, y = blobs(90, classes, 5, seed)
    head = heads.fit_to_text(x, y, np.zeros((5, classes), np.float32), c)
    z = np.hstack([(x - head.mean) / head.scale, np.ones((90, 1))])
    sk = LogisticRegression(C=c, fit_intercept=False, tol=1e-8, max_iter=5000).fit(z, y)
    wanted = sk.predict_proba(z)
    if classes == 2:  # scikit-learn has one weight vector for two classes; two opposite halves of it cost half as much
        sk = LogisticRegression(C=2 * c, fit_intercept=False, tol=1e-8, max_iter=5000).fit(z, y)
        wanted = sk.predict_proba(z)
    found = np.exp(head.logits(x) - np.logaddexp.reduce(head.logits(x), axis=1, keepdims=True))
    np.testing.assert_allclose(found, wanted, atol=0.02)


def test_the_plain_head_is_scikit_learns_on_standardised_features():
    for classes in (2, 3):
        x, y = blobs(60, classes, 4, 1)
        head = heads.fit_plain(x, y, classes, 0.3)
        z = (x - x.mean(0)) / x.std(0)
        wanted = LogisticRegression(C=0.3).fit(z, y).predict_proba(z)
        logits = head.logits(x)
        np.testing.assert_allclose(np.exp(logits - np.logaddexp.reduce(logits, 1, keepdims=True)), wanted, atol=2e-3)


def test_a_small_c_leaves_zero_shot_as_it_is_and_a_large_one_frees_the_head():
    x, y = blobs(200, 3, 6, 2, gap=2.0)
    wrong = np.random.default_rng(0).normal(0, 1, (6, 3)).astype(np.float32)
    tied, free = (heads.fit_to_text(x, y, wrong, c) for c in (1e-7, 1e4))
    np.testing.assert_allclose(tied.logits(x), x @ wrong, atol=0.02)
    assert (free.logits(x).argmax(1) == y).mean() > 0.9 > (x @ wrong).argmax(1).__eq__(y).mean()


def test_a_good_text_head_helps_where_samples_are_few():
    x, y = blobs(400, 4, 40, 3, gap=0.6)
    centres = np.stack([x[y == k].mean(0) for k in range(4)]).astype(np.float32)
    few = nested(y, [0.03], 0)[0]
    text = heads.choose(lambda c: heads.fit_to_text(x[few], y[few], centres.T, c), x, y, "accuracy")
    plain = heads.choose(lambda c: heads.fit_plain(x[few], y[few], 4, c), x, y, "accuracy")
    assert text.score > plain.score + 0.05


def test_a_class_without_samples_is_never_the_answer():
    x, y = blobs(60, 2, 4, 4)
    head = heads.fit_plain(x, 2 * y, 3, 1.0)
    logits = head.logits(x)
    assert head.absent == (1,)
    assert np.isfinite(logits).all()
    assert set(logits.argmax(1)) <= {0, 2}


def test_a_constant_feature_does_no_harm():
    x, y = blobs(60, 2, 4, 4)
    x[:, 2] = 7
    assert np.isfinite(heads.fit_plain(x, y, 2, 1.0).logits(x)).all()


def test_c_is_found_round_the_best_power():
    """A score that peaks at 10 ** 1.75 is found to a quarter of a decade, in few fits."""
    tried = []

    class Peak:
        def __init__(self, c):
            self.distance = abs(np.log10(c) - 1.75)

        def logits(self, features):
            return np.array([[0.0, -self.distance], [-self.distance, 0.0]]) * len(features)

    def fit(c):
        tried.append(c)
        return Peak(c)

    chosen = heads.choose(fit, np.zeros((2, 1), np.float32), np.array([1, 0]), "accuracy")
    assert np.log10(chosen.setting["C"]) == pytest.approx(1.75)
    assert len(tried) <= 7 + 2 * 3


def test_equal_scores_go_to_the_smaller_c():
    class Same:
        def logits(self, features):
            return np.eye(2)[::-1] * len(features)

    assert heads.choose(lambda _: Same(), np.zeros((2, 1), np.float32), np.array([1, 0]), "accuracy").setting["C"] == 1e-6


# ---- ELEVATER's search


def test_heads_side_by_side_equal_torch_one_by_one():
    import torch

    x, y = blobs(70, 3, 5, 5)
    pairs = [(4, 40), (5, 30)]
    found = elevater._train(elevater.Samples(x, y), np.zeros((5, 3), np.float32), pairs, 0, 2)
    for pair, head in zip(pairs, found, strict=True):
        norm, linear = torch.nn.BatchNorm1d(5, affine=False), torch.nn.Linear(5, 3)
        torch.nn.init.zeros_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
        rate, decay = elevater.RATES[pair[0]], elevater.DECAYS[pair[1]]
        solver = torch.optim.SGD(linear.parameters(), lr=rate, momentum=0.9, nesterov=True, weight_decay=decay)
        order = torch.Generator().manual_seed(0)
        for _ in range(2):
            for rows in torch.randperm(70, generator=order).split(32):
                solver.zero_grad()
                torch.nn.functional.cross_entropy(linear(norm(torch.from_numpy(x[rows]))), torch.from_numpy(y[rows])).backward()
                solver.step()
        norm.eval()
        wanted = linear(norm(torch.from_numpy(x))).detach().numpy()
        np.testing.assert_allclose(head.logits(x), wanted, atol=1e-4)


def test_the_search_learns_and_survives_divergence():
    x, y = blobs(120, 2, 4, 6, gap=2.0)
    half = elevater.Samples(x[:60], y[:60]), elevater.Samples(x[60:], y[60:])
    chosen = elevater.search(*half, np.zeros((4, 2), np.float32), "accuracy", 0, epochs=3)
    assert chosen.score > 0.9
    assert set(chosen.setting) == {"lr", "weight_decay"}
    assert (chosen.head.logits(x[60:]).argmax(1) == y[60:]).mean() == pytest.approx(chosen.score)


# ---- pixels


def test_raw_pixels_of_28_px_pictures_are_the_pictures(mini, tmp_path):
    data = open_set(mini.medmnist(tmp_path / "pneumoniamnist.npz"))
    ids = list(reversed(data.part("test").ids))[:5]
    small = raw_pixels(data, "test", ids)
    by_id = {sample.id: sample.image for sample in data.read("test", 0, 12)}
    (features,) = as_features([small])
    assert features.shape == (5, 28 * 28)
    for row, name in zip(features, ids, strict=True):
        np.testing.assert_allclose(row, by_id[name].ravel() / 255, atol=1e-6)
    coloured = open_set(mini.csv_set(tmp_path / "cells"))
    assert as_features([raw_pixels(coloured, "test", coloured.part("test").ids)])[0].shape[1] == 28 * 28 * 3


# ---- the artifact

SMALL = Settings(fractions=(0.2, 1.0), seeds=(0, 1, 2), resamples=30)


@pytest.fixture
def probed(brightness_model, tmp_path):
    def run(data, setting=SMALL, split="test", name="out"):
        model = brightness_model({"RBC": 60 / 255, "WBC": 120 / 255, "normal": 60 / 255, "metastasis": 120 / 255}, noise=0.02)
        return write_linear_probe(data, tmp_path, split, "fake", model, tmp_path / name, setting, progress=False)

    return run


def test_an_artifact_of_a_probe(mini, probed, tmp_path):
    manifest = probed(open_set(mini.pcam(tmp_path / "pcam", n=40)), Settings(**{**SMALL.__dict__, "floor": True}))
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert manifest.details == scores
    small, large = scores["points"]
    assert (small["fraction"], small["n_train"], large["fraction"], large["n_train"]) == (0.2, 8, 1.0, 40)
    assert [run["seed"] for run in small["runs"]] == [0, 1, 2]
    assert {run["chosen_on"] for run in small["runs"]} == {"split val"}
    assert large["sd_over_seeds"]["accuracy"] == 0  # all seeds train on everything
    assert large["metrics"] == scores["metrics"]
    mean = np.mean([run["metrics"]["accuracy"] for run in small["runs"]])
    assert small["metrics"]["accuracy"]["value"] == pytest.approx(mean)
    assert scores["metrics"]["auroc"]["value"] > 0.95
    assert scores["zeroshot"]["accuracy"]["value"] > 0.9
    assert scores["floor"]["points"][1]["metrics"]["accuracy"]["value"] > 0.9
    assert set(scores["floor"]["above_floor"]) == {"0.2", "1"}
    assert {"value", "low", "high", "p"} == set(scores["floor"]["above_floor"]["1"])
    assert scores["over"] == "slides"
    with pytest.raises(UserError, match="finished scores artifact"):
        probed(open_set(tmp_path / "pcam"))


def test_a_set_without_splits_is_cut_and_says_so(mini, probed, tmp_path):
    data = open_set(mini.csv_set(tmp_path / "cells", n=60, split=False), pattern=r"Image_(\d+)")
    scores = probed(data, Settings(fractions=(1.0,), seeds=(0,), head="text", resamples=20)).details
    assert any("splits 60/20/20 made here by the hash of the group" in note for note in scores["notes"])
    assert scores["head"] == "text"
    assert 8 <= scores["n"] <= 16
    made = list((tmp_path / "out" / "embeddings").iterdir())
    assert len(made) == 1  # of the whole set, as zero-shot needs it too
    assert read_manifest(made[0]).config["set"] == data.fingerprint


def test_without_validation_a_part_of_the_sample_chooses(mini, probed, tmp_path):
    data = open_all([mini.webdataset(tmp_path / "web", n=20)], Choice())[0][0]
    scores = probed(data, Settings(fractions=(0.05, 1.0), seeds=(0, 1), resamples=20)).details
    assert {run["chosen_on"] for run in scores["points"][0]["runs"]} == {"nothing: too few"}
    assert {run["C"] for run in scores["points"][0]["runs"]} == {1.0}
    assert {run["chosen_on"] for run in scores["points"][1]["runs"]} == {"8 of the sample"}


def test_elevaters_search_makes_an_artifact(mini, probed, tmp_path):
    data = open_set(mini.pcam(tmp_path / "pcam", n=24))
    scores = probed(data, Settings(fractions=(1.0,), seeds=(0,), head="text", search="elevater", resamples=20)).details
    assert set(scores["points"][0]["runs"][0]) >= {"lr", "weight_decay"}
    assert scores["metrics"]["accuracy"]["value"] > 0.9


def test_what_cannot_be_probed_is_one_line(mini, probed, tmp_path):
    data = open_set(mini.pcam(tmp_path / "pcam"))
    for setting, says in (
        (Settings(fractions=(0.0,)), "fractions 0.0: each above 0"),
        (Settings(seeds=(1, 1)), "seeds 1, 1: give different"),
        (Settings(head="random"), "head 'random': choose zero or text"),
        (Settings(search="grid"), "search 'grid': choose lbfgs or elevater"),
    ):
        with pytest.raises(UserError, match=says):
            probed(data, setting)
    with pytest.raises(UserError, match="trains on split train and tests on another one"):
        prepared(data, "train")
    with pytest.raises(UserError, match="no split holdout"):
        prepared(data, "holdout")
