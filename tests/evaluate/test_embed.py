"""Embedding: every sample once, in order, or a reject; the same bytes however often the work is stopped, and wherever it runs."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from biomedray.artifacts import read_manifest
from biomedray.errors import UserError, WorkError
from biomedray.evaluate import embed as embedding
from biomedray.evaluate.embed import embed, embed_once, embed_set, embed_splits, read_embeddings
from biomedray.evaluate.models import open_model
from biomedray.evaluate.pairs import open_pairs
from biomedray.evaluate.samples import Sample
from biomedray.evaluate.stream import Options, Stream
from biomedray.evaluate.vectors import read_rejects, read_vectors
from biomedray.records import PAIR_SCHEMA

MODEL = """
import os, time
from pathlib import Path

import numpy as np
import torch


class Model:
    name, fingerprint = "toy", os.environ.get("TOY_FINGERPRINT", "toy-1")

    def __init__(self, device):
        self.weights = torch.from_numpy(np.random.default_rng(1).normal(size=(12, 6)).astype(np.float32))

    def preprocess(self, image):
        return torch.from_numpy(np.asarray(image.resize((2, 2)), np.float32).transpose(2, 0, 1) / 255)

    def encode_images(self, batch):
        time.sleep(float(os.environ.get("TOY_SLEEP", "0")))
        if os.environ.get("TOY_FAILS") and len(batch) > 1:
            raise RuntimeError("out of memory, say")
        return batch.flatten(1) @ self.weights

    def encode_texts(self, texts):
        if log := os.environ.get("TOY_LOG"):
            with Path(log).open("a") as file:
                file.write("".join(text + chr(10) for text in texts))
        return torch.tensor([[float(sum(map(ord, text)) % 97 + 1), *map(float, range(5))] for text in texts])


def load(device):
    return Model(device)
"""
FEW = Options(batch_size=16, here=True)


@dataclass(frozen=True)
class Noise:
    """A set of drawn pictures, some of which are damaged; captions repeat."""

    name: str = "noise"
    fingerprint: str = "noise-1"
    classes: tuple[str, ...] = ("a", "b")
    splits: tuple[str, ...] = ("val", "test")
    sizes: tuple[int, int] = (40, 700)
    bad: tuple[int, ...] = (3, 299, 300, 699)

    def size(self, split: str) -> int:
        return self.sizes[self.splits.index(split)]

    def read(self, split: str, start: int, stop: int) -> list[Sample]:
        return [self.sample(split, number) for number in range(start, min(stop, self.size(split)))]

    def sample(self, split: str, number: int) -> Sample:
        pixels = np.random.default_rng([number, len(split)]).integers(0, 256, (4, 5, 3), dtype=np.uint8)
        image = b"damaged" if split == "test" and number in self.bad else pixels
        group = f"patient {number // 3}" if number % 2 else ""
        return Sample(f"{split}/{number}", image, number % 2, f"caption {number % 50}", group)

    def left_out(self, split: str) -> list[dict[str, str]]:
        return [{"id": "gone", "reason": "file_missing", "detail": "gone.png"}] if split == "val" else []


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    path = tmp_path_factory.mktemp("toy") / "toy_model.py"
    path.write_text(MODEL)
    return f"python:{path}:load"


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.parquet"))}


def test_every_sample_once_in_order_or_a_reject(toy, tmp_path):
    data, model = Noise(), open_model(toy)
    out = embed_set(data, "test", toy, tmp_path / "e", texts=True, progress=False, options=FEW)
    found = read_vectors(out)
    read = [sample for number, sample in enumerate(data.read("test", 0, 700)) if number not in data.bad]
    assert found.ids == [sample.id for sample in read]
    assert found.labels.tolist() == [sample.label for sample in read]
    assert found.groups == [sample.group or sample.id for sample in read]
    np.testing.assert_allclose(found.images, model.encode_images([sample.image for sample in read]), atol=1e-6)
    np.testing.assert_allclose(found.texts, model.encode_texts([sample.caption for sample in read]), atol=1e-6)
    assert [(one["id"], one["split"], one["reason"]) for one in read_rejects(out)] == [
        (f"test/{number}", "test", "unsupported_format") for number in data.bad
    ]
    manifest = read_manifest(out, "embeddings")
    assert manifest.counts == {"samples": 700, "embedded": 696, "rejected": {"unsupported_format": 4}, "embed_dim": 6}
    assert manifest.details["throughput"]["images_per_s"] > 0
    assert manifest.details["throughput"]["texts_per_s"] > 0


def test_without_captions_there_are_no_texts(toy, tmp_path):
    out = embed_set(Noise(), "val", toy, tmp_path / "e", progress=False, options=FEW)
    assert read_vectors(out).texts is None
    with pytest.raises(UserError, match="embeddings without texts"):
        read_embeddings(out)


def test_what_a_set_left_out_is_counted_too(toy, tmp_path):
    out = embed_set(Noise(), "val", toy, tmp_path / "e", progress=False, options=FEW)
    assert read_manifest(out).counts["rejected"] == {"file_missing": 1}
    assert read_manifest(out).counts["samples"] == 41
    assert read_rejects(out) == [{"id": "gone", "split": "val", "reason": "file_missing", "detail": "gone.png"}]


def test_several_splits_one_after_the_other(toy, tmp_path):
    out = embed_splits(Noise(), ["val", "test"], toy, tmp_path / "e", texts=True, progress=False, options=FEW)
    ids = read_vectors(out).ids
    assert len(ids) == 736
    assert (ids[0], ids[40], ids[-1]) == ("val/0", "test/0", "test/698")


def test_half_the_bytes_are_near_the_same(toy, tmp_path):
    whole = embed_set(Noise(), "test", toy, tmp_path / "32", texts=True, progress=False, options=FEW)
    half = embed_set(Noise(), "test", toy, tmp_path / "16", dtype="float16", texts=True, progress=False, options=FEW)
    assert pq.read_schema(half / "part-000000.parquet").field("image_embedding").type.value_type == pa.float16()
    np.testing.assert_allclose(read_vectors(half).images, read_vectors(whole).images, atol=5e-4)
    np.testing.assert_allclose(read_vectors(half).texts, read_vectors(whole).texts, atol=5e-4)
    assert read_vectors(half).images.dtype == np.float32


def test_a_caption_of_many_is_embedded_once_a_stretch(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("TOY_LOG", str(tmp_path / "log"))
    model = open_model(toy)
    (tmp_path / "log").unlink()
    stream = Stream(model, FEW)
    stretch = stream.embed(Noise().read("test", 0, 200), texts=True)
    stream.close()
    seen = (tmp_path / "log").read_text().splitlines()
    assert stretch.texts == len(seen) == len(set(seen)) == 50


@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
def test_the_size_of_a_batch_changes_nothing(toy, batch_size):
    model, samples = open_model(toy), Noise().read("test", 0, 30)
    rows = []
    for options in (FEW, Options(batch_size=batch_size, threads=3)):
        stream = Stream(model, options)
        rows.append(stream.embed(samples, texts=True))
        stream.close()
    assert rows[0].rejects == rows[1].rejects
    assert rows[0].rows["id"].to_pylist() == rows[1].rows["id"].to_pylist()
    for name in ("image_embedding", "text_embedding"):
        np.testing.assert_allclose(rows[0].rows[name].to_pylist(), rows[1].rows[name].to_pylist(), atol=1e-6)


def test_a_stretch_of_nothing_but_damage(toy, tmp_path):
    out = embed_set(Noise(sizes=(1, 2), bad=(0, 1)), "test", toy, tmp_path / "e", texts=True, progress=False, options=FEW)
    found = read_vectors(out)
    assert found.images.shape == found.texts.shape == (0, 6)
    assert read_manifest(out).counts["rejected"] == {"unsupported_format": 2}


def test_decoding_threads_leave_torch_alone(toy):
    before = torch.get_num_threads()
    stream = Stream(open_model(toy), FEW, threads=4)
    assert torch.get_num_threads() == before
    assert {stream._decoders.submit(torch.get_num_threads).result() for _ in range(16)} == {1}
    assert stream._lane.submit(torch.get_num_threads).result() == before
    stream.close()


def test_autocast_is_near_the_same(tmp_path):
    from biomedray.model.settings import ModelConfig
    from biomedray.model.towers import initialise

    initialise(ModelConfig(name="tiny", vocab_size=120), ["CT of the liver", "Western blot"] * 30, tmp_path / "tiny", seed=0)
    data, vectors = Noise(sizes=(6, 0)), []
    for precision in ("float32", "bfloat16"):
        options = replace(FEW, precision=precision)
        out = embed_set(data, "val", tmp_path / "tiny", tmp_path / precision, texts=True, progress=False, options=options)
        vectors.append(read_vectors(out))
    for name in ("images", "texts"):
        whole, rounded = (getattr(found, name) for found in vectors)
        np.testing.assert_allclose(np.linalg.norm(rounded, axis=1), 1, atol=1e-5)
        assert 0 < np.abs(whole - rounded).max() < 0.05


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (Options(precision="int8"), "precision 'int8': there are float32, bfloat16, float16"),
        (Options(batch_size=0), "batch_size 0: at least 1"),
        (Options(threads=0), "threads 0"),
        (Options(workers=-1), "workers -1"),
    ],
)
def test_options_that_no_run_can_have(toy, tmp_path, options, line):
    with pytest.raises(UserError, match=line):
        embed_set(Noise(), "test", toy, tmp_path / "e", progress=False, options=options)
    with pytest.raises(UserError, match="dtype 'int4': vectors are stored as float32 or float16"):
        embed_set(Noise(), "test", toy, tmp_path / "e", dtype="int4", progress=False, options=FEW)


# ---- once


def test_embeddings_are_made_once_and_shared(toy, tmp_path, monkeypatch):
    data, store = Noise(), tmp_path / "store"
    first = embed_once(data, "test", toy, store, texts=True, progress=False, options=FEW)
    assert first.parent == store
    monkeypatch.setattr(embedding, "_run", None)  # nothing may be embedded again
    assert embed_once(data, "test", toy, store, texts=True, progress=False, options=FEW) == first
    assert embed_once(data, "test", toy, store, progress=False, options=FEW) == first  # texts are no harm
    assert embed_once(data, "test", toy, first, progress=False, options=FEW) == first  # the artifact itself
    assert embed_set(data, "test", toy, first, texts=True, progress=False, options=FEW) == first
    with pytest.raises(UserError, match="embeddings of another set, split or model"):
        embed_once(data, "val", toy, first, progress=False, options=FEW)
    with pytest.raises(UserError, match="holds a finished embeddings artifact"):
        embed_set(data, "val", toy, first, progress=False, options=FEW)


@pytest.mark.parametrize("what", ["set", "split", "model", "dtype", "precision", "texts"])
def test_another_identity_is_another_artifact(what, toy, tmp_path, monkeypatch):
    first = embed_once(Noise(), "val", toy, tmp_path, progress=False, options=FEW)
    if what == "model":
        path = Path(toy.split(":")[1])
        other = path.with_name("toy_other.py")
        other.write_text(MODEL.replace("toy-1", "toy-2"))
        toy = f"python:{other}:load"
    data = Noise(fingerprint="noise-2", sizes=(40, 30)) if what == "set" else Noise(sizes=(40, 30))
    second = embed_once(
        data,
        "test" if what == "split" else "val",
        toy,
        tmp_path,
        dtype="float16" if what == "dtype" else "float32",
        texts=what == "texts",
        progress=False,
        options=replace(FEW, precision="bfloat16") if what == "precision" else FEW,
    )
    assert second != first
    assert second.parent == first.parent


# ---- stopped and started again


def test_a_stopped_run_goes_on_and_ends_with_the_same_bytes(toy, tmp_path, monkeypatch):
    data = Noise()
    whole = embed_splits(data, ["val", "test"], toy, tmp_path / "whole", texts=True, progress=False, options=FEW)
    work, written = embedding._embed_unit, []

    def stops(job, stream, unit):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(unit.number)
        return work(job, stream, unit)

    monkeypatch.setattr(embedding, "_embed_unit", stops)
    monkeypatch.setattr(embedding, "_AT_ONCE", 1)
    with pytest.raises(KeyboardInterrupt):
        embed_splits(data, ["val", "test"], toy, tmp_path / "cut", texts=True, progress=False, options=FEW)
    assert len(digests(tmp_path / "cut")) == 2
    with pytest.raises(UserError, match="it is an unfinished run"):
        read_vectors(tmp_path / "cut")
    with pytest.raises(UserError, match="holds the parts of another run"):
        embed_splits(data, ["val"], toy, tmp_path / "cut", progress=False, options=FEW)
    monkeypatch.setattr(embedding, "_embed_unit", work)
    cut = embed_splits(data, ["val", "test"], toy, tmp_path / "cut", texts=True, progress=False, options=FEW)
    assert digests(cut) == digests(whole)
    assert read_manifest(cut).counts == read_manifest(whole).counts
    assert not (cut / "run.json").exists()


def test_a_model_that_fails_stops_the_run_with_its_reason(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("TOY_FAILS", "1")
    with pytest.raises(WorkError, match="embedding stopped: RuntimeError: out of memory, say; start the same command again"):
        embed_set(Noise(), "val", toy, tmp_path / "e", progress=False, options=FEW)
    monkeypatch.delenv("TOY_FAILS")
    assert len(read_vectors(embed_set(Noise(), "val", toy, tmp_path / "e", progress=False, options=FEW)).ids) == 40


RUN = """
import sys
sys.path.insert(0, {here!r})
from pathlib import Path
from biomedray.evaluate.embed import embed_splits
from biomedray.evaluate.stream import Options
import pickle
data = pickle.loads(Path({data!r}).read_bytes())
options = Options(batch_size=16, here={alone})
embed_splits(data, ["val", "test"], {toy!r}, Path({out!r}), texts=True, progress=False, options=options)
"""


@pytest.mark.heavy
@pytest.mark.parametrize("alone", [True, False], ids=["here", "ray"])
def test_kill_9_and_start_again(alone, toy, tmp_path):
    helper = tmp_path / "noise_set.py"
    source = Path(__file__).read_text()
    body = source[source.index("@dataclass(frozen=True)\nclass Noise") : source.index("@pytest.fixture(scope=")]
    head = "import numpy as np\nfrom dataclasses import dataclass\nfrom biomedray.evaluate.samples import Sample\n\n"
    helper.write_text(head + body)
    sys.path.insert(0, str(tmp_path))
    import noise_set

    data = noise_set.Noise(sizes=(40, 1800))
    (tmp_path / "data.pkl").write_bytes(pickle.dumps(data))
    whole = embed_splits(data, ["val", "test"], toy, tmp_path / "whole", texts=True, progress=False, options=FEW)
    out = tmp_path / "killed"
    values = {"here": str(tmp_path), "data": str(tmp_path / "data.pkl"), "toy": toy, "out": str(out), "alone": alone}
    environment = {**os.environ, "TOY_SLEEP": "0.05", "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", RUN.format(**values)]
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    while len(digests(out)) < 3 and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert 3 <= len(digests(out)) < 9
    assert not (out / "manifest.json").exists()
    subprocess.run(command, env=environment | {"TOY_SLEEP": "0"}, check=True)
    assert digests(out) == digests(whole)
    assert read_manifest(out).counts == read_manifest(whole).counts
    sys.path.remove(str(tmp_path))


# ---- pairs


def write_pairs(folder: Path, splits: dict[str, list[int]]) -> Path:
    """A pairs artifact with row groups of these sizes; every sixth caption is shared."""
    from PIL import Image

    from biomedray.artifacts import Manifest, write_manifest

    number = 0
    for split, sizes in splits.items():
        path = folder / "data" / f"split={split}" / "part-0.parquet"
        path.parent.mkdir(parents=True)
        with pq.ParquetWriter(path, PAIR_SCHEMA) as writer:
            for size in sizes:
                rows = []
                for _ in range(size):
                    pixels = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
                    image = Image.fromarray(pixels)
                    rows.append(_pair(number, split, image))
                    number += 1
                writer.write_table(pa.Table.from_pylist(rows, PAIR_SCHEMA))
    write_manifest(folder, Manifest(kind="pairs", name="pairs"))
    return folder


def _pair(number: int, split: str, image) -> dict:
    import io

    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    values = {}
    for field in PAIR_SCHEMA:
        if not field.nullable:
            empty = {pa.types.is_integer: 0, pa.types.is_list: [], pa.types.is_large_binary: b""}
            values[field.name] = next((value for fits, value in empty.items() if fits(field.type)), "")
    named = {"pair_id": f"PMC{number // 4}.1/f{number}/0", "pmcid": f"PMC{number // 4}", "split": split}
    return {**values, **named, "image": buffer.getvalue(), "caption": f"caption {number % 6}"}


def test_pairs_as_a_set(tmp_path):
    folder = write_pairs(tmp_path / "pairs", {"train": [5, 7, 3], "test": [4]})
    data = pickle.loads(pickle.dumps(open_pairs(folder)))
    assert (data.splits, data.classes, data.size("train"), data.size("val"), data.size("test")) == (
        ("train", "test"),
        (),
        15,
        0,
        4,
    )
    whole = data.read("train", 0, 15)
    assert [sample.id for sample in whole] == [f"PMC{i // 4}.1/f{i}/0" for i in range(15)]
    assert [sample.group for sample in whole[:5]] == ["PMC0"] * 4 + ["PMC1"]
    for start in range(16):
        for stop in range(start, 17):
            assert data.read("train", start, stop) == whole[start:stop]
    assert list(data.stretches("train")) == [(0, 15)]


def test_stretches_of_pairs_are_whole_row_groups(tmp_path):
    data = open_pairs(write_pairs(tmp_path / "pairs", {"train": [200, 100, 256, 30]}))
    assert list(data.stretches("train")) == [(0, 300), (300, 556), (556, 586)]


def test_embedding_pairs(toy, tmp_path):
    folder = write_pairs(tmp_path / "pairs", {"train": [5, 7], "test": [4]})
    ids, images, texts = read_embeddings(embed(folder, toy, tmp_path / "e", ["test", "train"], progress=False))
    data, model = open_pairs(folder), open_model(toy)
    samples = data.read("test", 0, 4) + data.read("train", 0, 12)
    assert ids == [sample.id for sample in samples]
    np.testing.assert_allclose(images, model.encode_images([sample.image for sample in samples]), atol=1e-6)
    np.testing.assert_allclose(texts, model.encode_texts([sample.caption for sample in samples]), atol=1e-6)
    with pytest.raises(UserError, match="no pair in split val"):
        embed(folder, toy, tmp_path / "other", ["val"], progress=False)
    with pytest.raises(UserError, match="no such folder"):
        embed(tmp_path / "nowhere", toy, tmp_path / "other", progress=False)


@pytest.mark.ray
def test_with_ray_the_same_bytes(ray_cluster, toy, tmp_path, capfd):
    folder = write_pairs(tmp_path / "pairs", {"train": [256, 256, 40], "val": [3], "test": [4]})
    data = open_pairs(folder)
    outs = [
        embed_splits(data, data.splits, toy, tmp_path / name, texts=True, options=replace(FEW, here=here, workers=workers))
        for name, here, workers in (("here", True, None), ("ray", False, 2))
    ]
    assert digests(outs[0]) == digests(outs[1])
    assert read_manifest(outs[0]).counts == read_manifest(outs[1]).counts
    assert "images/s" in capfd.readouterr().out
    assert json.loads((outs[1] / "manifest.json").read_text())["details"]["throughput"]["images_per_s"] > 0
