"""What a run would fetch, how long it would take and what it would cost, before any article is fetched.

inventory (all of it) --sample--> records, HEADs of the files they name --shares and means--> totals with intervals
"""

from __future__ import annotations

import asyncio
import math
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from biomedray.errors import UserError
from biomedray.ingest.images import format_rank, is_raster_name, raster_stem
from biomedray.ingest.inventory import Inventory, cloud_sources, is_cloud, read_inventory
from biomedray.ingest.record import read_record
from biomedray.ingest.selection import refused_by_record
from biomedray.ingest.settings import IngestConfig
from biomedray.ingest.sources import ArticleRef, discover
from biomedray.ingest.staging import Staging, plain_md5
from biomedray.ingest.store import Background, FetchError, Store, open_store

_Z = 1.96


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval; exact ones have none."""

    value: float
    low: float
    high: float

    def times(self, factor: float) -> Estimate:
        """The estimate of a multiple."""
        return Estimate(self.value * factor, self.low * factor, self.high * factor)

    def plus(self, other: Estimate) -> Estimate:
        """The estimate of a sum; the interval is that of the worst case."""
        return Estimate(self.value + other.value, self.low + other.low, self.high + other.high)


@dataclass(frozen=True)
class Plan:
    """What a run over these sources means; local files need no requests."""

    sources: tuple[str, ...]
    snapshots: tuple[str, ...]
    listed: int
    """Article versions in the inventories, and articles or archives on local disk."""
    superseded: int
    articles: Estimate
    files: Estimate
    bytes: Estimate
    requests: Estimate
    hours: Estimate
    cost: Estimate
    bound: str
    """What sets the time: requests, bandwidth or cores."""
    sampled: int
    measured: int
    nodes: int


@dataclass(frozen=True)
class _Seen:
    """One article of the sample: whether its record is wanted, how many files it needs, their bytes where measured."""

    wanted: bool
    files: int = 0
    bytes: int | None = None


def make_plan(sources: Sequence[str], config: IngestConfig, nodes: int, progress: bool) -> Plan:
    """What ingesting the sources would take on ``nodes`` machines.

    Raises:
        UserError: a source is missing or its inventory can't be read.
        StoreDownError: a store can't be reached.
    """
    if nodes < 1:
        raise UserError(f"--nodes {nodes}: give 1 or more")
    local, stores = cloud_sources(sources)
    exact = discover(local) if local else []
    wanted = [ref for ref in exact if ref.problem is None]
    articles = files = _exact(len(wanted))
    size = _exact(sum(ref.size for ref in wanted))
    requests = _exact(0)
    listed, superseded, sampled, measured = len(exact), len(exact) - len(wanted), 0, 0
    snapshots: list[str] = []
    with tempfile.TemporaryDirectory(prefix="biomedray-plan-") as work:
        for source in stores:
            inventory = read_inventory(source, config, Path(work), progress)
            seen = _sample(inventory, config, Path(work) / "sample")
            n = inventory.n_wanted
            found = _share(sum(one.wanted for one in seen), len(seen), n).times(n)
            needed = _mean([one.files for one in seen], n).times(n)
            articles, files = articles.plus(found), files.plus(needed)
            size = size.plus(_mean([one.bytes for one in seen if one.bytes is not None], n).times(n))
            requests = requests.plus(needed).plus(_exact(n))
            listed, superseded = listed + inventory.n_articles, superseded + inventory.n_articles - n
            sampled, measured = sampled + len(seen), measured + sum(one.bytes is not None for one in seen)
            snapshots.append(inventory.snapshot)
    hours, bound = _hours(articles, size, requests, nodes, config)
    return Plan(
        sources=tuple(sources),
        snapshots=tuple(snapshots),
        listed=listed,
        superseded=superseded,
        articles=articles,
        files=files,
        bytes=size,
        requests=requests,
        hours=hours,
        cost=_cost(hours, size, requests, nodes, config),
        bound=bound,
        sampled=sampled,
        measured=measured,
        nodes=nodes,
    )


def sources_of(paths: Sequence[str]) -> list[str]:
    """The sources among a command's paths: an output folder that isn't there yet, named out of habit, is none."""
    last = paths[-1]
    habit = len(paths) > 1 and not is_cloud(last) and not Path(last).exists()
    return list(paths[:-1] if habit else paths)


def plan_table(plan: Plan, config: IngestConfig) -> Table:
    """The plan as a table, with what it was estimated from."""
    rates = config.plan
    table = Table(title=f"plan: {', '.join(plan.sources)}", caption=_caption(plan, config), show_header=True)
    table.add_column("")
    table.add_column("expected", justify="right")
    table.add_column("95 % interval", justify="right")
    table.add_row("listed in the inventory", f"{plan.listed:,}", "")
    table.add_row("  of these superseded versions", f"{plan.superseded:,}", "")
    table.add_row("articles wanted", *_cells(plan.articles, _count))
    table.add_row("files (XML and pictures)", *_cells(plan.files, _count))
    table.add_row("bytes", *_cells(plan.bytes, _size))
    table.add_row("requests", *_cells(plan.requests, _count))
    table.add_section()
    table.add_row(f"hours on {plan.nodes} x {rates.cores_per_node} cores", *_cells(plan.hours, _hour))
    table.add_row("  which is set by", plan.bound, "")
    table.add_row("cost in $", *_cells(plan.cost, lambda value: f"{value:,.2f}"))
    return table


def _caption(plan: Plan, config: IngestConfig) -> str:
    rates, wanted = config.plan, config.select
    words = [f"inventory {', '.join(plan.snapshots)}." if plan.snapshots else "local files: no requests."]
    if plan.sampled:
        words.append(
            f"From {plan.sampled} records drawn at random (seed {rates.seed}); sizes from {plan.measured} of them. "
            "Files are the XML and each picture once, pictures of tables and formulas too, which a run leaves out."
        )
    if wanted.journals or wanted.year_from or wanted.year_to or wanted.article_types or wanted.keywords:
        words.append("Journal, year, type and keywords stand in the XML: they are not counted here, so this is an upper bound.")
    words.append(
        f"Rates a node: {rates.requests_per_s:g} requests/s, {rates.mb_per_s:g} MB/s, {rates.cpu_s_per_article:g} core-seconds "
        f"an article; ${rates.price_per_node_hour:g} an hour, ${rates.price_per_million_requests:g} a million requests, "
        f"${rates.price_per_gb:g} a GB (--set plan.mb_per_s=...)."
    )
    return " ".join(words)


# ---- the sample


def _sample(inventory: Inventory, config: IngestConfig, work: Path) -> list[_Seen]:
    refs = inventory.sample(config.plan.sample, config.plan.seed)

    async def look() -> list[_Seen]:
        store = open_store(inventory.address, config.fetch)
        staging = Staging(work)
        try:
            return await asyncio.gather(
                *(_look(store, ref, config, staging, measure=i < config.plan.sample_sizes) for i, ref in enumerate(refs))
            )
        finally:
            await store.close()

    with Background() as background:
        return background.wait(look())


async def _look(store: Store, ref: ArticleRef, config: IngestConfig, staging: Staging, measure: bool) -> _Seen:
    """One article by its record and, where its size is wanted too, by asking for the size of each file."""
    nothing = _Seen(wanted=False, bytes=0 if measure else None)
    try:
        path = await store.fetch(f"metadata/{ref.name}.json", staging, plain_md5(dict(ref.files).get(f"{ref.name}.json")))
        record = read_record(path.read_bytes(), ref.name)
    except (FetchError, ValueError):
        return nothing
    if refused_by_record(record, ref.name, config.select):
        return nothing
    names = [f"{ref.name}.xml", *pictures(name for name, _ in record.media)]
    if not measure:
        return _Seen(wanted=True, files=len(names))
    sizes = await asyncio.gather(*(store.size(f"{ref.name}/{name}") for name in names))
    return _Seen(wanted=True, files=len(names), bytes=sum(size or 0 for size in sizes))


def pictures(names: Iterable[str]) -> list[str]:
    """Of the files of an article, each picture once, in its best format: thumbnails beside it are not fetched."""
    best: dict[str, str] = {}
    for name in sorted(names):
        stem = raster_stem(name).lower()
        if is_raster_name(name) and format_rank(name) < format_rank(best.get(stem, "")):
            best[stem] = name
    return sorted(best.values())


# ---- arithmetic


def _exact(value: float) -> Estimate:
    return Estimate(value, value, value)


def _share(hits: int, n: int, population: int) -> Estimate:
    """A share with Wilson's interval; exact where everything was looked at."""
    if n in (0, population):
        return _exact(hits / max(n, 1))
    p, z2 = hits / n, _Z**2
    middle, half = p + z2 / (2 * n), _Z * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return Estimate(p, max(0.0, (middle - half) / (1 + z2 / n)), min(1.0, (middle + half) / (1 + z2 / n)))


def _mean(values: Sequence[float], population: int) -> Estimate:
    """A mean with the interval of the normal approximation; exact where everything was looked at."""
    n = len(values)
    mean = sum(values) / max(n, 1)
    if n in (0, population):
        return _exact(mean)
    half = _Z * math.sqrt(sum((value - mean) ** 2 for value in values) / max(n - 1, 1) / n)
    return Estimate(mean, max(0.0, mean - half), mean + half)


def _hours(articles: Estimate, size: Estimate, requests: Estimate, nodes: int, config: IngestConfig) -> tuple[Estimate, str]:
    """The longest of what requests, bytes and cores take: they overlap."""
    rates = config.plan
    needs = {
        "requests": requests.times(1 / rates.requests_per_s),
        "bandwidth": size.times(1 / (rates.mb_per_s * 1e6)),
        "cores": articles.times(rates.cpu_s_per_article / rates.cores_per_node),
    }
    bound = max(needs, key=lambda name: needs[name].value)
    ends = [max(getattr(need, end) for need in needs.values()) / 3600 / nodes for end in ("value", "low", "high")]
    return Estimate(*ends), bound


def _cost(hours: Estimate, size: Estimate, requests: Estimate, nodes: int, config: IngestConfig) -> Estimate:
    rates = config.plan
    machines = hours.times(nodes * rates.price_per_node_hour)
    return machines.plus(requests.times(rates.price_per_million_requests / 1e6)).plus(size.times(rates.price_per_gb / 1e9))


def _cells(estimate: Estimate, show: Callable[[float], str]) -> tuple[str, str]:
    exact = estimate.low == estimate.high
    return show(estimate.value), "" if exact else f"{show(estimate.low)} - {show(estimate.high)}"


def _count(value: float) -> str:
    return f"{round(value):,}"


def _hour(value: float) -> str:
    return f"{value:,.1f}" if value >= 1 or value == 0 else f"{value:.2f}" if value >= 0.01 else "< 0.01"


def _size(value: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:,.0f} {unit}" if unit == "B" else f"{value:,.1f} {unit}"
        value /= 1000
    return f"{value:,.2f} TB"
