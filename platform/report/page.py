"""The HTML page of a report, from its template; all text is escaped, captions are not trusted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from biomedray.artifacts import software_versions
from biomedray.report.parts import Section


def render(title: str, sections: Sequence[Section]) -> str:
    """The whole page as one string."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["svg"] = _svg
    return environment.get_template("template.html").render(title=title, sections=sections, software=software_versions())


def _svg(text: str) -> Markup:
    return Markup(text)  # noqa: S704  # matplotlib wrote it, and it escapes the labels that we gave it
