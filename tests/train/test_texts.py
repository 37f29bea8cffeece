"""What goes with a picture: captions, citances by their share, panels; and what becomes of pictures that are broken."""

from __future__ import annotations

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from biomedray.errors import UserError, WorkError
from biomedray.train.feed import Feed, FeedSettings
from biomedray.train.order import generator
from biomedray.train.plan import Plan
from biomedray.train.presets import DataConfig, LoopConfig
from biomedray.train.rows import index_rows
from biomedray.train.source import Source
from biomedray.train.texts import Texts, draw, index_for

SETTINGS = {"window_row_groups": 3, "crop_scale": (0.5, 1.0)}


def batches(pairs, data, rank=0, world=1, epochs=2, seen=0, broken=None):
    source = Source.of(pairs)
    index = index_for(source, data)
    plan = Plan(index.rows, LoopConfig(epochs=epochs, batch_size=24))
    with Feed(source, index, FeedSettings(data, 32, 0, rank, world, broken=broken)) as feed:
        return list(feed.batches(plan.batches(seen)))


def samples(found):
    return [(i, caption) for batch in found for i, caption in zip(batch.pair_ids, batch.captions, strict=True)]


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_so_many_samples_show_a_citance(share):
    texts = Texts("PMC1.1/F1/0", "A caption.", ("One.", "Two."))
    data = DataConfig(text="citance_instead", citance_share=share)
    drawn = [draw(texts, data, generator(2, 0, 0, position)) for position in range(2000)]
    assert sum(text != "A caption." for text in drawn) / 2000 == pytest.approx(share, abs=0.04)
    if share:
        assert drawn.count("One.") == pytest.approx(share * 1000, rel=0.15)
    after = draw(texts, DataConfig(text="citance_after", citance_share=1.0), generator(2, 0, 0, 0))
    assert after in ("A caption. One.", "A caption. Two.")
    assert draw(Texts("x", "A caption."), data, generator(2, 0, 0, 0)) == "A caption."


def test_citances_are_drawn_anew_each_epoch_and_alike_at_any_number_of_workers(pairs):
    data = DataConfig(**SETTINGS, text="citance_instead", citance_share=0.5)
    whole = batches(pairs, data)
    shares = [batches(pairs, data, rank, 2) for rank in range(2)]
    assert [samples([a, b]) for a, b in zip(*shares, strict=True)] == [samples([batch]) for batch in whole]
    first, second = dict(samples(whole[:5])), dict(samples(whole[5:]))
    assert first.keys() == second.keys()
    assert any(first[key] != second[key] for key in first)
    plain = dict(samples(batches(pairs, DataConfig(**SETTINGS))))
    for found in (first, second):
        for pair_id, text in found.items():
            own = text.startswith("Sentence") and text.endswith(f"about {pair_id[3:-7]}.")
            assert text == plain[pair_id] or own


def test_a_broken_picture_is_skipped_alike_at_any_number_of_workers(tmp_path, break_image):
    broken = break_image(tmp_path / "broken")
    data = DataConfig(**SETTINGS, broken_images="skip")
    note = tmp_path / "skipped.jsonl"
    whole = batches(broken, data, broken=note)
    (line,) = set(note.read_text().splitlines())
    bad = json.loads(line)["pair_id"]
    assert [len(batch.pair_ids) for batch in whole] == [24] * 4
    assert bad not in {pair_id for pair_id, _ in samples(whole)}
    for batch in whole:
        assert len(set(batch.pair_ids)) == 24, "a substitute is no member of the batch already"
    shares = [batches(broken, data, rank, 3, broken=tmp_path / f"{rank}.jsonl") for rank in range(3)]
    assert [samples(parts) for parts in zip(*shares, strict=True)] == [samples([batch]) for batch in whole]
    again = batches(broken, data, seen=24)
    assert [batch.pixels.numpy().tobytes() for batch in again] == [batch.pixels.numpy().tobytes() for batch in whole[1:]]
    with pytest.raises(WorkError, match=rf"pair {bad}: its image cannot be decoded .*data\.broken_images=skip"):
        batches(broken, DataConfig(**SETTINGS))


def as_panels(pairs, folder):
    """The same pairs with two columns more: the right half of each picture and a part of the caption; some rows have none."""
    for path in sorted((pairs / "data").rglob("*.parquet")):
        table = pq.read_table(path, partitioning=None)
        count = len(table)
        boxes = [None if i % 4 == 0 else [48.0, 0.0, 96.0, 96.0] for i in range(count)]
        parts = [None if box is None else f"part {i}" for i, box in enumerate(boxes)]
        table = table.append_column("bbox", pa.array(boxes, pa.list_(pa.float32())))
        table = table.append_column("subcaption", pa.array(parts, pa.string()))
        target = folder / path.relative_to(pairs)
        target.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, target, row_group_size=16)
    return folder


def test_panels_are_cut_out_and_have_their_own_caption(pairs, tmp_path):
    panels = as_panels(pairs, tmp_path / "panels")
    data = DataConfig(window_row_groups=3, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), text="panel", cache_mb=0)
    found = batches(panels, data, epochs=1)
    texts = [text for _, text in samples(found)]
    assert sum(text.startswith("part") for text in texts) == 90
    rows = {row["pair_id"]: row for row in pq.read_table(panels / "data" / "split=train", partitioning=None).to_pylist()}
    for pair_id, text, image in zip(found[0].pair_ids, found[0].captions, found[0].pixels.numpy(), strict=True):
        picture = Image.open(io.BytesIO(rows[pair_id]["image"])).convert("RGB")
        if text.startswith("part"):
            picture = picture.crop((48, 0, 96, 96))
        middle = np.asarray(picture).mean(axis=(0, 1))
        assert np.abs(image.mean(axis=(0, 1)) - middle).max() < 25


def test_pairs_without_panels_are_refused_where_panels_are_asked_for(pairs):
    with pytest.raises(UserError, match=r"lacks the columns bbox, subcaption; data\.text=panel needs them"):
        index_for(Source.of(pairs), DataConfig(text="panel"))
    assert index_rows(Source.of(pairs), "train").rows == 120


def test_a_panel_outside_its_picture_names_its_pair(pairs, tmp_path):
    panels = as_panels(pairs, tmp_path / "panels")
    path = panels / "data" / "split=train" / "part-00000.parquet"
    table = pq.read_table(path)
    boxes = table.column("bbox").to_pylist()
    boxes[5] = [0.0, 0.0, 500.0, 500.0]
    place = table.schema.get_field_index("bbox")
    pq.write_table(table.set_column(place, "bbox", pa.array(boxes, pa.list_(pa.float32()))), path, row_group_size=16)
    with pytest.raises(WorkError, match=r"pair PMC\d+\.1/F1/0: .*its panel 0,0,500,500 is not within the picture"):
        batches(panels, DataConfig(window_row_groups=3, text="panel"))
