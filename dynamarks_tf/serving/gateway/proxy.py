"""The proxy: its ports, its thread, and its orderly end."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from concurrent import futures
from types import TracebackType
from typing import TYPE_CHECKING

from dynamarks_tf.errors import ArgumentError, ServingError
from dynamarks_tf.request_logs import PredictionLogWriter
from dynamarks_tf.serving.gateway.admission import Admission
from dynamarks_tf.serving.gateway.grpc_front import GrpcFront
from dynamarks_tf.serving.gateway.in_flight import InFlight
from dynamarks_tf.serving.gateway.metrics import Metrics
from dynamarks_tf.serving.gateway.operations import Operations
from dynamarks_tf.serving.gateway.request_logger import RequestLogger
from dynamarks_tf.serving.gateway.rest_front import RestFront
from dynamarks_tf.serving.gateway.tls import Tls
from dynamarks_tf.serving.gateway.watched_files import FromFiles, WatchedFiles

if TYPE_CHECKING:
    from typing_extensions import Self

LOG = logging.getLogger(__name__)

MAX_BODY_BYTES = 64 * 2**20
REST_TIMEOUT_S = 60.0  # longer than TensorFlow Serving's own 30 s
GRACE_S = 10.0
SMALLEST_QUEUE_BYTES = 64 * 2**20
WAITING_REQUESTS = 4  # requests of the largest size that may wait for the log
REQUESTS_AT_ONCE = 4  # requests of the largest size under way, or many small ones


class Proxy:
    """A proxy in front of TensorFlow Serving, which passes on admitted requests byte for byte.

    One event loop in one thread carries gRPC and REST; another thread writes the log. There is neither TLS nor
    authentication towards the upstream server: keep it on the same host or pod, with its ports unpublished. Requests to
    reload its configuration are refused, and so is every REST path outside `/v1/models`. API keys, certificate and
    private key from files are read again within seconds of a change.

    Args:
        upstream: `host:port` of the server's gRPC; `None` for no gRPC.
        upstream_rest: `host:port` of the server's REST; `None` for no REST.
        host: the address to listen on.
        grpc_port: the port for gRPC; any free one if 0.
        rest_port: the port for REST; any free one if 0.
        ops_port: the port for `/healthz`, `/readyz` and `/metrics`; any free one if 0, none if `None`.
        ops_host: the address that this port listens on; `host` if not given.
        request_log: a folder in which predictions are logged with their answers, or a writer, which you close after the
            proxy. Read it with `dynamarks_tf.request_logs.open_log`.
        admission: identifies and admits clients. By default all are admitted, named by the header `x-client-id`.
        tls: the certificate to show to clients; no TLS if `None`.
        max_body_bytes: the largest size of a request; requests under way may have four times this size together.
        rest_timeout_s: seconds that the server may take to answer over REST. Over gRPC the client decides.
        allow_reload: whether clients may change the models that the server serves.

    Raises:
        ArgumentError: there is no upstream address, or one that is no `host:port`; or certificates name the clients,
            but `tls` does not require them.

    Example:
        >>> with Proxy("localhost:8500", "localhost:8501", request_log="logs", grpc_port=0, rest_port=0) as proxy:
        ...     requests.post(f"{proxy.rest_url}/v1/models/clf:predict", json={"instances": images.tolist()})
    """

    def __init__(
        self,
        upstream: str | None,
        upstream_rest: str | None = None,
        *,
        host: str = "127.0.0.1",
        grpc_port: int = 9500,
        rest_port: int = 9501,
        ops_port: int | None = None,
        ops_host: str | None = None,
        request_log: str | os.PathLike[str] | PredictionLogWriter | None = None,
        admission: Admission | None = None,
        tls: Tls | None = None,
        max_body_bytes: int = MAX_BODY_BYTES,
        rest_timeout_s: float = REST_TIMEOUT_S,
        allow_reload: bool = False,
    ) -> None:
        if upstream is None and upstream_rest is None:
            raise ArgumentError("Give the server's gRPC address, its REST address, or both.")
        self._upstreams = [_parse(address) for address in (upstream, upstream_rest) if address is not None]
        if max_body_bytes < 1:
            raise ArgumentError(f"`max_body_bytes` must be at least 1. Received: {max_body_bytes}")
        self._admission = admission or Admission()
        if self._admission.needs_certificates and not (tls and tls.checks_clients):
            raise ArgumentError("Certificates name clients only with a `tls` that has a `client_authority`.")
        self._upstream = upstream
        self._upstream_rest = upstream_rest
        self.host = host
        self.grpc_port = grpc_port if upstream is not None else None
        self.rest_port = rest_port if upstream_rest is not None else None
        self.ops_port = ops_port
        self._ops_host = ops_host or host
        self._log_to = request_log
        self._writer = request_log if isinstance(request_log, PredictionLogWriter) else None
        self._tls = tls
        self._max_body_bytes = max_body_bytes
        self._rest_timeout_s = rest_timeout_s
        self._allow_reload = allow_reload
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._grace_s = GRACE_S
        self._stopped = threading.Event()

    @property
    def request_log(self) -> PredictionLogWriter | None:
        """The log of the predictions, from the start on; `None` if they are not logged."""
        return self._writer

    @property
    def grpc_address(self) -> str:
        """`host:port` of gRPC, for clients."""
        return f"{self._shown_host}:{self.grpc_port}"

    @property
    def rest_url(self) -> str:
        """`http://host:port` of REST, for clients."""
        return f"{'https' if self._tls else 'http'}://{self._shown_host}:{self.rest_port}"

    @property
    def ops_url(self) -> str:
        """`http://host:port` of `/healthz`, `/readyz` and `/metrics`."""
        return f"http://{_bracketed(self._ops_host)}:{self.ops_port}"

    def start(self) -> None:
        """Opens the ports.

        Raises:
            ServingError: a port cannot be opened, or the proxy is running already.
            LogError: the log cannot be written to.
        """
        if self._thread is not None:
            raise ServingError("The proxy is running already; stop it first.")
        if self._log_to is not None and not isinstance(self._log_to, PredictionLogWriter):
            # No client must be able to evade the log with a request that is too large for the queue.
            waiting = max(SMALLEST_QUEUE_BYTES, WAITING_REQUESTS * self._max_body_bytes)
            self._writer = PredictionLogWriter(self._log_to, max_waiting_bytes=waiting)
        started: futures.Future[None] = futures.Future()
        self._stopped.clear()
        self._thread = threading.Thread(target=self._run, args=(started,), name="proxy", daemon=True)
        self._thread.start()
        try:
            started.result()
        except BaseException:
            self.stop(grace_s=0)
            raise

    def stop(self, grace_s: float = GRACE_S) -> None:
        """Refuses new requests, lets those under way end within `grace_s` seconds, and completes the log.

        May be called twice.
        """
        if self._thread is not None:
            self._grace_s = grace_s
            if self._loop is not None and self._stop is not None:
                self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
            self._thread = self._loop = self._stop = None
        if self._writer is not None and self._writer is not self._log_to:
            self._writer.close()
        self._stopped.set()

    def wait(self) -> None:
        """Returns when the proxy is stopped."""
        self._stopped.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def _shown_host(self) -> str:
        return _bracketed(self.host)

    def _run(self, started: futures.Future[None]) -> None:
        try:
            asyncio.run(self._main(started))
        except BaseException as error:
            if started.done():
                LOG.exception("the proxy failed")
            else:
                started.set_exception(error)

    async def _main(self, started: futures.Future[None]) -> None:
        stop = asyncio.Event()
        metrics = Metrics(self._writer)
        rest_url = None if self._upstream_rest is None else f"http://{self._upstream_rest}"
        request_logger = None if self._writer is None else RequestLogger(self._writer, rest_url, self._max_body_bytes)
        in_flight = InFlight(REQUESTS_AT_ONCE * self._max_body_bytes)
        fronts: list[GrpcFront | RestFront] = []
        operations = Operations(metrics, self._upstreams)
        watched: dict[str, FromFiles] = {}
        if self._admission.keys is not None:
            watched["API keys"] = self._admission.keys
        if self._tls is not None:
            watched["certificates"] = self._tls
        watching = asyncio.create_task(WatchedFiles(watched, metrics).watch())
        try:
            if self._upstream is not None and self.grpc_port is not None:
                grpc_front = GrpcFront(
                    _parse(self._upstream),
                    admission=self._admission,
                    metrics=metrics,
                    request_logger=request_logger,
                    max_body_bytes=self._max_body_bytes,
                    in_flight=in_flight,
                    allow_reload=self._allow_reload,
                )
                fronts.append(grpc_front)
                self.grpc_port = await grpc_front.start(self.host, self.grpc_port, self._tls)
            if rest_url is not None and self.rest_port is not None:
                rest_front = RestFront(
                    rest_url,
                    admission=self._admission,
                    metrics=metrics,
                    request_logger=request_logger,
                    max_body_bytes=self._max_body_bytes,
                    in_flight=in_flight,
                    timeout_s=self._rest_timeout_s,
                )
                fronts.append(rest_front)
                self.rest_port = await rest_front.start(self.host, self.rest_port, self._tls)
            if self.ops_port is not None:
                self.ops_port = await operations.start(self._ops_host, self.ops_port)
            self._loop, self._stop = asyncio.get_running_loop(), stop
            started.set_result(None)
            await stop.wait()
        finally:
            watching.cancel()
            operations.announce_stop()
            await asyncio.gather(*(front.stop(self._grace_s) for front in fronts))  # at once: they share the time
            await operations.stop()


def _parse(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16 or "/" in host:
        raise ArgumentError(f"{address!r} is no address; accepted: HOST:PORT, such as localhost:8500.")
    return host.strip("[]"), int(port)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
