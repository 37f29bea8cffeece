"""The front door: the same bytes each time, restarts, layouts, settings that are refused."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from biomedray.artifacts import RUN_FILE, claim_output, read_manifest
from biomedray.corpus import generate
from biomedray.corpus.broken import classes
from biomedray.corpus.write import CorpusConfig, Job, make
from biomedray.errors import UserError


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_same_settings_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        generate(tmp_path / name, articles=4, seed=5, progress=False)
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")


def test_an_article_does_not_depend_on_how_many_there_are(tmp_path: Path) -> None:
    generate(tmp_path / "few", articles=2, seed=3, progress=False)
    generate(tmp_path / "more", articles=5, seed=3, progress=False)
    few, more = hashes(tmp_path / "few"), hashes(tmp_path / "more")
    shared = {name for name in few if "/PMC" in name}
    assert len(shared) > 5
    assert {name: few[name] for name in shared} == {name: more[name] for name in shared}


def test_another_seed_gives_other_articles(tmp_path: Path) -> None:
    generate(tmp_path / "a", articles=2, seed=0, progress=False)
    generate(tmp_path / "b", articles=2, seed=1, progress=False)
    assert not {n for n in hashes(tmp_path / "a") if "/PMC" in n} & {n for n in hashes(tmp_path / "b") if "/PMC" in n}


def test_damaged_articles_are_the_same_each_time(tmp_path: Path) -> None:
    for name, articles in (("a", 1), ("b", 40)):
        config = CorpusConfig(articles=articles, seed=2, layout="mixed", broken=1.0)
        for k in (0, 9, 20, 35):
            make(Job(k, damaged=True), tmp_path / name, config)
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")


def test_a_killed_run_restarts_to_the_same_bytes(tmp_path: Path) -> None:
    config = CorpusConfig(articles=3, seed=4, layout="mixed", broken=0.0)
    claim_output(tmp_path / "killed", "corpus", config.resolved())
    make(Job(0), tmp_path / "killed", config)
    (tmp_path / "killed" / "packages" / ".half.tar.gz.abc.tmp").write_bytes(b"half")
    generate(tmp_path / "killed", articles=3, seed=4, progress=False)
    generate(tmp_path / "whole", articles=3, seed=4, progress=False)
    assert hashes(tmp_path / "killed") == hashes(tmp_path / "whole")
    assert not (tmp_path / "killed" / RUN_FILE).exists()


@pytest.mark.parametrize("layout", ["cloud", "package"])
def test_one_layout_only(tmp_path: Path, layout: str) -> None:
    manifest = generate(tmp_path / "out", articles=2, layout=layout, progress=False)
    other = {"cloud": "packages", "package": "cloud"}[layout]
    assert not (tmp_path / "out" / other).exists()
    assert manifest.counts["articles"] == 2


@pytest.mark.parametrize("setting", [{"articles": 0}, {"seed": -1}, {"layout": "tar"}, {"broken": -0.1}, {"broken": 99.0}])
def test_settings_out_of_range_are_refused(tmp_path: Path, setting: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="--"):
        generate(tmp_path / "out", progress=False, **setting)
    assert not (tmp_path / "out").exists()


def test_a_finished_folder_is_not_written_again(corpus: Path) -> None:
    with pytest.raises(UserError, match="finished"):
        generate(corpus, articles=30, seed=1, broken=0.01, progress=False)


def test_counts_of_the_manifest(corpus: Path, truths: list[dict[str, Any]], whole: list[dict[str, Any]]) -> None:
    counts = read_manifest(corpus, "corpus").counts
    assert counts["articles"] == 30 == len(whole)
    assert counts["damaged_articles"] == len(truths) - 30
    assert counts["graphics"] == sum(len(figure["graphics"]) for truth in whole for figure in truth["figures"])
    assert {name.partition(":")[0] for name in counts["by_damage"]} == {kind.name for kind, _ in classes("mixed")}


def test_the_file_list_names_every_package(corpus: Path) -> None:
    rows = list(csv.DictReader((corpus / "packages" / "oa_file_list.csv").read_text().splitlines()))
    assert {row["File"] for row in rows} == {path.name for path in (corpus / "packages").glob("*.tar.gz")}
    assert rows[0].keys() == {"File", "Article Citation", "Accession ID", "Last Updated (YYYY-MM-DD HH:MM:SS)", "PMID", "License"}


def test_the_inventory_names_every_metadata_record_with_its_md5(corpus: Path) -> None:
    cloud = corpus / "cloud"
    earlier, newest = sorted((cloud / "inventory-reports" / "pmc-oa-opendata" / "metadata").glob("20*"))
    rows = _listed(cloud, newest)
    assert {key for _, key, _, _ in rows} == {f"metadata/{path.name}" for path in (cloud / "metadata").iterdir()}
    assert all(hashlib.md5((cloud / key).read_bytes()).hexdigest() == tag for _, key, _, tag in rows)
    gone, new = (
        {key for _, key, _, _ in _listed(cloud, a)} - {key for _, key, _, _ in _listed(cloud, b)}
        for a, b in ((earlier, newest), (newest, earlier))
    )
    assert gone == {"metadata/PMC10990001.1.json"}
    assert {key.split(".")[1] for key in new} <= {"2"}


def _listed(cloud: Path, snapshot: Path) -> list[list[str]]:
    manifest_bytes = (snapshot / "manifest.json").read_bytes()
    assert (snapshot / "manifest.checksum").read_text().strip() == hashlib.md5(manifest_bytes).hexdigest()
    rows = []
    for shard in json.loads(manifest_bytes)["files"]:
        data = (cloud / shard["key"]).read_bytes()
        assert (len(data), hashlib.md5(data).hexdigest()) == (shard["size"], shard["MD5checksum"])
        rows += list(csv.reader(gzip.decompress(data).decode().splitlines()))
    return rows


def test_cloud_records_are_mirrored_and_their_checksums_hold(corpus: Path, whole: list[dict[str, Any]]) -> None:
    for truth in (truth for truth in whole if truth["layout"] == "cloud"):
        stem = f"{truth['pmcid']}.{truth['version']}"
        record = (corpus / truth["source"] / f"{stem}.json").read_bytes()
        assert record == (corpus / "cloud" / "metadata" / f"{stem}.json").read_bytes()
        fields = json.loads(record)
        for url in [*fields["media_urls"], fields["xml_url"], fields["text_url"], fields["pdf_url"]]:
            address, _, digest = url.partition("?md5=")
            path = corpus / "cloud" / address.removeprefix("s3://pmc-oa-opendata/")
            assert hashlib.md5(path.read_bytes()).hexdigest() == digest
        assert fields["license_code"] == truth["license_code"]


def test_long_captions_open_with_what_all_figures_could_say(tmp_path: Path) -> None:
    generate(tmp_path / "out", articles=4, seed=6, progress=False, long_captions=1.0)
    lines = [json.loads(line) for line in (tmp_path / "out" / "truth.jsonl").read_text().splitlines()]
    figures = [figure for line in lines for figure in line["figures"]]
    assert sum(len(figure["caption"].split()) >= 77 for figure in figures) / len(figures) > 0.8
    parts = [(figure["caption"], part) for figure in figures for part in figure["subcaptions"]]
    assert parts
    assert all(caption[part["start"] : part["end"]] == part["text"] for caption, part in parts)
    assert sum(part["start"] > 300 for _, part in parts) / len(parts) > 0.9
