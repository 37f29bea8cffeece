r"""Extraction in one process against the floor, pubmed_parser, and what a user would run otherwise.

Method: the same articles, unpacked on local disk and read once before (page cache); every way in a fresh process, in
turn, ROUNDS times; CPU seconds of the work, medians; without imports and the loading of the language model (a second,
once a process). No Ray here: benchmarks/ingest_scaling.py has it.

    floor               read the XML, lxml parse with ingest's options, read each figure's file, header, sha256, Parquet
    floor, decode       the same, and Pillow decodes each picture at full size
    ours, no decode     ingest's own parts, staged: captions, citances, rights, metadata, checks (verify_decode=false)
    ours                the same with the default verify_decode: scaled decode, perceptual hash, quality columns
    ours, whole run     the same, then duplicates, near-duplicates, split, final parts, counts
    pubmed_parser       parse_pubmed_caption alone: text, no picture touched
    usual tools         parse_pubmed_caption + parse_pubmed_paragraph + Pillow (decode) + a tar of jpg, txt, json

Usage: python benchmarks/ingest.py [--articles 200] [--rounds 3] [--real FOLDER of packages]
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lxml import etree
from PIL import Image

from _measure import REAL_PACKAGES, in_turn, record, work

HREF = "{http://www.w3.org/1999/xlink}href"
SUFFIXES = ("", ".jpg", ".jpeg", ".png", ".tif", ".gif")


def figures(xml: Path) -> tuple[bytes, list[tuple[str, Path]]]:
    """The XML's bytes, and each figure's id with its file, found by exact name or with a suffix."""
    data = xml.read_bytes()
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False)
    found = []
    for fig in etree.fromstring(data, parser).iter("{*}fig"):  # a hardened parser
        for graphic in fig.iter("{*}graphic"):
            name = graphic.get(HREF, "")
            path = next((p for p in (xml.parent / (name + suffix) for suffix in SUFFIXES) if name and p.is_file()), None)
            if path is not None:
                found.append((fig.get("id", ""), path))
    return data, found


def articles(folder: str) -> Iterator[Path]:
    """XML files of unpacked articles."""
    yield from sorted(path for path in Path(folder).rglob("*ml") if path.suffix in (".xml", ".nxml"))


def floor(folder: str, out: str, decode: bool = False) -> dict[str, Any]:
    """The least that any ingester has to do."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("id", pa.string()), ("sha256", pa.string()), ("width", pa.int32()), ("image", pa.large_binary())])
    rows: list[dict[str, Any]] = []
    pairs = 0
    with pq.ParquetWriter(Path(out) / "floor.parquet", schema, compression="NONE") as writer:
        for xml in articles(folder):
            with contextlib.suppress(etree.XMLSyntaxError):
                for name, path in figures(xml)[1]:
                    data = path.read_bytes()
                    with Image.open(io.BytesIO(data)) as image:
                        if decode:
                            image.load()
                        rows.append({"id": name, "sha256": hashlib.sha256(data).hexdigest(), "width": image.width, "image": data})
            if len(rows) >= 128:
                pairs += len(rows)
                writer.write_table(pa.Table.from_pylist(rows, schema))
                rows = []
        writer.write_table(pa.Table.from_pylist(rows, schema))
    return {"pairs": pairs + len(rows)}


def floor_decode(folder: str, out: str) -> dict[str, Any]:
    """The floor with a full decode."""
    return floor(folder, out, decode=True)


def ours(folder: str, out: str, decode: bool = True, whole: bool = False) -> dict[str, Any]:
    """Ingest's own code for a part, part after part, in this process."""
    from biomedray.ingest.pipeline import extract_part, settle_all
    from biomedray.ingest.population import fingerprint_refs, freeze, group, number_of_parts
    from biomedray.ingest.settings import IngestConfig
    from biomedray.ingest.sources import discover

    config, target = IngestConfig(verify_decode=decode), Path(out) / "pairs"
    refs = discover([folder])
    n_parts = number_of_parts(len(refs))
    population = freeze(target, group(refs, n_parts), fingerprint_refs(refs), n_parts)
    counts = [extract_part(target, part, config) for part in population.sizes]
    if whole:
        settle_all(target, list(population.sizes), config, progress=False, here=True)
    return {"pairs": sum(count["pairs"] for count in counts)}


def ours_no_decode(folder: str, out: str) -> dict[str, Any]:
    """Without looking into the pictures."""
    return ours(folder, out, decode=False)


def ours_whole(folder: str, out: str) -> dict[str, Any]:
    """With everything that follows extraction."""
    return ours(folder, out, whole=True)


def captions(xml: Path) -> list[dict[str, Any]]:
    """pubmed_parser's captions of an article; none where it raises, as its users do."""
    import pubmed_parser

    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Exception):
        return list(pubmed_parser.parse_pubmed_caption(str(xml)) or [])
    return []


def pubmed_parser_alone(folder: str, _out: str) -> dict[str, Any]:
    """Captions as text."""
    return {"pairs": sum(len(captions(xml)) for xml in articles(folder))}


def usual_tools(folder: str, out: str) -> dict[str, Any]:
    """What a user puts together from the registry; inline references by the paragraphs' reference ids."""
    import pubmed_parser

    pairs = 0
    with tarfile.open(Path(out) / "usual.tar", "w") as tar:
        for xml in articles(folder):
            found = captions(xml)
            paragraphs: list[dict[str, Any]] = []
            with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Exception):
                paragraphs = pubmed_parser.parse_pubmed_paragraph(str(xml), all_paragraph=True)
            for entry in found:
                name = str(entry["graphic_ref"])
                path = next((p for p in (xml.parent / (name + suffix) for suffix in SUFFIXES) if p.is_file()), None)
                if path is None:
                    continue
                data = path.read_bytes()
                with Image.open(io.BytesIO(data)) as image:
                    image.load()
                    size = image.size
                cited = [p["text"] for p in paragraphs if entry["fig_id"] in (p["reference_ids"] or [])]
                parts = {"jpg": data, "txt": entry["fig_caption"].encode()}
                facts = {**entry, "size": size, "sha256": hashlib.sha256(data).hexdigest(), "cited": cited}
                for suffix, content in {**parts, "json": json.dumps(facts).encode()}.items():
                    info = tarfile.TarInfo(f"{pairs:09d}.{suffix}")
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
                pairs += 1
    return {"pairs": pairs}


WAYS = {
    "floor": floor,
    "floor, decode": floor_decode,
    "ours, no decode": ours_no_decode,
    "ours": ours,
    "ours, whole run": ours_whole,
    "pubmed_parser": pubmed_parser_alone,
    "usual tools": usual_tools,
}


# Declared English without one English word: the language model is asked, and so loaded.
FOREIGN = "Abbildung eins zeigt die Verteilung der Zellen nach acht Tagen Behandlung der Tiere"


def in_scratch(way: Any) -> Any:
    """A way with a folder of its own to write to."""

    def run(folder: str) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as out:
            found: dict[str, Any] = way(folder, out)
            return found

    return run


def compare(name: str, folder: Path, warm: Path, rounds: int) -> None:
    """All ways over one folder of articles."""
    size = sum(len(path.read_bytes()) for path in folder.rglob("*") if path.is_file())  # also fills the page cache
    found = in_turn(__file__, [(way, str(folder), str(warm)) for way in WAYS], rounds)
    base = found["floor"]["cpu_s"] / max(1, found["floor"]["pairs"])
    rows = [
        {
            "way": way,
            "pairs": int(entry["pairs"]),
            "cpu_s": entry["cpu_s"],
            "pairs_per_s_core": entry["pairs"] / max(entry["cpu_s"], 1e-9),
            "times_floor": entry["cpu_s"] / max(1, entry["pairs"]) / base,
            "peak_mb": int(entry["peak_mb"]),
        }
        for way, entry in found.items()
    ]
    count = sum(1 for _ in articles(str(folder)))
    record(f"ingest-{name}", f"{count} articles, {size / 1e6:.0f} MB, CPU seconds, median of {rounds}", rows)


def unpack(packages: Path, out: Path) -> None:
    """PMC packages as folders, as every other tool wants them."""
    for path in sorted(packages.glob("*.tar.gz")):
        with tarfile.open(path) as tar:
            tar.extractall(out / path.name.removesuffix(".tar.gz"), filter="data")


def main() -> None:
    """Generated articles in the cloud layout, then real packages where there are any."""
    if sys.argv[1:2] == ["--child"]:
        from biomedray.ingest.language import caption_language

        caption_language(FOREIGN, "en")
        return work({name: in_scratch(way) for name, way in WAYS.items()}, sys.argv[2], sys.argv[3:4], sys.argv[4:])
    options = argparse.ArgumentParser(description="Extraction against the floor and other tools.")
    options.add_argument("--articles", type=int, default=200)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--real", type=Path, default=REAL_PACKAGES)
    given = options.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="biomedray-bench-"))
    try:
        from biomedray.corpus import generate

        generate(scratch / "warm", 20, 1, "cloud", 0.0, progress=False)
        generate(scratch / "corpus", given.articles, 0, "cloud", 0.0, progress=False)
        compare("generated", scratch / "corpus", scratch / "warm", given.rounds)
        if given.real.is_dir():
            unpack(given.real, scratch / "real")
            compare("real", scratch / "real", scratch / "warm", given.rounds)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return None


if __name__ == "__main__":
    main()
