"""The command line: bad input is one clear line and exit code 2, nothing half-written; help teaches."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from biomedray import cli
from biomedray.artifacts import Manifest, write_manifest


def run(monkeypatch, capfd, *arguments: object) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["biomedray", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    captured = capfd.readouterr()
    return int(ended.value.code or 0), captured.out, captured.err


def tree(folder: Path) -> list[tuple[str, bytes | None]]:
    return sorted((str(p.relative_to(folder)), p.read_bytes() if p.is_file() else None) for p in folder.rglob("*"))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with one of everything that a user may name by mistake."""
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "letters", "weightless", "parts"):
        (tmp_path / name).mkdir()
    (tmp_path / "letters" / "readme.txt").write_text("no article here")
    (tmp_path / "parts" / "run.json").write_text(json.dumps({"kind": "pairs", "config": "another"}))
    (tmp_path / "weightless" / "open_clip_config.json").write_text("{}")
    (tmp_path / "article.xml").write_text("<article><body/></article>")
    write_manifest(tmp_path / "pairs", Manifest(kind="pairs", name="pairs"))
    write_manifest(tmp_path / "corpus", Manifest(kind="corpus", name="corpus"))
    return tmp_path


BAD = [
    ("ingest missing out", "missing: no such"),
    ("ingest empty out", "empty"),
    ("ingest letters out", "no article"),
    ("ingest article.xml", "needs a SOURCE and an OUT"),
    ("ingest article.xml pairs", "finished pairs"),
    ("ingest article.xml parts", "another run"),
    ("ingest article.xml letters", "not empty"),
    ("ingest article.xml out --set colour=red", "no such setting"),
    ("tune pairs out --ablation loss --trials 4", "--trials goes with --space"),
    ("tune pairs out --space train.lr=choice(0.1) --seeds 3", "--seeds goes with --ablation"),
    ("tune pairs out --space train.nokey=choice(1,2)", "--space train.nokey: no such setting"),
    ("tune pairs out --ablation image-size --zeroshot a=x --zeroshot a=y", "each once"),
    ("ingest article.xml out --config nowhere.yaml", "cannot read"),
    ("ingest article.xml out --filter n_tokens", "not true or false"),
    ("ingest article.xml out --filter tokens>5", "no column"),
    ("ingest article.xml missing --update", "missing: no such folder"),
    ("ingest article.xml pairs --update", "new folder"),
    ("ingest article.xml pairs --update --set seed=1", "keeps the settings"),
    ("ingest article.xml out --set near_duplicate_bits=9", "near_duplicate_bits"),
    ("train missing out", "missing: no such folder"),
    ("train letters out", "not a pairs artifact"),
    ("train corpus out", "a corpus artifact, but a pairs artifact is wanted"),
    ("train pairs out --preset gigantic", "gigantic"),
    ("train pairs out --set train.batch=4", "no such setting"),
    ("train pairs out", "pair"),
    ("evaluate retrieval pairs weightless --out out", "weightless"),
    ("evaluate retrieval pairs missing --out out", "missing"),
    ("evaluate retrieval letters weightless --out out", "not a set of captions"),
    ("index pairs weightless out", "weightless"),
    ("index missing weightless out", "missing: no such folder"),
    ("serve missing", "missing"),
    ("serve weightless", "weightless"),
    ("corpus letters --articles 2", "not empty"),
    ("corpus corpus --articles 2", "finished corpus"),
    ("inspect letters", "not a"),
    ("inspect missing", "no such folder"),
    ("report pairs", "biomedray report"),
    ("report letters out.html", "not a"),
    ("export pairs out --format jsonl --where colour==3", "no column 'colour'"),
    ("export pairs out --format jsonl --set rows=3", "no such setting"),
    ("export pairs letters --format card", "not empty"),
    ("export corpus out --format card", "a corpus artifact, but a pairs artifact is wanted"),
    ("demo --out letters", "not empty"),
    ("demo --out out --articles missing", "missing: no such"),
]


@pytest.mark.parametrize(("command", "says"), BAD, ids=[command for command, _ in BAD])
def test_bad_input_is_one_line_and_exit_code_2(place, monkeypatch, capfd, command, says):
    before = tree(place)
    code, _, err = run(monkeypatch, capfd, *command.split())
    lines = [line for line in err.splitlines() if line.strip()]
    assert code == 2
    assert lines[-1].startswith("biomedray: ")
    assert says in lines[-1]
    assert "Traceback" not in err
    assert tree(place) == before


@pytest.mark.parametrize(
    "command",
    [
        "",
        "corpus x --layout ftp",
        "corpus x --articles none",
        "train",
        "sing",
        "export pairs out",
        "export pairs out --format tfrecord",
    ],
)
def test_usage_errors_are_exit_code_2(place, monkeypatch, capfd, command):
    assert run(monkeypatch, capfd, *command.split())[0] == 2


@pytest.mark.parametrize(
    "command",
    [
        "",
        "demo",
        "corpus",
        "ingest",
        "train",
        "evaluate",
        "evaluate retrieval",
        "evaluate compare",
        "export",
        "index",
        "serve",
        "inspect",
        "report",
    ],
)
def test_help_teaches(monkeypatch, capfd, command):
    code, out, _ = run(monkeypatch, capfd, *command.split(), "--help")
    assert code == 0
    assert "Usage" in out
    assert len(out.split()) > 25


def test_version(monkeypatch, capfd):
    code, out, _ = run(monkeypatch, capfd, "--version")
    assert code == 0
    assert out.startswith("biomedray 0.")
