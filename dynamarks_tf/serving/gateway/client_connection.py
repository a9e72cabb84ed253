"""A client's connection, which collects each request completely before any of it is passed on."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import ClassVar, Protocol

from dynamarks_tf.serving.gateway import grpc_messages
from dynamarks_tf.serving.gateway import http2_frames as h2
from dynamarks_tf.serving.gateway.grpc_messages import PREFIX_BYTES, RequestHead
from dynamarks_tf.serving.gateway.header_blocks import MAX_LIST_BYTES, BlockReader, ConnectionReader
from dynamarks_tf.serving.gateway.http2_connection import Http2Connection, Stream, Turn
from dynamarks_tf.serving.gateway.http2_frames import Http2Error, Problem, Setting
from dynamarks_tf.serving.gateway.in_flight import InFlight
from dynamarks_tf.serving.gateway.pieces import Piece, Pieces
from dynamarks_tf.serving.gateway.tls import names_of
from dynamarks_tf.serving.protocol.status import Code, StatusError, internal_error

LOG = logging.getLogger(__name__)

HANDSHAKE_S = 10.0  # for TLS, and again for the first frames
BODY_TIMEOUT_S = 60.0  # for a client to send its request
SILENCE_S = 60.0  # after which a client is sent a PING
PONG_S = 20.0  # for its answer to the PING
STALL_S = 60.0  # for a client to receive some of the answers that wait for it
MAX_STREAMS = 1000
MAX_RESETS = 1000  # of requests that a client cancels, between two calls of `look`


class Call(Stream):
    """A request of a client.

    Args:
        connection: the client's connection.
        number: the number of the stream.
        head: the headers.
    """

    __slots__ = (
        "began",
        "body",
        "client",
        "connection",
        "head",
        "held",
        "is_done",
        "is_whole",
        "pieces",
        "question",
        "retries",
    )

    def __init__(self, connection: ClientConnection, number: int, head: RequestHead) -> None:
        super().__init__(number, connection.SETTINGS[Setting.INITIAL_WINDOW_SIZE])
        self.connection = connection
        self.head = head
        self.client: str | None = None
        self.pieces = Pieces()  # of the body, until it is complete
        self.body = b""
        self.held = 0  # bytes that count as in flight
        self.began = time.monotonic()
        self.is_whole = False
        self.is_done = False  # answered or canceled
        self.question: Stream | None = None  # towards the upstream server
        self.retries = 0


class Calls(Protocol):
    """The receiver of a connection's requests."""

    in_flight: InFlight
    max_body_bytes: int
    request_heads: BlockReader[RequestHead]
    turn: Turn

    def connected(self, connection: ClientConnection) -> None:
        """Registers a connection."""

    def greeted(self, connection: ClientConnection) -> None:
        """Registers that a connection speaks HTTP/2."""

    def lost(self, connection: ClientConnection) -> None:
        """Unregisters a connection."""

    def admit(self, call: Call) -> None:
        """Names the client, or raises `StatusError`."""

    def ask(self, call: Call) -> None:
        """Passes a complete request on."""

    def cancel(self, call: Call) -> None:
        """Cancels a request that was passed on."""

    def finish(self, call: Call, code: str) -> None:
        """Counts a request that has been answered or canceled."""


class ClientConnection(Http2Connection):
    """Receives requests.

    Args:
        calls: the receiver of the requests.
    """

    SETTINGS: ClassVar[dict[Setting, int]] = {
        Setting.HEADER_TABLE_SIZE: 0,
        Setting.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
        Setting.INITIAL_WINDOW_SIZE: 2**20,  # holds an image
        Setting.MAX_FRAME_SIZE: h2.MAX_FRAME_BYTES,
        Setting.MAX_HEADER_LIST_SIZE: MAX_LIST_BYTES,
    }
    AWAITS_PREFACE = True
    SENDS_PREFACE = False

    def __init__(self, calls: Calls) -> None:
        super().__init__(calls.turn)
        self._calls = calls
        self._heads = ConnectionReader(calls.request_heads)
        self._seen = 0  # the last stream that the client has opened
        self._last = 0  # the last one that was accepted
        self._resets = 0
        self._is_leaving = False
        self._pinged_at: float | None = None
        self._unpacking: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if peer else ""
        self.certificate_names = names_of(transport.get_extra_info("peercert"))
        self._began = time.monotonic()
        self._calls.connected(self)

    def pause_writing(self) -> None:
        super().pause_writing()
        if not self.is_closed:
            self.transport.pause_reading()  # no requests are read from a client that reads no answers

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.is_closed:
            self.transport.resume_reading()

    def on_ready(self) -> None:
        self._calls.greeted(self)

    def on_lost(self) -> None:
        self._calls.lost(self)
        for call in list(self.streams.values()):
            assert isinstance(call, Call)
            self._give_up(call, "CANCELLED")

    def last_taken(self) -> int:
        return self._last

    def check_not_idle(self, number: int) -> None:
        if number > self._seen or number % 2 == 0:
            raise Http2Error(Problem.PROTOCOL_ERROR, "a stream is used before it is opened")

    # Requests

    def on_headers(self, number: int, block: bytes, is_last: bool) -> None:
        if number % 2 == 0 or number <= self._seen:
            raise Http2Error(Problem.PROTOCOL_ERROR, "a stream is opened out of turn")
        head = self._heads.read(block)
        self._seen = number
        if self._is_leaving:
            return  # GOAWAY has told the client that this one is not accepted
        self._last = number
        call = Call(self, number, head)
        if len(self.streams) >= MAX_STREAMS:
            self.reset(call, Problem.REFUSED_STREAM)
            return
        self.streams[number] = call
        call.is_whole = is_last
        try:
            self._calls.admit(call)
            if is_last:
                raise StatusError(Code.INTERNAL, "The request has no message.")
        except StatusError as error:
            self.refuse(call, error)

    def on_data(self, number: int, data: Piece, size: int, is_last: bool) -> None:
        call = self.streams.get(number)
        if call is None:
            self.check_not_idle(number)
            return  # refused or canceled
        assert isinstance(call, Call)
        if call.is_whole:
            raise Http2Error(Problem.STREAM_CLOSED, "a frame comes after the end of a request")
        self.take(call, size, is_last)
        call.is_whole = is_last
        try:
            self._collect(call, data)
            if is_last:
                self._forward(call)
        except StatusError as error:
            self.refuse(call, error)

    def _collect(self, call: Call, data: Piece) -> None:
        self._calls.in_flight.take(len(data))
        call.held += len(data)
        call.pieces.add(data)
        if call.pieces.size < PREFIX_BYTES:
            return
        length = int.from_bytes(call.pieces.start(PREFIX_BYTES)[1:], "big")
        if length > self._calls.max_body_bytes:
            most = self._calls.max_body_bytes
            raise StatusError(Code.RESOURCE_EXHAUSTED, f"Received message larger than max ({length} vs. {most})")
        if call.pieces.size > PREFIX_BYTES + length:
            raise StatusError(Code.INTERNAL, "The request has more than one message.")

    def _forward(self, call: Call) -> None:
        call.body = call.pieces.take()
        if len(call.body) < PREFIX_BYTES or call.body[0] > 1:
            raise StatusError(Code.INTERNAL, "The request has no proper message.")
        if len(call.body) - PREFIX_BYTES != int.from_bytes(call.body[1:PREFIX_BYTES], "big"):
            raise StatusError(Code.INTERNAL, "The request ends before its message does.")
        if call.body[0] == 0:
            self._calls.ask(call)
        elif call.head.encoding in grpc_messages.ENCODINGS:
            task = self._loop.create_task(self._unpack(call))
            self._unpacking.add(task)  # otherwise it could be garbage-collected before it is done
            task.add_done_callback(self._unpacking.discard)
        elif call.head.encoding == "identity":
            raise StatusError(Code.INTERNAL, "The message is compressed, but grpc-encoding does not name the encoding.")
        else:
            raise StatusError(Code.UNIMPLEMENTED, "Messages may be compressed with gzip or deflate.")

    async def _unpack(self, call: Call) -> None:
        most = self._calls.max_body_bytes
        packed = call.body[PREFIX_BYTES:]
        try:
            message = await asyncio.to_thread(grpc_messages.unpack, packed, call.head.encoding, most)
            if call.is_done:
                return
            self._calls.in_flight.take(len(message))
            call.held += len(message)
            call.body = grpc_messages.with_prefix(message)
            self._calls.ask(call)
        except StatusError as error:
            if not call.is_done:
                self.refuse(call, error)
        except Exception:
            LOG.exception("a message could not be unpacked")
            if not call.is_done:
                self.refuse(call, internal_error())

    def on_reset(self, number: int, problem: int) -> None:
        call = self.streams.get(number)
        if call is None:
            self.check_not_idle(number)
            return
        assert isinstance(call, Call)
        self._resets += 1
        if self._resets > MAX_RESETS:
            raise Http2Error(Problem.ENHANCE_YOUR_CALM, "too many requests are canceled")
        self._give_up(call, "CANCELLED")

    # Answers

    def answer(self, call: Call, head: bytes | None, body: bytes, trailers: bytes, code: str) -> None:
        """Sends an answer.

        Args:
            call: the request.
            head: its headers; `None` if there are only trailers.
            body: its message with its prefix; empty if there is none.
            trailers: the last header block.
            code: the name of gRPC's status.
        """
        self._done(call, code)
        if self.is_closed:
            return
        if head is not None:
            self.send_headers(call, head, is_last=False)
        if body:
            self.send_body(call, body, trailers)
        else:
            self.send_headers(call, trailers, is_last=True)
            self.sent(call)

    def refuse(self, call: Call, error: StatusError) -> None:
        """Answers with an error."""
        self._calls.cancel(call)
        self.answer(call, None, b"", grpc_messages.refusal(error.code, error.message), error.code.name)

    def sent(self, stream: Stream) -> None:
        assert isinstance(stream, Call)
        if not stream.is_whole:
            self.reset(stream, Problem.NO_ERROR)
        self.streams.pop(stream.number, None)
        self._leave_if_done()

    def _give_up(self, call: Call, code: str) -> None:
        self.drop_output(call)
        self.streams.pop(call.number, None)
        if not call.is_done:
            self._calls.cancel(call)
            self._done(call, code)
        self._leave_if_done()

    def _done(self, call: Call, code: str) -> None:
        call.is_done = True
        self._calls.in_flight.give_back(call.held)
        call.held = 0
        call.body = b""
        call.pieces = Pieces()
        self._calls.finish(call, code)

    # The end

    def leave(self) -> None:
        """Accepts no new requests, and closes the connection once the others are answered."""
        self._is_leaving = True
        if not self.is_closed:
            self.goaway(self._last)
            self._leave_if_done()

    def _leave_if_done(self) -> None:
        if self._is_leaving and not self.streams:
            self.end()

    def look(self, now: float) -> None:
        """Ends requests and connections that take too long. Called about once a second."""
        self._resets = 0
        if self.is_closed:
            if now > self.heard_at + PONG_S:  # it does not receive the last of its answers
                self.transport.abort()
            return
        if not self.is_ready:
            if now > self._began + HANDSHAKE_S:
                self.transport.abort()
            return
        for call in list(self.streams.values()):
            assert isinstance(call, Call)
            if call.is_done:
                continue
            waited = now - call.began
            if not call.is_whole and waited > BODY_TIMEOUT_S:
                self.refuse(call, StatusError(Code.DEADLINE_EXCEEDED, "The request did not arrive in time"))
            elif call.head.timeout_s is not None and waited > call.head.timeout_s + 1:  # the client's timer is first
                self.refuse(call, StatusError(Code.DEADLINE_EXCEEDED, "Deadline Exceeded"))
        if self.blocked_bytes and now > self.moved_at + STALL_S:
            self.transport.abort()
        elif now < self.heard_at + SILENCE_S:
            self._pinged_at = None
        elif self._pinged_at is None:
            self._pinged_at = now
            self.ping()
        elif now > self._pinged_at + PONG_S:
            self.transport.abort()
