"""Several sets scored in one go: the paper's table of zero-shot results, its columns in its order beside our measured ones.

OUT/pcam/ OUT/lc25000-lung/ ...   a scores artifact each       OUT/scores.json   columns, mean, the paper's numbers for reference
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from biomedray.artifacts import Manifest, claim_output, is_finished, read_manifest
from biomedray.evaluate import leaks
from biomedray.evaluate.labelled import EMBEDDINGS, Clock, Located, finish
from biomedray.evaluate.models import Model
from biomedray.evaluate.sets.prompts import table_10
from biomedray.evaluate.zero_shot import write_zero_shot


def in_paper_order(sets: Sequence[Located]) -> list[Located]:
    """The paper's sets in its order, then the others as they came."""
    order = table_10()["order"]
    return sorted(sets, key=lambda one: order.index(one[0].name) if one[0].name in order else len(order))


def columns(scores: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A column for each set: its number with the interval, what it is drawn over, and the paper's number in percent."""
    titles = {name: entry["title"] for name, entry in table_10()["sets"].items()}
    return [
        {
            "set": found["set"],
            "title": titles.get(found["set"], found["set"]),
            "metric": found["metric"],
            **found["metrics"][found["metric"]],
            **{name: found[name] for name in ("split", "n", "groups", "over", "paper")},
        }
        for found in scores
    ]


def table_scores(found: Sequence[dict[str, Any]], model: str) -> dict[str, Any]:
    """What scores.json of the table says; the mean is over the paper's five sets, where all are there."""
    shown = columns(found)
    five = table_10()["order"]
    ours = {column["set"]: column["value"] for column in shown}
    complete = set(five) <= set(ours) and all(ours[name] is not None for name in five)
    mean = float(np.mean([ours[name] for name in five])) if complete else None
    missing = [name for name in five if name not in ours]
    return {
        "task": "table",
        "model": model,
        "columns": shown,
        "mean": {"value": mean, "of": five, "missing": missing, "paper": table_10()["mean"]},
        "n": sum(column["n"] for column in shown),
    }


def write_table(
    sets: Sequence[Located],
    split: str,
    spec: str | Path,
    model: Model,
    out: Path,
    *,
    store: Path | None = None,
    resamples: int = 1000,
    against: Sequence[Path] = (),
    progress: bool = True,
) -> Manifest:
    """Score every set into a folder of ``out``, then the table; a killed run goes on with the set it was at.

    Raises:
        UserError: as ``write_zero_shot``.
    """
    clock = Clock()
    ordered = in_paper_order(sets)
    for data, _ in ordered:
        data.part(split)  # before hours of work on the others
    wording = [[data.fingerprint, data.prompts, data.templates] for data, _ in ordered]
    config = {"task": "table", "sets": wording, "split": split, "model": model.fingerprint, "resamples": resamples}
    config |= {"against": leaks.identities(against)}
    claim_output(out, "scores", config)
    manifests = []
    for data, where in ordered:
        folder, shared = out / data.name, store or out / EMBEDDINGS
        if not is_finished(folder):
            more: dict[str, Any] = {"store": shared, "resamples": resamples, "against": against, "progress": progress}
            write_zero_shot(data, where, split, spec, model, folder, **more)
        manifests.append(read_manifest(folder, "scores"))
    inputs = [one for manifest in manifests for one in manifest.inputs if one["name"] == "set"] + [manifests[0].inputs[1]]
    return finish(out, config, inputs, table_scores([manifest.details for manifest in manifests], model.name), clock())
