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
_OPEN, _CLOSE = "([{|\u2016\u27e8", ")]}|\u2016\u27e9"
_OPERATOR = re.compile(r"\S\s*[-+\u2212\u00b1\u00b7\u00d7*/=<>]\s*\S")


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
    joined = _joined(element, children, parts)
    own = (element.text or "") + "".join(child.tail or "" for child in element.iterchildren("*"))
    return joined + own.strip()


def _joined(element: Element, children: list[Element], parts: list[str]) -> str:
    if element.tag in _MATH and len(parts) == _ARITY[element.tag]:
        return _MATH[element.tag](parts)
    if element.tag in _BETWEEN:  # cells of a table, and its rows, would melt into one number
        return _BETWEEN[element.tag].join(filter(None, parts))
    if element.tag == "mfenced":
        return _fenced(element, parts)
    if element.tag == "mmultiscripts":
        return _multiscripts([child.tag for child in children], parts)
    return "".join(parts)


def _fenced(element: Element, parts: list[str]) -> str:
    """``(a,b)``: brackets and commas are attributes here, or their default; the last separator is repeated."""
    marks = "".join(element.get("separators", ",").split())
    marked = [part + (marks[min(i, len(marks) - 1)] if marks else "") for i, part in enumerate(parts[:-1])]
    return f"{element.get('open', '(')}{''.join([*marked, *parts[-1:]])}{element.get('close', ')')}"


def _multiscripts(tags: list[str], parts: list[str]) -> str:
    """Scripts before and after: ``14C`` as in running text, ``C2^+``."""
    middle = tags.index("mprescripts") if "mprescripts" in tags else len(tags)
    after, before = parts[1:middle], parts[middle + 1 :]
    sub, sup = "".join(after[::2]), "".join(after[1::2])
    base = _subscript(parts[0], sub) + (f"^{_group(sup)}" if sup else "")
    low, high = "".join(before[::2]), "".join(before[1::2])
    return _subscript(high, low) + base


def _leaf(element: Element) -> str:
    text = element.text or ""
    if element.tag == "mtext":
        return text
    return " " if element.tag == "mspace" else text.strip()


def _group(part: str) -> str:
    return part if len(part) <= 1 or part.isalnum() else f"({part})"


def _base(part: str) -> str:
    """What is raised to a power: a sum or product is bracketed, unless it is already."""
    bracketed = part[:1] in _OPEN and part[-1:] in _CLOSE
    return f"({part})" if not bracketed and _OPERATOR.search(part) else part


def _subscript(base: str, index: str) -> str:
    """As in running text: ``R0``, but ``10_2``."""
    return f"{base}_{index}" if base[-1:].isdigit() and index[:1].isdigit() else base + index


_MATH: dict[str, Callable[[list[str]], str]] = {
    "msup": lambda p: f"{_base(p[0])}^{_group(p[1])}",
    "mroot": lambda p: f"{_group(p[0])}^(1/{p[1]})",
    "msub": lambda p: _subscript(p[0], p[1]),
    "msubsup": lambda p: f"{_subscript(p[0], p[1])}^{_group(p[2])}",
    "mfrac": lambda p: f"{_group(p[0])}/{_group(p[1])}",
    "msqrt": lambda p: f"sqrt({p[0]})",
}
_BETWEEN = {"mtr": " ", "mlabeledtr": " ", "mtable": "; "}
_ARITY = {"msup": 2, "mroot": 2, "msub": 2, "msubsup": 3, "mfrac": 2, "msqrt": 1}
