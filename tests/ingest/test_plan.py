"""The plan: what it counts, what it asks for, and that its intervals hold the truth."""

from __future__ import annotations

import io
import random
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from rich.console import Console

from biomedray.config import merge
from biomedray.errors import UserError
from biomedray.ingest.plan import _mean, _share, make_plan, pictures, plan_table, sources_of
from biomedray.ingest.settings import IngestConfig

CONFIG = merge(IngestConfig(), {"fetch": {"snapshot": "2026-11-20"}})


@pytest.fixture
def bucket(make: SimpleNamespace, servers: ModuleType, tmp_path: Path) -> Path:
    articles = []
    for i in range(1, 41):
        media = {f"f{n}.jpg": bytes(1000 * i) for n in range(3)} | {"f0.gif": b"x", "a.pdf": b"x", "data.xlsx": b"x"}
        code = "CC BY" if i % 4 else "CC BY-NC"
        articles.append(servers.article_version(f"PMC{i}.1", bytes(500), media, license_code=code, is_retracted=i % 20 == 0))
    articles.append(servers.article_version("PMC1.2", bytes(500), {}))
    root: Path = servers.write_bucket(tmp_path / "bucket", *articles)
    return root


def test_all_looked_at_is_exact_and_nothing_is_fetched(bucket: Path, servers: ModuleType) -> None:
    with servers.running(servers.Faulty(bucket)) as server:
        plan = make_plan([server.url], CONFIG, 2, progress=False)
        assert not [key for key in server.paths() if key.startswith("PMC")]
        assert server.listings() == []
    wanted = [i for i in range(2, 41) if i % 20]
    assert (plan.listed, plan.superseded, plan.sampled, plan.measured) == (41, 1, 40, 40)
    assert plan.articles.value == len(wanted) + 1
    assert plan.files.value == pytest.approx(4 * len(wanted) + 1)
    assert plan.bytes.value == pytest.approx(sum(3000 * i for i in wanted) + 500 * (len(wanted) + 1))
    assert plan.requests.value == pytest.approx(40 + plan.files.value)
    assert plan.articles.low == plan.articles.high


def test_selection_by_licence_shrinks_it(bucket: Path) -> None:
    plan = make_plan([f"file://{bucket}"], merge(CONFIG, {"select": {"licenses": ["comm"]}}), 1, progress=False)
    assert plan.articles.value == 30


def test_a_sample_says_how_sure_it_is(bucket: Path) -> None:
    config = merge(CONFIG, {"plan": {"sample": 20, "sample_sizes": 10}})
    plan = make_plan([f"file://{bucket}"], config, 1, progress=False)
    assert (plan.sampled, plan.measured) == (20, 10)
    assert plan.articles.low < plan.articles.value <= plan.articles.high <= 40
    assert plan.bytes.low < plan.bytes.value < plan.bytes.high


def test_hours_and_cost_follow_from_the_rates(bucket: Path) -> None:
    rates = {"requests_per_s": 0.01, "price_per_node_hour": 3, "price_per_million_requests": 1e6, "price_per_gb": 0}
    config = merge(CONFIG, {"plan": rates})
    one, four = (make_plan([f"file://{bucket}"], config, nodes, progress=False) for nodes in (1, 4))
    assert one.bound == "requests"
    assert one.hours.value == pytest.approx(one.requests.value / 0.01 / 3600)
    assert four.hours.value == pytest.approx(one.hours.value / 4)
    assert one.cost.value == pytest.approx(four.cost.value) == pytest.approx(3 * one.hours.value + one.requests.value)
    slow = make_plan([f"file://{bucket}"], merge(CONFIG, {"plan": {"cpu_s_per_article": 1e5}}), 1, progress=False)
    assert slow.bound == "cores"


def test_local_sources_need_no_requests(make: SimpleNamespace, tmp_path: Path) -> None:
    make.write_package(tmp_path / "in", "PMC1")
    plan = make_plan([str(tmp_path / "in")], CONFIG, 1, progress=False)
    assert (plan.listed, plan.requests.value, plan.bytes.value) == (1, 0, (tmp_path / "in" / "PMC1.tar.gz").stat().st_size)
    with pytest.raises(UserError, match="--nodes 0"):
        make_plan([str(tmp_path / "in")], CONFIG, 0, progress=False)


def test_the_table_says_what_it_rests_on(bucket: Path) -> None:
    config = merge(CONFIG, {"plan": {"sample": 20}, "select": {"journals": ["x"]}})
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(plan_table(make_plan([f"file://{bucket}"], config, 3, progress=False), config))
    text = console.export_text()
    for words in ("3 x 16 cores", "95 % interval", "From 20 records", "upper bound", "600 requests/s", "requests", "cost in $"):
        assert words in " ".join(text.split())


def test_each_picture_once_in_its_best_format() -> None:
    names = ["a.gif", "a.jpg", "B.TIF", "b.png", "c.webp", "d.pdf", "JCB.f1", "x.tif", "e.f1.gif"]
    assert pictures(names) == ["a.jpg", "b.png", "c.webp", "e.f1.gif", "x.tif"]


def test_the_output_named_out_of_habit_is_no_source(tmp_path: Path) -> None:
    assert sources_of(["s3://b", str(tmp_path / "new")]) == ["s3://b"]
    assert sources_of([str(tmp_path), "PMC1"]) == [str(tmp_path), "PMC1"]
    assert sources_of(["missing"]) == ["missing"]


def test_intervals_hold_the_truth_nineteen_times_in_twenty() -> None:
    rng = random.Random(1)
    hits = [0, 0]
    for _ in range(400):
        values = [rng.expovariate(1) for _ in range(100)]
        mean = _mean(values, 10_000)
        hits[0] += mean.low <= 1 <= mean.high
        share = _share(sum(value > 1 for value in values), 100, 10_000)
        hits[1] += share.low <= 0.3679 <= share.high
    assert all(360 <= hit <= 395 for hit in hits)
