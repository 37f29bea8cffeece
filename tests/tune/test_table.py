"""Tables: means and intervals over seeds, the paper's order found again or not, forms that others can read."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from scipy import stats

from biomedray.tune import formats
from biomedray.tune.presets import ablation
from biomedray.tune.table import Spread, make_table, verdict
from biomedray.tune.trial import Outcome


def outcome(variant: str, seed: int, to_text: float, state: str = "finished", reason: str = "", **more: float) -> Outcome:
    metrics = {"val_loss": 1 - to_text, "val_r1_i2t": to_text, "val_r1_t2i": to_text, **more}
    history = [{"samples_seen": 10.0, "epoch": 0.0, **metrics}]
    return Outcome(f"{variant}-seed{seed}", variant, seed, state, reason, metrics, history, 10, 2.0)  # type: ignore[arg-type]


def context(*shifts: tuple[float, float, float]) -> list[Outcome]:
    """One seed a tuple: GPT/77, PubMedBERT/77, PubMedBERT/256."""
    names = ("gpt-77", "pubmedbert-77", "pubmedbert-256")
    return [outcome(name, seed, value) for seed, values in enumerate(shifts) for name, value in zip(names, values, strict=True)]


@given(st.lists(st.integers(0, 1000).map(lambda n: n / 1000), min_size=2, max_size=8))
def test_an_interval_over_seeds_is_students(values: list[float]) -> None:
    found = Spread.of(values)
    if len(set(values)) > 1:
        low, high = stats.t.interval(0.95, len(values) - 1, loc=sum(values) / len(values), scale=stats.sem(values))
        assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)


def test_of_one_seed_there_is_no_interval() -> None:
    assert Spread.of([0.5]) == Spread(0.5, None, None, 1)


def test_the_order_is_found_again() -> None:
    table = make_table(ablation("context-length"), "small", context((0.1, 0.2, 0.3), (0.11, 0.2, 0.31), (0.1, 0.21, 0.3)))
    assert [(row.variant, round(row.found["val_r1_i2t"].mean, 3), row.finished) for row in table.rows] == [
        ("gpt-77", 0.103, 3),
        ("pubmedbert-77", 0.203, 3),
        ("pubmedbert-256", 0.303, 3),
    ]
    assert len(table.comparisons) == 9
    assert all(c.agrees and c.certain for c in table.comparisons)
    assert all("as in the paper" in line for line in verdict(table))


def test_what_is_not_found_again_is_said_with_the_amount() -> None:
    lines = verdict(make_table(ablation("context-length"), "small", context((0.1, 0.3, 0.2))))
    wrong = [line for line in lines if "NOT" in line]
    assert wrong == [line for line in lines if "pubmedbert-256" in line and "pubmedbert-77" in line]
    assert "NOT better than pubmedbert-77, unlike the paper, by 10.00 (one seed; paper: by 4.47)" in " ".join(wrong)


def test_differences_are_paired_by_seed() -> None:
    # The seeds differ by much, the variants by little but always.
    table = make_table(ablation("batch-size"), "small", [
        outcome(name, seed, base + gain)
        for seed, base in enumerate((0.1, 0.4, 0.7))
        for name, gain in (("batch-2k", 0.0), ("batch-4k", 0.02 + 0.001 * seed))
    ])  # fmt: skip
    assert all(c.certain and c.found.mean == pytest.approx(0.021) for c in table.comparisons)


def test_trials_without_a_result_are_in_the_table_with_the_reason() -> None:
    outcomes = [
        *context((0.1, 0.2, 0.3)),
        outcome("gpt-77", 1, 0.0, "failed", "out of memory"),
        outcome("gpt-77", 2, 0.05, "stopped", "by the scheduler"),
    ]  # one line a case
    table = make_table(ablation("context-length"), "small", outcomes)
    assert table.rows[0].found["val_r1_i2t"] == Spread(0.1, None, None, 1)
    header, rows = formats.grid(table)
    assert header[-1] == "trials"
    assert rows[0][-1] == "1 finished; seed 1 failed: out of memory; seed 2 stopped: by the scheduler"


def test_a_variant_without_any_result_has_dashes() -> None:
    header, rows = formats.grid(make_table(ablation("context-length"), "small", context((0.1, 0.2, 0.3))[:2]))
    assert rows[2][header.index("loss ↓")] == "-"
    assert rows[2][header.index("loss ↓") + 1] == "0.4807"


def test_a_model_that_is_only_looked_at_is_compared_with_every_seed() -> None:
    looked = Outcome("general-as-it-is-seed0", "general-as-it-is", 0, "finished", metrics={"val_r1_i2t": 0.1, "val_r1_t2i": 0.1})
    trained = [outcome("domain", seed, 0.5 + seed / 100) for seed in range(3)]
    table = make_table(ablation("model"), "small", [looked, *trained])
    assert [c.found.n for c in table.comparisons if c.metric == "val_r1_i2t"] == [3]


def test_zero_shot_sets_are_columns() -> None:
    table = make_table(ablation("image-size"), "small", [outcome("px-224", 0, 0.1, val_zeroshot_pcam=0.7)], ["pcam"])
    header, rows = formats.grid(table)
    assert rows[0][header.index("zero-shot pcam (%) ↑")] == "70.00"


def test_csv_holds_plain_numbers() -> None:
    table = make_table(ablation("context-length"), "small", context((0.1, 0.2, 0.3), (0.12, 0.2, 0.3)))
    rows = list(csv.DictReader(io.StringIO(formats.numbers(table))))
    first = next(row for row in rows if row["variant"] == "gpt-77" and row["metric"] == "val_r1_i2t")
    assert (float(first["mean"]), first["seeds"], float(first["paper"])) == (pytest.approx(0.11), "2", pytest.approx(0.6453))


def test_latex_and_markdown_escape_what_they_must() -> None:
    text = formats.latex(["a_b ↑", "%"], [["R&D {x}", r"4k→64k \x"]], "50% #1")
    assert r"a\_b & \% \\" in text
    assert r"R\&D \{x\} & 4k$\rightarrow$64k \textbackslash{}x \\" in text
    assert formats.markdown(["a"], [["x|y"]]).splitlines()[-1] == r"| x\|y |"


def test_trials_as_csv_name_state_and_spending() -> None:
    rows = list(csv.DictReader(io.StringIO(formats.trials([outcome("gpt-77", 0, 0.1, "failed", "no\nroom, at all")]))))
    assert (rows[0]["state"], rows[0]["reason"], rows[0]["pairs_seen"], rows[0]["seconds"]) == (
        "failed",
        "no\nroom, at all",
        "10",
        "2.0",
    )  # one line a case


def test_time_and_labelled_sets_stand_beside_the_papers_numbers() -> None:
    found = [
        outcome("px-224", 0, 0.1, train_seconds=10.0, val_zeroshot_pcam=0.7, val_zeroshot_tcga_til_auroc=0.6),
        outcome("px-384", 0, 0.2, train_seconds=25.0, val_zeroshot_pcam=0.6, val_zeroshot_tcga_til_auroc=0.7),
    ]
    table = make_table(ablation("image-size"), "small", found, ["pcam", "tcga_til", "mine"])
    header, rows = formats.grid(table)
    ours = ("training time (x)", "zero-shot")
    large = [cell for name, cell in zip(header, rows[1], strict=True) if name.startswith(ours)]
    assert large == ["2.5", "60.00", "70.00", "-"]
    assert rows[1].count("1.92") == rows[1].count("67.15") == rows[1].count("57.00") == 1
    agreed = {c.metric: c.agrees for c in table.comparisons}
    assert agreed["train_times"]
    assert agreed["val_zeroshot_pcam"]
    assert not agreed["val_zeroshot_tcga_til_auroc"]


def test_a_number_that_is_none_is_left_out_and_said() -> None:
    table = make_table(ablation("loss"), "small", [outcome("infonce", 0, float("nan")), outcome("infonce", 1, 0.2)])
    assert table.rows[0].found["val_r1_i2t"] == Spread(0.2, None, None, 1)
    assert "seed 0: img2txt R@1 (%) is no number" in table.rows[0].notes


def test_words_of_a_reason_break_no_table() -> None:
    reason = "[/tmp/x] a | b\nand more"
    table = make_table(ablation("loss"), "small", [outcome("infonce", 0, 0.2, "failed", reason)])
    header, rows = formats.grid(table)
    assert len(formats.markdown(header, rows).splitlines()) == 2 + len(rows)
    console = Console(file=io.StringIO(), width=300)
    console.print(formats.rich_table("t", header, rows))
    assert "[/tmp/x] a | b" in console.file.getvalue()  # type: ignore[attr-defined]
