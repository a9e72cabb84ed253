"""The collector: takes copies of predictions from Envoy and writes them to the log. TensorFlow is not loaded.

Envoy sends the copies as entries of its gRPC access log, after the answers: no answer waits for the collector. What
arrives goes into the queue of the writer, whose thread unpacks and decodes it. When the queue or the disk is full,
predictions are dropped and counted. What is lost before it arrives is counted by `Losses`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from time import time
from typing import Any

import grpc
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest, start_http_server
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector as MetricSource

from dynamarks_tf import foreign_text
from dynamarks_tf._support.files import PRIVATE_FILE, PRIVATE_FOLDER
from dynamarks_tf.errors import ServingError
from dynamarks_tf.request_logs.writer import PredictionLogWriter
from dynamarks_tf.serving.gateway.admin import GRACE_S, SENT, Admin, serve_page
from dynamarks_tf.serving.gateway.copies import Copy, seconds
from dynamarks_tf.serving.gateway.losses import Losses
from dynamarks_tf.serving.gateway.messages import StreamAccessLogsMessage
from dynamarks_tf.serving.gateway.rest_prediction import RestDecoder, is_prediction, may_be_prediction
from dynamarks_tf.serving.gateway.settings import ADMIN, COLLECTOR, COUNTS, METRICS, parse_address

LOG = foreign_text.logger(__name__)

METHOD = ("envoy.service.accesslog.v3.AccessLogService", "StreamAccessLogs")
MOST_STREAMS = 256  # one for each thread of Envoy
SMALLEST_QUEUE_BYTES = 64 * 2**20
WAITING_REQUESTS = 4  # requests of the largest size that may wait for the log, in base64
SAMPLE_S = 0.5
LOOKAHEAD_BYTES = 2**23  # that Envoy may send before the collector takes them; the default slows large copies down


class Collector:
    """Turns entries of Envoy's access log into entries of the request log.

    Args:
        writer: the log.
        losses: counts what is lost on the way; the writer must call its `settle`.
        decoder: decodes predictions over REST; `None` where there are none.
    """

    def __init__(self, writer: PredictionLogWriter, losses: Losses, decoder: RestDecoder | None) -> None:
        self._writer = writer
        self._losses = losses
        self._decoder = decoder

    def receive(self, messages: Iterator[Any], _: Any = None) -> bytes:
        """Takes the entries of one stream."""
        for message in messages:
            for entry in message.http_logs.log_entry:
                common = entry.common_properties
                self._losses.arrive(seconds(common.start_time) + seconds(common.duration))
                try:
                    copy = Copy.read(common)
                except Exception as error:  # one bad entry must not end the stream
                    self._writer.drop(f"its copy cannot be read: {type(error).__name__}", None)
                else:
                    self._take(copy)
        return b""

    def _take(self, copy: Copy) -> None:
        if copy.path.startswith("/tensorflow.serving."):
            record = copy.encode_grpc
        elif is_prediction(copy.path) and self._decoder is not None:
            record = functools.partial(copy.encode_rest, self._decoder)
        elif may_be_prediction(copy.path):
            return self._writer.drop("its path has an unknown form", copy.client)
        else:
            return self._losses.skip()
        self._writer.log_later(copy.size, record, undecoded=copy.encode_undecoded, client=copy.client)


class _Counts(MetricSource):
    def __init__(self, losses: Losses) -> None:
        self._losses = losses

    def collect(self) -> Iterator[CounterMetricFamily]:
        yield CounterMetricFamily("dynamarks_proxy_log_written", "Predictions in the log", value=self._losses.written)
        yield CounterMetricFamily("dynamarks_proxy_log_dropped", "Predictions not in it", value=self._losses.dropped)


def run(
    folder: Path,
    log_dir: Path,
    *,
    upstream_rest: str | None,
    upstream_ca: Path | None,
    max_body_bytes: int,
    stop: threading.Event,
    parent: int | None = None,
    drain_s: float | None = None,
    listen: str | None = None,
    metrics_port: int | None = None,
) -> None:
    """Collects until `stop` is set, or until the process `parent` is no longer this one's parent: then Envoy ends too.

    Args:
        folder: where the sockets are.
        log_dir: the log.
        upstream_rest: `host:port` of the model server's REST.
        upstream_ca: PEM file with the authority of its certificate, if it speaks TLS.
        max_body_bytes: the largest size of a request.
        stop: ends it.
        parent: the number of the process that started this one.
        drain_s: if given, Envoy refuses new connections at the end, and gets so many seconds for what is under way.
        listen: `host:port` where copies are taken, in place of the socket. There is no authentication.
        metrics_port: the port for metrics on all addresses, beside the socket; none if `None`.

    Raises:
        ArgumentError: `listen` is no address.
        LogError: the log cannot be written to.
        ServingError: a socket or a port cannot be opened.
    """
    if listen is not None:
        parse_address(listen)
    folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    losses, registry = Losses(folder / COUNTS), CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(_Counts(losses))
    waiting = max(SMALLEST_QUEUE_BYTES, WAITING_REQUESTS * max_body_bytes * 4 // 3)  # no request is too large for it
    scheme = "http" if upstream_ca is None else "https"
    decoder = None if upstream_rest is None else RestDecoder(f"{scheme}://{upstream_rest}", str(upstream_ca or ""))
    admin = Admin(folder / ADMIN)
    with PredictionLogWriter(log_dir, max_waiting_bytes=waiting, on_settled=losses.settle) as writer:
        serve_page(folder / METRICS, lambda: generate_latest(registry) + _metrics_of(admin))
        if metrics_port is not None:
            _serve_metrics(metrics_port, registry)
        server = _serve(folder / COLLECTOR, listen, Collector(writer, losses, decoder))
        while not stop.wait(SAMPLE_S):
            if parent is not None and os.getppid() != parent:
                LOG.warning("the gateway has died; Envoy ends with it")
                drain_s = GRACE_S
                break
            with contextlib.suppress(OSError):  # Envoy has not started yet, or is starting again
                take_sample(losses, admin)
        if drain_s is not None:
            admin.drain(drain_s, lambda: losses.written + losses.dropped)
        if not stop.is_set():
            with contextlib.suppress(OSError):
                admin.request("POST", "/quitquitquit")
        server.stop(1.0).wait()


def take_sample(losses: Losses, envoy: Admin) -> None:
    """Compares what has arrived with Envoy's count.

    Raises:
        OSError: Envoy does not answer.
    """
    sent = envoy.total(SENT)
    losses.sample(time(), sent)  # the time is taken later: under load, Envoy is slow to answer


def _metrics_of(envoy: Admin) -> bytes:
    try:
        return envoy.request("GET", "/stats/prometheus").encode()
    except OSError:
        return b""


def _serve_metrics(port: int, registry: CollectorRegistry) -> None:
    try:
        start_http_server(port, registry=registry)
    except OSError as error:
        raise ServingError(f"The port {port} for metrics cannot be opened: {error.strerror}") from error


def _serve(path: Path, listen: str | None, collector: Collector) -> grpc.Server:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    service, name = METHOD
    handler = grpc.stream_unary_rpc_method_handler(collector.receive, StreamAccessLogsMessage.FromString, None)
    server = grpc.server(
        futures.ThreadPoolExecutor(MOST_STREAMS),
        handlers=[grpc.method_handlers_generic_handler(service, {name: handler})],
        options=[("grpc.max_receive_message_length", -1), ("grpc.http2.lookahead_bytes", LOOKAHEAD_BYTES)],
    )
    try:
        server.add_insecure_port(listen or f"unix:{path}")
    except RuntimeError as error:
        raise ServingError(f"The collector cannot listen on {listen or path}: {error}") from error
    if listen is None:
        os.chmod(path, PRIVATE_FILE)  # whoever reaches it can write into the log
    server.start()
    return server
