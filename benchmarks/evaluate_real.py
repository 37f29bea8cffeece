r"""What evaluate says of real sets, all in one report: PneumoniaMNIST, BCCD, PFOCR figures, held-out articles of real packages.

Method: the packages are ingested and a small model is trained on their 510 or so training pairs, in one process; a second one has
the same towers and nothing learnt (one epoch at a learning rate of 1e-12). Both go through the commands that a user types:
retrieval on held-out articles and on PFOCR's figures, zero-shot and probe on PneumoniaMNIST and BCCD, raw pixels at 28 px as the
floor of the probe, the training pairs as --against, and a paired test of the two models on every task. The page that comes of it
is WORK/report.html.

What the numbers can say: that loaders, prompts, intervals, leak check and tests work on real files, how far chance and raw pixels
get, and whether some hundred pairs teach anything that transfers. What they can't: how good this recipe is with PMC's pairs.
510 pairs can't train a useful CLIP; 221 pathway figures are one kind of figure; PneumoniaMNIST is thinned, 28 px, 90 % positive.

Usage: python benchmarks/evaluate_real.py [--data FOLDER] [--work FOLDER] [--epochs 8]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from _measure import REAL_PACKAGES, record

MODELS = ("trained", "untrained")


def biomedray(*arguments: object, out: Path) -> None:
    """One command; what is there from an earlier start is kept."""
    if (out / "manifest.json").is_file():
        return
    command = [sys.executable, "-m", "biomedray.cli", *map(str, arguments), "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


def make(work: Path, data: Path, epochs: int) -> Path:
    """Pairs and both models."""
    pairs = work / "pairs"
    split = ("--set", "val_fraction=0.05", "--set", "test_fraction=0.15")
    biomedray("ingest", data / "packages", pairs, *split, out=pairs)
    for name, changed in (("trained", f"train.epochs={epochs}"), ("untrained", "train.epochs=1")):
        settings = ["--set", "train.max_seconds=null", "--set", changed]
        settings += ["--set", "train.lr=1e-12"] if name == "untrained" else []
        biomedray("train", pairs, work / name, "--no-ray", "--preset", "small", *settings, out=work / name)
    return pairs


def evaluate(work: Path, data: Path, pairs: Path) -> list[Path]:
    """Every task with both models; the folders of the scores."""
    sets, made = data / "eval", []
    against, bccd = ("--against", pairs), ("--option", r"pattern=BloodImage_\d+")
    for name in MODELS:
        model, store = work / name, ("--embeddings", work / "embeddings")
        tasks: dict[str, tuple[object, ...]] = {
            "articles": ("retrieval", pairs, model, *store),
            "pfocr": ("retrieval", sets / "pfocr-cord19", model, *store, *against),
            "pneumonia-zeroshot": ("zeroshot", sets / "pneumoniamnist.npz", model, *store, *against),
            "pneumonia-probe": ("probe", sets / "pneumoniamnist.npz", model, "--floor", *store, *against),
            "bccd-zeroshot": ("zeroshot", sets / "bccd", model, *bccd, *store, *against),
            "bccd-probe": ("probe", sets / "bccd", model, "--floor", *bccd, *store, *against),
        }
        for task, arguments in tasks.items():
            out = work / "scores" / f"{task}-{name}"
            biomedray("evaluate", *arguments, "--out", out, out=out)
            made.append(out)
    return made


def compare(work: Path, scores: list[Path]) -> list[Path]:
    """Trained against untrained, task by task."""
    made = []
    for one in scores[: len(scores) // 2]:
        task = one.name.removesuffix("-trained")
        out = work / "scores" / f"{task}-compared"
        if not (out / "manifest.json").is_file():
            command = ["evaluate", "compare", str(one), str(one.with_name(f"{task}-untrained")), "--out", str(out)]
            subprocess.run([sys.executable, "-m", "biomedray.cli", *command], capture_output=True, check=True)
        made.append(out)
    return made


def summary(folder: Path) -> dict[str, Any]:
    """The main numbers of one scores artifact."""
    scores = json.loads((folder / "scores.json").read_text())
    found: dict[str, Any] = {"n": scores.get("n"), "leaked": scores.get("leak", {}).get("leaked")}
    if scores["task"] == "retrieval":
        found |= {name: scores["metrics"][name] for name in ("image_to_text R@1", "text_to_image R@1", "image_to_text R@10")}
        return found | {"chance R@1": scores["chance"]["R@1"]}
    found |= {name: scores["metrics"][name] for name in ("accuracy", "auroc")}
    if "floor" in scores:
        found["floor"] = {name: scores["floor"]["points"][-1]["metrics"][name] for name in ("accuracy", "auroc")}
    return found


def shown(value: dict[str, Any]) -> str:
    """In percent, with the interval."""
    return f"{100 * value['value']:.1f} [{100 * value['low']:.1f}, {100 * value['high']:.1f}]"


def main() -> None:
    """Run all, write the page and the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=REAL_PACKAGES.parent)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--epochs", type=int, default=8)
    options = parser.parse_args()
    if not options.data.is_dir():
        print("no real data here; nothing measured")
        return
    with tempfile.TemporaryDirectory(prefix="biomedray-evaluate-") as temporary:
        work = options.work or Path(temporary)
        pairs = make(work, options.data, options.epochs)
        scores = evaluate(work, options.data, pairs)
        compared = compare(work, scores)
        pages = [pairs, work / "trained", *scores, *compared]
        command = [sys.executable, "-m", "biomedray.cli", "report", *map(str, pages), str(work / "report.html")]
        subprocess.run(command, capture_output=True, check=True)
        found = {folder.name: summary(folder) for folder in scores}
    record(
        "evaluate-real",
        "real sets, percent with 95 % intervals",
        [row(name, values) for name, values in found.items()],
        scores=found,
    )


def row(name: str, values: dict[str, Any]) -> dict[str, Any]:
    """A line of the table."""
    main_ones = {key: shown(value) for key, value in values.items() if isinstance(value, dict) and "value" in value}
    floor = "; ".join(f"{key} {shown(value)}" for key, value in values.get("floor", {}).items())
    numbers = "; ".join(f"{key} {value}" for key, value in main_ones.items())
    return {"scores": name, "n": values["n"], "found": numbers, "28 px pixels": floor, "leaked": values["leaked"]}


if __name__ == "__main__":
    main()
