"""Leak check: what training has seen is found in each way it can be known, and nothing else is."""

from __future__ import annotations

import dataclasses
import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw

from biomedray.artifacts import Manifest, write_manifest
from biomedray.errors import UserError
from biomedray.evaluate import leaks
from biomedray.evaluate.samples import Sample
from biomedray.ingest.images import inspect_image
from biomedray.ingest.settings import IngestConfig
from biomedray.records import PAIR_SCHEMA
from biomedray.report import write_report

CAPTION = "Axial CT of the thorax shows a spiculated nodule."


def drawing(seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (320, 240), tuple(int(v) for v in rng.integers(160, 255, 3)))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y, w, h = (int(v) for v in rng.integers(0, 180, 4))
        draw.ellipse((x, y, x + w, y + h), fill=tuple(int(v) for v in rng.integers(0, 255, 3)))
    return image


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def jpeg(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def write_pairs(folder: Path, images: list[bytes], split: str = "train", hashed: bool = True, caption: str = "{n}") -> Path:
    rows = []
    for n, data in enumerate(images):
        looked = inspect_image("f.png", data, IngestConfig(verify_decode=hashed))
        row = dict.fromkeys(PAIR_SCHEMA.names) | {"pair_id": f"PMC{n}.1/F1/0", "pmcid": f"PMC{n}", "split": split}
        row |= dict.fromkeys(("caption_raw", "fig_id", "license_group", "image_format", "source_uri"), "")
        row |= {"image": data, "image_sha256": looked.sha256, "width": looked.width, "height": looked.height}
        rows.append(row | dataclasses.asdict(looked.quality) | {"caption": caption.format(n=n)})
    schema = pa.schema([field.with_nullable(True) for field in PAIR_SCHEMA])
    (folder / "data" / f"split={split}").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / "data" / f"split={split}" / "part-0.parquet")
    write_manifest(folder, Manifest(kind="pairs", name=folder.name))
    return folder


@dataclass(frozen=True)
class Held:
    samples: list[Sample]
    name: str = "held"
    fingerprint: str = "0"
    classes: tuple[str, ...] = ()
    splits: tuple[str, ...] = field(default=("test",))

    def size(self, split: str) -> int:
        return len(self.samples) if split in self.splits else 0

    def read(self, split: str, start: int, stop: int) -> list[Sample]:
        return self.samples[start:stop] if split in self.splits else []


def kinds(found: leaks.Leak) -> set[tuple[str, str, str]]:
    return {(match.id, match.kind, match.pair_id) for match in found.matches}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = [png(drawing(seed)) for seed in range(6)]
    return write_pairs(tmp_path_factory.mktemp("leak") / "pairs", images, caption="Figure {n} of the article shows many discs.")


def test_each_way_of_knowing_is_found(pairs: Path) -> None:
    held = Held(
        [
            Sample("bytes", png(drawing(1))),
            Sample("small", jpeg(drawing(2).resize((200, 150)), 80)),
            Sample("pixels", np.asarray(drawing(3))),
            Sample("article", png(drawing(103)), group="PMC4.2"),
            Sample("caption", png(drawing(104)), caption="FIGURE 5 of the article - shows many discs"),
            Sample("PMC0.1/F1/0", png(drawing(105))),
            Sample("new", png(drawing(106)), group="patient-1", caption=CAPTION),
        ]
    )
    found = leaks.check(held, "test", [pairs], progress=False)
    assert kinds(found) == {
        ("bytes", "same_bytes", "PMC1.1/F1/0"),
        ("bytes", "alike", "PMC1.1/F1/0"),
        ("small", "alike", "PMC2.1/F1/0"),
        ("pixels", "alike", "PMC3.1/F1/0"),
        ("article", "same_article", "PMC4.1/F1/0"),
        ("caption", "same_caption", "PMC5.1/F1/0"),
        ("PMC0.1/F1/0", "same_id", "PMC0.1/F1/0"),
    }
    summary = found.summary()
    assert (summary["leaked"], summary["samples"], summary["without_hash"]) == (6, 7, 0)
    assert summary["by"] == {"same_id": 1, "same_bytes": 1, "alike": 3, "same_article": 1, "same_caption": 1}
    assert summary["against"][0] | {"fingerprint": ""} == {"name": "pairs", "fingerprint": "", "pairs": 6, "without_hash": 0}


def test_what_was_not_trained_on_is_no_leak(tmp_path: Path) -> None:
    held_out = write_pairs(tmp_path / "pairs", [png(drawing(1))], split="test")
    with pytest.raises(UserError, match="no training pairs"):
        leaks.check(Held([Sample("a", png(drawing(1)))]), "test", [held_out], progress=False)


def test_unreadable_samples_and_pairs_without_hash_are_counted(tmp_path: Path, pairs: Path) -> None:
    bare = write_pairs(tmp_path / "bare", [png(drawing(seed)) for seed in range(3)], hashed=False)
    held = Held([Sample("broken", b"no image"), Sample("bytes", png(drawing(2))), Sample("small", jpeg(drawing(2), 70))])
    found = leaks.check(held, "test", [bare, pairs], progress=False)
    assert [entry["without_hash"] for entry in found.summary()["against"]] == [3, 0]
    assert found.summary()["without_hash"] == 1
    assert {(match.id, match.kind, match.pairs) for match in found.matches} == {
        ("bytes", "same_bytes", "bare"),
        ("bytes", "same_bytes", "pairs"),
        ("bytes", "alike", "pairs"),
        ("small", "alike", "pairs"),
    }


def test_short_captions_give_nothing_away(pairs: Path, tmp_path: Path) -> None:
    short = write_pairs(tmp_path / "short", [png(drawing(seed)) for seed in range(2)], caption="Figure {n}.")
    held = Held([Sample("a", png(drawing(90)), caption="Figure 1.")])
    assert leaks.check(held, "test", [short], progress=False).ids == frozenset()


def test_matches_are_written_and_the_order_of_chunks_does_not_matter(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Held([Sample(f"s{seed}", png(drawing(seed))) for seed in (5, 3, 1, 0, 99)])
    whole = leaks.check(held, "test", [pairs], progress=False)
    monkeypatch.setattr(leaks, "_CHUNK", 2)
    monkeypatch.setattr(leaks, "_READ", 2)
    pieces = leaks.check(held, "test", [pairs], progress=False)
    assert pieces.matches == whole.matches
    pieces.write(tmp_path / "leak.parquet")
    table = pq.read_table(tmp_path / "leak.parquet")
    assert table.num_rows == 8
    assert set(table["id"].to_pylist()) == pieces.ids == {"s5", "s3", "s1", "s0"}


def test_nothing_to_compare_with_is_said() -> None:
    found = leaks.check(Held([Sample("a", png(drawing(1)))]), "test", [], progress=False)
    assert found.summary()["checked"] is False


def test_scores_stand_again_without_what_is_known(pairs: Path, tmp_path: Path) -> None:
    held = Held([Sample("known", png(drawing(1))), Sample("new", png(drawing(90))), Sample("other", png(drawing(91)))])
    found = leaks.examine(held, "test", [pairs], tmp_path, progress=False)
    said = leaks.said(found, ["known", "new", "other"], lambda rows: {"rows": rows.tolist()})
    assert said["without_leaked"] == {"rows": [1, 2]}
    assert (said["leaked"], said["scored_without"], said["checked"]) == (1, 2, True)
    assert pq.read_table(tmp_path / leaks.LEAKS)["id"].to_pylist() == ["known", "known"]
    everything = leaks.said(found, ["new", "other"], lambda _: pytest.fail("nothing scored is known"))
    assert everything["without_leaked"] is None


def test_what_was_not_checked_says_so(tmp_path: Path) -> None:
    found = leaks.examine(Held([Sample("a", b"")]), "test", [], tmp_path, progress=False)
    said = leaks.said(found, ["a"], lambda _: {})
    assert said["checked"] is False
    assert "--against" in said["reason"]
    assert not (tmp_path / leaks.LEAKS).exists()


def test_the_check_alone_is_an_artifact(pairs: Path, tmp_path: Path) -> None:
    held = Held([Sample("known", png(drawing(1))), Sample("new", png(drawing(90)))])
    manifest = leaks.write_leak(held, "test", [pairs], tmp_path / "out", progress=False)
    assert manifest.counts == {"samples": 2, "leaked": 1}
    assert manifest.details["by"]["same_bytes"] == 1
    write_report([tmp_path / "out"], tmp_path / "page.html")
    assert "any of these, of 2" in (tmp_path / "page.html").read_text()
    with pytest.raises(UserError, match="nothing in split val"):
        leaks.write_leak(held, "val", [pairs], tmp_path / "other", progress=False)
    with pytest.raises(UserError, match="no such folder"):
        leaks.write_leak(held, "test", [tmp_path / "none"], tmp_path / "other", progress=False)
