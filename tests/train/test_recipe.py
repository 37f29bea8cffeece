"""The paper's recipe: every number of Supplementary Table 9, and every row of its ablations builds."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from biomedray.cli import app
from biomedray.config import override
from biomedray.model import catalogue, towers, weights
from biomedray.train import preset
from biomedray.train.plan import Plan
from biomedray.train.presets import PUBMEDBERT

ROWS = 15_282_336  # pairs of PMC-15M
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def test_supplementary_table_9():
    recipe = preset("biomedclip")
    loop = recipe.train
    assert loop.lr == 5.0e-4
    assert loop.weight_decay == 0.2
    assert loop.betas == (0.9, 0.98)
    assert loop.eps == 1.0e-6
    assert loop.epochs == 32
    assert loop.warmup_steps == 2000
    assert loop.seed == 0
    found = catalogue.read(recipe.model.name)["preprocess_cfg"]
    assert (tuple(found["mean"]), tuple(found["std"])) == (MEAN, STD)
    assert recipe.validation.every is None  # every epoch
    assert (recipe.data.crop_scale, recipe.data.crop_ratio, recipe.data.crop_relative) == ((0.9, 1.0), (0.75, 4 / 3), False)


def test_what_the_text_says_beside_the_table():
    recipe = preset("biomedclip")
    assert (recipe.train.batch_size, recipe.train.batch_schedule) == (4096, ())
    assert (recipe.train.precision, recipe.train.grad_checkpointing, recipe.train.loss) == ("auto", True, "infonce")
    assert (recipe.model.text_tower, recipe.model.image_weights) == (PUBMEDBERT, "timm")
    assert recipe.model.patch_dropout == 0
    assert (recipe.train.grad_clip, recipe.train.ema_decay, recipe.train.max_seconds) == (None, None, None)


def test_the_schedule_of_learning_rates():
    plan = Plan(ROWS, preset("biomedclip").train)
    assert plan.total_steps == 32 * (ROWS // 4096)
    assert plan.learning_rate(1000 * 4096) == pytest.approx(2.5e-4, rel=2e-3)
    assert plan.learning_rate(2000 * 4096) == pytest.approx(5e-4, rel=1e-3)
    middle = (2000 * 4096 + plan.total_samples) // 2
    assert plan.learning_rate(middle) == pytest.approx(2.5e-4, rel=1e-3)
    assert plan.learning_rate(plan.total_samples - 4096) < 1e-9


def test_the_batch_grows_after_eight_epochs():
    sizes = Plan(ROWS, preset("biomedclip-64k").train).batch_sizes
    assert sizes == [4096] * 8 + [65536] * 32


# name of a preset, settings: what the text tower, the picture tower and the batch come to
ROWS_OF_TABLES = [
    ("biomedclip", [], (256, 224, 768, 4096)),
    ("biomedclip", ["model.context_length=77"], (77, 224, 768, 4096)),
    ("biomedclip", ["model.name=biomedclip_vits16_pubmedbert256"], (256, 224, 384, 4096)),
    ("biomedclip", ["model.name=biomedclip_vitm16_pubmedbert256"], (256, 224, 512, 4096)),
    ("biomedclip", ["model.image_weights=null"], (256, 224, 768, 4096)),
    ("biomedclip", ["model.image_size=384"], (256, 384, 768, 4096)),
    ("biomedclip", ["train.batch_size=2048"], (256, 224, 768, 2048)),
    ("biomedclip", ["model.patch_dropout=0.5"], (256, 224, 768, 4096)),
    ("biomedclip-gpt77", [], (77, 224, 768, 4096)),
    ("continual-vitb16", [], (77, 224, 768, 4096)),
    ("continual-rn50", [], (77, 224, 2048, 4096)),
]


@pytest.mark.parametrize(("name", "settings", "expected"), ROWS_OF_TABLES)
def test_every_row_of_the_tables_builds(name, settings, expected, tmp_path):
    config = override(preset(name), settings)
    (tmp_path / "config.json").write_text(json.dumps(catalogue.bert_base()))
    model_cfg = towers.model_cfg_of(config.model)
    clip = towers.build(model_cfg, tmp_path, device="meta")
    trunk = getattr(clip.visual, "trunk", None)
    width = trunk.num_features if trunk is not None else (expected[2])
    found = (model_cfg["text_cfg"]["context_length"], clip.visual.image_size[0] if trunk is not None else clip.visual.image_size)
    size = found[1] if isinstance(found[1], int) else found[1][0]
    assert (found[0], size, width, config.train.batch_size) == expected
    assert weights.parameter_count(clip) > 5e7


def test_continual_pretraining_starts_from_openai():
    for name in ("continual-vitb16", "continual-rn50"):
        model = preset(name).model
        assert model.clip_weights == "openai"
        towers.check(model)  # open_clip knows such a set, and nothing is fetched yet


def test_init_on_the_command_line(pairs, tmp_path):
    runner = CliRunner()
    small = ["--preset", "smoke", "--no-ray", "-q", "--set", "train.epochs=1", "--set", "model.image_size=32"]
    first = runner.invoke(app, ["train", str(pairs), str(tmp_path / "first"), *small], catch_exceptions=False)
    assert first.exit_code == 0
    init = ["--init", f"local-dir:{tmp_path / 'first'}", "--profile"]
    second = runner.invoke(app, ["train", str(pairs), str(tmp_path / "second"), *small, *init], catch_exceptions=False)
    assert second.exit_code == 0
    start, end = (weights.open_folder(tmp_path / name) for name in ("second/checkpoints/start", "first"))
    assert start.fingerprint == end.fingerprint
    assert json.loads((tmp_path / "second" / "manifest.json").read_text())["config"]["model"]["init_from"] == init[1]
