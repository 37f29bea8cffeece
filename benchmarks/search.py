"""Search over 1,000,000 x 512: recall@10 against the exact answer, core-ms a query, memory, load and build time; and others.

    python benchmarks/search.py [--rows N] [--small N] [--folder DIR]

The vectors are generated, since no model and no million figures can lie in a repository: 5,000 clusters of different sizes in
64 latent dimensions, spread to 512 with a little noise of full rank; figures and captions of one latent point, each with its
own noise and each moved by its modality's mean (the modality gap of CLIP models: a caption's cosine to its own figure is far
below that of two figures of a cluster). Queries are points that the index does not have: 300 captions (text) and 300 figures
(image), each near to a random row. The truth is the product with all float32 vectors. Cosines of random pairs are in the result.

Our index is built through the code that 'biomedray index' runs (both targets, metadata of 1,000,000 rows, settings chosen by
measuring); its searches are those of the service: filters, ranking again, one of each duplicate cluster, records of the hits.
Filters: years at random at 1, 5, 10 and 50 % of the rows; journals that are clusters (1 %), the query's own and another one.
A filter's first use, which makes its bitmap, is timed apart.

Everything runs with one thread, in a process of its own; times are CPU time, the median of three passes. Others read the
figures' vectors alone and give row numbers: faiss Flat, faiss IVF+SQ8 (our centroids, 64 lists read), and, on fewer rows,
since one core builds such graphs for an hour at a million, hnswlib and usearch (M 16, ef 100 at building, 64 at search)
beside ours at that size. Those two are installed into a temporary folder where they are missing.
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from _measure import child, peak_mb, record, work
from biomedray.artifacts import Manifest, write_manifest
from biomedray.serve.filters import Filters
from biomedray.serve.generation import Source, read_current, set_current
from biomedray.serve.search import Query, SearchIndex
from biomedray.serve.updates import fresh
from biomedray.serve.writing import Block, Draft, write_draft

Matrix = NDArray[np.float32]

DIM, LATENT, CLUSTERS = 512, 64, 5_000
QUERIES, FILTERED, PASSES = 300, 100, 3
BLOCK = 50_000
YEARS = {"1 %": 2001, "5 %": 2002, "10 %": 2003, "50 %": 2005}
SHARES = {2001: 0.01, 2002: 0.05, 2003: 0.10, 2004: 0.34, 2005: 0.50}
JOURNALS = 100
FINGERPRINT = "benchmark"


class World:
    """Where the generated points come from."""

    def __init__(self, rows: int) -> None:
        rng = np.random.default_rng(7)
        self.rows = rows
        self.centres = rng.normal(size=(CLUSTERS, LATENT)).astype(np.float32)
        weights = rng.gamma(1.0, size=CLUSTERS)
        self.weights = weights / weights.sum()
        self.spread = (rng.normal(size=(LATENT, DIM)) / np.sqrt(LATENT)).astype(np.float32)
        self.means = {stem: (0.8 * rng.normal(size=DIM)).astype(np.float32) for stem in ("image", "text")}

    def points(self, seed: int, count: int) -> tuple[Matrix, NDArray[np.int64]]:
        """Latent points [count, LATENT] and their clusters."""
        rng = np.random.default_rng(seed)
        clusters = rng.choice(CLUSTERS, count, p=self.weights)
        return self.centres[clusters] + 0.6 * rng.standard_normal((count, LATENT), np.float32), clusters

    def seen(self, points: Matrix, stem: str, seed: int) -> Matrix:
        """Unit vectors [n, DIM] of latent points in one modality."""
        rng = np.random.default_rng(seed)
        moved = points + 0.3 * rng.standard_normal(points.shape, np.float32)
        vectors = moved @ self.spread + 0.1 * rng.standard_normal((len(points), DIM), np.float32) + self.means[stem]
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    def blocks(self) -> Iterator[tuple[int, Matrix, Matrix, NDArray[np.int64], NDArray[np.int32]]]:
        """First row, figures, captions, clusters and years of blocks of rows."""
        for start in range(0, self.rows, BLOCK):
            count = min(BLOCK, self.rows - start)
            points, clusters = self.points(1000 + start, count)
            years = np.random.default_rng(start).choice(list(SHARES), count, p=list(SHARES.values())).astype(np.int32)
            yield start, self.seen(points, "image", 2000 + start), self.seen(points, "text", 3000 + start), clusters, years

    def queries(self) -> tuple[dict[str, Matrix], NDArray[np.int64]]:
        """Vectors [QUERIES, DIM] by kind, and the clusters they come from."""
        points, clusters = self.points(5, QUERIES)
        return {"text": self.seen(points, "text", 6), "image": self.seen(points, "image", 7)}, clusters


def filters_of(cluster: int) -> dict[str, Filters]:
    """The filters that a query from a cluster is asked with."""
    journal = cluster % JOURNALS
    found = {f"years, {share}": Filters(year_min=year, year_max=year) for share, year in YEARS.items()}
    found["its journal, 1 %"] = Filters(journal=[f"Journal {journal}"])
    found["another journal, 1 %"] = Filters(journal=[f"Journal {(journal + 37) % JOURNALS}"])
    return found


def mask_of(name: str, cluster: int, clusters: NDArray[np.int64], years: NDArray[np.int32]) -> NDArray[np.bool_]:
    """The rows that such a filter passes."""
    if name.startswith("years"):
        found: NDArray[np.bool_] = years == YEARS[name.removeprefix("years, ")]
        return found
    return clusters % JOURNALS == (cluster + 37 * name.startswith("another")) % JOURNALS


# ---- ways, each in its own process


def truth(folder: str, rows: str) -> dict[str, Any]:
    """The exact answers, and how far apart things lie."""
    world = World(int(rows))
    queries, own = world.queries()
    asked = np.concatenate(list(queries.values()))
    best = _Best(len(asked))
    names = list(filters_of(0))
    filtered = {name: _Best(FILTERED) for name in names}
    for start, image, _, clusters, years in world.blocks():
        scores = asked @ image.T
        best.add(scores, np.arange(start, start + len(image)))
        for name in names:
            if name.startswith("years"):
                columns = np.flatnonzero(mask_of(name, 0, clusters, years))
                filtered[name].add(scores[:FILTERED, columns], start + columns)
            else:
                for query in range(FILTERED):
                    columns = np.flatnonzero(mask_of(name, int(own[query]), clusters, years))
                    filtered[name].add(scores[query : query + 1, columns], start + columns, query)
        if start == 0:
            cosines = {
                "two figures": float(np.mean(image[:1000] @ image[1000:2000].T)),
                "text and figure": float(np.mean(queries["text"] @ image[:1000].T)),
            }
    answers = {f"filter {name}": part.rows for name, part in filtered.items()}
    np.savez(Path(folder) / "truth.npz", text=best.rows[:QUERIES], image=best.rows[QUERIES:], **answers)
    nearest = {
        kind: float(best.scores[part].mean()) for kind, part in (("text", slice(0, QUERIES)), ("image", slice(QUERIES, None)))
    }
    return {"cosine of random": cosines, "cosine of the ten nearest": nearest}


def build(folder: str, rows: str, layout: str) -> dict[str, Any]:
    """Write an index artifact as 'biomedray index' does once everything is embedded."""
    world = World(int(rows))
    out = Path(folder) / f"index-{rows}-{layout}"
    spent = [0.0]
    draft = Draft(
        name="000001",
        encoder="generated",
        encoder_fingerprint=FINGERPRINT,
        dim=DIM,
        sources=[Source(uri="file:///nowhere", fingerprint="none")],
        new=fresh(int(rows), 1),
        layout=layout,
    )
    started = time.process_time()
    generation = write_draft(out, draft, _timed(_as_blocks(world), spent))
    set_current(out, generation)
    write_manifest(out, Manifest(kind="index", name=out.name))
    sizes = {path.name: path.stat().st_size for path in (out / "generations" / "000001" / "base-000").iterdir()}
    return {
        "build_cpu_s": time.process_time() - started - spent[0],
        "build_peak_mb": round(peak_mb()),
        "disk_mb": round(sum(sizes.values()) / 1e6),
        "index_key": generation.index_key,
        "recall_in_manifest": generation.recall,
        "settings": {key: [probe.model_dump() for probe in table] for key, table in generation.segments[0].probes.items()},
    }


def ours(folder: str, rows: str, layout: str) -> dict[str, Any]:
    """Load and search."""
    where = Path(folder) / f"index-{rows}-{layout}"
    wall, started = time.perf_counter(), time.process_time()
    index = SearchIndex.open(where, FINGERPRINT)
    loaded = {"load_s": time.perf_counter() - wall, "load_cpu_s": time.process_time() - started}
    state = index.wait_verified()
    world = World(int(rows))
    queries, own = world.queries()
    found: dict[str, Any] = {**loaded, "verified": state, "verify_cpu_s": time.process_time() - started}
    known = np.load(Path(folder) / "truth.npz") if int(rows) == _truth_rows(folder) else None
    for kind, vectors in queries.items():
        rows_found, spent = _searched(index, vectors, kind)
        found |= {f"{kind}_ms": spent, f"{kind}_recall": _recall(rows_found, _truth(known, where, vectors, kind))}
        found[f"{kind}_to_caption_ms"] = _searched(index, vectors, kind, target="caption")[1]
    found |= _memory()
    if known is not None:
        found["filters"] = _filtered(index, queries["text"], own, known)
        found |= {f"{name}_after_filters": value for name, value in _memory().items()}
    index.close()
    return found


def flat(folder: str, rows: str, _layout: str) -> dict[str, Any]:
    """Faiss' exact index."""
    import faiss

    vectors = _vectors(folder, rows)
    index: Any = faiss.IndexFlatIP(DIM)
    started = time.process_time()
    index.add(vectors)
    built = time.process_time() - started
    return {"build_cpu_s": built, **_asked(folder, rows, lambda vector: index.search(vector[None], 10)[1][0], 20)}


def ivf_sq8(folder: str, rows: str, layout: str) -> dict[str, Any]:
    """Faiss' inverted file of 8-bit codes with our centroids."""
    import faiss

    vectors = _vectors(folder, rows)
    path, _ = read_current(Path(folder) / f"index-{rows}-{layout}")
    trained: Any = faiss.read_index(str(path / "base-000" / "image.faiss"))
    index: Any = faiss.IndexIVFScalarQuantizer(
        trained.quantizer, DIM, trained.nlist, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    started = time.process_time()
    index.train(vectors[: 20 * trained.nlist])
    index.add(vectors)
    index.nprobe = 64
    built = time.process_time() - started
    return {"build_cpu_s": built, **_asked(folder, rows, lambda vector: index.search(vector[None], 10)[1][0], QUERIES)}


def hnswlib(folder: str, rows: str, _layout: str) -> dict[str, Any]:
    """A graph of float32 vectors."""
    library = importlib.import_module("hnswlib")
    vectors = _vectors(folder, rows)
    index = library.Index(space="ip", dim=DIM)
    started = time.process_time()
    index.init_index(max_elements=len(vectors), ef_construction=100, M=16)
    index.set_num_threads(1)
    index.add_items(vectors)
    index.set_ef(64)
    built = time.process_time() - started
    return {"build_cpu_s": built, **_asked(folder, rows, lambda vector: index.knn_query(vector[None], 10)[0][0], QUERIES)}


def usearch(folder: str, rows: str, _layout: str) -> dict[str, Any]:
    """A graph of float16 vectors."""
    library = importlib.import_module("usearch.index")
    vectors = _vectors(folder, rows)
    index = library.Index(ndim=DIM, metric="ip", dtype="f16", connectivity=16, expansion_add=100, expansion_search=64)
    started = time.process_time()
    index.add(np.arange(len(vectors)), vectors, threads=1)
    built = time.process_time() - started
    return {"build_cpu_s": built, **_asked(folder, rows, lambda vector: index.search(vector, 10).keys, QUERIES)}


WAYS: dict[str, Callable[..., dict[str, Any]]] = {
    "truth": truth,
    "build": build,
    "ours": ours,
    "flat": flat,
    "ivf_sq8": ivf_sq8,
    "hnswlib": hnswlib,
    "usearch": usearch,
}


class _Best:
    """The ten best of each query, as blocks come in."""

    def __init__(self, queries: int) -> None:
        self.scores = np.full((queries, 10), -np.inf, np.float32)
        self.rows = np.full((queries, 10), -1, np.int64)

    def add(self, scores: Matrix, rows: NDArray[np.int64], first: int = 0) -> None:
        for number, line in enumerate(scores):
            query = first + number
            places = np.flatnonzero(line > self.scores[query, -1])
            joined = np.concatenate([self.scores[query], line[places]])
            names = np.concatenate([self.rows[query], rows[places]])
            order = np.argsort(-joined, kind="stable")[:10]
            self.scores[query], self.rows[query] = joined[order], names[order]


def _as_blocks(world: World) -> Iterator[Block]:
    words = "axial computed tomography of the chest showing a nodule in the left upper lobe with spiculated margins " * 4
    for start, image, text, clusters, years in world.blocks():
        numbers = np.arange(start, start + len(image))
        names = [f"PMC{number:07d}" for number in numbers.tolist()]
        columns = {
            "pair_id": pa.array([f"{name}.1/fig-1/0" for name in names]),
            "pmcid": pa.array(names),
            "version": _same(1, len(names), pa.int32()),
            "doi": pa.array([f"10.1234/{name}" for name in names]),
            "article_title": pa.array([f"On the figures of {name}: a study of generated vectors" for name in names]),
            "journal": pa.array([f"Journal {journal}" for journal in (clusters % JOURNALS).tolist()]),
            "year": pa.array(years),
            "article_type": _same("research-article", len(names)),
            "license_code": _same("CC BY", len(names)),
            "license_group": _same("comm", len(names)),
            "fig_label": _same("Figure 1", len(names)),
            "panel_label": pa.nulls(len(names), pa.string()),
            "caption": pa.array([f"{words[number % 97 :]}{name}" for number, name in zip(numbers.tolist(), names, strict=True)]),
            "width": _same(800, len(names), pa.int32()),
            "height": _same(600, len(names), pa.int32()),
            "image_kind": _same("single", len(names)),
            "split": pa.array(["test" if number % 20 == 0 else "train" for number in numbers.tolist()]),
            "dup_cluster": pa.array(names),
            "image_sha256": pa.array([f"{number:064x}" for number in numbers.tolist()]),
            "source": _same(0, len(names), pa.int32()),
            "file": _same("data/split=train/part-00000.parquet", len(names)),
            "row_group": _same(0, len(names), pa.int32()),
            "row": pa.array(numbers.astype(np.int32)),
        }
        yield Block(pa.table(columns), {"image": image, "text": text})


def _same(value: Any, count: int, kind: pa.DataType | None = None) -> pa.Array:
    """A column of one value."""
    return pa.array([value] * count, kind or pa.string())


def _timed(blocks: Iterator[Block], spent: list[float]) -> Iterator[Block]:
    """Adds up what making the blocks takes."""
    while True:
        started = time.process_time()
        block = next(blocks, None)
        spent[0] += time.process_time() - started
        if block is None:
            return
        yield block


def _searched(index: SearchIndex, vectors: Matrix, kind: Any, target: Any = "figure") -> tuple[NDArray[np.int64], float]:
    """Rows found, and CPU ms a query."""
    hits, spent = _timed_passes(lambda vector: index.search(Query(vector, 10, target, kind=kind))[0], vectors)
    return np.array([[hit.row for hit in line] for line in hits]), spent


def _timed_passes(search: Callable[[Matrix], Any], vectors: Matrix) -> tuple[list[Any], float]:
    """Answers, and CPU ms a query: the median of some passes, after a few queries that are not counted."""
    for vector in vectors[:5]:
        search(vector)
    spent = []
    for _ in range(PASSES):
        started = time.process_time()
        found = [search(vector) for vector in vectors]
        spent.append(time.process_time() - started)
    return found, 1000 * statistics.median(spent) / len(vectors)


def _filtered(index: SearchIndex, vectors: Matrix, own: NDArray[np.int64], known: Any) -> list[dict[str, Any]]:
    lines = []
    for name in filters_of(0):
        asked = [filters_of(int(cluster))[name] for cluster in own[:FILTERED]]
        started = time.process_time()
        first, total = index.search(Query(vectors[0], 10, filters=asked[0]))
        fresh_ms = 1000 * (time.process_time() - started)
        for filters in asked:
            index.search(Query(vectors[0], 1, filters=filters))
        started = time.process_time()
        hits = [index.search(Query(vector, 10, filters=filters))[0] for vector, filters in zip(vectors, asked, strict=False)]
        spent = 1000 * (time.process_time() - started) / FILTERED
        rows = np.array([[hit.row for hit in line] for line in hits])
        found = {"filter": name, "rows_pass": total, "recall": _recall(rows, known[f"filter {name}"]), "ms": spent}
        lines.append(
            {**found, "first_use_ms": fresh_ms, "all_filled": all(len(line) == 10 for line in hits) and len(first) == 10}
        )
    return lines


def _recall(found: NDArray[np.int64], wanted: NDArray[np.int64]) -> float:
    return float((found[:, :, None] == wanted[: len(found), None, :]).any(axis=2).mean())


def _truth(known: Any, where: Path, vectors: Matrix, kind: str) -> NDArray[np.int64]:
    if known is not None:
        rows: NDArray[np.int64] = known[kind]
        return rows
    path, _ = read_current(where)
    stored = np.load(path / "base-000" / "image.npy").astype(np.float32)
    return np.argsort(-(vectors @ stored.T), axis=1)[:, :10]


def _vectors(folder: str, rows: str) -> Matrix:
    """The figures of the index, as float32."""
    path, _ = read_current(Path(folder) / f"index-{rows}-rabitq")
    return np.load(path / "base-000" / "image.npy").astype(np.float32)


def _asked(folder: str, rows: str, search: Callable[[Matrix], Any], count: int) -> dict[str, Any]:
    world = World(int(rows))
    queries, _ = world.queries()
    known = np.load(Path(folder) / "truth.npz") if int(rows) == _truth_rows(folder) else None
    found: dict[str, Any] = {}
    for kind, vectors in queries.items():
        lines, found[f"{kind}_ms"] = _timed_passes(search, vectors[:count])
        wanted = _truth(known, Path(folder) / f"index-{rows}-rabitq", vectors[:count], kind)
        found[f"{kind}_recall"] = _recall(np.array(lines, np.int64), wanted)
    return found


def _truth_rows(folder: str) -> int:
    return int((Path(folder) / "rows.txt").read_text())


def _memory() -> dict[str, int]:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {f"{name}_mb": int(status[key].split()[0]) // 1024 for name, key in (("resident", "VmRSS"), ("anonymous", "RssAnon"))}


# ---- the run


def _install(folder: Path) -> list[str]:
    """Graph libraries that can be had, installed beside the data where they are missing."""
    target = folder / "libraries"
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(target), os.environ.get("PYTHONPATH")]))
    found = []
    for name, parts in (("hnswlib", ["hnswlib"]), ("usearch", ["usearch", "numkong"])):
        if not _imports(name):
            command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-deps", "--target", str(target), *parts]
            subprocess.run(command, capture_output=True, check=False)
        if _imports(name):
            found.append(name)
        else:
            print(f"{name}: can't be installed here, left out")
    return found


def _imports(name: str) -> bool:
    """In a process of its own, as the ways are."""
    return subprocess.run([sys.executable, "-c", f"import {name}"], capture_output=True, check=False).returncode == 0


def _row(name: str, rows: int, found: dict[str, Any], built: dict[str, Any] | None = None) -> dict[str, Any]:
    row = {"index": name, "rows": rows}
    for kind in ("text", "image"):
        row |= {f"{kind} recall@10": round(found[f"{kind}_recall"], 3), f"{kind} core-ms": round(found[f"{kind}_ms"], 3)}
    row["build cpu-s"] = round((built or found)["build_cpu_s"], 1)
    return row | ({"resident MB": found["resident_mb"], "load s": round(found["load_s"], 2)} if "load_s" in found else {})


def run(folder: Path, rows: int, small: int) -> None:
    """All ways one after the other."""
    (folder / "rows.txt").write_text(str(rows))
    script = str(Path(__file__).resolve())
    libraries = _install(folder)
    facts = {"truth": child(script, "truth", folder, rows)}
    built = child(script, "build", folder, rows, "rabitq")
    found = child(script, "ours", folder, rows, "rabitq")
    table = [_row("ours, RaBitQ 1 bit, ranked again", rows, found, built)]
    table += [
        _row(f"faiss {name}", rows, child(script, way, folder, rows, "rabitq"))
        for way, name in (("flat", "Flat"), ("ivf_sq8", "IVF+SQ8"))
    ]
    small_built = child(script, "build", folder, small, "rabitq")
    table.append(_row("ours", small, child(script, "ours", folder, small, "rabitq"), small_built))
    table += [_row(name, small, child(script, name, folder, small, "rabitq")) for name in libraries]
    filters = found.pop("filters")
    record("search-filters", "text queries under filters, one thread", filters, rows_of_index=rows)
    record("search", "recall@10 against the exact answer, one thread", table, ours=found, build=built, **facts)


def main() -> None:
    """Entry point."""
    if sys.argv[1:2] == ["--child"]:
        work(WAYS, sys.argv[2], sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--small", type=int, default=50_000)
    parser.add_argument("--folder", type=Path, help="Keep the data here.")
    options = parser.parse_args()
    if options.folder:
        options.folder.mkdir(parents=True, exist_ok=True)
        run(options.folder, options.rows, options.small)
    else:
        with tempfile.TemporaryDirectory() as folder:
            run(Path(folder), options.rows, options.small)


if __name__ == "__main__":
    main()
