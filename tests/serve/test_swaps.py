"""What is served while it changes: leases of engines, what paths hold, HAProxy's environment, the file for 'serve deploy'."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from biomedray import serve as room
from biomedray.errors import UserError
from biomedray.serve import haproxy, loading
from biomedray.serve.engine import Engine
from biomedray.serve.lanes import Lanes
from biomedray.serve.limits import Limits
from biomedray.serve.loading import Holding
from biomedray.serve.metrics import Metrics
from biomedray.serve.routes import create_app
from biomedray.serve.search import SearchIndex
from biomedray.serve.slot import Slot

from .conftest import FakeEncoder


class SlowEncoder(FakeEncoder):
    """Takes its time, so that a swap falls into a request."""

    name = "slow"

    def encode_tokens(self, rows: Any) -> Any:
        time.sleep(0.3)
        return super().encode_tokens(rows)


def closed(engine: Engine) -> bool:
    return engine._pool._shutdown


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"model": "nowhere"}, "no such model folder"),
        ({"model": "local-dir:nowhere"}, "no such model folder"),
        ({"index": Path("nowhere")}, "no such folder"),
        ({"pairs": Path("nowhere")}, "no such folder"),
    ],
)
def test_what_is_plainly_not_there_is_told_without_loading(tmp_path: Path, wrong: dict[str, Any], said: str) -> None:
    loading.check_paths(Holding(model=str(tmp_path)))
    loading.check_paths(Holding(model="hf-hub:someone/something"))
    with pytest.raises(UserError, match=said):
        loading.check_paths(Holding.model_validate({"model": str(tmp_path), **wrong}))


def test_an_engine_that_was_replaced_closes_with_its_last_lease() -> None:
    first, second = Engine(FakeEncoder()), Engine(FakeEncoder())
    slot = Slot(first)
    with slot.lease() as one, slot.lease() as two:
        slot.put(second)
        assert one is two is first
        assert not closed(first)
        with slot.lease() as later:
            assert later is second
    assert closed(first)
    assert not closed(second)
    slot.close()
    assert closed(second)
    assert slot.engine is None


def test_lanes_stay_while_an_engine_shares_them() -> None:
    limits, metrics = Limits(), Metrics()
    lanes = Lanes(FakeEncoder(), limits, metrics)
    first = Engine(lanes.encoder, limits=limits, metrics=metrics, lanes=lanes)
    second = Engine(lanes.encoder, limits=limits, metrics=metrics, lanes=lanes)
    slot = Slot(first)
    slot.put(second)
    assert closed(first)
    assert not lanes._decoders._shutdown
    slot.put(Engine(FakeEncoder()))
    assert lanes._decoders._shutdown


def test_a_request_ends_with_the_engine_that_it_began_with() -> None:
    async def scenario() -> tuple[httpx.Response, httpx.Response]:
        slot = Slot(Engine(SlowEncoder()))
        async with _client(slot) as client:
            asked = asyncio.create_task(client.post("/v1/embeddings", json={"input": "red"}))
            await asyncio.sleep(0.1)
            slot.put(Engine(FakeEncoder()))
            return await asked, await client.post("/v1/embeddings", json={"input": "red"})

    before, after = asyncio.run(scenario())
    assert (before.status_code, before.json()["model"]) == (200, "slow")
    assert (after.status_code, after.json()["model"]) == (200, "fake")


def test_a_drain_answers_what_runs_and_refuses_what_comes() -> None:
    async def scenario() -> tuple[int, httpx.Response, httpx.Response, httpx.Response]:
        slot = Slot(Engine(SlowEncoder()))
        async with _client(slot) as client:
            asked = asyncio.create_task(client.post("/v1/embeddings", json={"input": "red"}))
            await asyncio.sleep(0.1)
            draining = asyncio.create_task(slot.drain(10))
            await asyncio.sleep(0.05)
            refused, alive = await client.get("/v1/info"), await client.get("/livez")
            return await draining, await asked, refused, alive

    left, answered, refused, alive = asyncio.run(scenario())
    assert left == 0
    assert answered.status_code == 200
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "going_down")
    assert refused.headers["retry-after"] == "1"
    assert alive.status_code == 200


def test_without_an_engine_the_service_is_alive_and_not_ready() -> None:
    async def scenario() -> list[int]:
        async with _client(Slot()) as client:
            return [(await client.get(path)).status_code for path in ("/livez", "/readyz", "/v1/info", "/")]

    assert asyncio.run(scenario()) == [200, 503, 503, 200]


def test_a_mark_changes_with_what_the_paths_hold(tmp_path: Path, index_folder: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights").write_bytes(b"one")
    holding = Holding(model=str(model), index=index_folder)
    first = loading.mark(holding)
    assert loading.mark(holding) == first
    (tmp_path / "new").write_bytes(b"two")
    (tmp_path / "new").replace(model / "weights")
    second = loading.mark(holding)
    assert second.model != first.model
    assert second.index == first.index
    os.utime(index_folder / "CURRENT", ns=(1, time.time_ns()))
    assert loading.mark(holding).index != second.index


def test_a_serving_file_names_paths_from_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "runs" / "7").mkdir(parents=True)
    file = tmp_path / "serving.yaml"
    file.write_text("model: runs/7\nindex: indexes/7\n")
    found = loading.resolve(Holding(model=str(file)))
    assert found == Holding(model=str(tmp_path / "runs/7"), index=tmp_path / "indexes/7")
    file.write_text("model: hf-hub:org/name\n")
    assert loading.resolve(Holding(model=str(file))).model == "hf-hub:org/name"


@pytest.mark.parametrize("text", ["model: [1", "index: there\n", "model: x\nmodle: y\n", "42", ""])
def test_a_serving_file_that_is_off_is_one_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "serving.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match="not a serving file") as caught:
        loading.resolve(Holding(model=str(file)))
    assert "\n" not in str(caught.value)


def test_an_index_can_be_closed(index_folder: Path, encoder: FakeEncoder) -> None:
    engine = Engine(encoder, SearchIndex.open(index_folder, encoder.fingerprint))
    slot = Slot(engine)
    slot.put(Engine(encoder))
    assert closed(engine)


@pytest.mark.skipif(haproxy.binary() is None, reason="Ray brings HAProxy on Linux only")
def test_haproxys_own_pages_stay_on_this_machine(tmp_path: Path) -> None:
    """The script in HAProxy's place, on the lines that Ray's template has; ``-v`` makes HAProxy say its version and end."""
    settings = haproxy.environment(tmp_path, 2)
    config = tmp_path / "node" / "haproxy.cfg"
    config.parent.mkdir()
    errors = "".join(f"    errorfile {status} /elsewhere/500.http\n" for status in (502, 503, 504))
    frontends = "frontend prometheus\n    bind :9101\nfrontend http\n    bind 0.0.0.0:8000\nlisten stats\n  bind *:8404\n"
    config.write_text(f"global\n    tune.bufsize 65536\ndefaults\n{errors}{frontends}")
    script = settings["RAY_SERVE_HAPROXY_BINARY_PATH"]
    said = subprocess.run([script, "-f", str(config), "-v"], capture_output=True, text=True, check=True).stdout
    assert "HAProxy version" in said
    bound = [line.split()[1] for line in config.read_text().splitlines() if "bind" in line]
    assert bound == ["127.0.0.1:9101", "0.0.0.0:8000", "127.0.0.1:8404"]
    assert settings[haproxy.ENABLE] == "1"
    files = dict(line.split()[1:] for line in config.read_text().splitlines() if "errorfile" in line)
    assert {status: Path(file).name for status, file in files.items()} == {
        **dict.fromkeys(("502", "503", "504"), "503.http"),
        "400": "400.http",
        "408": "408.http",
    }
    assert "tune.http.maxhdr 1000" in config.read_text()
    head, _, body = Path(files["503"]).read_bytes().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 1" in head
    assert f"content-length: {len(body)}".encode() in head
    assert json.loads(body)["error"]["code"] == "no_replica"


def test_rays_template_still_has_those_lines() -> None:
    from ray.serve._private import haproxy_templates

    text = Path(haproxy_templates.__file__).read_text()
    assert "bind :{{ config.metrics_port }}" in text
    assert "bind *:{{ config.stats_port }}" in text
    assert "errorfile 504 {{ config.error_file_path }}" in text
    assert "    tune.bufsize {{ config.bufsize }}" in text


def test_haproxy_is_chosen_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(haproxy, "binary", lambda: None)
    assert not haproxy.choose("auto")
    with pytest.raises(UserError, match="--proxy python"):
        haproxy.choose("haproxy")
    monkeypatch.setattr(haproxy, "binary", lambda: "/bin/true")
    assert haproxy.choose("auto")
    assert not haproxy.choose("python")


def test_the_deploy_file_is_one_that_serve_takes(tmp_path: Path) -> None:
    from ray.serve.schema import ServeDeploySchema

    from biomedray.serve.app import ServeConfig

    path = tmp_path / "serve.yaml"
    beside = {"ct": {"model": "hf-hub:org/ct"}}
    room.write_deploy_config(
        path, "hf-hub:org/name", Path("index"), port=9000, settings=["replicas=3", f"beside={json.dumps(beside)}"]
    )
    content = yaml.safe_load(path.read_text())
    schema = ServeDeploySchema.model_validate(content)
    assert [app.route_prefix for app in schema.applications] == ["/", "/ct"]
    assert schema.http_options.port == 9000
    config = ServeConfig.model_validate(content["applications"][0]["args"])
    assert config.replicas == 3
    held = [Holding.model_validate(app["deployments"][0]["user_config"]) for app in content["applications"]]
    assert [holding.model for holding in held] == ["hf-hub:org/name", "hf-hub:org/ct"]
    assert held[0].index == Path("index").resolve()


def test_a_model_beside_has_a_name_of_its_own() -> None:
    with pytest.raises(UserError, match="is a route of every service"):
        room.write_deploy_config(Path("never"), "x", settings=["beside={docs: {model: y}}"])


def _client(slot: Slot) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(create_app(slot)), base_url="http://test")
