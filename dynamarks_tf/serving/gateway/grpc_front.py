"""gRPC through the proxy: messages are passed on unchanged, calls are counted, predictions are logged.

The proxy receives a complete request before any of it goes to the server. It receives a complete answer before any of
it goes to the client. So no part of a prediction can be obtained unlogged. Header blocks are written anew both ways.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time

from dynamarks_tf.serving.gateway import grpc_messages
from dynamarks_tf.serving.gateway.admission import Admission
from dynamarks_tf.serving.gateway.client_connection import HANDSHAKE_S, Call, ClientConnection
from dynamarks_tf.serving.gateway.grpc_messages import PREFIX_BYTES, AnswerHead, RequestHead
from dynamarks_tf.serving.gateway.header_blocks import BlockReader, Fields
from dynamarks_tf.serving.gateway.http2_connection import Turn
from dynamarks_tf.serving.gateway.in_flight import InFlight
from dynamarks_tf.serving.gateway.metrics import Metrics
from dynamarks_tf.serving.gateway.request_logger import RequestLogger
from dynamarks_tf.serving.gateway.tls import Tls
from dynamarks_tf.serving.gateway.upstream import Upstream
from dynamarks_tf.serving.protocol import ports
from dynamarks_tf.serving.protocol.status import Code, StatusError

LOG = logging.getLogger(__name__)

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
BACKLOG = 1024  # connections that wait to be accepted
MAX_HALF_OPEN = 512  # connections that have not sent their first frames
LOOK_S = 1.0  # seconds between two checks for connections that take too long
UNSENT_ANSWERS = 4  # that wait for clients, each of the size of the largest request; a single one of any size


class GrpcFront:
    """Passes calls of PredictionService and ModelService on to a server.

    Args:
        upstream: host and port of the server.
        admission: identifies and admits clients.
        metrics: counts the calls.
        request_logger: logs predictions; no log if `None`.
        max_body_bytes: the largest size of a request.
        in_flight: limits the size of the requests under way.
        allow_reload: whether clients may change the models that the server serves.
    """

    def __init__(
        self,
        upstream: tuple[str, int],
        *,
        admission: Admission,
        metrics: Metrics,
        request_logger: RequestLogger | None,
        max_body_bytes: int,
        in_flight: InFlight,
        allow_reload: bool,
    ) -> None:
        self._admission = admission
        self._metrics = metrics
        self._request_logger = request_logger
        self._allow_reload = allow_reload
        self._authority = f"[{upstream[0]}]:{upstream[1]}" if ":" in upstream[0] else f"{upstream[0]}:{upstream[1]}"
        self.turn = Turn()
        self._upstream = Upstream(*upstream, self._deliver, self.turn)
        self.max_body_bytes = max_body_bytes
        self.in_flight = in_flight
        self.request_heads: BlockReader[RequestHead] = BlockReader(self._read_head)
        self.connections: set[ClientConnection] = set()
        self._half_open: dict[ClientConnection, None] = {}  # a dictionary for its order
        self._server: asyncio.Server | None = None
        self._looking: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int, tls: Tls | None) -> int:
        """Opens the port, any free one if 0, and returns it.

        Raises:
            ServingError: the port cannot be opened.
        """
        listener = ports.listen(host, port, "gRPC")
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: ClientConnection(self),
            sock=listener,
            backlog=BACKLOG,
            ssl=tls.grpc_context if tls is not None else None,
            ssl_handshake_timeout=HANDSHAKE_S if tls is not None else None,
        )
        self._looking = loop.create_task(self._look())
        return int(listener.getsockname()[1])

    async def stop(self, grace_s: float) -> None:
        """Refuses new calls at once, and lets those under way end within `grace_s` seconds."""
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.leave()
        end = time.monotonic() + grace_s
        while self.connections and time.monotonic() < end:
            await asyncio.sleep(0.01)
        for connection in list(self.connections):
            for call in list(connection.streams.values()):
                if isinstance(call, Call) and not call.is_done:
                    connection.refuse(call, StatusError(Code.UNAVAILABLE, "The proxy is stopping"))
            connection.end()
        self._upstream.stop()
        await asyncio.sleep(0.01)
        for connection in list(self.connections):
            connection.abort()
        if self._looking is not None:
            self._looking.cancel()
        await asyncio.sleep(0)

    # For the connections

    def connected(self, connection: ClientConnection) -> None:
        self.connections.add(connection)
        self._half_open[connection] = None
        if len(self._half_open) > MAX_HALF_OPEN:
            oldest = next(iter(self._half_open))
            del self._half_open[oldest]
            oldest.abort()

    def greeted(self, connection: ClientConnection) -> None:
        self._half_open.pop(connection, None)

    def lost(self, connection: ClientConnection) -> None:
        self.connections.discard(connection)
        self._half_open.pop(connection, None)

    def admit(self, call: Call) -> None:
        head, connection = call.head, call.connection
        if head.problem is not None:
            raise StatusError(head.problem.code, head.problem.message)
        if head.path not in METHODS:
            raise StatusError(Code.UNIMPLEMENTED, "Method not found!")
        if head.path == RELOAD and not self._allow_reload:
            raise StatusError(Code.PERMISSION_DENIED, "Clients may not change the models that this server serves.")
        names = connection.certificate_names if self._admission.needs_certificates else []
        call.client = self._admission.admit(head.headers, certificate=names, address=connection.address)

    def ask(self, call: Call) -> None:
        self._upstream.ask(call)

    def cancel(self, call: Call) -> None:
        self._upstream.cancel(call)

    def finish(self, call: Call, code: str) -> None:
        self.turn.later(functools.partial(self._metrics.count, "grpc", code, time.monotonic() - call.began))

    def _read_head(self, fields: Fields) -> RequestHead:
        return grpc_messages.read_request(fields, authority=self._authority, is_passed_on=self._admission.passed_on)

    def _deliver(self, call: Call, head: AnswerHead | None, body: bytes, trailers: AnswerHead) -> None:
        connection = call.connection
        status = (head or trailers).http_status
        if status != 200:
            connection.refuse(call, _no_answer(grpc_messages.code_of_http(status)))
        elif trailers.status is None:
            connection.refuse(call, _no_answer(Code.UNKNOWN))
        elif trailers.status != 0:
            code = grpc_messages.code_name(trailers.status)
            connection.answer(call, head.block if head else None, b"", trailers.block, code)
        elif head is None or not grpc_messages.is_whole(body):
            connection.refuse(call, _no_answer(Code.INTERNAL))
        else:
            if call.head.path == PREDICT and self._request_logger is not None:
                self.turn.later(functools.partial(self._log, self._request_logger, call.body, body, call.client))
            if self._is_room_for(len(body)):
                connection.answer(call, head.block, body, trailers.block, "OK")
            else:
                problem = "Too many answers wait for clients to receive them."
                connection.refuse(call, StatusError(Code.RESOURCE_EXHAUSTED, problem))

    @staticmethod
    def _log(request_logger: RequestLogger, request: bytes, answer: bytes, client: str | None) -> None:
        try:
            request_logger.log_grpc(memoryview(request)[PREFIX_BYTES:], answer[PREFIX_BYTES:], client)
        except Exception:  # no answer fails because of the log
            LOG.exception("a prediction could not be logged")

    def _is_room_for(self, size: int) -> bool:
        unsent = sum(connection.blocked_bytes for connection in self.connections)
        return not unsent or unsent + size <= UNSENT_ANSWERS * self.max_body_bytes

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            now = time.monotonic()
            for connection in list(self.connections):
                try:
                    connection.look(now)
                except Exception:
                    LOG.exception("a connection failed")
                    connection.abort()


def _no_answer(code: Code) -> StatusError:
    return StatusError(code, "The server behind this proxy gave no proper answer")
