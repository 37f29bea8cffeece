"""A sweep without Ray: what is open, what a second start runs, what is written, and what is refused."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from biomedray.artifacts import read_manifest
from biomedray.errors import UserError, WorkError
from biomedray.report import write_report
from biomedray.tune import ablate, search, sweep
from biomedray.tune.presets import ablation
from biomedray.tune.quest import Quest
from biomedray.tune.run import Options, Study, plan
from biomedray.tune.trial import Outcome, Trial, read_outcome

Run = Callable[[Trial, Path], None]


def finished(trial: Trial, folder: Path) -> None:
    value = 0.1 + 0.01 * len(trial.variant) + 0.001 * trial.seed
    metrics = {"val_loss": 1.0, "val_r1_i2t": value, "val_r1_t2i": value, "train_seconds": 3.0}
    history = [{"epoch": 0, "samples_seen": 48, **metrics}]
    Outcome(
        trial.name, trial.variant, trial.seed, "finished", "", metrics, history, 48, 3.0, "CPU", settings=trial.settings
    ).write(folder)


@pytest.fixture
def tuned(monkeypatch: pytest.MonkeyPatch) -> Callable[[Run], list[str]]:
    """Puts a function in the place of Ray Tune; gives back the names of the trials that it is asked to run."""

    def install(run: Run) -> list[str]:
        ran: list[str] = []

        def grid(trials: Sequence[Trial], shared: Any, *_: Any) -> None:
            for trial in trials:
                ran.append(trial.name)
                run(trial, trial.folder(shared.out))

        def drawn(quest: Quest, taken: Sequence[Any], _done: Any, shared: Any, *_: Any) -> None:
            for n in range(len(taken), quest.most()):
                trial = quest.trial({"train.lr": 0.001 * (n + 1)})
                trial.note(shared.out)
                ran.append(trial.name)
                run(trial, trial.folder(shared.out))

        monkeypatch.setattr(sweep, "start", lambda: "")
        monkeypatch.setattr(sweep, "concurrency", lambda *_: 1)
        monkeypatch.setattr(sweep, "run_grid", grid)
        monkeypatch.setattr(sweep, "run_search", drawn)
        return ran

    return install


def go(toy: Path, out: Path, **more: Any) -> Any:
    return ablate(toy, out, "context-length", "smoke", seeds=2, **more)


def test_tables_and_manifest_are_read_back_from_the_trials(toy: Path, tmp_path: Path, tuned: Any) -> None:
    ran = tuned(finished)
    manifest = go(toy, tmp_path / "out")
    assert len(ran) == 6
    assert manifest.counts == {"trials": 6, "finished": 6, "stopped": 0, "failed": 0, "pairs_seen": 288}
    assert read_manifest(tmp_path / "out", "ablation").model_dump_json() == manifest.model_dump_json()
    assert "| small transformer | of the captions | 256 |" in (tmp_path / "out" / "table.md").read_text()
    assert r"\toprule" in (tmp_path / "out" / "table.tex").read_text()
    with (tmp_path / "out" / "trials.csv").open() as file:
        assert [row["seed"] for row in csv.DictReader(file)] == ["0", "1"] * 3
    write_report([tmp_path / "out"], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "Ablation: context-length" in page
    assert page.count("<svg") == 2


def test_a_second_start_runs_open_trials_only(toy: Path, tmp_path: Path, tuned: Any) -> None:
    def dies(trial: Trial, folder: Path) -> None:
        if trial.name == "pubmedbert-77-seed1":
            raise KeyboardInterrupt
        finished(trial, folder)

    tuned(dies)
    with pytest.raises(KeyboardInterrupt):
        go(toy, tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()
    ran = tuned(finished)
    go(toy, tmp_path / "out")
    assert ran == ["pubmedbert-77-seed1", "pubmedbert-256-seed0", "pubmedbert-256-seed1"]


def test_a_failed_trial_is_in_the_table_and_is_tried_again_on_request(toy: Path, tmp_path: Path, tuned: Any) -> None:
    def fails(trial: Trial, folder: Path) -> None:
        if trial.variant == "gpt-77" and trial.seed == 1:
            Outcome(trial.name, trial.variant, trial.seed, "failed", "the disk is full").write(folder)
        else:
            finished(trial, folder)

    tuned(fails)
    manifest = go(toy, tmp_path / "out")
    assert manifest.counts["failed"] == 1
    assert "seed 1 failed: the disk is full" in (tmp_path / "out" / "table.md").read_text()
    with pytest.raises(UserError, match="finished ablation"):
        go(toy, tmp_path / "out")
    ran = tuned(finished)
    manifest = go(toy, tmp_path / "out", options=Options(retry_failed=True))
    assert ran == ["gpt-77-seed1"]
    assert manifest.counts["failed"] == 0


def test_retrying_keeps_to_its_own_folder(toy: Path, tmp_path: Path, tuned: Any) -> None:
    tuned(finished)
    go(toy, tmp_path / "out")
    with pytest.raises(UserError, match="other input or settings"):
        ablate(toy, tmp_path / "out", "loss", "smoke", options=Options(retry_failed=True))
    assert (tmp_path / "out" / "manifest.json").exists()


def test_when_every_trial_fails_the_sweep_fails_with_the_reason(toy: Path, tmp_path: Path, tuned: Any) -> None:
    tuned(lambda trial, folder: Outcome(trial.name, trial.variant, trial.seed, "failed", "no memory").write(folder))
    with pytest.raises(WorkError, match="every trial failed: no memory"):
        go(toy, tmp_path / "out")


def test_what_cannot_run_at_all_is_refused_before_ray_starts(toy: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(sweep, "start", lambda: pytest.fail("Ray was started"))
    with pytest.raises(UserError, match="batch_size"):
        go(toy, tmp_path / "out", settings=["train.batch_size=4096"])
    with pytest.raises(UserError, match="no such setting"):
        go(toy, tmp_path / "out", settings=["train.batchsize=16"])
    with pytest.raises(UserError, match="no such folder"):
        go(tmp_path / "none", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_settings_do_not_go_on_in_the_same_folder(toy: Path, tmp_path: Path, tuned: Any) -> None:
    def stops(trial: Trial, folder: Path) -> None:
        raise KeyboardInterrupt

    tuned(stops)
    with pytest.raises(KeyboardInterrupt):
        go(toy, tmp_path / "out")
    with pytest.raises(UserError, match="another run"):
        go(toy, tmp_path / "out", settings=["train.epochs=3"])


def test_a_search_goes_on_to_its_number(toy: Path, tmp_path: Path, tuned: Any) -> None:
    space = ["train.lr=loguniform(1e-4, 1e-2)"]
    seen: list[str] = []

    def dies(trial: Trial, folder: Path) -> None:
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(trial.name)
        finished(trial, folder)

    tuned(dies)
    with pytest.raises(KeyboardInterrupt):
        search(toy, tmp_path / "out", "smoke", space, 5)
    ran = tuned(finished)
    manifest = search(toy, tmp_path / "out", "smoke", space, 5)
    assert len(ran) == 3
    assert manifest.counts["trials"] == 5
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["details"]["best"]["train.lr"] > 0
    write_report([tmp_path / "out"], tmp_path / "page.html")


def test_a_search_that_was_ended_says_so_and_goes_on_with_its_open_trial(toy: Path, tmp_path: Path, tuned: Any) -> None:
    """Tune takes Ctrl-C for itself and returns as if all were done."""
    space = ["train.lr=loguniform(1e-4, 1e-2)"]
    tuned(lambda trial, folder: finished(trial, folder) if trial.settings["train.lr"] == 0.001 else None)
    with pytest.raises(WorkError, match="2 trials are still open"):
        search(toy, tmp_path / "out", "smoke", space, 3)
    assert not (tmp_path / "out" / "manifest.json").exists()
    ran = tuned(finished)
    assert search(toy, tmp_path / "out", "smoke", space, 4).counts["finished"] == 4
    values = [read_outcome(tmp_path / "out" / "trials" / name).settings["train.lr"] for name in ran]  # type: ignore[union-attr]
    assert sorted(values[:2]) == [0.002, 0.003]
    assert values[2:] == [0.004]


@pytest.mark.parametrize("how", ["optuna", "random"])
def test_failed_trials_of_a_search_are_tried_again_on_request(toy: Path, tmp_path: Path, tuned: Any, how: str) -> None:
    def fails(trial: Trial, folder: Path) -> None:
        Outcome(trial.name, trial.variant, trial.seed, "failed", "no memory", settings=trial.settings).write(folder)

    space = ["train.lr=loguniform(1e-4, 1e-2)"]
    first = tuned(fails)
    with pytest.raises(WorkError, match="every trial failed"):
        search(toy, tmp_path / "out", "smoke", space, 3, how)
    again = tuned(finished)
    manifest = search(toy, tmp_path / "out", "smoke", space, 3, how, Options(retry_failed=True))
    assert sorted(again) == sorted(first)
    assert manifest.counts["finished"] == 3


def test_trials_that_cannot_run_stand_in_the_way_of_no_early_stops(toy: Path, tmp_path: Path, tuned: Any) -> None:
    ran = tuned(finished)
    space = ["train.batch_size=grid(4096, 16)"]  # the first is larger than the train split
    search(toy, tmp_path / "out", "smoke", space, how="grid", options=Options(early_stop=True))
    assert len(ran) == 2


def test_one_process_works_in_a_folder_at_a_time(toy: Path, tmp_path: Path, tuned: Any) -> None:
    def second(_trial: Trial, _folder: Path) -> None:
        go(toy, tmp_path / "out")

    tuned(second)
    with pytest.raises(UserError, match="another process"):
        go(toy, tmp_path / "out")
    tuned(finished)
    go(toy, tmp_path / "out")


def test_a_page_that_was_never_written_is_all_that_is_left(toy: Path, tmp_path: Path, tuned: Any) -> None:
    tuned(finished)
    manifest = go(toy, tmp_path / "out")
    again = go(toy, tmp_path / "out", options=Options(paged=True))
    assert again.model_dump_json() == manifest.model_dump_json()
    (tmp_path / "out" / "report.html").touch()
    with pytest.raises(UserError, match="finished ablation"):
        go(toy, tmp_path / "out", options=Options(paged=True))


def test_a_plan_counts_work_and_says_what_stands_in_the_way(toy: Path) -> None:
    study = Study(ablation("batch-size"), "smoke", (0,))
    planned = plan(toy, study.trials())
    assert [(p.trial.name, p.cost.pairs_seen if p.cost else None) for p in planned] == [
        ("batch-2k-seed0", 96),
        ("batch-4k-seed0", 96),
    ]
    assert all(p.cost and p.cost.gflop_per_pair and p.cost.gflop_per_pair > 0 for p in planned)
    wrong = Study(ablation("loss"), "smoke", (0,), extra=("train.batch_size=4096",), only=("infonce",))
    [failing] = plan(toy, wrong.trials())
    assert "batch_size 4096" in failing.error


def test_an_open_trial_has_no_outcome(tmp_path: Path) -> None:
    assert read_outcome(tmp_path) is None
