"""A user's own search: what may be written, what it makes, and what is refused."""

from __future__ import annotations

from itertools import islice

import pytest
from ray import tune

from biomedray.artifacts import fingerprint
from biomedray.errors import UserError
from biomedray.tune.distinct import Distinct
from biomedray.tune.quest import Quest
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
    trials = quest.fixed() or []
    assert [(t.config.train.lr, t.config.train.batch_size) for t in trials] == [
        (lr, size) for lr in (1e-3, 1e-4) for size in (8, 16, 32)
    ]
    assert len({trial.name for trial in trials}) == 6
    assert [trial.name for trial in trials] == [trial.name for trial in quest.fixed() or []]


@pytest.mark.parametrize("value", [1e-5, 0.1 + 0.2, 3.3e-17, 1e16, 5, "siglip", True, None])
def test_values_arrive_as_they_were_drawn(value: object) -> None:
    names = {str: "train.loss", bool: "train.export_ema", int: "train.epochs", type(None): "train.max_seconds"}
    key = names.get(type(value), "train.lr")
    trial = Quest.of("smoke", [f"{key}=choice({'null' if value is None else value})"], 1, "random", ()).trial({key: value})
    assert getattr(trial.config.train, key.split(".")[1]) == value


def test_random_draws_are_those_of_the_seed_and_each_once() -> None:
    space = ["train.lr=loguniform(1e-4, 1e-2)", "train.weight_decay=uniform(0, 0.3)", "train.batch_size=choice(8, 16)"]
    names = [trial.name for trial in Quest.of("smoke", space, 30, "random", ()).fixed() or []]
    assert len(set(names)) == 30
    assert [trial.name for trial in Quest.of("smoke", space, 40, "random", ()).fixed() or []][:30] == names
    for trial in Quest.of("smoke", space, 30, "random", ()).fixed() or []:
        assert 1e-4 <= trial.config.train.lr <= 1e-2
        assert 0 <= trial.config.train.weight_decay <= 0.3


@pytest.mark.parametrize("how", ["random", "optuna"])
def test_a_space_may_hold_less_than_was_asked_for(how: str) -> None:
    quest = Quest.of("smoke", ["train.batch_size=choice(8, 16, 8)", "train.epochs=randint(1, 4)"], 50, how, ())
    assert quest.most() == 6
    assert len({fingerprint(drawn) for drawn in islice(quest.draws(), 6)}) == 6


def test_optuna_draws_nothing_twice() -> None:
    quest = Quest.of("smoke", ["train.batch_size=choice(8, 16)", "train.epochs=randint(1, 4)"], 6, "optuna", ())
    space = {"train.batch_size": tune.choice([8, 16]), "train.epochs": tune.randint(1, 4)}
    known = {"train.batch_size": 8, "train.epochs": 1}
    points = {"points_to_evaluate": [known], "evaluated_rewards": [0.5]}
    search = Distinct(quest, [known], space=space, metric="score", mode="max", seed=1, **points)
    drawn = [known]
    for name in "abcde":
        drawn.append(search.suggest(name))
        search.on_trial_complete(name, {"score": 0.1})
    assert len({fingerprint(values) for values in drawn}) == 6


@pytest.mark.parametrize(
    ("space", "line"),
    [
        ("train.no_such=choice(1, 2)", "no such setting"),
        ("train.lr=choice(x, 0.1)", "train.lr"),
        ("train.epochs=randint(-5, 3)", "train.epochs"),
        ("train.lr=uniform(0, .inf)", "two numbers"),
    ],
)
def test_a_space_that_fits_no_setting_is_told_before_anything_runs(space: str, line: str) -> None:
    with pytest.raises(UserError, match=line):
        Quest.of("smoke", [space], 3, "random", ())


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
