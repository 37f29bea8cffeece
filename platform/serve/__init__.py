"""Serve: a model and an index in, HTTP out: embeddings, zero-shot classification, search and a search page.

    pairs + model -> build_index ==[index: generations/000001]==+
    model ------------------------------------------------------+-> serve (Ray Serve) -> /v1/embeddings /v1/search / ...

    request -> guard -> routes -> engine -> batcher -> encoder (one model thread)
                                    +----> search (faiss, exact subsets) -> hits -> figures by reference

One replica process holds all of it, since a hop between deployments costs more than a search.
``app`` is the only module that knows Ray; ``routes.create_app`` is the same service without it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from biomedray.artifacts import Manifest
from biomedray.records import SPLITS, Split
from biomedray.serve.haproxy import Proxy

__all__ = ["add_to_index", "build_index", "serve", "stop", "write_deploy_config"]


def build_index(
    pairs: Path,
    model: str | Path,
    out: Path,
    splits: Sequence[Split] = SPLITS,
    progress: bool = True,
    layout: str = "auto",
    shards: int = 1,
) -> Manifest:
    """Make the index artifact ``out`` of the pairs of ``splits``, searchable by figure and by caption.

    ``layout`` is flat, rabitq, sq8 or, by size, auto; ``shards`` the parts that several actors may hold.

    Raises:
        UserError: an input is no such artifact, the splits hold no pair, or ``out`` is taken.
        WorkError: the embeddings and the pairs do not name the same rows.
    """
    from biomedray.serve import index

    return index.build_index(pairs, model, out, index.Settings(tuple(splits), layout, shards), progress)


def add_to_index(
    pairs: Path,
    model: str | Path,
    out: Path,
    splits: Sequence[Split] = SPLITS,
    progress: bool = True,
    withdraw: Sequence[str] = (),
    compact: bool = False,
    layout: str = "auto",
) -> Manifest:
    """Bring an index up to a newer or further pairs artifact; only what it does not have is embedded.

    ``withdraw`` names articles (PMCIDs, or files of them) that are never shown again; ``compact`` writes everything afresh.

    Raises:
        UserError: an input is no such artifact, the model is not the index's, or an article's id is none.
        WorkError: the embeddings and the pairs do not name the same rows.
    """
    from biomedray.serve import index

    update = index.Update(tuple(withdraw), compact)
    return index.add_to_index(pairs, model, out, index.Settings(tuple(splits), layout), update, progress)


def serve(
    model: str | Path,
    index: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    block: bool = True,
    pairs: Path | None = None,
    on_ready: Callable[[str], None] | None = None,
    proxy: Proxy = "auto",
    settings: Sequence[str] = (),
) -> str:
    """Serve a model, and an index if given, through Ray Serve; returns the URL, or blocks until Ctrl-C.

    ``pairs`` says where the index's pairs artifact lies now if it has moved. ``on_ready`` is called
    with the URL once requests are answered. ``proxy``: HAProxy where there is one (auto), or Ray's own in
    Python; a cluster that runs already has chosen. ``settings`` are key=value of app.ServeConfig.

    Raises:
        UserError: the model or the index can't be served, a setting is off, or the port is taken.
        WorkError: the replica did not come up.
    """
    from biomedray.config import override
    from biomedray.serve import haproxy

    # Ray starts its workers at niceness 15, for jobs; a service is waited for, and would stand behind whatever else runs here.
    os.environ.setdefault("RAY_worker_niceness", "0")
    haproxy.prepare(proxy)  # before Ray Serve is imported, which reads the environment then
    from biomedray.serve.app import ServeConfig
    from biomedray.serve.app import serve as run

    config = override(ServeConfig(model=str(model), index=index, pairs=pairs), settings)
    return run(config, host, port, block=block, on_ready=on_ready)


def write_deploy_config(
    path: Path,
    model: str | Path,
    index: Path | None = None,
    pairs: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    settings: Sequence[str] = (),
) -> None:
    """Write the Serve config file of such a service, for ``serve deploy``; arguments as of ``serve``.

    Raises:
        UserError: a setting is off.
    """
    from biomedray.config import override
    from biomedray.serve import deploy
    from biomedray.serve.app import ServeConfig

    config = override(ServeConfig(model=str(model), index=index, pairs=pairs), settings).placed()
    config = config.model_copy(update={"access": config.access.on(host)})
    applications = [
        deploy.Application(name, prefix, one.resolved(), one.holding()) for name, prefix, one in config.applications()
    ]
    content = deploy.deploy_config(applications, host, port, config.limits.request_seconds)
    deploy.write(path, content)


def stop() -> None:
    """Take the service of ``serve(block=False)`` down; the Ray cluster stays."""
    from biomedray.serve import app

    app.stop()
