"""Settling: copies, duplicate pictures, works in several forms, a split that leaks nothing, and kills at every step."""

from __future__ import annotations

import hashlib
import io
import itertools
import shutil
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pytest
from PIL import Image, ImageDraw

from biomedray.ingest import IngestConfig, settle
from biomedray.ingest.count import count_artifact
from biomedray.ingest.pipeline import settle_all
from biomedray.ingest.split import LARGEST_HELD_OUT, Work, cluster_split, join, keys, pmcid_order, sharing, title_key

RunHere = Callable[..., list[int]]
HALVES = IngestConfig(articles_per_part=3, val_fraction=0.3, test_fraction=0.4)


def drawing(seed: int, side: int = 400, quality: int = 90) -> bytes:
    """A picture with large shapes, the same for a seed at any size and quality."""
    values = np.random.default_rng(seed)
    image = Image.new("RGB", (side, side * 3 // 4), tuple(values.integers(0, 255, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y, r = values.random(3) * (side, side * 0.75, side / 4)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=tuple(values.integers(0, 255, 3).tolist()))
    noise = np.random.default_rng(1).integers(-9, 9, (image.height, image.width, 3))
    out = io.BytesIO()
    Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)).save(out, "JPEG", quality=quality)
    return out.getvalue()


def package(make: SimpleNamespace, folder: Path, pmc: str, pictures: list[bytes], front: str = "", name: str = "") -> None:
    members = {f"{pmc}/{pmc}.nxml": make.article_xml(pmc, len(pictures), front=front)}
    members |= {f"{pmc}/f{i}.jpg": data for i, data in enumerate(pictures, 1)}
    make.write_tar(folder / f"{name or pmc}.tar.gz", members)


def rows(out: Path) -> list[dict[str, Any]]:
    table = ds.dataset(sorted(map(str, (out / "data").rglob("*.parquet"))), format="parquet").to_table()
    return list(table.drop_columns(["image"]).to_pylist())


def files(out: Path) -> dict[str, str]:
    tables = [path for folder in ("data", "rejects", "ledger") for path in (out / folder).rglob("*.parquet")]
    return {path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in tables}


def write_articles(make: SimpleNamespace, folder: Path, plain: int) -> Path:
    """So many articles of their own, and some that share a picture, are forms of one work, or are there twice."""
    for i in range(plain):
        package(make, folder, f"PMC{i}", [drawing(100 + i), drawing(200 + i)])
    package(make, folder, "PMC20", [drawing(100), drawing(301)])
    package(make, folder, "PMC21", [drawing(101, side=300, quality=70)])
    package(make, folder, "PMC22", [drawing(302)], '<article-id pub-id-type="doi">10.1101/2020.01.01</article-id>')
    related = '<related-article related-article-type="preprint" ext-link-type="doi" xlink:href="10.1101/2020.01.01"/>'
    package(make, folder, "PMC23", [drawing(303)], related)
    title = "<title-group><article-title>{}On the growth of cells in the dark</article-title></title-group>"
    package(make, folder, "PMC24", [drawing(304)], title.format(""))
    package(make, folder, "PMC25", [drawing(305)], title.format("Correction to: "))
    package(make, folder, "PMC1", [drawing(101), drawing(201)], name="again")
    return folder


@pytest.fixture(scope="module")
def settled(tmp_path_factory: pytest.TempPathFactory, make: SimpleNamespace, run_here: RunHere) -> Path:
    root = tmp_path_factory.mktemp("settle")
    run_here(write_articles(make, root / "in", 20), root / "out", HALVES)
    return root / "out"


def test_nothing_shared_stands_on_two_sides(settled: Path) -> None:
    by: dict[str, dict[str, set[str]]] = {
        name: defaultdict(set) for name in ("dup_cluster", "article_cluster", "pmcid", "image_sha256")
    }
    for row in rows(settled):
        for name, sides in by.items():
            sides[row[name]].add(row["split"])
    assert {len(sides) for of in by.values() for sides in of.values()} == {1}
    cluster = {row["pmcid"]: row["article_cluster"] for row in rows(settled)}
    assert {pmcid: own for pmcid, own in cluster.items() if pmcid != own} == {
        "PMC20": "PMC0",
        "PMC21": "PMC1",
        "PMC23": "PMC22",
        "PMC25": "PMC24",
    }
    duplicates = [
        key for key, group in itertools.groupby(sorted(row["dup_cluster"] for row in rows(settled))) if len(list(group)) > 1
    ]
    assert len(duplicates) == 2
    assert {row["split"] for row in rows(settled)} == {"train", "val", "test"}


def test_only_identical_bytes_when_asked(tmp_path: Path, make: SimpleNamespace, run_here: RunHere) -> None:
    config = HALVES.model_copy(update={"near_duplicate_bits": -1})
    run_here(write_articles(make, tmp_path / "in", 2), tmp_path / "out", config)
    cluster = {row["pmcid"]: row["article_cluster"] for row in rows(tmp_path / "out")}
    assert cluster["PMC21"] == "PMC21"
    assert cluster["PMC20"] == "PMC0"


def test_one_copy_is_kept(settled: Path) -> None:
    assert count_artifact(settled)["article_rejects_by_reason"] == {"duplicate_article": 1}
    ids = [row["pair_id"] for row in rows(settled)]
    assert len(ids) == len(set(ids)) == 40 + 2 + 5


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_columns_agree_with_folders_and_ledger(settled: Path, split: str) -> None:
    for path in (settled / "data" / f"split={split}").iterdir():
        table = ds.dataset(str(path), format="parquet").to_table()
        assert set(table["split"].to_pylist()) == {split}
        ids = table["pair_id"].to_pylist()
        assert ids == sorted(ids, key=lambda i: hashlib.sha256(i.encode()).digest())
    ledger = ds.dataset(str(settled / "ledger"), format="parquet").to_table().to_pylist()
    assert {row["pmcid"]: row["split"] for row in ledger if row["split"] == split} == {
        row["pmcid"]: split for row in rows(settled) if row["split"] == split
    }


class Killed(BaseException):
    """Stands for kill -9: nothing may catch it."""


@pytest.mark.heavy
def test_killed_at_every_file_it_ends_with_the_same_bytes(
    tmp_path: Path, make: SimpleNamespace, run_here: RunHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settling is stopped before its first, second, third ... rename or removal of a file, and then run again."""
    config = HALVES.model_copy(update={"articles_per_part": 5})
    source = write_articles(make, tmp_path / "in", 2)
    run_here(source, tmp_path / "whole", config)
    parts = run_here(source, tmp_path / "staged", config, parts=99)
    replace, unlink = Path.replace, Path.unlink
    left = 0

    def dying(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Path, *args: Any, **keywords: Any) -> Any:
            nonlocal left
            if not path.name.endswith(".tmp") or real is replace:
                left -= 1
                if left < 0:
                    raise Killed
            return real(path, *args, **keywords)

        return call

    kills = 0
    for moment in itertools.count():
        out = tmp_path / f"killed-{moment}"
        shutil.copytree(tmp_path / "staged", out)
        left = moment
        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", dying(replace))
            patched.setattr(Path, "unlink", dying(unlink))
            try:
                settle_all(out, parts, config, progress=False, here=True)
            except Killed:
                kills += 1
            else:
                break
        settle_all(out, parts, config, progress=False, here=True)
        settle.clean_up(out)
        assert files(out) == files(tmp_path / "whole"), moment
        shutil.rmtree(out)
    assert kills > 20


def test_titles_that_tell_works_apart() -> None:
    title = "Deep learning for the detection of lung cancer"
    same = [
        title,
        f"Correction to: {title}",
        f"Erratum: {title.upper()}.",
        f"Author Correction: {title}",
        f"RETRACTED ARTICLE: {title}",
    ]
    assert len({title_key(each) for each in same}) == 1
    assert title_key("Editorial") is title_key("Case report of a patient") is title_key(None) is None


def test_joining_is_transitive_and_named_after_the_lowest() -> None:
    assert join([["PMC10", "PMC9"], ["PMC10", "PMC200"], ["PMC7"]]) == {"PMC10": "PMC9", "PMC9": "PMC9", "PMC200": "PMC9"}
    assert sorted(["x", "PMC10", "PMC9"], key=pmcid_order) == ["PMC9", "PMC10", "x"]
    assert sharing([("a", "1"), ("a", "2"), ("b", "1"), ("a", "1")]) == [["1", "2"]]


def test_a_very_large_cluster_is_for_training() -> None:
    held = [f"PMC{i}" for i in range(200) if cluster_split(f"PMC{i}", LARGEST_HELD_OUT, 0, 0.3, 0.3) != "train"]
    assert held
    assert {cluster_split(name, LARGEST_HELD_OUT + 1, 0, 0.3, 0.3) for name in held} == {"train"}


def test_keys_of_a_work() -> None:
    work = Work("u", "PMC1", 1, 2, None, "10.1/A", "A title that has more than six words", ("10.2/b",))
    assert keys(work) == ["doi:10.1/a", "doi:10.2/b", "title:a title that has more than six words"]
