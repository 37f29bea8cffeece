"""A run: same bytes twice and after a kill, nothing half-written, flat memory by design, bad input refused."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from biomedray.artifacts import read_manifest
from biomedray.errors import UserError
from biomedray.export import ExportConfig, export
from biomedray.export import run as run_module
from biomedray.export.source import Source, shards
from biomedray.where import parse

SMALL = ExportConfig(rows_per_shard=4)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file but the manifest, which holds times."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    found.pop("manifest.json", None)
    return found


@pytest.mark.parametrize("form", ["webdataset", "jsonl", "huggingface", "card"])
def test_same_input_same_bytes(pairs, tmp_path, form):
    first, second = (export(pairs, tmp_path / name, form, SMALL) for name in ("a", "b"))
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert first.counts == second.counts
    assert read_manifest(tmp_path / "a", "export").counts == first.counts


class Killed(BaseException):
    """What a signal does to a run."""


@pytest.mark.parametrize("form", ["webdataset", "jsonl", "huggingface"])
@pytest.mark.parametrize("after", [0, 1, 3, 5, 9])
def test_a_killed_run_resumes_to_the_same_bytes(pairs, tmp_path, monkeypatch, form, after):
    whole = export(pairs, tmp_path / "whole", form, SMALL)
    left = after
    replace = Path.replace

    def dying(self: Path, target: Path) -> Path:
        nonlocal left
        left -= 1
        if left < 0 and target.name != "run.json":
            raise Killed
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dying)
        with pytest.raises(Killed):
            export(pairs, tmp_path / "out", form, SMALL)
    assert not (tmp_path / "out" / "manifest.json").exists()
    (tmp_path / "out" / ".torn.tar.abc.tmp").write_bytes(b"half")
    resumed = export(pairs, tmp_path / "out", form, SMALL)
    assert resumed.details["resumed"]
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert resumed.counts == whole.counts


DIES = """
import os, signal, sys
from pathlib import Path
from biomedray.export import ExportConfig, export
left, replace = int(sys.argv[4]), Path.replace

def dying(self, target):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, target)

Path.replace = dying
export(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], ExportConfig(rows_per_shard=4))
"""


@pytest.mark.parametrize(("form", "after"), [("webdataset", 3), ("jsonl", 2), ("huggingface", 2)])
def test_kill_9_and_the_same_command_again(pairs, tmp_path, form, after):
    export(pairs, tmp_path / "whole", form, SMALL)
    command = [sys.executable, "-c", DIES, str(pairs), str(tmp_path / "out"), form, str(after)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not (tmp_path / "out" / "manifest.json").exists()
    export(pairs, tmp_path / "out", form, SMALL)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_what_is_there_is_not_written_again(pairs, tmp_path, monkeypatch):
    def stop(*_: object) -> str:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "write_card", stop)
        with pytest.raises(Killed):
            export(pairs, tmp_path / "out", "huggingface", SMALL)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.parquet")}
    export(pairs, tmp_path / "out", "huggingface", SMALL)
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize(
    ("out", "form", "config", "says"),
    [
        ("out", "tfrecord", {}, "there are webdataset, jsonl, huggingface, card"),
        ("out", "jsonl", {"where": "nothing > 3"}, "no column 'nothing'"),
        ("pairs/inside", "jsonl", {}, "inside the pairs"),
        ("full", "jsonl", {}, "not empty"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(make, tmp_path, out, form, config, says):
    pairs = make.write_pairs(tmp_path / "pairs", [make.pair(3)])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(UserError, match=says):
        export(pairs, tmp_path / out, form, ExportConfig(**config))
    assert tree(tmp_path) == before


def test_other_settings_do_not_resume(pairs, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.json").write_text(json.dumps({"kind": "export", "config": "another"}))
    with pytest.raises(UserError, match="another run"):
        export(pairs, tmp_path / "out", "jsonl")


@pytest.mark.parametrize("text", ["", "n_tokens > 0", "image_format == 'png'"])
@pytest.mark.parametrize("per_shard", [1, 3, 4, 100])
def test_shards_are_the_rows_in_order(pairs, text, per_shard):
    source = Source(pairs, parse(text))
    groups = source.groups("train")
    pieces = shards("train", sum(group.rows for group in groups), per_shard)
    found = [table["pair_id"].to_pylist() for piece in pieces for table in source.read(groups, piece, ("pair_id",))]
    wanted = [table["pair_id"].to_pylist() for table in source.rows(source.files("train"), ("pair_id",))]
    assert list(chain.from_iterable(found)) == list(chain.from_iterable(wanted))
    assert all(piece.stop - piece.start == per_shard for piece in pieces[:-1])


def test_no_more_than_a_row_group_is_in_memory(pairs):
    source = Source(pairs, parse(""))
    largest = max(pq.read_metadata(path).row_group(0).num_rows for path in source.files("train"))
    groups = source.groups("train")
    [piece] = shards("train", sum(group.rows for group in groups), 1000)
    assert all(table.num_rows <= largest for table in source.read(groups, piece, ("pair_id", "image")))


def test_an_artifact_without_pairs(make, tmp_path):
    pairs = make.write_pairs(tmp_path / "pairs", [])
    for form in ("webdataset", "jsonl", "huggingface", "card"):
        manifest = export(pairs, tmp_path / form, form)
        assert manifest.counts["pairs"] == 0
        assert (tmp_path / form / "README.md").is_file()


def test_notify_ends_at_all(pairs, tmp_path):
    seen: list[tuple[int, int]] = []
    export(pairs, tmp_path / "out", "webdataset", SMALL, lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] == 26
