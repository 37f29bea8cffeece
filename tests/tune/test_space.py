"""A user's own search: what may be written, what it makes, and what is refused."""

from __future__ import annotations

import pytest

from biomedray.errors import UserError
from biomedray.tune.run import Quest
from biomedray.tune.space import Dimension, parse


def test_kinds() -> None:
    texts = ["train.lr=loguniform(1e-4, 1e-2)", "model.image_size=choice(77, 256)", "train.loss = grid(infonce, siglip)"]
    assert parse(texts) == [
        Dimension("train.lr", "loguniform", (1e-4, 1e-2)),
        Dimension("model.image_size", "choice", (77, 256)),
        Dimension("train.loss", "grid", ("infonce", "siglip")),
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("train.lr", "KEY=KIND"),
        ("train.lr=normal(0, 1)", "kinds: choice"),
        ("train.lr=uniform(2, 1)", "the lower first"),
        ("train.lr=loguniform(0, 1)", "above 0"),
        ("train.epochs=randint(1.5, 3)", "whole numbers"),
        ("train.lr=choice()", "at least one"),
        ("train.lr=uniform(a, b)", "two numbers"),
        ("train.lr=uniform([1, 2)", "can't be read"),
    ],
)
def test_what_cannot_be_read_is_told(text: str, line: str) -> None:
    with pytest.raises(UserError, match=line):
        parse([text])


def test_a_grid_is_every_combination() -> None:
    quest = Quest.of("smoke", ["train.lr=grid(1e-3, 1e-4)", "train.batch_size=grid(8, 16, 32)"], 0, "grid", ())
    trials = quest.grid()
    assert [(t.config.train.lr, t.config.train.batch_size) for t in trials] == [
        (lr, size) for lr in (1e-3, 1e-4) for size in (8, 16, 32)
    ]
    assert len({trial.name for trial in trials}) == 6
    assert [trial.name for trial in trials] == [trial.name for trial in quest.grid()]


@pytest.mark.parametrize("value", [1e-5, 0.1 + 0.2, 3.3e-17, 5, "siglip", True])
def test_values_arrive_as_they_were_drawn(value: object) -> None:
    key = {str: "train.loss", bool: "train.export_ema", int: "train.epochs"}.get(type(value), "train.lr")
    trial = Quest.of("smoke", [f"{key}=choice({value})"], 1, "random", ()).trial({key: value})
    assert getattr(trial.config.train, key.split(".")[1]) == value


@pytest.mark.parametrize(
    ("space", "how", "line"),
    [
        ([], "optuna", "name what is to be tried"),
        (["train.lr=grid(1, 2)"], "optuna", "goes with --search grid"),
        (["train.lr=uniform(1, 2)"], "grid", "every --space must be grid"),
        (["train.lr=uniform(1, 2)", "train.lr=choice(1)"], "random", "named twice"),
    ],
)
def test_what_does_not_go_together_is_told(space: list[str], how: str, line: str) -> None:
    with pytest.raises(UserError, match=line):
        Quest.of("smoke", space, 4, how, ())
