"""The upstream server: one connection that all clients' requests share, and that is replaced when it is lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import ClassVar

from dynamarks_tf.serving.gateway import grpc_messages
from dynamarks_tf.serving.gateway import http2_frames as h2
from dynamarks_tf.serving.gateway.client_connection import Call
from dynamarks_tf.serving.gateway.grpc_messages import AnswerHead
from dynamarks_tf.serving.gateway.header_blocks import MAX_LIST_BYTES, BlockReader, ConnectionReader
from dynamarks_tf.serving.gateway.http2_connection import Http2Connection, Stream, Turn
from dynamarks_tf.serving.gateway.http2_frames import Http2Error, Problem, Setting
from dynamarks_tf.serving.gateway.pieces import Piece, Pieces
from dynamarks_tf.serving.protocol.status import Code, StatusError

CONNECT_TIMEOUT_S = 5.0
FIRST_PAUSE_S = 0.1  # before the server is tried again; doubled with each failure
LONGEST_PAUSE_S = 2.0
LAST_STREAM = 2**31 - 1

_CODES = {
    Problem.CANCEL: Code.CANCELLED,
    Problem.REFUSED_STREAM: Code.UNAVAILABLE,
    Problem.ENHANCE_YOUR_CALM: Code.RESOURCE_EXHAUSTED,
    Problem.INADEQUATE_SECURITY: Code.PERMISSION_DENIED,
}

Deliver = Callable[[Call, AnswerHead | None, bytes, AnswerHead], None]


def unreachable() -> StatusError:
    """Returns the error for a server that cannot be reached; it does not show the address."""
    return StatusError(Code.UNAVAILABLE, "The server behind this proxy cannot be reached")


class Question(Stream):
    """A request on its way to the server, and its answer as it arrives."""

    __slots__ = ("body", "call", "head", "is_sent")

    def __init__(self, number: int, call: Call) -> None:
        super().__init__(number, UpstreamConnection.SETTINGS[Setting.INITIAL_WINDOW_SIZE])
        self.call = call
        self.head: AnswerHead | None = None
        self.body = Pieces()
        self.is_sent = False


class UpstreamConnection(Http2Connection):
    """A connection to the server.

    Args:
        upstream: the owner of the connection.
    """

    SETTINGS: ClassVar[dict[Setting, int]] = {
        Setting.HEADER_TABLE_SIZE: 0,
        Setting.ENABLE_PUSH: 0,
        Setting.INITIAL_WINDOW_SIZE: h2.MAX_WINDOW,
        Setting.MAX_FRAME_SIZE: h2.MAX_FRAME_BYTES,
        Setting.MAX_HEADER_LIST_SIZE: MAX_LIST_BYTES,
    }
    MOST_BYTES = h2.MAX_FRAME_BYTES
    AWAITS_PREFACE = False
    SENDS_PREFACE = True

    def __init__(self, upstream: Upstream) -> None:
        super().__init__(upstream.turn)
        self._upstream = upstream
        self._heads = ConnectionReader(upstream.answer_heads)
        self._next = 1
        self._last_taken = LAST_STREAM  # by the server
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def has_room(self) -> bool:
        """Whether it accepts a request now."""
        return len(self.streams) < self.peer_streams

    @property
    def takes_requests(self) -> bool:
        """Whether it accepts requests, now or once others are answered."""
        return self.is_ready and not self.is_closed and self._last_taken == LAST_STREAM and self._next < LAST_STREAM - 2

    def ask(self, call: Call) -> None:
        """Sends a request."""
        question = Question(self._next, call)
        self._next += 2
        self.streams[question.number] = question
        call.question = question
        self.send_headers(question, call.head.block, is_last=False)
        self.send_body(question, call.body, None)

    def cancel(self, question: Stream) -> None:
        """Stops waiting for an answer."""
        if self.streams.pop(question.number, None) is not None and not self.is_closed:
            self.reset(question, Problem.CANCEL)
            self._upstream.next(self)

    def flush_soon(self) -> None:
        if len(self.streams) > 1:  # other clients' requests may follow soon, to be sent together
            self._loop.call_soon(self.flush)
        else:
            self.flush()

    def on_ready(self) -> None:
        if not self.ready.done():
            self.ready.set_result(None)

    def on_headers(self, number: int, block: bytes, is_last: bool) -> None:
        try:
            head = self._heads.read(block)
        except Http2Error as error:
            if error.problem is not Problem.ENHANCE_YOUR_CALM or not self._heads.is_stateless:
                raise
            self.on_large_headers(number)
            return
        question = self._find(number)
        if question is None:
            return
        if is_last:
            self._answered(question, head)
        elif question.head is None:
            if head.http_status is None or head.http_status >= 200:
                question.head = head
        else:
            raise Http2Error(Problem.PROTOCOL_ERROR, "an answer has headers in the middle")

    def on_large_headers(self, number: int) -> None:
        if not self._heads.is_stateless:
            raise Http2Error(Problem.ENHANCE_YOUR_CALM, "a header block is too large")
        question = self._find(number)
        if question is not None:  # a client may have caused it: the others must be unaffected
            self.reset(question, Problem.CANCEL)
            self._forget(question)
            self._refuse(question, StatusError(Code.RESOURCE_EXHAUSTED, "The answer's headers are too large"))

    def on_data(self, number: int, data: Piece, size: int, is_last: bool) -> None:
        question = self._find(number)
        if question is None:
            return
        if question.head is None:
            raise Http2Error(Problem.PROTOCOL_ERROR, "an answer has no headers")
        self.take(question, size, is_last)
        question.body.add(data)
        if is_last:
            self._answered(question, AnswerHead(b"", None, None))

    def on_reset(self, number: int, problem: int) -> None:
        question = self._find(number)
        if question is None:
            return
        self._forget(question)
        if problem == Problem.REFUSED_STREAM:
            self._upstream.ask_again(question.call)
            return
        code = _CODES.get(Problem(problem) if problem in set(Problem) else Problem.INTERNAL_ERROR, Code.INTERNAL)
        self._refuse(question, StatusError(code, "The server behind this proxy has canceled the request"))

    def on_goaway(self, last: int) -> None:
        self._last_taken = min(last, self._last_taken)
        for question in list(self.streams.values()):
            assert isinstance(question, Question)
            if question.number > self._last_taken:  # the server has not processed it
                self._forget(question)
                self._upstream.ask_again(question.call)
        self._upstream.next(self)
        if not self.streams:
            self.end()

    def on_lost(self) -> None:
        if not self.ready.done():
            self.ready.set_exception(ConnectionError())
        questions = list(self.streams.values())
        self.streams.clear()
        for question in questions:
            assert isinstance(question, Question)
            self._refuse(question, unreachable())
        self._upstream.next(self)

    def check_not_idle(self, number: int) -> None:
        if number >= self._next or number % 2 == 0:
            raise Http2Error(Problem.PROTOCOL_ERROR, "a stream is used before it is opened")

    def sent(self, stream: Stream) -> None:
        assert isinstance(stream, Question)
        stream.is_sent = True

    def _find(self, number: int) -> Question | None:
        question = self.streams.get(number)
        if question is None:
            self.check_not_idle(number)
            return None  # it was canceled
        assert isinstance(question, Question)
        return question

    def _forget(self, question: Question) -> None:
        self.drop_output(question)
        self.streams.pop(question.number, None)
        question.call.question = None

    def _answered(self, question: Question, trailers: AnswerHead) -> None:
        if not question.is_sent:  # the server answered before the end of the request
            self.reset(question, Problem.NO_ERROR)
        self._forget(question)
        self._upstream.deliver(question.call, question.head, question.body.take(), trailers)
        self._upstream.next(self)
        if not self.takes_requests and not self.streams:
            self.end()

    def _refuse(self, question: Question, error: StatusError) -> None:
        question.call.question = None
        question.call.connection.refuse(question.call, error)
        self._upstream.next(self)


class Upstream:
    """Sends requests to the server.

    Args:
        host: the server's host.
        port: the server's port.
        deliver: called with each answer.
        turn: decides when waiting output is sent.
    """

    def __init__(self, host: str, port: int, deliver: Deliver, turn: Turn) -> None:
        self._address = (host, port)
        self.deliver = deliver
        self.turn = turn
        self.answer_heads = BlockReader(grpc_messages.read_answer)
        self._connection: UpstreamConnection | None = None
        self._connections: set[UpstreamConnection] = set()
        self._waiting: dict[Call, None] = {}  # a dictionary for its order
        self._connecting: asyncio.Task[None] | None = None
        self._failures = 0
        self._closed_until = 0.0

    def ask(self, call: Call) -> None:
        """Sends a request, as soon as there is a connection with room for it."""
        connection = self._connection
        if connection is not None and connection.takes_requests:
            if connection.has_room and not self._waiting:
                connection.ask(call)
            else:
                self._waiting[call] = None
        elif self._connecting is None and time.monotonic() < self._closed_until:
            call.connection.refuse(call, unreachable())
        else:
            self._waiting[call] = None
            self._connect()

    def ask_again(self, call: Call) -> None:
        """Sends a request that the server has not processed again, once."""
        call.retries += 1
        if call.retries > 1:
            call.connection.refuse(call, unreachable())
        else:
            self.ask(call)

    def cancel(self, call: Call) -> None:
        """Cancels a request."""
        self._waiting.pop(call, None)
        question, call.question = call.question, None
        if question is not None:
            for connection in self._connections:
                if connection.streams.get(question.number) is question:
                    connection.cancel(question)
                    break

    def next(self, connection: UpstreamConnection) -> None:
        """Sends waiting requests if a connection has room, and opens a new one if this one has ended."""
        if connection.is_closed:
            self._connections.discard(connection)
        while self._waiting and connection is self._connection and connection.takes_requests and connection.has_room:
            call = next(iter(self._waiting))
            del self._waiting[call]
            connection.ask(call)
        if self._waiting and not (self._connection is not None and self._connection.takes_requests):
            self._connect()

    def stop(self) -> None:
        """Closes the connections."""
        if self._connecting is not None:
            self._connecting.cancel()
        for connection in list(self._connections):
            connection.end()

    def _connect(self) -> None:
        if self._connecting is None:
            self._connecting = asyncio.get_running_loop().create_task(self._try_to_connect())

    async def _try_to_connect(self) -> None:
        connection = None
        try:
            connection = await asyncio.wait_for(self._open(), CONNECT_TIMEOUT_S)
        except (OSError, asyncio.TimeoutError):
            pass
        finally:
            self._connecting = None
        if connection is None or connection.is_closed:
            self._failures += 1
            pause = min(FIRST_PAUSE_S * 2 ** min(self._failures - 1, 10), LONGEST_PAUSE_S)
            self._closed_until = time.monotonic() + pause
            waiting, self._waiting = self._waiting, {}
            for call in waiting:
                call.connection.refuse(call, unreachable())
            return
        self._failures, self._closed_until = 0, 0.0
        self._connection = connection
        self.next(connection)

    async def _open(self) -> UpstreamConnection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: UpstreamConnection(self), *self._address)
        self._connections.add(connection)
        try:
            await connection.ready
        except BaseException:
            connection.transport.abort()
            raise
        return connection
