"""Updates: the rows are those of a fresh run, what did not change is not touched, and a kill at any moment changes nothing."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

from biomedray.artifacts import read_manifest
from biomedray.errors import UserError
from biomedray.ingest import IngestConfig, ingest, pipeline, update

CONFIG = IngestConfig(articles_per_part=3, val_fraction=0.2, test_fraction=0.3)
Edit = Callable[[Path], None]


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Every part in this process: these tests are about files, not about Ray."""
    if "ray_cluster" not in request.fixturenames:
        monkeypatch.setattr(pipeline, "spread", lambda numbers, task, here=False: (task({"part": n}) for n in numbers))  # noqa: ARG005


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, make: SimpleNamespace, servers: ModuleType) -> Iterator[Path]:
    """Articles of every kind of source, and pairs made of them."""
    root = tmp_path_factory.mktemp("update")
    source = root / "in"
    for i in range(1, 9):
        make.write_package(source / "packages", f"PMC{i}", figures=1 + i % 3, seed=i)
    for i in (11, 12, 13):
        folder = source / "cloud" / f"PMC{i}.1"
        folder.mkdir(parents=True)
        (folder / f"{folder.name}.xml").write_bytes(make.article_xml(f"PMC{i}", 2))
        for n in (1, 2):
            (folder / f"f{n}.jpg").write_bytes(make.picture(seed=100 * i + n))
        (folder / f"{folder.name}.json").write_text(json.dumps(record()))
    (source / "deep" / "PMC31" / "images").mkdir(parents=True)
    (source / "deep" / "PMC31" / "a.nxml").write_bytes(make.article_xml("PMC31").replace(b"f1.jpg", b"images/f1.jpg"))
    (source / "deep" / "PMC31" / "images" / "f1.jpg").write_bytes(make.picture(seed=3101))
    mirrored = servers.article_version("PMC41.1", make.article_xml("PMC41"), {"f1.jpg": make.picture(seed=4101)})
    for key in mirrored.keys() - {"PMC41.1/PMC41.1.json"}:
        (source / "mirror" / key).parent.mkdir(parents=True, exist_ok=True)
        (source / "mirror" / key).write_bytes(mirrored[key])
    make.write_package(source / "copies", "PMC1", figures=2, seed=1)
    bulk = {f"PMC{i}/a.nxml": make.article_xml(f"PMC{i}") for i in (21, 22)}
    bulk |= {f"PMC{i}/f1.jpg": make.picture(seed=i) for i in (21, 22)}
    make.write_tar(source / "bulk.tar.gz", bulk)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pipeline, "spread", lambda numbers, task, here=False: (task({"part": n}) for n in numbers))  # noqa: ARG005
        ingest([str(source)], root / "pairs", CONFIG, progress=False)
    return root


def record(**values: Any) -> dict[str, Any]:
    return {"is_pmc_openaccess": True, "is_retracted": False, "is_historical_ocr": False, "license_code": "CC BY"} | values


@pytest.fixture
def copy(base: Path, tmp_path: Path) -> Path:
    """A copy of the articles and of their pairs, under the same names."""
    shutil.copytree(base / "in", tmp_path / "in", copy_function=shutil.copy2)
    shutil.copytree(base / "pairs", tmp_path / "pairs", copy_function=shutil.copy2)
    return tmp_path


def tables(out: Path) -> dict[str, list[dict[str, Any]]]:
    """All rows by table, withdrawals left out, in an order of their own."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name in ("data", "rejects", "ledger"):
        rows = [row for path in (out / name).rglob("*.parquet") for row in pq.read_table(path, partitioning=None).to_pylist()]
        found[name] = sorted(rows, key=repr)
    withdrawn = {row["source_uri"] for row in found["rejects"] if row["reason"] == "withdrawn"}
    return {name: [row for row in rows if row["source_uri"] not in withdrawn] for name, rows in found.items()}


def stamps(out: Path) -> dict[str, tuple[int, str]]:
    """When each table was written, and its hash."""
    paths = [path for name in ("data", "rejects", "ledger") for path in (out / name).rglob("*.parquet")]
    return {str(p.relative_to(out)): (p.stat().st_mtime_ns, hashlib.sha256(p.read_bytes()).hexdigest()) for p in paths}


def add(make: SimpleNamespace) -> Edit:
    return lambda source: make.write_package(source / "packages", "PMC99", figures=2, seed=99) and None


def change_caption(make: SimpleNamespace) -> Edit:
    return lambda source: make.write_package(source / "packages", "PMC3", figures=3, seed=3) and None


def change_picture(make: SimpleNamespace) -> Edit:
    return lambda source: (source / "cloud" / "PMC12.1" / "f1.jpg").write_bytes(make.picture(seed=4321)) and None


def change_picture_below(make: SimpleNamespace) -> Edit:
    return lambda source: (source / "deep" / "PMC31" / "images" / "f1.jpg").write_bytes(make.picture(seed=4322)) and None


def retract_in_the_mirror(make: SimpleNamespace) -> Edit:  # like the others
    return lambda source: (
        (source / "mirror" / "metadata" / "PMC41.1.json").write_text(json.dumps(record(is_retracted=True))) and None
    )


def withdraw(make: SimpleNamespace) -> Edit:  # like the others
    return lambda source: (source / "packages" / "PMC2.tar.gz").unlink()


def retract(make: SimpleNamespace) -> Edit:  # like the others
    return lambda source: (
        (source / "cloud" / "PMC11.1" / "PMC11.1.json").write_text(json.dumps(record(is_retracted=True))) and None
    )


def newer_version(make: SimpleNamespace) -> Edit:
    def edit(source: Path) -> None:
        folder = source / "cloud" / "PMC13.2"
        folder.mkdir()
        (folder / "PMC13.2.xml").write_bytes(make.article_xml("PMC13", 2))
        for n in (1, 2):
            (folder / f"f{n}.jpg").write_bytes(make.picture(seed=1300 + n))

    return edit


def lose_the_kept_copy(make: SimpleNamespace) -> Edit:  # like the others
    return lambda source: (source / "copies" / "PMC1.tar.gz").unlink()


def shrink_bulk(make: SimpleNamespace) -> Edit:
    members = {"PMC22/a.nxml": make.article_xml("PMC22"), "PMC22/f1.jpg": make.picture(seed=22)}
    return lambda source: make.write_tar(source / "bulk.tar.gz", members) and None


def share_a_picture(make: SimpleNamespace) -> Edit:
    """A new article joins two old ones into one cluster: their split may move."""
    members = {"PMC50/a.nxml": make.article_xml("PMC50", 2)}
    members |= {"PMC50/f1.jpg": make.picture(seed=5001), "PMC50/f2.jpg": make.picture(seed=8001)}
    return lambda source: make.write_tar(source / "packages" / "PMC50.tar.gz", members) and None


EDITS = [
    *(add, change_caption, change_picture, change_picture_below, withdraw, retract, retract_in_the_mirror, newer_version),
    *(lose_the_kept_copy, shrink_bulk, share_a_picture),
]


def fresh(source: Path, out: Path) -> dict[str, list[dict[str, Any]]]:
    ingest([str(source)], out, CONFIG, progress=False)
    return tables(out)


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_an_update_gives_the_rows_of_a_fresh_run(copy: Path, make: SimpleNamespace, edit: Callable[..., Edit]) -> None:
    edit(make)(copy / "in")
    manifest = update([str(copy / "in")], copy / "pairs", progress=False)
    assert tables(copy / "pairs") == fresh(copy / "in", copy / "fresh")
    assert manifest == read_manifest(copy / "pairs", "pairs")
    assert sorted(path.name for path in (copy / "pairs").iterdir()) == [
        "data",
        "ledger",
        "manifest.json",
        "population",
        "rejects",
    ]


@pytest.mark.parametrize("place", ["f1.jpg", "PMC1/f1.jpg"])
def test_media_that_come_later_or_change(tmp_path: Path, make: SimpleNamespace, place: str) -> None:
    media, source, out = tmp_path / "media", tmp_path / "PMC1.xml", tmp_path / "pairs"
    source.write_bytes(make.article_xml("PMC1"))
    media.mkdir()
    config = CONFIG.model_copy(update={"media": str(media)})
    assert ingest([str(source)], out, config, progress=False).counts["rejects_by_reason"] == {"file_missing": 1}
    (media / place).parent.mkdir(exist_ok=True)
    (media / place).write_bytes(make.picture(seed=1))
    assert update([str(source)], out, progress=False).counts["pairs"] == 1
    if place == "PMC1/f1.jpg":
        (media / place).write_bytes(make.picture(seed=2, size=(80, 60)))
        update([str(source)], out, progress=False)
        assert tables(out)["data"][0]["width"] == 80


def test_all_at_once_and_what_is_said_of_it(copy: Path, make: SimpleNamespace) -> None:
    for edit in EDITS:
        if edit is not lose_the_kept_copy:
            edit(make)(copy / "in")
    manifest = update([str(copy / "in")], copy / "pairs", progress=False)
    assert tables(copy / "pairs") == fresh(copy / "in", copy / "fresh")
    assert manifest.counts["article_rejects_by_reason"]["withdrawn"] == 1
    assert manifest.details["update"]["added"] == 3
    assert manifest.details["update"]["withdrawn"] == 1
    assert manifest.details["balanced"] is True


def test_a_withdrawn_article_is_remembered_and_may_come_back(copy: Path, make: SimpleNamespace) -> None:
    package = copy / "in" / "packages" / "PMC2.tar.gz"
    package.rename(copy / "kept.tar.gz")
    for _ in range(2):
        manifest = update([str(copy / "in")], copy / "pairs", progress=False)
        assert manifest.counts["article_rejects_by_reason"]["withdrawn"] == 1
    (copy / "kept.tar.gz").rename(package)
    manifest = update([str(copy / "in")], copy / "pairs", progress=False)
    assert "withdrawn" not in manifest.counts["article_rejects_by_reason"]
    assert tables(copy / "pairs") == fresh(copy / "in", copy / "fresh")


def test_an_article_that_only_moved_is_not_withdrawn(copy: Path, make: SimpleNamespace) -> None:
    (copy / "in" / "packages").rename(copy / "in" / "moved")
    newer_version(make)(copy / "in")
    shutil.rmtree(copy / "in" / "cloud" / "PMC13.1")
    manifest = update([str(copy / "in")], copy / "pairs", progress=False)
    assert manifest.counts["article_rejects_by_reason"]["withdrawn"] == 1, "PMC13.1"
    assert tables(copy / "pairs") == fresh(copy / "in", copy / "fresh")


def test_what_did_not_change_is_not_touched(copy: Path, make: SimpleNamespace) -> None:
    before = stamps(copy / "pairs")
    manifest = update([str(copy / "in")], copy / "pairs", progress=False)
    assert manifest.details["update"]["read"] in (0, 1)  # the second copy of PMC1 may be looked at again
    assert {name for name, stamp in stamps(copy / "pairs").items() if before[name][1] != stamp[1]} == set()
    add(make)(copy / "in")
    update([str(copy / "in")], copy / "pairs", progress=False)
    after = stamps(copy / "pairs")
    assert sum(before.get(name) == stamp for name, stamp in after.items()) > len(before) // 2


def test_a_file_that_was_only_touched_changes_nothing(copy: Path) -> None:
    before = {name: stamp[1] for name, stamp in stamps(copy / "pairs").items()}
    os.utime(copy / "in" / "packages" / "PMC3.tar.gz")
    update([str(copy / "in")], copy / "pairs", progress=False)
    assert {name: stamp[1] for name, stamp in stamps(copy / "pairs").items()} == before


class Killed(BaseException):
    """Stands for kill -9: nothing may catch it."""


@pytest.mark.heavy
def test_killed_at_every_file_it_ends_the_same(copy: Path, make: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """An update is stopped before its first, third, fifth ... rename or removal, and then run again."""
    for edit in (withdraw, share_a_picture, change_picture):
        edit(make)(copy / "in")
    shutil.copytree(copy / "pairs", copy / "before")
    update([str(copy / "in")], copy / "pairs", progress=False)
    wanted = {name: stamp[1] for name, stamp in stamps(copy / "pairs").items()}
    replace, unlink = Path.replace, Path.unlink
    left = 0

    def dying(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Path, *args: Any, **keywords: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return real(path, *args, **keywords)

        return call

    kills = 0
    for moment in itertools.count(0, 2):
        shutil.rmtree(copy / "pairs")
        shutil.copytree(copy / "before", copy / "pairs", copy_function=shutil.copy2)
        left = moment
        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", dying(replace))
            patched.setattr(Path, "unlink", dying(unlink))
            try:
                update([str(copy / "in")], copy / "pairs", progress=False)
            except Killed:
                kills += 1
            else:
                break
        update([str(copy / "in")], copy / "pairs", progress=False)
        assert {name: stamp[1] for name, stamp in stamps(copy / "pairs").items()} == wanted, moment
    assert kills > 20


@pytest.mark.ray
def test_through_ray(copy: Path, make: SimpleNamespace, ray_cluster: None) -> None:
    for edit in (withdraw, share_a_picture):
        edit(make)(copy / "in")
    update([str(copy / "in")], copy / "pairs", progress=False)
    assert tables(copy / "pairs") == fresh(copy / "in", copy / "fresh")


def test_what_can_not_be_updated(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        update([str(copy / "in")], tmp_path / "none", progress=False)
    with pytest.raises(UserError, match="no source"):
        update([], copy / "pairs", progress=False)
    with pytest.raises(UserError, match="missing"):
        update([str(tmp_path / "missing")], copy / "pairs", progress=False)
    assert (copy / "pairs" / "manifest.json").is_file()
    assert not (copy / "pairs" / "update").exists()
    shutil.rmtree(copy / "pairs" / "population")
    with pytest.raises(UserError, match="new folder"):
        update([str(copy / "in")], copy / "pairs", progress=False)
