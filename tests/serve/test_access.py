"""Keys, rates, other sites' pages, the access log: who may ask, and what is kept of it."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from starlette.routing import BaseRoute

from biomedray.errors import UserError
from biomedray.serve import logs
from biomedray.serve.access import PROBES, Access, Gate
from biomedray.serve.engine import Engine
from biomedray.serve.guard import leaves
from biomedray.serve.keys import KeyRing, add_key, read_keys, remove_key
from biomedray.serve.limits import Limits
from biomedray.serve.rates import Bucket
from biomedray.serve.routes import create_app

from .conftest import FakeEncoder


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, str]:
    path = tmp_path / "keys.jsonl"
    return path, add_key(path, "ward-7")


@pytest.fixture
def guarded(encoder: FakeEncoder, keys: tuple[Path, str]) -> Iterator[TestClient]:
    with client_of(encoder, Access(keys=keys[0])) as client:
        yield client


def client_of(encoder: FakeEncoder, access: Access, limits: Limits | None = None) -> TestClient:
    app = create_app(Engine(encoder, limits=limits), access=access)
    return TestClient(app, raise_server_exceptions=False)


def code(response: httpx.Response) -> str:
    return str(response.json()["error"]["code"])


def basic(password: str, user: str = "anyone") -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


# ---- keys


def test_the_file_holds_hashes_only(keys: tuple[Path, str]) -> None:
    path, secret = keys
    assert secret not in path.read_text()
    assert read_keys(path)[0].sha256 == hashlib.sha256(secret.encode()).hexdigest()
    assert path.stat().st_mode & 0o077 == 0
    assert len(secret) >= 40
    with pytest.raises(UserError, match="another label"):
        add_key(path, "ward-7")
    with pytest.raises(UserError, match="no key is called"):
        remove_key(path, "other")


@pytest.mark.parametrize("label", ["", "a b", "-x", "a\n", "x" * 65, "é"])
def test_labels_are_fit_for_logs(tmp_path: Path, label: str) -> None:
    with pytest.raises(UserError, match="label"):
        add_key(tmp_path / "keys", label)


@pytest.mark.parametrize(
    "text", ["x", "[]", "{}", '{"label": "a"}', '{"label": "a", "sha256": "zz"}', "[" * 100_000, '"\\ud800"']
)
def test_a_broken_file_is_told_by_its_line_without_quoting_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys"
    add_key(path, "good")
    path.write_text(path.read_text() + text + "\n")
    with pytest.raises(UserError, match="line 2 is no key") as raised:
        read_keys(path)
    assert len(str(raised.value).splitlines()) == 1


def test_every_route_but_the_probes_wants_a_key(guarded: TestClient) -> None:
    paths = {template(route) for route in leaves(guarded.app.routes)}  # type: ignore[attr-defined]
    assert len(paths) > 12
    assert paths >= PROBES
    for path in [*sorted(paths), "/nowhere", "/livez/", "/LIVEZ", "/livez%2f", "/livez;x"]:
        for method in ("GET", "POST", "HEAD", "OPTIONS", "DELETE"):
            response = guarded.request(method, path)
            if path in PROBES:
                assert response.status_code in (200, 405)
                continue
            assert response.status_code == 401, (method, path)
            assert response.headers["www-authenticate"].startswith('Basic realm="biomedray"')
            assert "Bearer" in response.headers["www-authenticate"]


def template(route: BaseRoute) -> str:
    path = str(route.path)
    for name, value in (("{name:path}", "fake"), ("{pair_id:path}", "PMC1.1/f/0"), ("{name}", "app.js")):
        path = path.replace(name, value)
    assert "{" not in path
    return path


def test_a_key_comes_in_three_ways(guarded: TestClient, keys: tuple[Path, str]) -> None:
    secret = keys[1]
    for headers in (
        {"authorization": f"Bearer {secret}"},
        {"authorization": f"bearer  {secret} "},
        {"x-api-key": secret},
        basic(secret),
    ):
        assert guarded.get("/v1/info", headers=headers).status_code == 200
    wrong = (
        *({"authorization": f"Bearer {secret}x"}, {"authorization": secret}, {"x-api-key": secret[:-1]}, basic("", secret)),
        *(
            {"authorization": "Basic !!!"},
            {"authorization": f"Digest {secret}"},
            {"x-api-key": "\xff" * 9},
            {"x-api-key": "a" * 2000},
        ),
    )
    for headers in wrong:
        assert guarded.get("/v1/info", headers={k: v.encode("latin-1") for k, v in headers.items()}).status_code == 401


def test_two_keys_in_one_head_are_ambiguous(guarded: TestClient, keys: tuple[Path, str]) -> None:
    twice = [("authorization", "Bearer x"), ("authorization", f"Bearer {keys[1]}")]
    assert code(guarded.get("/v1/info", headers=twice)) == "repeated_header"


def test_keys_change_without_a_restart(keys: tuple[Path, str]) -> None:
    path, first = keys
    now = [0.0]
    ring = KeyRing(path, lambda: now[0])
    second = add_key(path, "second")
    assert ring.find(second) is None, "looked at once a second at most"
    now[0] = 2
    found = ring.find(second)
    assert found is not None
    assert found.label == "second"
    remove_key(path, "ward-7")
    now[0] = 4
    assert ring.find(first) is None
    assert ring.find(second) is not None


def test_a_file_that_breaks_leaves_the_keys_and_says_so_once(keys: tuple[Path, str], caplog: pytest.LogCaptureFixture) -> None:
    path, secret = keys
    now = [0.0]
    ring = KeyRing(path, lambda: now[0])
    path.write_text("{broken")
    for now[0] in (2.0, 4.0, 6.0):
        assert ring.find(secret) is not None
    path.unlink()
    now[0] = 8
    assert ring.find(secret) is not None
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "{broken" not in caplog.text
    path.write_text("")
    now[0] = 10
    assert ring.find(secret) is None, "the last key was taken out"


def test_a_key_ends_with_its_last_day(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    today = date.today()  # noqa: DTZ011  # a day's difference is enough either way
    good, old = add_key(path, "good", expires=today + timedelta(days=2)), add_key(path, "old", expires=today - timedelta(days=2))
    ring = KeyRing(path)
    assert ring.find(good) is not None
    assert ring.find(old) is None


def test_what_is_wrong_is_said_before_serving(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_text("\n")
    for path in (empty, tmp_path / "missing"):
        with pytest.raises(UserError):
            Access(keys=path).check("127.0.0.1")
    for host in ("0.0.0.0", "::", "192.168.1.2", "example.org"):
        with pytest.raises(UserError, match="--keys"):
            Access().check(host)
        Access(insecure=True).check(host)
    for host in ("127.0.0.1", "::1", "localhost", "127.9.9.9"):
        Access().check(host)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200),
        ("127.0.0.1", 200),
        ("[::1]:8000", 200),
        ("LOCALHOST:9", 200),
        ("evil.example:8000", 403),
        ("127.0.0.1.evil.example", 403),
        ("[::2]:8000", 403),
        ("", 403),
    ],
)
def test_on_loopback_it_answers_to_its_own_names_only(encoder: FakeEncoder, host: str, status: int) -> None:
    with client_of(encoder, Access().on("127.0.0.1")) as client:
        answer = client.get("/v1/info", headers={"host": host})
        assert answer.status_code == status
        assert status == 200 or code(answer) == "wrong_host"
        assert client.get("/livez", headers={"host": host}).status_code == 200


def test_names_are_free_with_keys_or_when_told(keys: tuple[Path, str]) -> None:
    assert Access(keys=keys[0]).on("0.0.0.0").hosts == ()
    assert Access(insecure=True).on("0.0.0.0").hosts == ()
    assert Access(hosts=("tools.local",)).on("127.0.0.1").hosts == ("tools.local",)
    with pytest.raises(UserError, match="--keys"):
        Access().on("0.0.0.0")


def test_the_refusal_comes_before_the_body(guarded: TestClient, keys: tuple[Path, str]) -> None:
    async def receive() -> dict[str, Any]:
        raise AssertionError("the body was read")

    sent = ask(guarded.app, "POST", "/v1/embeddings", {"content-type": "application/json"}, receive)
    assert sent[0]["status"] == 401


def ask(app: Any, method: str, path: str, headers: dict[str, str], receive: Any, root: str = "") -> list[dict[str, Any]]:
    """One request at the level of ASGI."""
    import asyncio

    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    fields = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"", "headers": fields}
    asyncio.run(
        app({**scope, "root_path": root, "scheme": "http", "http_version": "1.1", "asgi": {"version": "3.0"}}, receive, send)
    )
    return sent


# ---- other sites' pages

JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"sec-fetch-site": "same-origin", "origin": "https://behind.a.proxy"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"origin": "http://testserver"}, 200),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "cross-site", "origin": "http://testserver"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://testserver.evil.example"}, 403),
    ],
)
def test_other_sites_pages_may_not_ask(encoder: FakeEncoder, headers: dict[str, str], status: int) -> None:
    with client_of(encoder, Access()) as client:
        response = client.post("/v1/embeddings", json={"input": "a"}, headers=headers)
        assert response.status_code == status
        assert "access-control-allow-origin" not in response.headers
        assert client.get("/v1/info", headers=headers).status_code == 200


def test_origins_that_are_named_may(encoder: FakeEncoder, keys: tuple[Path, str]) -> None:
    origin = "https://tools.example"
    with client_of(encoder, Access(keys=keys[0], cors_origins=(origin + "/",))) as client:
        asked = {"origin": origin, "access-control-request-method": "POST", "access-control-request-headers": "authorization"}
        before = client.options("/v1/embeddings", headers=asked)
        assert before.status_code == 204
        assert before.headers["access-control-allow-origin"] == origin
        assert "authorization" in before.headers["access-control-allow-headers"]
        assert "access-control-allow-credentials" not in before.headers
        given = {"origin": origin, "sec-fetch-site": "cross-site", "x-api-key": keys[1]}
        answer = client.post("/v1/embeddings", json={"input": "a"}, headers=given)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == origin
        assert client.post("/v1/embeddings", json={"input": "a"}, headers={"origin": origin}).status_code == 401
        other = client.options("/v1/embeddings", headers={**asked, "origin": "https://evil.example"})
        assert other.status_code in (401, 403)
        assert "access-control-allow-origin" not in other.headers


# ---- rates


def test_a_bucket_fills_by_the_second_and_may_go_into_debt() -> None:
    now = [0.0]
    bucket = Bucket(2, lambda: now[0])
    assert bucket.wait() == 0
    bucket.take(30)
    assert bucket.wait() == pytest.approx(5.5)
    now[0] = 4
    assert bucket.wait() == pytest.approx(1.5)
    now[0] = 6
    assert bucket.wait() == 0
    now[0] = 1000
    assert bucket.wait() == 0
    bucket.take(20)
    assert bucket.wait() > 0, "no more than ten seconds' worth is saved up"


def test_each_key_pays_for_its_items(encoder: FakeEncoder, tmp_path: Path) -> None:
    path = tmp_path / "keys"
    slow, quick = ({"x-api-key": add_key(path, "slow", rate=0.1)}, {"x-api-key": add_key(path, "quick")})
    with client_of(encoder, Access(keys=path, rate=1000)) as client:
        assert client.post("/v1/embeddings", json={"input": ["a", "b", "c"]}, headers=slow).status_code == 200
        refused = client.post("/v1/embeddings", json={"input": "a"}, headers=slow)
        assert (refused.status_code, code(refused)) == (429, "rate_limited")
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert 20 <= int(refused.headers["retry-after"]) <= 31
        assert client.get("/readyz", headers=slow).status_code == 200
        for _ in range(5):
            assert client.post("/v1/embeddings", json={"input": ["a"] * 50}, headers=quick).status_code == 200


def test_without_keys_the_rate_is_everybodys(encoder: FakeEncoder) -> None:
    with client_of(encoder, Access(rate=0.1)) as client:
        assert client.post("/v1/embeddings", json={"input": "a"}).status_code == 200
        assert client.post("/v1/embeddings", json={"input": "a"}).status_code == 429


# ---- what is kept


def test_the_log_says_who_and_how_much_and_nothing_of_what(
    encoder: FakeEncoder, keys: tuple[Path, str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("biomedray.access"), "propagate", True)
    monkeypatch.setattr("biomedray.serve.logs.start", lambda: logging.getLogger("biomedray.access").setLevel(logging.INFO))
    headers = {"x-api-key": keys[1], "x-request-id": "mine-1"}
    with client_of(encoder, Access(keys=keys[0], access_log=True)) as client, caplog.at_level(logging.INFO, "biomedray.access"):
        client.post("/v1/embeddings?secret=query", json={"input": ["private words", "and more"]}, headers=headers)
        client.get("/v1/images/PMC-private/path?size=99", headers=headers)
        client.request("BREW", "/coffee-private")
    lines = [json.loads(record.getMessage()) for record in caplog.records if record.name == "biomedray.access"]
    first, second, third = lines
    assert first["request_id"] == "mine-1"
    assert (first["key"], first["method"], first["route"], first["status"]) == ("ward-7", "POST", "/v1/embeddings", 200)
    assert first["items"] == 2
    assert first["bytes_in"] > 20
    assert first["seconds"] >= 0
    assert (second["route"], second["status"]) == ("/v1/images/{pair_id:path}", 404)
    assert (third["method"], third["route"], third["status"], third["key"]) == ("OTHER", "unknown", 401, None)
    for word in ("private", "secret", keys[1], "testclient", "coffee"):
        assert word not in caplog.text


def test_lines_go_to_the_processs_own_stderr(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("biomedray.access"), "handlers", [])
    monkeypatch.setattr("sys.stderr", None)
    logs.start()
    logs.start()
    logs.write(logs.Line("id", None, "GET", "/livez", 200, 0, 0, 0.00123456))
    (line,) = capfd.readouterr().err.splitlines()
    assert json.loads(line)["seconds"] == 0.0012


def test_metrics_count_refusals_by_reason(guarded: TestClient, keys: tuple[Path, str]) -> None:
    guarded.post("/v1/embeddings", json={"input": "a"})
    headers = {"x-api-key": keys[1]}
    guarded.post("/v1/embeddings", json={"input": ""}, headers=headers)
    text = guarded.get("/metrics", headers=headers).text
    assert 'biomedray_refused_total{code="missing_api_key"} 1.0' in text
    assert 'biomedray_refused_total{code="empty_text"} 1.0' in text
    assert 'biomedray_requests_total{route="/v1/embeddings",status="401"} 1.0' in text
    assert "biomedray_requests_in_flight 1.0" in text
    assert "biomedray_body_bytes_held 0.0" in text
    assert 'biomedray_stage_seconds_count{stage="read"}' in text


@pytest.mark.parametrize(
    ("path", "root", "status"),
    [("/a/livez", "/a", 200), ("/livez", "/a", 200), ("/a/v1/info", "/a", 401), ("/alivez", "/a", 401), ("/a/livez", "", 401)],
)
def test_probes_are_open_under_a_prefix_too(guarded: TestClient, path: str, root: str, status: int) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    assert ask(guarded.app, "GET", path, {}, receive, root)[0]["status"] == status


def test_a_gate_without_options_is_open(encoder: FakeEncoder) -> None:
    assert not Gate(Access(), Limits()).logged
    with client_of(encoder, Access()) as client:
        assert client.get("/metrics").status_code == 200
