"""Typed configuration: frozen models, ``--set key=value`` overrides and YAML files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from biomedray.errors import UserError


class Config(BaseModel):
    """Base of every room's configuration: frozen, no unknown keys, a docstring under each field."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    def resolved(self) -> dict[str, Any]:
        """The whole configuration as plain JSON values, for a manifest."""
        return self.model_dump(mode="json")


C = TypeVar("C", bound=Config)


def override(config: C, assignments: Sequence[str]) -> C:
    """A copy of ``config`` with ``a.b=value`` assignments applied; values are read as YAML.

    Raises:
        UserError: an assignment is malformed, names no field, or its value does not fit.
    """
    values = config.model_dump()
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise UserError(f"--set {assignment}: write key=value, for example --set train.batch_size=256")
        _assign(values, key.strip().split("."), _parse(key, text))
    return _validate(type(config), values)


def merge(config: C, values: Mapping[str, Any]) -> C:
    """A copy of ``config`` with values replaced; a mapping replaces the values of a section that it names.

    Raises:
        UserError: a value does not fit.
    """
    merged = config.model_dump()
    for name, value in values.items():
        merged[name] = {**merged[name], **value} if isinstance(value, Mapping) else value
    return _validate(type(config), merged)


def load_yaml(kind: type[C], path: Path) -> C:
    """A configuration read from a YAML file that replaces the preset."""
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UserError(f"{path}: cannot read the configuration: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: a mapping of settings is wanted")
    return _validate(kind, values)


def _parse(key: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"--set {key}={text}: the value is not valid YAML") from None


def _assign(values: dict[str, Any], path: list[str], value: Any) -> None:
    node = values
    for part in path[:-1]:
        node = node.get(part) if isinstance(node, dict) else None  # type: ignore[assignment]  # checked on the next line
        if not isinstance(node, dict):
            raise UserError(f"--set {'.'.join(path)}: there is no section '{part}'")
    if path[-1] not in node:
        raise UserError(f"--set {'.'.join(path)}: no such setting; there are {', '.join(sorted(node))}")
    node[path[-1]] = value


def _validate(kind: type[C], values: dict[str, Any]) -> C:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or kind.__name__
        raise UserError(f"configuration: {where}: {first['msg']}") from None
