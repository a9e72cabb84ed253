"""gRPC through the proxy: messages are passed on as bytes, never decoded."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio

from dynamarks_tf.local_server import ports
from dynamarks_tf.local_server.status import StatusError
from dynamarks_tf.proxy.admission import Admission
from dynamarks_tf.proxy.in_flight import InFlight
from dynamarks_tf.proxy.metrics import Metrics
from dynamarks_tf.proxy.recorder import Recorder
from dynamarks_tf.proxy.tls import Tls, names_in_context

PREDICT = "/tensorflow.serving.PredictionService/Predict"
RELOAD = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"
METHODS = frozenset(
    {
        PREDICT,
        "/tensorflow.serving.PredictionService/Classify",
        "/tensorflow.serving.PredictionService/Regress",
        "/tensorflow.serving.PredictionService/MultiInference",
        "/tensorflow.serving.PredictionService/GetModelMetadata",
        "/tensorflow.serving.ModelService/GetModelStatus",
        RELOAD,
    }
)
LONGEST_WAIT_S = 365 * 24 * 3600.0  # gRPC reports the deadline of a call without one as the far future

_CODES = {code.value[0]: code for code in grpc.StatusCode}
# A window that holds a batch of images; measured on messages of 600 kB, a fixed one takes a sixth less processor time.
_WINDOW = [("grpc.http2.lookahead_bytes", 2**20), ("grpc.http2.bdp_probe", 0)]
_UPSTREAM_OPTIONS = [
    *_WINDOW,
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.enable_http_proxy", 0),  # the server behind is asked directly
]


class GrpcFront(grpc.GenericRpcHandler):
    """Passes calls of PredictionService and ModelService on to a server.

    Args:
        upstream: `host:port` of the server.
        admission: who may ask.
        metrics: counts the calls.
        recorder: logs predictions, if anything does.
        max_body_bytes: the size of a request above which it is refused.
        in_flight: how much may be answered at once.
        allow_reload: whether clients may change what the server serves.
    """

    def __init__(
        self,
        upstream: str,
        *,
        admission: Admission,
        metrics: Metrics,
        recorder: Recorder | None,
        max_body_bytes: int,
        in_flight: InFlight,
        allow_reload: bool,
    ) -> None:
        self._admission = admission
        self._metrics = metrics
        self._recorder = recorder
        self._in_flight = in_flight
        self._server = grpc.aio.server(
            handlers=[self],
            options=[
                *_WINDOW,
                ("grpc.max_receive_message_length", max_body_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),  # else a second proxy would share the port instead of being refused
                ("grpc.keepalive_time_ms", 60_000),  # finds clients that are gone
            ],
        )
        self._channel = grpc.aio.insecure_channel(upstream, options=_UPSTREAM_OPTIONS)
        self._handlers = {method: self._handler(method) for method in METHODS}
        if not allow_reload:
            self._handlers[RELOAD] = grpc.unary_unary_rpc_method_handler(self._refuse)

    async def start(self, host: str, port: int, tls: Tls | None) -> int:
        """Opens the port, any free one if 0, and returns it.

        Raises:
            ServingError: it cannot be had.
        """
        free = ports.find_free(host, port, "gRPC")  # gRPC itself would write to stderr if it is not
        address = f"[{host}]:{free}" if ":" in host else f"{host}:{free}"
        if tls is None:
            opened = self._server.add_insecure_port(address)
        else:
            opened = self._server.add_secure_port(address, tls.credentials)
        await self._server.start()
        return int(opened)

    async def stop(self, grace_s: float) -> None:
        """Refuses new calls at once, and gives the ones being answered `grace_s` seconds to end."""
        await self._server.stop(grace_s)
        await self._channel.close()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        return self._handlers.get(handler_call_details.method)

    def _handler(self, method: str) -> grpc.RpcMethodHandler:
        upstream = self._channel.unary_unary(method)
        return grpc.unary_unary_rpc_method_handler(functools.partial(self._pass, method == PREDICT, upstream))

    async def _pass(
        self, is_predict: bool, upstream: Callable[..., Any], request: bytes, context: grpc.aio.ServicerContext
    ) -> bytes:
        began = time.perf_counter()
        code = "CANCELLED"  # the client went away, unless something else is found below
        try:
            with self._in_flight.request() as take:
                metadata = context.invocation_metadata() or ()
                try:
                    client = self._admit(metadata, context)
                    take(len(request))
                except StatusError as error:
                    code = error.code.name
                    await context.abort(_CODES[error.code], error.message)
                call = upstream(request, timeout=_time_left(context), metadata=self._passed_on(metadata))
                try:
                    response: bytes = await call
                    if initial := tuple(await call.initial_metadata()):
                        await context.send_initial_metadata(initial)
                    if trailing := tuple(await call.trailing_metadata()):
                        context.set_trailing_metadata(trailing)
                except grpc.aio.AioRpcError as error:
                    code = error.code().name
                    await context.abort(error.code(), _details(error), tuple(error.trailing_metadata() or ()))
                code = "OK"
                if is_predict and self._recorder is not None:
                    self._recorder.record_grpc(request, response, client)
                return response
        finally:
            self._metrics.count("grpc", code, time.perf_counter() - began)

    async def _refuse(self, request: bytes, context: grpc.aio.ServicerContext) -> None:
        self._metrics.count("grpc", "PERMISSION_DENIED", 0.0)
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, "Clients may not change what this server serves.")

    def _admit(self, metadata: Any, context: grpc.aio.ServicerContext) -> str | None:
        names = names_in_context(context.auth_context()) if self._admission.needs_certificates else []
        address = context.peer().rpartition(":")[0]  # without the port
        return self._admission.admit(metadata, certificate=names, address=address)

    def _passed_on(self, metadata: Any) -> list[tuple[str, str | bytes]]:
        return [(key, value) for key, value in metadata if key != "user-agent" and self._admission.passed_on(key)]


def _time_left(context: grpc.aio.ServicerContext) -> float | None:
    seconds = context.time_remaining()
    return None if seconds is None or seconds > LONGEST_WAIT_S else float(seconds)


def _details(error: grpc.aio.AioRpcError) -> str:
    """Returns the server's own words, but not gRPC's about where the server is that cannot be reached."""
    details = str(error.details() or "")
    unreachable = error.code() is grpc.StatusCode.UNAVAILABLE and "failed to connect" in details
    return "The server behind this proxy cannot be reached" if unreachable else details
