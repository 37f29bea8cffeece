r"""Held-out R@1 of the preset small on the generated corpus, against what the corpus allows, and on real articles.

Method: a generated corpus is ingested; its test split is held out by article. The model is trained by the preset in one
process with one thread (no Ray), in CPU seconds, since a machine that others use as well says nothing by its clock: two
cores have 1,800 of them in 15 minutes. For the same reason the preset's time limit is replaced by a number of epochs.
Retrieval is exact over all test pairs; a twin of the gold caption is gold, a tie with another one is a miss.

The ceiling is an oracle's R@1. It knows from truth.jsonl every panel's kind and attributes of each picture, and which
panels each caption tells of, ranks by the share of panels that agree (Jaccard over multisets, order breaks ties), and
picks at random among what still ties: pictures that show the same can't be told apart by anyone who only sees them.
Chance is the expectation of a random order. Intervals are a bootstrap over articles.

Usage: python benchmarks/train_small.py [--articles 1500] [--epochs 6] [--work FOLDER] [--real FOLDER of packages]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from _measure import REAL_PACKAGES, child, record, work

CPU_LIMIT = 1800
Panels = Sequence[Any]


def train(pairs: str, out: str, epochs: str) -> dict[str, Any]:
    """In the child: the preset, then retrieval over the test split."""
    import torch

    from biomedray.config import override
    from biomedray.train import preset, train_alone

    torch.set_num_threads(1)
    config = override(preset("small"), ["train.max_seconds=null", f"train.epochs={epochs}"])
    manifest = train_alone(pairs, Path(out), config, progress=False)
    assert manifest is not None
    return {"train_pairs": manifest.counts["pairs_by_split"]["train"], "samples": manifest.counts["samples_seen"]}


def scores(pairs: Path, model: Path) -> dict[str, Any]:
    """R@1 and R@10 both ways over the test split, with intervals and chance."""
    from biomedray.evaluate.measures import chance, recall
    from biomedray.evaluate.ranking import rank_both
    from biomedray.evaluate.stats import number_groups
    from biomedray.model import load

    rows = test_rows(pairs, ["pmcid", "caption", "image"])
    encoder = load(model)
    images, texts = encoder.encode_images([row["image"] for row in rows]), encoder.encode_texts([row["caption"] for row in rows])
    groups, articles = (number_groups([row[name] for row in rows]) for name in ("caption", "pmcid"))
    found: dict[str, Any] = {"candidates": len(rows), "chance_r1": chance(groups)[1]}
    for way, ranking in zip(("i2t", "t2i"), rank_both(images, texts, groups), strict=True):
        result = recall(ranking, articles)
        found |= {f"r1_{way}": result.at[1].value, f"r1_{way}_low": result.at[1].low, f"r1_{way}_high": result.at[1].high}
        found[f"r10_{way}"] = result.at[10].value
    return found


def test_rows(pairs: Path, columns: list[str]) -> list[dict[str, Any]]:
    """Rows of the test split in the order of the files."""
    files = sorted((pairs / "data" / "split=test").glob("*.parquet"))
    return [row for path in files for row in pq.read_table(path, columns=columns, partitioning=None).to_pylist()]


def ceiling(corpus: Path, pairs: Path) -> dict[str, float]:
    """R@1 of the oracle, both ways."""
    shown, told = known(corpus)
    rows = test_rows(pairs, ["pair_id", "caption"])
    agreement = np.array([[agree(shown[row["pair_id"]], told[other["pair_id"]]) for other in rows] for row in rows])
    captions = np.array([row["caption"] for row in rows])
    gold = captions[:, None] == captions[None, :]
    return {"ceiling_i2t": drawn(agreement, gold), "ceiling_t2i": drawn(agreement.T, gold)}


def known(corpus: Path) -> tuple[dict[str, Panels], dict[str, Panels]]:
    """By pair id: the panels of its picture, and those that its caption tells of."""
    shown: dict[str, Panels] = {}
    told: dict[str, Panels] = {}
    for line in (corpus / "truth.jsonl").read_text().splitlines():
        article = json.loads(line)
        for figure in article["figures"]:
            kept = [graphic for graphic in figure["graphics"] if graphic["expected"].get("outcome") == "pair"]
            everything = [panel for graphic in kept for panel in content(graphic)]
            for graphic in figure["graphics"]:
                pair_id = f"{article['pmcid']}.{article['version']}/{figure['fig_id']}/{graphic['index']}"
                shown[pair_id], told[pair_id] = content(graphic), everything
    return shown, told


def content(graphic: dict[str, Any]) -> Panels:
    """What can be seen: kind and attributes of each panel."""
    return [(panel["kind"], *sorted(panel["attributes"].items())) for panel in graphic["panels"]]


def agree(shown: Panels, told: Panels) -> float:
    """Share of panels in common, and a little for the same order."""
    first, second = Counter(shown), Counter(told)
    return (first & second).total() / max(1, (first | second).total()) + (0.01 if list(shown) == list(told) else 0)


def drawn(agreement: Any, gold: Any) -> float:
    """Expected R@1 when the answer is drawn from the best ones."""
    best = agreement >= agreement.max(axis=1, keepdims=True) - 1e-9
    return float(((best & gold).sum(axis=1) / best.sum(axis=1)).mean())


def generated(folder: Path, articles: int, seed: int) -> tuple[Path, Path]:
    """A corpus and its pairs, reused if they are there."""
    corpus, pairs = folder / "corpus", folder / "pairs"
    if not (corpus / "manifest.json").is_file():
        biomedray("corpus", corpus, "--articles", articles, "--seed", seed, "--quiet")
    if not (pairs / "manifest.json").is_file():
        biomedray("ingest", corpus, pairs, "--set", "val_fraction=0.03", "--set", "test_fraction=0.06", "--quiet")
    return corpus, pairs


def biomedray(*arguments: object) -> None:
    """A command of the package in a process of its own."""
    subprocess.run([sys.executable, "-m", "biomedray.cli", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def measured(name: str, pairs: Path, model: Path, epochs: int) -> dict[str, Any]:
    """One training and its scores."""
    kept = model.with_suffix(".json")  # so that scores can be had again without another training
    if not (model / "manifest.json").is_file():
        kept.write_text(json.dumps(child(__file__, "train", pairs, model, epochs)))
    found = json.loads(kept.read_text())
    row = {"corpus": name, "epochs": epochs, **found, **scores(pairs, model)}
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}


def on_generated(folder: Path, articles: int, epochs: int, seed: int) -> dict[str, Any]:
    """The row of the generated corpus, with what it reaches of the ceiling."""
    corpus, pairs = generated(folder, articles, seed)
    row = measured("generated", pairs, folder / f"model-{epochs}", epochs)
    top = ceiling(corpus, pairs)
    share = {f"of_ceiling_{way}": row[f"r1_{way}"] / top[f"ceiling_{way}"] for way in ("i2t", "t2i")}
    return row | {key: round(value, 4) for key, value in (top | share).items()} | {"cpu_limit_s": CPU_LIMIT}


def on_real(folder: Path, packages: Path, epochs: int) -> dict[str, Any]:
    """The row of real articles; they have no known truth, so only chance stands beside it."""
    pairs = folder / "real-pairs"
    if not (pairs / "manifest.json").is_file():
        biomedray("ingest", packages, pairs, "--set", "val_fraction=0.1", "--set", "test_fraction=0.2", "--quiet")
    return measured("real", pairs, folder / f"real-model-{epochs}", epochs)


def rows_of(options: argparse.Namespace, folder: Path) -> Iterable[dict[str, Any]]:
    """What was asked for."""
    if options.articles:
        yield on_generated(folder, options.articles, options.epochs, options.seed)
    if options.real is not None and options.real.is_dir():
        yield on_real(folder, options.real, options.real_epochs)


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--articles", type=int, default=1500, help="0: only real ones")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--real", type=Path, default=REAL_PACKAGES)
    parser.add_argument("--real-epochs", type=int, default=8)
    parser.add_argument("--work", type=Path, help="keep corpus, pairs and models here; what is there is reused")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="biomedray-small-") as name:
        rows = list(rows_of(options, options.work or Path(name)))
    for row in rows:
        name = "train-small" if row["corpus"] == "generated" else "train-small-real"
        record(name, "preset small, one thread, test split held out by article", [row])


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        work({"train": train}, sys.argv[2], sys.argv[3:])
    else:
        main()
