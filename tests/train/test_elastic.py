"""A cluster that shrinks, grows and shrinks again under a run changes nothing of what is trained on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from biomedray.config import override
from biomedray.train import preset
from biomedray.train.feed import Feed, FeedSettings
from biomedray.train.plan import Plan
from biomedray.train.rows import index_rows
from biomedray.train.source import Source
from biomedray.train.together import fingerprint_of
from biomedray.train.watch import METRICS, read_lines


@pytest.fixture(scope="module")
def elastic(load_module):
    return load_module(Path(__file__).with_name("elastic.py"))


def test_a_batch_has_one_fingerprint_however_it_is_dealt_out(together):
    names = [f"PMC{i}.1/F1/0" for i in range(24)]
    whole = fingerprint_of(names, "cpu")
    assert whole == fingerprint_of(reversed(names), "cpu")
    assert whole not in (fingerprint_of(names[1:], "cpu"), fingerprint_of([*names[1:], "PMC99.1/F1/0"], "cpu"))
    assert [found["fingerprint"] for found in together] == [whole, whole]


@pytest.mark.heavy
def test_a_run_whose_machines_go_and_come(elastic, pairs, tmp_path):
    """One is lost, one joins, and that is taken away after a warning: which pairs each step saw is as in an unbroken run."""
    out, result = tmp_path / "model", tmp_path / "result.json"
    command = [sys.executable, elastic.__file__, str(pairs), str(out), str(result)]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment["OMP_NUM_THREADS"] = "1"
    subprocess.run(command, check=True, env=environment, timeout=1150)
    told = json.loads(result.read_text())
    assert told["trouble"] == []
    steps = [line for line in read_lines(out / METRICS) if line["kind"] == "step"]
    assert [line["samples_seen"] for line in steps] == list(range(24, 961, 24))
    assert [line["pairs"] for line in steps] == unbroken(elastic, pairs)
    workers = [line["workers"] for line in steps]
    assert [workers[i] for i in range(len(workers)) if i == 0 or workers[i] != workers[i - 1]] == [2, 1, 2, 1]
    assert [told[event]["seen"] - told[event]["saved"] for event in ("lost", "found", "warned")] == [48, 48, 48]
    assert told["heard"] == {"seen": 456, "saved": 456}, "a warning is heeded after the very next step"
    went_on = dict.fromkeys(int(text.split()[3]) for text in told["restarts"])
    assert list(went_on) == [120, 288, 456], "what was done since the last checkpoint is done again, and no more"


def unbroken(elastic, pairs):
    """Fingerprints of the batches of one process."""
    config = override(preset("smoke"), elastic.SETTINGS)
    source = Source.of(pairs)
    index = index_rows(source, "train")
    with Feed(source, index, FeedSettings(config.data, 32, config.train.seed)) as feed:
        return [fingerprint_of(batch.pair_ids, "cpu") for batch in feed.batches(Plan(index.rows, config.train).batches())]
