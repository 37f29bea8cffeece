"""What a page says of the leak check: counts by kind, and the scores of what was not known from training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from biomedray.artifacts import Manifest
from biomedray.report.parts import Grid, Section

_KINDS = {
    "same_id": "same pair id",
    "same_bytes": "same file",
    "alike": "alike picture",
    "same_article": "same article",
    "same_caption": "same caption",
}
_LEAD = "Samples that a model may know from its training pairs. A crop, a turn or a redrawn figure is not found."


def leak_grid(found: dict[str, Any]) -> Grid:
    """The check as a table; of scores without one the reason."""
    if not found.get("checked"):
        return Grid("Leak check", ["", ""], [["not checked", str(found.get("reason", ""))]])
    total = found["samples"]
    rows = [[name, f"{found['by'][kind]:,}"] for kind, name in _KINDS.items()]
    rows.append([f"any of these, of {total:,}", f"{found['leaked']:,} ({found['share']:.1%})"])
    rows += [[f"without: {name}", _interval(value)] for name, value in (found.get("without_leaked") or {}).items()]
    trained = [
        f"{one['name']}: {one['pairs']:,} training pairs, {one['without_hash']:,} without a hash" for one in found["against"]
    ]
    unread = f" {found['without_hash']:,} samples can't be decoded." if found["without_hash"] else ""
    return Grid("Leak check", ["known from training", "samples"], rows, f"Against {'; '.join(trained)}.{unread}")


def _interval(value: dict[str, float | None]) -> str:
    if value["value"] is None:
        return "-"
    low, high = (value[name] for name in ("low", "high"))
    shown = "" if low is None or high is None else f" [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{100 * value['value']:.1f}{shown}"


def leak_section(_folder: Path, manifest: Manifest, _pictures: bool) -> Section:
    """Of a check on its own."""
    facts = [("set", str(manifest.details["set"])), ("split", str(manifest.details["split"]))]
    return Section(f"Leak check: {manifest.details['set']}", _LEAD, facts, [leak_grid(manifest.details)])
