"""What a page says of two models compared on the same samples."""

from __future__ import annotations

from pathlib import Path

from biomedray.artifacts import Manifest
from biomedray.report.parts import Grid, Section

_NAMES = {"image_to_text": "figure → caption", "text_to_image": "caption → figure", "_": " "}


def comparison_grid(manifest: Manifest) -> Grid:
    """Both models, the difference with its paired interval, p before and after Holm's correction; values in percent."""
    scores = manifest.details
    rows = []
    for name, one in scores["metrics"].items():
        difference = f"{100 * one['value']:+.1f} [{100 * one['low']:+.1f}, {100 * one['high']:+.1f}]"
        rows.append([_named(name), f"{100 * one['a']:.1f}", f"{100 * one['b']:.1f}", difference, _p(one["p"]), _p(one["p_holm"])])
    a, b = (_model(manifest, side) for side in "ab")
    over = f"{scores['clusters']:,} {scores['over']}"
    title = f"{a} (a) against {b} (b): {scores['of']}, {scores['n']:,} samples, paired bootstrap over {over}"
    note = " ".join(f"{text[:1].upper()}{text[1:]}." for text in scores["notes"])
    return Grid(title, ["%", "a", "b", "a - b, 95 % interval", "p", f"p, Holm, {len(rows)} tests"], rows, note)


def comparison_section(folder: Path, manifest: Manifest, _pictures: bool) -> Section:
    """The differences, and McNemar's tests."""
    scores = manifest.details
    facts = [(name.replace("_", " "), f"{value:,}") for name, value in manifest.counts.items()]
    facts += [(f"model {side}", f"{_model(manifest, side)} ({scores[side]['scores']})") for side in "ab"]
    rows = [
        [_named(name), f"{one['only_a_right']:,}", f"{one['only_b_right']:,}", _p(one["p"])]
        for name, one in scores["mcnemar"].items()
    ]
    mcnemar = Grid("McNemar's exact test", ["", "only a is right", "only b is right", "p"], rows)
    lead = "Both models answered the same samples, and each resample draws the same ones for both: how hard they are cancels out."
    return Section(f"Compared: {folder.name}", lead, facts, [comparison_grid(manifest), mcnemar])


def _model(manifest: Manifest, side: str) -> str:
    """The model's name; that of its scores where both have the same."""
    a, b = manifest.details["a"], manifest.details["b"]
    own = manifest.details[side]
    return str(own["scores"] if a["model"] == b["model"] else own["model"])


def _named(name: str) -> str:
    for code, words in _NAMES.items():
        name = name.replace(code, words)
    return name


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1e}"
