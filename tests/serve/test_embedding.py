"""'biomedray embed': what it is given, what it writes, what it leaves out; the same through a service and with a model here."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest

from biomedray.cli import app as commands
from biomedray.errors import UserError, WorkError
from biomedray.serve import embedding
from biomedray.serve.client import AsyncClient
from biomedray.serve.embedding import Embedded, embed_here, embed_remotely
from biomedray.serve.engine import Engine
from biomedray.serve.entries import Entry, Left, find_entries
from biomedray.serve.limits import Limits
from biomedray.serve.routes import create_app
from biomedray.serve.writers import check_out

from .conftest import COLORS, FakeEncoder, draw

NOTHING = io.BytesIO()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eight pictures, and what is none."""
    root = tmp_path / "pictures"
    (root / "deep").mkdir(parents=True)
    for number, (name, color) in enumerate(list(COLORS.items()) * 2):
        (root / ("deep" if number % 2 else ".") / f"{number}-{name}.png").write_bytes(draw(color, (20 + number, 30)))
    (root / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0" + bytes(50))
    (root / "empty.png").write_bytes(b"")
    (root / "notes.txt").write_text("not asked for")
    (root / ".hidden").write_bytes(b"x")
    return root


def run(way: str, entries: Any, out: Path, encoder: FakeEncoder, limits: Limits | None = None) -> Embedded:
    steps: list[int] = []
    if way == "here":
        found = embed_here(entries, encoder, out, steps.append)
    else:
        transport = httpx.ASGITransport(create_app(Engine(encoder, limits=limits)))
        found = embed_remotely(entries, AsyncClient("http://service", transport=transport), out, steps.append)
    assert sum(steps) == len(entries)
    return found


def test_entries_in_order_with_names(folder: Path, tmp_path: Path) -> None:
    lines = tmp_path / "captions.jsonl"
    lines.write_bytes(
        b'"plain"\n{"caption": "of a pair", "pair_id": "P1"}\n\n[1]\n{broken\n{"text": " "}\n"\xff"\n{"text": "a", "id": 7}\n'
    )
    words = tmp_path / "words.txt"
    words.write_bytes("\ufeffone\r\n\r\n zwei \n".encode())
    found = find_entries([str(words), str(lines), "-", str(folder / "0-red.png")], io.BytesIO(b"from a pipe\n"))
    assert [(entry.name, entry.value) for entry in found if isinstance(entry, Entry)] == [
        (f"{words}:1", "one"),
        (f"{words}:3", "zwei"),
        (f"{lines}:1", "plain"),
        ("P1", "of a pair"),
        ("7", "a"),
        ("-:1", "from a pipe"),
        (str(folder / "0-red.png"), folder / "0-red.png"),
    ]
    reasons = [entry.reason for entry in found if isinstance(entry, Left)]
    assert reasons == ["empty_text", "empty_text", "invalid_line", "invalid_json", "empty_text", "invalid_encoding"]


@pytest.mark.parametrize("names", [[], ["nowhere.png"], ["empty"], ["-"]])
def test_nothing_to_embed_is_the_users_error(names: list[str], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError):
        find_entries([name if name == "-" else str(tmp_path / name) for name in names], NOTHING)


@pytest.mark.parametrize("name", ["x.csv", "x", "nowhere/x.npy"])
def test_formats_are_checked_first(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError):
        check_out(tmp_path / name)


@pytest.mark.parametrize("way", ["here", "service"])
@pytest.mark.parametrize("kind", ["parquet", "npy", "jsonl"])
def test_vectors_with_names_and_rejects(folder: Path, tmp_path: Path, encoder: FakeEncoder, way: str, kind: str) -> None:
    words = tmp_path / "words.txt"
    words.write_text("a red field\n\nsomething else\n")
    out = tmp_path / f"out.{kind}"
    entries = find_entries([str(folder), str(words)], NOTHING)
    found = run(way, entries, out, encoder)
    names, kinds, vectors = read(out)
    pictures = sorted(path for path in folder.rglob("*.png") if path.stat().st_size)
    assert names == [*map(str, pictures), f"{words}:1", f"{words}:3"]
    assert kinds == ["image"] * 8 + ["text"] * 2
    expected = [
        encoder.encode_images([path.read_bytes() for path in pictures]),
        encoder.encode_texts(["a red field", "something else"]),
    ]
    assert np.allclose(vectors, np.concatenate(expected), atol=1e-6)
    assert (found.images, found.texts, len(found.left)) == (8, 2, 4)
    rejects = [json.loads(line) for line in (tmp_path / "out.rejects.jsonl").read_text().splitlines()]
    assert {Path(entry["name"]).name: entry["reason"] for entry in rejects[:3]} == {
        "broken.jpg": "undecodable",
        "empty.png": "empty_image",
        "notes.txt": "unsupported_format",
    }
    assert rejects[3]["reason"] == "empty_text"
    assert "image[" not in str(rejects)
    assert len(list(tmp_path.glob("out*"))) == (3 if kind == "npy" else 2)


def read(out: Path) -> tuple[list[str], list[str], np.ndarray]:
    if out.suffix == ".parquet":
        table = pq.read_table(out)
        assert table.schema.metadata == {b"model": b"fake", b"fingerprint": b"fake-0001"}
        return table["name"].to_pylist(), table["kind"].to_pylist(), np.stack(table["embedding"].to_numpy(zero_copy_only=False))
    lines = out if out.suffix == ".jsonl" else out.with_name("out.names.jsonl")
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    vectors = np.load(out) if out.suffix == ".npy" else np.float32([row["embedding"] for row in rows])
    assert vectors.dtype == np.float32
    return [row["name"] for row in rows], [row["kind"] for row in rows], vectors


def test_many_runs_keep_their_order(tmp_path: Path, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "_RUN", 3)
    texts = [Entry(str(number), "text", f"text {number}" if number % 7 else "x" * 200) for number in range(50)]
    out = tmp_path / "out.npy"
    found = run("service", texts, out, encoder, Limits(text_chars=100, items=2))
    assert [int(name) for name in read(out)[0]] == [number for number in range(50) if number % 7]
    assert {entry.reason for entry in found.left} == {"text_too_long"}
    assert np.array_equal(np.load(out), encoder.encode_texts([f"text {number}" for number in range(50) if number % 7]))


def test_when_nothing_can_be_embedded_there_is_no_file(tmp_path: Path, encoder: FakeEncoder) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    for way in ("here", "service"):
        with pytest.raises(WorkError, match=r"nothing could be embedded: .*bad\.png: .*rejects\.jsonl$"):
            run(way, find_entries([str(bad)], NOTHING), tmp_path / "out.parquet", encoder)
    assert not (tmp_path / "out.parquet").exists()
    assert (tmp_path / "out.rejects.jsonl").exists()


def test_a_service_that_fails_leaves_no_file(tmp_path: Path) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(401, json={"error": {"message": "no", "code": "c", "param": None}}))
    client = AsyncClient("http://service", transport=transport)
    with pytest.raises(WorkError, match="401: no"):
        embed_remotely([Entry("a", "text", "a")], client, tmp_path / "out.npy", lambda _: None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["a.png"],
        ["a.png", "--url", "http://x", "--model", "m"],
        ["a.png", "--url", "localhost:8000"],
        ["a.png", "--url", "http://x", "--key-env", "NO_SUCH_VARIABLE"],
        ["a.png", "--model", "m", "--shrink", "448"],
        ["a.png", "--url", "http://x", "-o", "out.txt"],
        ["nowhere.png", "--url", "http://x"],
    ],
)
def test_the_commands_arguments_are_checked(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if arguments[0] == "a.png":
        Path("a.png").write_bytes(draw(COLORS["red"]))
    with pytest.raises(UserError) as found:
        commands(["embed", *arguments], standalone_mode=False)
    assert "\n" not in str(found.value)


def test_refused_entries_of_one_run_are_taken_out_one_by_one(encoder: FakeEncoder) -> None:
    async def work() -> list[Any]:
        transport = httpx.ASGITransport(create_app(Engine(encoder, limits=Limits(text_chars=5))))
        async with AsyncClient("http://service", transport=transport) as client:
            remote = embedding.Remote(client, await client.info())
            return await remote.embed(
                "text", [Entry(str(n), "text", text) for n, text in enumerate(["a", "b" * 6, "c", "d" * 7])]
            )

    found = asyncio.run(work())
    assert [isinstance(value, Left) for value in found] == [False, True, False, True]
    assert np.array_equal(np.stack([found[0], found[2]]), encoder.encode_texts(["a", "c"]))
