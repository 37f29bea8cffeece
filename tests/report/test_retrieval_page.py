"""Pages of retrieval and of comparisons: numbers are those of the scores, the gold answer is boxed, captions are not trusted."""

from __future__ import annotations

import importlib.util
import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from biomedray.artifacts import read_manifest
from biomedray.evaluate import compare, retrieval
from biomedray.report import scores_table, write_report
from biomedray.report.gallery import SHOWN, draw, query_galleries
from biomedray.report.retrieval import retrieval_grid

EVIL = "<img src=x onerror=alert(1)>"


def load_helpers():
    spec = importlib.util.spec_from_file_location("export_conftest", Path(__file__).parents[1] / "export" / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def png(seed):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (24, 36, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    helpers = load_helpers()
    rows = [helpers.pair(n, f"F{k}", split="test", image=png(10 * n + k)) for n in range(1, 24) for k in (1, 2)]
    rows[0] |= {"caption": EVIL}
    rows[1] |= {"caption": rows[2]["caption"]}
    rows[3]["image"] = b"no picture"
    return helpers.write_pairs(tmp_path_factory.mktemp("retrieval") / "pairs", rows, parts=2, group=7)


class Fake:
    """A model whose vectors are drawn by a hash of what it is shown: no better than chance, and never two alike."""

    name, embed_dim, logit_scale, context_length, image_size, device = "fake", 16, 1.0, 77, 8, "cpu"

    def __init__(self, seed):
        self.fingerprint, self._seed = f"fake{seed}", seed

    def vectors(self, items):
        found = np.stack([np.random.default_rng([self._seed, *item.encode()[:200]]).standard_normal(16) for item in items])
        return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def scores(pairs, tmp_path_factory):
    """Two scores artifacts of the same pairs, their embeddings made by hand."""
    from biomedray.evaluate import scores as room

    return [score(pairs, tmp_path_factory.mktemp("scores") / f"s{seed}", seed, room) for seed in (1, 2)]


def score(pairs, out, seed, room, **options):
    from biomedray.evaluate.vectors import Embedded

    def embed_once(data, split, *_, **__):
        return data, split

    def read_vectors(place):
        data, split = place
        samples = [s for s in data.read(split, 0, data.size(split)) if s.image != b"no picture"]
        model = Fake(seed)
        images, texts = model.vectors([s.id for s in samples]), model.vectors([s.caption for s in samples])
        images[::2] = texts[::2] + 0.2 * images[::2]  # every other one is found
        images /= np.linalg.norm(images, axis=1, keepdims=True)
        return Embedded([s.id for s in samples], np.full(len(samples), -1), [s.group for s in samples], images, texts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "open_model", lambda _: Fake(seed))
        patch.setattr(room, "embed_once", embed_once)
        patch.setattr(room, "read_vectors", read_vectors)
        patch.setattr(room, "read_rejects", lambda _: [{"reason": "undecodable"}])
        retrieval(pairs, "fake", out, resamples=50, progress=False, **options)
    return out


def test_scores_say_what_they_are_about(scores):
    found = json.loads((scores[0] / "scores.json").read_text())
    manifest = read_manifest(scores[0], "scores")
    assert manifest.details == found
    assert (found["n"], found["candidates"], found["clusters"], found["over"]) == (45, 45, 23, "articles")
    assert found["rejects"] == {"undecodable": 1}
    assert found["image_to_text"]["R@1"] == found["metrics"]["image_to_text R@1"]["value"]
    low, high = found["image_to_text"]["interval_95"]["R@1"]
    assert low <= found["image_to_text"]["R@1"] <= high
    assert found["image_to_text"]["times_chance_R@1"] == pytest.approx(found["image_to_text"]["R@1"] / found["chance"]["R@1"])
    assert all(sum(one["n"] for one in slices) == 45 for slices in found["breakdown"].values())
    table = pq.read_table(scores[0] / "queries.parquet")
    assert np.mean(table["image_to_text_rank"].to_numpy() <= 1) == pytest.approx(found["image_to_text"]["R@1"])


def test_by_figure_limit_and_ann(pairs, tmp_path):
    from biomedray.evaluate import scores as room

    out = score(pairs, tmp_path / "out", 1, room, by="figure", limit=20, ann="auto")
    found = read_manifest(out, "scores")
    assert found.details["by"] == "figure"
    assert found.details["n"] <= 20
    assert "first 20 pairs" in found.details["notes"][0]
    assert found.counts["figures"] == found.details["n"]
    assert found.details["ann"]["image_to_text"]["exact_neighbours_found"]["of 1"] == 1
    assert found.details["ann"]["text_to_image"]["R@10"] == pytest.approx(found.details["text_to_image"]["R@10"], abs=0.1)


def test_captions_are_escaped(scores):
    from biomedray.report.page import render
    from biomedray.report.parts import Section

    page = render("t", [Section("s", "", [], queries=query_galleries(scores[0], read_manifest(scores[0]), each=50))])
    assert EVIL not in page
    assert page.count("&lt;img src=x onerror=alert(1)&gt;") >= 2


def test_page_shows_the_numbers(scores, tmp_path):
    page = write_report([scores[0]], tmp_path / "page.html").read_text()
    value = read_manifest(scores[0]).details["image_to_text"]["R@1"]
    assert f"{100 * value:.1f} [" in retrieval_grid(read_manifest(scores[0])).rows[0][1]
    assert f"{100 * value:.1f} [" in page
    assert "data:image/jpeg" in page
    assert 'class="gold' in page


def test_gallery_boxes_the_gold_answer_and_shows_it_when_missed(scores):
    figures, captions = query_galleries(scores[0], read_manifest(scores[0]))
    assert (figures.title, captions.title) == ("Caption → figures", "Figure → captions")
    for group in (figures, captions):
        verdicts = [query.verdict for query in group.queries]
        assert sum(verdict.startswith("Found") for verdict in verdicts) == 3
        assert sum(verdict.startswith("Missed") for verdict in verdicts) == 3
        for query in group.queries:
            missed = query.verdict.startswith("Missed")
            assert [answer.beyond for answer in query.answers] == [False] * SHOWN + [True] * missed
            assert any(answer.gold for answer in query.answers)
            assert query.answers[-1].gold or not missed
    assert all(answer.picture.startswith("data:image/jpeg") for query in figures.queries for answer in query.answers)
    assert not any(answer.picture for query in captions.queries for answer in query.answers)


def test_gallery_is_drawn_by_seed(scores):
    table = pq.read_table(scores[0] / "queries.parquet")
    one, again, other = (draw(table, "text_to_image", 3, seed) for seed in (1, 1, 2))
    assert one == again != other


def test_without_the_pairs_there_is_no_gallery(scores, tmp_path):
    manifest = read_manifest(scores[0])
    moved = manifest.model_copy(update={"inputs": [{"name": "pairs", "uri": str(tmp_path / "gone")}]})
    assert query_galleries(scores[0], moved) == []


def test_comparison_page(scores, tmp_path):
    manifest = compare(*scores, tmp_path / "compared", resamples=100)
    page = write_report([tmp_path / "compared"], tmp_path / "page.html").read_text()
    assert "s1 (a) against s2 (b)" in page  # both models are called fake, so their scores tell them apart
    assert "McNemar" in page
    assert scores_table(manifest).row_count == 8
