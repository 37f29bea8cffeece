"""Overrides and YAML files: what fits is applied, what does not is one clear line."""

from __future__ import annotations

import pytest

from biomedray.config import Config, load_yaml, override
from biomedray.errors import UserError


class Inner(Config):
    size: int = 1
    betas: tuple[float, float] = (0.9, 0.98)


class Outer(Config):
    inner: Inner = Inner()
    name: str | None = None


def test_overrides_are_typed_and_the_original_stays():
    base = Outer()
    changed = override(base, ["inner.size=4096", "inner.betas=[0.8, 0.9]", "name=vit"])
    assert changed == Outer(inner=Inner(size=4096, betas=(0.8, 0.9)), name="vit")
    assert base == Outer()


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("inner.size", "write key=value"),
        ("inner.sise=3", "no such setting; there are betas, size"),
        ("outer.size=3", "no section 'outer'"),
        ("name.first=3", "no section 'name'"),
        ("inner.size=big", "inner.size: Input should be a valid integer"),
        ("inner.size=[", "not valid YAML"),
    ],
)
def test_bad_overrides(assignment, message):
    with pytest.raises(UserError, match=message) as raised:
        override(Outer(), [assignment])
    assert "\n" not in str(raised.value)


def test_yaml_replaces_the_preset(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("inner: {size: 7}\n")
    assert load_yaml(Outer, path) == Outer(inner=Inner(size=7))


@pytest.mark.parametrize(
    ("text", "message"), [("[1", "not valid YAML"), ("3", "a mapping"), ("colour: red", "colour"), (None, "cannot read")]
)
def test_bad_yaml(tmp_path, text, message):
    path = tmp_path / "c.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=message):
        load_yaml(Outer, path)
