"""Prometheus metrics of one replica."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_ITEMS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters of requests, batches and queues, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("biomedray_requests", "Requests answered", ("route", "status"), registry=self.registry)
        self.seconds = Histogram(
            "biomedray_request_seconds", "Seconds from request to answer", ("route",), buckets=_SECONDS, registry=self.registry
        )
        self.batch_items = Histogram(
            "biomedray_batch_items", "Items that the encoder took at once", ("kind",), buckets=_ITEMS, registry=self.registry
        )
        self.batch_seconds = Histogram(
            "biomedray_batch_seconds", "Seconds of one encoder call", ("kind",), buckets=_SECONDS, registry=self.registry
        )
        self.stage_seconds = Histogram(
            "biomedray_stage_seconds",
            "Seconds of one item or call in a stage: read, decode, queue, model, search, picture",
            ("stage",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.refused = Counter(
            "biomedray_refused", "Requests refused, by the code of the refusal", ("code",), registry=self.registry
        )
        self.in_flight = Gauge("biomedray_requests_in_flight", "Requests that are read, run or answered", registry=self.registry)
        self.held_bytes = Gauge("biomedray_body_bytes_held", "Bytes of request bodies in memory", registry=self.registry)
        self.pending = Gauge("biomedray_pending_items", "Items that wait or run", ("kind",), registry=self.registry)
        self.index_rows = Gauge("biomedray_index_rows", "Rows of the index", registry=self.registry)

    def observe_batch(self, kind: str, items: int, seconds: float) -> None:
        """Count one encoder call."""
        self.batch_items.labels(kind).observe(items)
        self.batch_seconds.labels(kind).observe(seconds)

    def observe_stage(self, stage: str, seconds: float) -> None:
        """Count what one item or call took in a stage."""
        self.stage_seconds.labels(stage).observe(seconds)

    def observe_request(self, route: str, status: int, seconds: float) -> None:
        """Count one answer."""
        self.requests.labels(route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
