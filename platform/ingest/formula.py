"""A formula in one line of text: MathML as ``a^b``, ``a/b``, TeX without the preamble that makes a document of it."""

from __future__ import annotations

import re
from collections.abc import Callable

from biomedray.ingest.jats import Element

_TEX_BODY = re.compile(r"\\begin\{document\}(.*?)\\end\{document\}", re.DOTALL)
_TEX_SIGN = re.compile(
    r"\\usepackage(\[[^\]]*\])?\{[^}]*\}|\\documentclass(\[[^\]]*\])?\{[^}]*\}|\\setlength\{[^}]*\}\{[^}]*\}|\${1,2}|\\[\[\]()]"
)
_MAX_DEPTH = 40


def tex(source: str) -> str:
    r"""A formula's TeX without its preamble and dollar signs: ``\documentclass...$$R_0$$`` is ``R_0``."""
    body = _TEX_BODY.search(source)
    return _TEX_SIGN.sub("", body[1] if body else source)


def has_mathml(tex_math: Element) -> bool:
    """Whether the same formula stands beside this TeX as MathML, so that the TeX says it twice."""
    parent = tex_math.getparent()
    return parent is not None and parent.tag == "alternatives" and next(parent.iter("math"), None) is not None


def mathml(element: Element, depth: int = 0) -> str:
    """MathML in one line: ``a^b``, ``R0``, ``a/b``, ``sqrt(a)``; annotations (the same as TeX) are left out."""
    if depth > _MAX_DEPTH:
        return "".join(element.itertext())
    children = [child for child in element.iterchildren("*") if not child.tag.startswith("annotation")]
    parts = [mathml(child, depth + 1) for child in children]
    if not children:
        return _leaf(element)
    joined = _MATH[element.tag](parts) if element.tag in _MATH and len(parts) == _ARITY[element.tag] else "".join(parts)
    own = (element.text or "") + "".join(child.tail or "" for child in element.iterchildren("*"))
    return joined + own.strip()


def _leaf(element: Element) -> str:
    text = element.text or ""
    if element.tag == "mtext":
        return text
    return " " if element.tag == "mspace" else text.strip()


def _group(part: str) -> str:
    return part if len(part) <= 1 or part.isalnum() else f"({part})"


def _subscript(base: str, index: str) -> str:
    """As in running text: ``R0``, but ``10_2``."""
    return f"{base}_{index}" if base[-1:].isdigit() and index[:1].isdigit() else base + index


_MATH: dict[str, Callable[[list[str]], str]] = {
    "msup": lambda p: f"{p[0]}^{_group(p[1])}",
    "msub": lambda p: _subscript(p[0], p[1]),
    "msubsup": lambda p: f"{_subscript(p[0], p[1])}^{_group(p[2])}",
    "mfrac": lambda p: f"{_group(p[0])}/{_group(p[1])}",
    "msqrt": lambda p: f"sqrt({p[0]})",
}
_ARITY = {"msup": 2, "msub": 2, "msubsup": 3, "mfrac": 2, "msqrt": 1}
