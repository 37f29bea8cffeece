"""Each kind draws what its attributes say, visibly at the size that a small model sees, and says it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from biomedray.corpus.grammar import expand, plain, sentence
from biomedray.corpus.kinds import KINDS, Kind, all_kinds

CONTEXT = {"gene": "TP53", "drug": "aspirin", "condition": "asthma", "author": "Kim"}
CASES = [(kind, name) for kind in KINDS for name in kind.domain]


def small(image: Image.Image) -> np.ndarray:
    return np.asarray(image.resize((64, 64), Image.Resampling.BOX), dtype=np.float32)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("size", [(300, 240), (110, 90), (90, 200)])
def test_drawing_is_a_function_of_its_arguments(kind: Kind, size: tuple[int, int]) -> None:
    attributes = kind.sample(np.random.default_rng(0), {})
    first, second = (kind.draw(np.random.default_rng(1), attributes, size) for _ in range(2))
    assert first.size == size
    assert first.mode == "RGB"
    assert first.tobytes() == second.tobytes()
    assert np.asarray(first).std() > 5


@pytest.mark.parametrize(("kind", "name"), CASES, ids=[f"{kind.name}-{name}" for kind, name in CASES])
def test_each_attribute_is_visible_at_64_pixels(kind: Kind, name: str) -> None:
    # The other attributes are held at values beside which this one has a meaning.
    for seed in range(8):
        held = {key: values[seed % len(values)] for key, values in kind.domain.items()}
        variants = [kind.tidy(held | {name: value}) for value in kind.domain[name]]
        shown = {variant[name]: variant for variant in variants if name in variant}
        if len(shown) >= min(len(kind.domain[name]), 3):
            break
    pictures = [small(kind.draw(np.random.default_rng(9), variant, (300, 300))) for variant in shown.values()]
    assert len(pictures) > 1
    for one, other in pairwise(pictures):
        assert np.abs(one - other).max() > 40


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_phrases_tell_every_attribute(kind: Kind) -> None:
    rng = np.random.default_rng(0)
    for _ in range(40):
        attributes = kind.sample(rng, {})
        phrase = plain(kind.phrase(rng, attributes, CONTEXT))
        assert phrase
        assert not set("{}[]|<>") & set(phrase)
    from biomedray.corpus.kinds import _words

    for template in _words()[kind.name]["phrases"]:
        assert all(f"{{{name}}}" in template for name in kind.domain)


def test_there_are_enough_kinds() -> None:
    assert len(all_kinds()) == len(KINDS) >= 14


def test_fixed_attributes_are_kept_where_they_apply() -> None:
    rng = np.random.default_rng(0)
    assert all_kinds()["histology"].sample(rng, {"organ": "liver"})["organ"] == "liver"
    assert all_kinds()["ct"].sample(rng, {"organ": "liver", "region": "head"})["region"] == "head"
    assert all_kinds()["histology"].sample(rng, {"organ": "spleen"})["organ"] != "spleen"


def test_grammar() -> None:
    rng = np.random.default_rng(0)
    assert expand(rng, "a {x} [b|b]  c", {"x": "{y}", "y": "[d|d]"}) == "a d b c"
    assert sentence("<italic>p</italic> is") == "<italic>P</italic> is."
    assert plain("CO<sub>2</sub> &lt;  5") == "CO2 < 5"
