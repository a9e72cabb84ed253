"""Counts and times of requests, in Prometheus' text format and under TensorFlow Serving's names."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator

import prometheus_client

from dynamarks_tf.serving.protocol.status import StatusError

NAMES = ":tensorflow:serving:"
BUCKETS_US = tuple(10 * 1.8**index for index in range(33))  # TensorFlow Serving's; up to 20 minutes
CONTENT_TYPE = "text/plain"
UNKNOWN_MODEL = "(unknown)"  # one name, so that clients cannot fill the memory with names

# The library writes help texts, creation times and `_total` after each counter; TensorFlow Serving does not.
_NOT_IN_TENSORFLOW_SERVING = re.compile(r"^(?:# HELP|# TYPE \S+_created|[\w:]+_created[{ ]).*\n", re.MULTILINE)
_COUNTER_NAME = re.compile(r"(:request_count)_total\b")


class Metrics:
    """TensorFlow Serving's counts of requests. May be used from many threads."""

    def __init__(self) -> None:
        self._registry = prometheus_client.CollectorRegistry()
        self._count = prometheus_client.Counter(
            NAMES + "request_count", "Requests.", ["model_name", "status"], registry=self._registry
        )
        self._latency = self._histogram("request_latency", "entrypoint")
        self._runtime = self._histogram("runtime_latency", "runtime")

    @contextlib.contextmanager
    def request(self, model_name: str, *, api: str = "", entrypoint: str) -> Iterator[None]:
        """Counts one request, and measures its time if it succeeds.

        Args:
            model_name: the requested model.
            api: "predict" over REST, "Predict" over gRPC; empty for other requests.
            entrypoint: "REST" or "GRPC".
        """
        began = time.perf_counter()
        status = "UNKNOWN"
        try:
            yield
            status = "OK"
            self._latency.labels(model_name, api, entrypoint).observe((time.perf_counter() - began) * 1e6)
        except StatusError as error:
            status = error.code.name
            raise
        finally:
            self._count.labels(model_name, status).inc()

    def record_runtime(self, model_name: str, seconds: float) -> None:
        """Counts the time that a prediction took in the model."""
        self._runtime.labels(model_name, "Predict", "TF1").observe(seconds * 1e6)

    def text(self) -> str:
        """Writes everything in Prometheus' text format."""
        text = prometheus_client.generate_latest(self._registry).decode()
        return _COUNTER_NAME.sub(r"\1", _NOT_IN_TENSORFLOW_SERVING.sub("", text))

    def _histogram(self, name: str, last_label: str) -> prometheus_client.Histogram:
        labels = ["model_name", "API", last_label]
        return prometheus_client.Histogram(
            NAMES + name, "Microseconds.", labels, buckets=BUCKETS_US, registry=self._registry
        )
