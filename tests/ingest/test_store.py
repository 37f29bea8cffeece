"""Fetching over HTTP: what goes wrong on the way is mended, told apart, or stops the run."""

from __future__ import annotations

import asyncio
import email.utils
import hashlib
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from biomedray.config import merge
from biomedray.errors import UserError, WorkError
from biomedray.ingest.settings import FetchConfig
from biomedray.ingest.staging import MismatchError, Staging, plain_md5
from biomedray.ingest.store import FetchError, StoreDownError, Trouble, open_store
from biomedray.ingest.transfer import env_proxy, s3_url

DATA = random.Random(0).randbytes(300_000)
MD5 = hashlib.md5(DATA).hexdigest()
QUICK = FetchConfig(backoff_s=0.01, read_timeout_s=3, connect_timeout_s=30, retries=3)


@pytest.fixture
def server(tmp_path: Path, servers: ModuleType) -> Iterator[Any]:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x.bin").write_bytes(DATA)
    (tmp_path / "b" / "odd name+é%20.jpg").write_bytes(b"odd")
    with servers.running(servers.Faulty(tmp_path)) as running:
        yield running


@pytest.fixture
def fetch(server: Any, tmp_path: Path) -> Callable[..., bytes]:
    def run(key: str = "x.bin", md5: str = "", limit: int = 2**40, address: str = "s3://b", config: FetchConfig = QUICK) -> bytes:
        async def work() -> bytes:
            store = open_store(address, config.model_copy(update={"endpoint": server.url}))
            try:
                return (await store.fetch(key, Staging(tmp_path / "staging"), md5, limit)).read_bytes()
            finally:
                await store.close()

        return asyncio.run(work())

    return run


def asked(server: Any) -> list[tuple[int, str | None]]:
    return [(one.status, one.range) for one in server.log if one.method == "GET"]


@pytest.mark.parametrize("md5", [MD5, ""])
@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"kind": "status", "status": 503}, [(503, None), (200, None)]),
        ({"kind": "status", "status": 429, "times": 2}, [(429, None), (429, None), (200, None)]),
        ({"kind": "status", "status": 408}, [(408, None), (200, None)]),
        ({"kind": "status", "status": 500}, [(500, None), (200, None)]),
        ({"kind": "stall", "seconds": 5.0}, [(200, None), (200, None)]),
        ({"kind": "cut", "at": 100_000}, [(200, None), (206, "bytes=100000-")]),
        ({"kind": "reset", "at": 0}, [(200, None), (200, None)]),
        ({"kind": "drip", "at": 70_000, "seconds": 5.0}, [(200, None), (206, "bytes=70000-")]),
        ({"kind": "wrong"}, [(200, None), (200, None)]),
    ],
    ids=lambda value: value["kind"] + str(value.get("status", "")) if isinstance(value, dict) else "",
)
def test_a_passing_fault_is_mended(
    server: Any, servers: ModuleType, fetch: Callable[..., bytes], fault: dict[str, Any], expected: list[Any], md5: str
) -> None:
    server.fail("x.bin", servers.Fault(**fault))
    assert fetch(md5=md5) == DATA
    assert asked(server) == expected


def test_many_cuts_bring_the_file_as_long_as_each_brings_something(
    server: Any, servers: ModuleType, fetch: Callable[..., bytes]
) -> None:
    server.fail("x.bin", servers.Fault("cut", 12, at=20_000))
    assert fetch(md5=MD5) == DATA
    assert asked(server)[-1] == (206, "bytes=240000-")


def test_another_object_is_not_glued_to_the_first_half_of_the_old(
    server: Any, servers: ModuleType, fetch: Callable[..., bytes], tmp_path: Path
) -> None:
    server.fail("x.bin", servers.Fault("cut", at=100_000))
    replaced = bytes(reversed(DATA))
    original = server.take

    def take(path: str) -> Any:
        if not server.faults["x.bin"]:
            (tmp_path / "b" / "x.bin").write_bytes(replaced)
        return original(path)

    server.take = take
    assert fetch(address=f"{server.url}/b") == replaced
    assert asked(server) == [(200, None), (412, "bytes=100000-"), (200, None)]


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_honoured(server: Any, servers: ModuleType, fetch: Callable[..., bytes], form: str) -> None:
    after = "1" if form == "seconds" else email.utils.formatdate(time.time() + 2, usegmt=True)
    server.fail("x.bin", servers.Fault("status", headers=(("Retry-After", after),)))
    assert fetch() == DATA
    first, second = server.log
    assert second.when - first.when >= 0.9


@pytest.mark.parametrize(
    ("fault", "trouble", "requests"),
    [
        ({"kind": "status", "status": 404}, Trouble.MISSING, 1),
        ({"kind": "status", "status": 410}, Trouble.MISSING, 1),
        ({"kind": "status", "status": 403}, Trouble.FAILED, 1),
        ({"kind": "status", "status": 400}, Trouble.FAILED, 1),
        ({"kind": "status", "status": 503}, Trouble.FAILED, 4),
        ({"kind": "wrong"}, Trouble.MISMATCH, 2),
        ({"kind": "changed"}, Trouble.MISMATCH, 2),
    ],
    ids=lambda value: value["kind"] + str(value.get("status", "")) if isinstance(value, dict) else "",
)
def test_a_lasting_fault_of_one_file_is_told(
    server: Any, servers: ModuleType, fetch: Callable[..., bytes], fault: dict[str, Any], trouble: Trouble, requests: int
) -> None:
    server.fail("x.bin", servers.Fault(**{**fault, "times": -1}))
    with pytest.raises(FetchError) as caught:
        fetch(md5=MD5)
    assert caught.value.trouble is trouble
    assert "b/x.bin" in str(caught.value)
    assert len(asked(server)) == requests


def test_a_file_over_the_limit_is_not_read(server: Any, fetch: Callable[..., bytes]) -> None:
    with pytest.raises(FetchError, match="300000 bytes, the limit is 1000") as caught:
        fetch(limit=1000)
    assert caught.value.trouble is Trouble.TOO_LARGE


def test_odd_names_reach_the_server_as_they_are(fetch: Callable[..., bytes]) -> None:
    assert fetch("odd name+é%20.jpg") == b"odd"


def test_a_partial_file_of_a_killed_process_is_continued(server: Any, fetch: Callable[..., bytes], tmp_path: Path) -> None:
    partial = tmp_path / "staging" / f"{MD5}.partial"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(DATA[:123_456])
    assert fetch(md5=MD5) == DATA
    assert asked(server) == [(206, "bytes=123456-")]
    assert fetch(md5=MD5) == DATA
    assert len(server.log) == 1, "a whole file is not fetched again"


@pytest.mark.parametrize("left", [DATA + b"more", bytes(1000), DATA])
def test_a_partial_file_that_is_off_costs_one_more_fetch(
    server: Any, fetch: Callable[..., bytes], tmp_path: Path, left: bytes
) -> None:
    partial = tmp_path / "staging" / f"{MD5}.partial"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(left)
    assert fetch(md5=MD5) == DATA


def test_a_staged_file_that_a_power_cut_tore_is_fetched_again(server: Any, fetch: Callable[..., bytes], tmp_path: Path) -> None:
    whole = tmp_path / "staging" / MD5
    whole.parent.mkdir(parents=True)
    whole.write_bytes(DATA[:10])
    assert fetch(md5=MD5) == DATA


def test_without_a_promise_an_earlier_process_is_not_trusted(server: Any, fetch: Callable[..., bytes], tmp_path: Path) -> None:
    server.fail("x.bin")
    fetch()
    [staged] = [path for path in (tmp_path / "staging").rglob("*") if path.is_file()]
    staged.rename(staged.with_name(f"{staged.name}.partial"))
    assert fetch() == DATA
    assert asked(server)[-1] == (200, None)


def test_s3s_own_etag_is_held_to_the_bytes_and_a_mirrors_is_not(
    server: Any, servers: ModuleType, fetch: Callable[..., bytes]
) -> None:
    server.fail("x.bin", servers.Fault("wrong", -1))
    with pytest.raises(FetchError, match="was promised"):
        fetch()
    assert len(fetch(address=f"{server.url}/b")) == len(DATA)


def test_the_same_bytes_under_two_names_are_fetched_once(server: Any, tmp_path: Path) -> None:
    (tmp_path / "b" / "y.bin").write_bytes(DATA)

    async def work() -> list[Path]:
        store = open_store("s3://b", QUICK.model_copy(update={"endpoint": server.url}))
        staging = Staging(tmp_path / "staging")
        try:
            return await asyncio.gather(*(store.fetch(key, staging, MD5) for key in ("x.bin", "y.bin", "x.bin")))
        finally:
            await store.close()

    assert len(set(asyncio.run(work()))) == len(server.log) == 1


def test_no_more_requests_at_once_than_wanted(server: Any, tmp_path: Path) -> None:
    for i in range(30):
        (tmp_path / "b" / f"{i}.bin").write_bytes(bytes([i]))
    server.delay = 0.01

    async def work() -> None:
        store = open_store(server.url, QUICK.model_copy(update={"concurrency": 4}))
        await asyncio.gather(*(store.fetch(f"b/{i}.bin", Staging(tmp_path / "staging")) for i in range(30)))
        await store.close()

    asyncio.run(work())
    assert 1 < server.most_at_once <= 4


def test_a_store_that_is_not_there_stops_the_run(tmp_path: Path) -> None:
    async def work(size: bool) -> None:
        store = open_store("http://127.0.0.1:9", QUICK)
        try:
            await (store.size("x") if size else store.fetch("x", Staging(tmp_path)))
        finally:
            await store.close()

    for size in (False, True):
        with pytest.raises(StoreDownError, match=r"can't be reached.*start the same command again to resume"):
            asyncio.run(work(size))


def test_a_store_that_answers_nothing_but_errors_stops_the_run(
    server: Any, servers: ModuleType, fetch: Callable[..., bytes]
) -> None:
    server.fail("", servers.Fault("status", -1))
    with pytest.raises(StoreDownError, match="doesn't answer"):
        fetch()


def test_a_row_of_failing_files_stops_the_run(server: Any, servers: ModuleType, tmp_path: Path) -> None:
    server.fail(r"\.bin", servers.Fault("status", -1))

    async def work() -> list[str]:
        store = open_store("s3://b", QUICK.model_copy(update={"endpoint": server.url, "give_up_after": 3, "retries": 0}))
        found = []
        try:
            for i in range(5):
                try:
                    await store.fetch(f"{i}.bin", Staging(tmp_path))
                except FetchError as error:
                    found.append(str(error))
        except StoreDownError as error:
            found.append(str(error))
        await store.close()
        return found

    first, second, last = asyncio.run(work())
    assert "b/0.bin: HTTP 503" in first
    assert "b/1.bin" in second
    assert "3 files failed one after the other" in last


def test_a_full_disk_is_nobodys_fault_but_the_disks(
    server: Any, fetch: Callable[..., bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "staging").write_text("a file is in the way")
    with pytest.raises(WorkError, match="cannot be written"):
        fetch()


@pytest.mark.parametrize("no_head", [0, 405, 501])
def test_the_size_of_an_object_also_of_a_server_that_knows_no_head(server: Any, no_head: int) -> None:
    async def work() -> list[int | None]:
        store = open_store(f"{server.url}/b", QUICK)
        try:
            return [await store.size(name) for name in ("x.bin", "none", "empty")]
        finally:
            await store.close()

    (server.root / "b" / "empty").write_bytes(b"")
    server.no_head = no_head
    assert asyncio.run(work()) == [len(DATA), None, 0]


@pytest.mark.parametrize("endpoint", ["nonsense", "http://", "ftp://h", "h:9000"])
def test_an_endpoint_must_be_an_address(endpoint: str) -> None:
    with pytest.raises(UserError, match=r"is no address such as http"):
        merge(QUICK, {"endpoint": endpoint})


def test_addresses() -> None:
    config = FetchConfig()
    assert s3_url("pmc-oa-opendata", "", config) == "https://pmc-oa-opendata.s3.us-east-1.amazonaws.com/"
    assert s3_url("b.with.dots", "a b/c", config) == "https://s3.us-east-1.amazonaws.com/b.with.dots/a%20b/c/"
    assert s3_url("b", "p", FetchConfig(endpoint="http://h:1/")) == "http://h:1/b/p/"
    with pytest.raises(UserError, match="no such kind of store"):
        open_store("ftp://host/x", config)
    with pytest.raises(UserError, match="no such folder"):
        open_store("file:///nowhere/at/all", config)


def test_the_environments_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    monkeypatch.setenv("no_proxy", "localhost,127.0.0.1,.inside")
    assert env_proxy("https://b.s3.amazonaws.com/") == "http://proxy:3128"
    assert env_proxy("https://mirror.inside/pmc/") is None
    assert env_proxy("http://127.0.0.1:9000/b/") is None


@pytest.mark.parametrize(
    ("etag", "md5"), [(f'"{MD5}"', MD5), (MD5.upper(), MD5), (f"{MD5}-3", ""), (f'W/"{MD5}"', ""), ("", ""), (None, "")]
)
def test_which_etags_are_an_md5(etag: str | None, md5: str) -> None:
    assert plain_md5(etag) == md5


def test_two_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    staging = Staging(tmp_path)
    with staging.partial("u", MD5) as one, Staging(tmp_path).partial("u", MD5) as other:
        one.write(DATA[:1000])
        other.write(DATA)
        assert other.finish().read_bytes() == DATA
        one.write(b"x")
        with pytest.raises(MismatchError, match="was promised"):
            one.finish()
    assert staging.whole("u", MD5) is not None
    staging.clear()
    assert not tmp_path.exists()
