"""What prompts call the classes: the paper's Supplementary Table 10, MedMNIST's classes, and a user's own words."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from biomedray.errors import UserError
from biomedray.evaluate.sets.image_set import ImageSet

TEMPLATES = ("this is an image of {}", "{} presented in image")
"""Of a set that the paper does not have."""

_EXAMPLE = '{"classes": {"WBC": "white blood cell"}, "templates": ["a photo of {}"]}'


@functools.cache
def table_10() -> dict[str, Any]:
    """Prompts, templates, metric and numbers of the paper's five sets, and their order in its tables."""
    return _json("prompts.json")


def of_paper(name: str) -> dict[str, Any]:
    """The fields of an ImageSet that the paper fixes: classes, prompts, templates, metric, its numbers."""
    entry = table_10()["sets"][name]
    return {
        "classes": tuple(entry["classes"]),
        "prompts": tuple(entry["classes"].values()),
        "templates": tuple(entry["templates"]),
        "metric": entry["metric"],
        "paper": dict(entry["paper"]),
    }


@functools.cache
def medmnist_classes() -> dict[str, Any]:
    """Names of the classes of every flat MedMNIST set that has one label a picture."""
    return _json("medmnist.json")


def words(name: str) -> str:
    """A folder's or label's name as a prompt says it."""
    return name.replace("_", " ").replace("-", " ").strip()


def reworded(
    image_set: ImageSet,
    classes: Mapping[str, str] | None = None,
    templates: Sequence[str] = (),
    file: Path | None = None,
) -> ImageSet:
    """The set with a user's prompts: ``classes`` (class -> words) and ``templates``, or a JSON file with both.

    Raises:
        UserError: the file is no such JSON, a class is unknown, or a template has no {} or several.
    """
    found = _file(file) if file else {}
    chosen = {**found.get("classes", {}), **(classes or {})}
    shapes = tuple(templates) or tuple(found.get("templates", ())) or image_set.templates
    if unknown := sorted(set(chosen) - set(image_set.classes)):
        raise UserError(f"{image_set.name}: no class '{unknown[0]}'; there are {', '.join(image_set.classes)}")
    if bad := [shape for shape in shapes if shape.count("{}") != 1]:
        raise UserError(f"template '{bad[0]}': needs {{}} once, where the class goes, as in '{TEMPLATES[0]}'")
    names = tuple(chosen.get(name, prompt) for name, prompt in zip(image_set.classes, image_set.prompts, strict=True))
    return replace(image_set, prompts=names, templates=shapes)


def _file(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: no JSON ({error}); prompts look like {_EXAMPLE}") from None
    classes, templates = (found.get("classes", {}), found.get("templates", [])) if isinstance(found, dict) else (None, None)
    if not isinstance(classes, dict) or not isinstance(templates, list) or not all(map(_text, [*classes.values(), *templates])):
        raise UserError(f"{path}: not prompts; they look like {_EXAMPLE}")
    return {"classes": classes, "templates": templates}


def _text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _json(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(__file__).parent / name).read_text())
    return found
