"""The ablations: the paper's numbers, settings that fit, and what a user has to bring."""

from __future__ import annotations

from typing import Any

import pytest

from biomedray.errors import UserError
from biomedray.tune.ablation import SCALES
from biomedray.tune.presets import ABLATIONS, ablation
from biomedray.tune.run import Study

GIVEN = {"general": "local-dir:model", "image_weights": "weights.safetensors"}

PAPER = {
    "context-length": [(0.6626, 64.53, 63.56), (0.5776, 69.03, 67.41), (0.4807, 73.50, 72.26)],
    "vit-size": [(0.5342, 69.45, 68.02), (0.5063, 71.85, 70.22), (0.4807, 73.50, 72.26)],
    "init": [(0.3814, 83.15, 81.75), (0.3819, 82.90, 81.86)],
    "image-size": [(0.3819, 82.90, 81.86), (0.3406, 84.63, 83.56)],
    "batch-size": [(None, 79.69, 78.43), (None, 82.90, 81.86)],
    "batch-schedule": [(None, 83.98, 82.71), (None, 87.32, 86.66)],
    "model": [(None, 10.31, 10.38), (None, 11.82, 11.65), (None, 81.17, 80.17), (None, 81.57, 80.89), (None, 82.90, 81.86)],
}


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_rows_and_numbers(name: str) -> None:
    rows = [variant.paper for variant in ablation(name).at("paper")]
    found = [(row.get("val_loss"), round(100 * row["val_r1_i2t"], 2), round(100 * row["val_r1_t2i"], 2)) for row in rows]
    assert found == PAPER[name]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", ABLATIONS)
def test_every_variant_has_settings_that_fit(name: str, scale: str) -> None:
    study = Study(ablation(name), scale, (0, 1), GIVEN)  # type: ignore[arg-type]
    trials = study.trials()
    assert len({trial.name for trial in trials}) == len(trials)
    assert {trial.config.train.seed for trial in trials} == {0, 1}
    assert len({(trial.config.model_dump_json(), trial.trains) for trial in trials}) == len(trials)
    assert all(len(variant.arms[scale].cells) == len(study.ablation.header) for variant in study.ablation.at(scale))


def test_recipes_of_the_paper() -> None:
    def config(name: str, variant: str):
        return next(t.config for t in Study(ablation(name), "paper", (0,), GIVEN).trials() if t.variant == variant)

    gpt = config("context-length", "gpt-77")
    assert (gpt.model.name, gpt.model.text_tower, gpt.train.epochs) == ("biomedclip_vitb16_gpt77", None, 8)
    assert config("context-length", "pubmedbert-77").model.context_length == 77
    assert config("vit-size", "vit-s").model.name == "biomedclip_vits16_pubmedbert256"
    assert (config("init", "random").model.image_weights, config("init", "random").train.epochs) == (None, 32)
    assert config("image-size", "px-384").model.image_size == 384
    assert [config("batch-size", f"batch-{k}k").train.batch_size for k in (2, 4)] == [2048, 4096]
    growing = config("batch-schedule", "growing").train
    assert (growing.epochs, growing.batch_size, growing.batch_schedule) == (40, 4096, ((8, 65536),))
    assert config("batch-schedule", "constant").train.batch_schedule == ()
    assert config("model", "rn50-trained-on").model.clip_weights == "openai"


def test_what_trains_nothing_is_looked_at_once() -> None:
    trials = Study(ablation("model"), "small", (0, 1, 2), GIVEN).trials()
    assert [trial.name for trial in trials if not trial.trains] == ["general-as-it-is-seed0"]


@pytest.mark.parametrize(("name", "option"), [("model", "--general"), ("init", "--image-weights")])
def test_what_an_ablation_needs_is_asked_for(name: str, option: str) -> None:
    with pytest.raises(UserError, match=option):
        Study(ablation(name), "small", (0,)).trials()


def test_settings_of_the_user_win() -> None:
    study = Study(ablation("patch-dropout"), "small", (4,), extra=("train.epochs=3", "model.name=small_vit_m"))
    assert {(trial.config.train.epochs, trial.config.train.seed) for trial in study.trials()} == {(3, 4)}


@pytest.mark.parametrize("name", list(ABLATIONS))
@pytest.mark.parametrize("scale", ["smoke", "small", "paper"])
def test_what_is_tried_and_the_seed_cannot_be_set_for_all(name: str, scale: Any) -> None:
    found = ablation(name)
    settings = {setting for variant in found.at(scale) for setting in variant.arms[scale].settings}
    shared = {setting for setting in settings if all(setting in v.arms[scale].settings for v in found.at(scale))}
    for setting in [*settings - shared, "train.seed=9"]:
        with pytest.raises(UserError, match=r"ablation tries|--seeds"):
            found.config(found.at(scale)[0], scale, 0, {"general": "x", "image_weights": "x"}, (setting,))


def test_wrong_names_are_told() -> None:
    with pytest.raises(UserError, match="context-length"):
        ablation("contextlength")
    with pytest.raises(UserError, match="infonce, siglip"):
        Study(ablation("loss"), "small", (0,), only=("clip",)).trials()
