"""The whole road, walked once at small size, ending in a table, a report and a served search page's own answers.

    corpus | real articles -> ingest -> train -> evaluate -> index -> serve (asked over HTTP) -> report.html

Each stage hands its artifact to the next on disk; a finished stage is reused, so a killed demo resumes.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from biomedray.artifacts import Manifest, is_finished, read_manifest, write_atomic
from biomedray.errors import UserError, WorkError

_LEAST_COSINE = 0.999  # serving may compute in bfloat16
_SPARKS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class DemoConfig:
    """What a demo run depends on."""

    articles: Path | None = None
    generate: int = 420
    epochs: int = 20
    minutes: float = 2.0
    workers: int = 1
    seed: int = 0

    def identity(self) -> dict[str, Any]:
        """The part that decides whether an existing demo folder is the same demo."""
        values = asdict(self)
        values.pop("workers")
        return values | {"articles": str(self.articles.resolve()) if self.articles else None}


def run_demo(out: Path, config: DemoConfig, console: Console) -> Path:
    """Run or resume every stage; returns the report page.

    Raises:
        UserError: the articles are missing, or ``out`` belongs to another demo.
        WorkError: a served answer disagrees with the model.
    """
    _claim(out, config)
    started = time.monotonic()
    pairs = _pairs(out, config, console)
    model = _stage(console, "train", out / "model", lambda folder: _train(out / "pairs", folder, config))
    scores = _stage(console, "evaluate", out / "scores", lambda folder: _evaluate(out, folder))
    index = _stage(console, "index", out / "index", lambda folder: _index(out, folder))
    console.rule("serve", align="left")
    answers = _ask(out)
    write_atomic(out / "http.json", json.dumps(answers, indent=2) + "\n")
    report = _report(out, answers)
    console.print(_closing_table(pairs, model, scores, index, answers))
    console.print(f"{time.monotonic() - started:.0f} s.   report: [bold]{report}[/bold]")
    console.print(
        f"search page: [bold]biomedray serve {out / 'model'} --index {out / 'index'}[/bold], then open http://127.0.0.1:8000/"
    )
    return report


def _claim(out: Path, config: DemoConfig) -> None:
    if config.articles is not None and not config.articles.exists():
        raise UserError(f"{config.articles}: no such folder; name a folder of articles, or leave --articles out to generate some")
    path, identity = out / "demo.json", config.identity()
    if path.is_file():
        if json.loads(path.read_text()) != identity:
            raise UserError(f"{out}: holds a demo with other settings; choose another --out or delete it")
        return
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"{out}: is not empty and not a demo; choose another --out")
    write_atomic(path, json.dumps(identity))


def _stage(console: Console, name: str, folder: Path, make: Callable[[Path], Manifest]) -> Manifest:
    console.rule(name, align="left")
    if is_finished(folder):
        console.print(f"{folder}: found, reused")
        return read_manifest(folder)
    return make(folder)


def _pairs(out: Path, config: DemoConfig, console: Console) -> Manifest:
    from biomedray.corpus import generate
    from biomedray.ingest import IngestConfig, ingest

    source = config.articles
    if source is None:
        source = out / "corpus"
        _stage(console, "corpus", source, lambda folder: generate(folder, config.generate, config.seed, "mixed", broken=0.05))
    settings = IngestConfig(seed=config.seed, val_fraction=0.06, test_fraction=0.12)
    return _stage(console, "ingest", out / "pairs", lambda folder: ingest([str(source)], folder, settings))


def _train(pairs: Path, folder: Path, config: DemoConfig) -> Manifest:
    from biomedray.config import override
    from biomedray.train import preset, train

    limits = [f"train.epochs={config.epochs}", f"train.max_seconds={60 * config.minutes}", f"train.seed={config.seed}"]
    return train(pairs, folder, override(preset("demo"), limits), config.workers)


def _evaluate(out: Path, folder: Path) -> Manifest:
    from biomedray.evaluate import retrieval

    return retrieval(out / "pairs", str(out / "model"), folder)


def _index(out: Path, folder: Path) -> Manifest:
    from biomedray.serve import build_index

    return build_index(out / "pairs", out / "model", folder)


def _ask(out: Path) -> dict[str, Any]:
    """Serve the model on a free port, ask as a client would, compare with the model itself, stop serving."""
    from biomedray.model.encoder import Encoder
    from biomedray.serve import serve, stop
    from biomedray.serve.client import Client

    images, captions = _held_out(out / "pairs", 64)
    encoder = Encoder.load(out / "model")
    port = _free_port()
    serve(str(out / "model"), out / "index", port=port, block=False)
    try:
        client = Client(f"http://127.0.0.1:{port}")
        answers: dict[str, Any] = {
            "precision": client.info()["model"]["precision"],
            "text_least_cosine": _least_cosine(client.embed_texts(captions[:8]), encoder.encode_texts(captions[:8])),
            "image_least_cosine": _least_cosine(client.embed_images(images[:8]), encoder.encode_images(images[:8])),
            "texts_per_second": _rate(client.embed_texts, captions),
            "images_per_second": _rate(client.embed_images, images),
            "query": captions[0],
            "hits": client.search(text=captions[0], k=4),
        }
    finally:
        stop()
    if (least := min(answers["text_least_cosine"], answers["image_least_cosine"])) < _LEAST_COSINE:
        raise WorkError(f"served embeddings differ from the model's own: a cosine of {least:.4f}")
    return answers


def _least_cosine(one: Any, other: Any) -> float:
    return float((one * other).sum(axis=1).min())


def _held_out(pairs: Path, count: int) -> tuple[list[bytes], list[str]]:
    files = sorted((pairs / "data" / "split=test").glob("*.parquet"))
    rows = [row for path in files for row in pq.read_table(path, columns=["image", "caption"], partitioning=None).to_pylist()]
    return [row["image"] for row in rows[:count]], [row["caption"] for row in rows[:count]]


def _rate(embed: Callable[[list[Any]], Any], items: list[Any], seconds: float = 3.0) -> float:
    """Items a second over HTTP, one client, whole batches, for about ``seconds``."""
    embed(items)
    started, done = time.monotonic(), 0
    while time.monotonic() - started < seconds:
        embed(items)
        done += len(items)
    return done / (time.monotonic() - started)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _report(out: Path, answers: dict[str, Any]) -> Path:
    from biomedray.report import write_report

    stages = [out / name for name in ("pairs", "model", "scores", "index")]
    return write_report(stages, out / "report.html", "biomedray demo", [_http_section(out, answers)])


def _http_section(out: Path, answers: dict[str, Any]) -> Any:
    from biomedray.report.parts import Gallery, Section
    from biomedray.report.pictures import Picture, pictures_of

    shown = pictures_of(out / "pairs", [hit["pair_id"] for hit in answers["hits"]])
    pictures = [
        Picture(p.pair_id, p.image, p.caption, p.source, f"{i} · {hit['score']:.2f}")
        for i, hit in enumerate(answers["hits"], 1)
        if (p := shown.get(hit["pair_id"]))
    ]
    facts = [
        ("texts embedded a second", f"{answers['texts_per_second']:.0f}"),
        ("images embedded a second", f"{answers['images_per_second']:.0f}"),
        ("computed in", answers["precision"]),
        (
            "least cosine to the model's own in float32",
            f"{min(answers['text_least_cosine'], answers['image_least_cosine']):.5f}",
        ),
    ]
    lead = "Asked over HTTP on this machine: one client, batches of up to 64, JSON with base64 vectors."
    return Section("Served", lead, facts, galleries=[Gallery(f"Search: “{answers['query']}”", pictures)])


def _closing_table(pairs: Manifest, model: Manifest, scores: Manifest, index: Manifest, answers: dict[str, Any]) -> Table:
    from biomedray.report.retrieval import retrieval_grid

    table = Table(title="biomedray demo", show_header=False, title_justify="left")
    table.add_row("articles", f"{pairs.counts['articles']:,}")
    table.add_row("pairs", _pairs_line(pairs))
    for title, counts in (("article", "article_rejects_by_reason"), ("graphic", "rejects_by_reason")):
        table.add_row(f"  rejects, {title}", _counts_line(pairs.counts[counts]))
    history = model.details["history"]
    table.add_row("training loss", f"{_spark([e['train_loss'] for e in history])}  {_ends(history)}")
    grid = retrieval_grid(scores)
    for row in grid.rows:
        table.add_row(
            row[0], "   ".join(f"{k} {cell}" for k, cell in zip(grid.header[1:4], row[1:4], strict=True)) + f"   {row[-1]} chance"
        )
    table.add_row("index", f"{index.counts['rows']:,} figures")
    table.add_row("over HTTP", f"{answers['texts_per_second']:.0f} texts/s, {answers['images_per_second']:.0f} images/s")
    hit = answers["hits"][0]
    table.add_row("search", f"“{_short(answers['query'])}”")
    table.add_row("  first hit", f"{hit['score']:.2f}  {hit['pair_id']}  “{_short(hit['caption'])}”")
    return table


def _pairs_line(pairs: Manifest) -> str:
    splits = ", ".join(f"{n:,} {split}" for split, n in pairs.counts["pairs_by_split"].items())
    return f"{pairs.counts['pairs']:,} ({splits})"


def _counts_line(counts: dict[str, int]) -> str:
    return ", ".join(f"{n:,} {reason}" for reason, n in counts.items()) or "none"


def _ends(history: list[dict[str, Any]]) -> str:
    return f"{history[0]['train_loss']:.2f} → {history[-1]['train_loss']:.2f} in {len(history)} epochs"


def _spark(values: list[float]) -> str:
    low, high = min(values), max(values)
    return "".join(_SPARKS[round((v - low) / ((high - low) or 1) * (len(_SPARKS) - 1))] for v in values)


def _short(text: str, limit: int = 110) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
