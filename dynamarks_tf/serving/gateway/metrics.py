"""The proxy's metrics for Prometheus."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from dynamarks_tf.request_logs import PredictionLogWriter

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """Counters of one proxy. No client's name is among them.

    Args:
        writer: the log, if there is one.
    """

    def __init__(self, writer: PredictionLogWriter | None) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        requests = Counter(
            "dynamarks_proxy_requests", "Requests answered", ["interface", "code"], registry=self._registry
        )
        seconds = Histogram(
            "dynamarks_proxy_request_seconds",
            "Time from request to answer, with the server's own",
            ["interface"],
            buckets=BUCKETS_S,
            registry=self._registry,
        )
        self._reloads = Counter(
            "dynamarks_proxy_reloads", "Changed files read again", ["what", "outcome"], registry=self._registry
        )
        self._count_of = functools.cache(requests.labels)  # a lookup of labels takes longer than a count
        self._seconds_of = {interface: seconds.labels(interface) for interface in ("grpc", "rest")}
        if writer is not None:
            self._registry.register(_LogCollector(writer))

    def count(self, interface: str, code: str, seconds: float) -> None:
        """Counts a request over `interface`, "grpc" or "rest", that was answered with `code`."""
        self._count_of(interface, code).inc()
        self._seconds_of[interface].observe(seconds)

    def expect_reloads(self, what: str) -> None:
        """Sets the counters of files that may be read again to zero: alerts see a rise only from an earlier value."""
        for outcome in ("used", "refused"):
            self._reloads.labels(what, outcome)

    def count_reload(self, what: str, outcome: str) -> None:
        """Counts an attempt to use changed files, `outcome` being "used" or "refused"."""
        self._reloads.labels(what, outcome).inc()

    def exposition(self) -> bytes:
        """Returns the metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class _LogCollector(Collector):
    def __init__(self, writer: PredictionLogWriter) -> None:
        self._writer = writer

    def collect(self) -> Iterator[CounterMetricFamily]:
        yield CounterMetricFamily(
            "dynamarks_proxy_log_written", "Predictions written to the log", value=self._writer.written
        )
        yield CounterMetricFamily(
            "dynamarks_proxy_log_dropped", "Predictions the log has lost", value=self._writer.dropped
        )
