"""A connection of HTTP/2, client or server: settings, windows, header blocks in pieces, an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable
from typing import ClassVar, cast

from dynamarks_tf.serving.gateway import http2_frames as h2
from dynamarks_tf.serving.gateway.http2_frames import Http2Error, Problem, Setting
from dynamarks_tf.serving.gateway.pieces import Piece

LOG = logging.getLogger(__name__)

CONNECTION_WINDOW = 2**24
WRITE_BUFFER_BYTES = 2**20
TURN_BYTES = 2**15  # of one body, before the next body continues
FLUSH_BYTES = 2**18
MAX_BLOCK_BYTES = 2**15  # of a header block before it is decoded
MAX_CONTINUATIONS = 16
MAX_EMPTY_FRAMES = 1000  # DATA without data, in the life of a connection between two frames with data


class Stream:
    """One request and its answer.

    Args:
        number: the stream's number.
        receive_window: bytes of DATA that the peer may send.

    Attributes:
        send_credit: bytes of DATA that may be sent beyond the initial window in the peer's settings.
    """

    __slots__ = ("number", "receive_window", "send_credit")

    def __init__(self, number: int, receive_window: int) -> None:
        self.number = number
        self.receive_window = receive_window
        self.send_credit = 0


class Turn:
    """The work that follows from one read. At its end, connections send their output, and then deferred work is done.

    All connections that share a loop share one turn.
    """

    def __init__(self) -> None:
        self._is_on = False
        self._due: list[Http2Connection] = []
        self._later: list[Callable[[], None]] = []

    def begin(self) -> None:
        """Begins a turn: output waits for its end."""
        self._is_on = True

    def end(self) -> None:
        """Sends the output, then does the deferred work."""
        self._is_on = False
        due, self._due = self._due, []
        for connection in due:
            try:
                connection.flush_soon()
            except Exception:  # the other connections still send
                LOG.exception("a connection failed")
                connection.abort()
        later, self._later = self._later, []
        for work in later:
            try:
                work()
            except Exception:
                LOG.exception("an answer could not be counted")

    def later(self, work: Callable[[], None]) -> None:
        """Does work that no peer waits for, after all output is sent."""
        if self._is_on:
            self._later.append(work)
        else:
            work()

    def takes(self, connection: Http2Connection) -> bool:
        """Whether a turn is under way, at whose end the connection will send."""
        if self._is_on:
            self._due.append(connection)
        return self._is_on


class _Output:
    """A body that waits for a window, and the header block after it, if there is one."""

    __slots__ = ("body", "sent", "stream", "trailers")

    def __init__(self, stream: Stream, body: bytes, trailers: bytes | None) -> None:
        self.stream = stream
        self.body = memoryview(body)
        self.sent = 0
        self.trailers = trailers


class Http2Connection(asyncio.Protocol):
    """The common part of client and server. Used by one thread.

    Subclasses handle requests or answers: `on_headers`, `on_data`, `on_reset`, `on_goaway`, `on_lost`.

    Args:
        turn: decides when waiting output is sent.
    """

    SETTINGS: ClassVar[dict[Setting, int]]
    AWAITS_PREFACE: ClassVar[bool]
    SENDS_PREFACE: ClassVar[bool]
    MOST_BYTES: ClassVar[int] = h2.MAX_OTHER_FRAME_BYTES  # of a frame that is no DATA

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self.streams: dict[int, Stream] = {}
        self.is_closed = False
        self.is_ready = False  # the peer's settings have come
        self.heard_at = self.moved_at = time.monotonic()  # of the last input; of the last progress of waiting output
        self.peer_streams = h2.MAX_WINDOW
        self._reader = h2.FrameReader(self.MOST_BYTES)
        self._preface: bytes | None = b"" if self.AWAITS_PREFACE else None
        self._out: list[bytes | memoryview] = []
        self._flush_is_due = False
        self._is_paused = False
        self._pump_is_due = False
        self._blocked: dict[int, _Output] = {}
        self.blocked_bytes = 0
        self._send_window = h2.DEFAULT_WINDOW
        self._stream_window = h2.DEFAULT_WINDOW
        self._max_frame_bytes = h2.DEFAULT_FRAME_BYTES
        self._receive_window = CONNECTION_WINDOW
        self._block: tuple[int, int, list[bytes]] | None = None  # stream, flags and pieces of a header block
        self._empty_frames = 0

    # For subclasses

    def on_ready(self) -> None:
        """The peer has sent its settings."""

    def on_headers(self, number: int, block: bytes, is_last: bool) -> None:
        """A header block is complete."""
        raise NotImplementedError

    def on_large_headers(self, number: int) -> None:
        """A header block is too large to be read."""
        raise Http2Error(Problem.ENHANCE_YOUR_CALM, "a header block is too large")

    def on_data(self, number: int, data: Piece, size: int, is_last: bool) -> None:
        """DATA, or a part of it, has come. It uses `size` bytes of the windows."""
        raise NotImplementedError

    def on_reset(self, number: int, problem: int) -> None:
        """The peer resets a stream."""
        raise NotImplementedError

    def on_goaway(self, last: int) -> None:
        """The peer accepts no streams after `last`."""

    def on_lost(self) -> None:
        """The connection has ended."""

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        with contextlib.suppress(OSError):  # the peer has left already
            # Otherwise an answer may wait 40 ms until the peer acknowledges the one before. asyncio sets this only for
            # listeners that are declared as TCP.
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._loop = asyncio.get_running_loop()
        if self.SENDS_PREFACE:
            self.send(h2.PREFACE)
        self.send(h2.settings(self.SETTINGS))
        self.send(_window_update(0, CONNECTION_WINDOW - h2.DEFAULT_WINDOW))

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True
        self._blocked.clear()
        self.blocked_bytes = 0
        self._out.clear()
        self.on_lost()

    def eof_received(self) -> None:
        return None  # the transport is closed

    def pause_writing(self) -> None:
        self._is_paused = True

    def resume_writing(self) -> None:
        self._is_paused = False
        self.moved_at = time.monotonic()
        if not self.is_closed:
            self._pump()

    def data_received(self, data: bytes) -> None:
        self.heard_at = time.monotonic()
        self._turn.begin()
        try:
            if self._preface is not None:
                data = self._preface + data
                if data[: len(h2.PREFACE)] != h2.PREFACE[: len(data)]:
                    raise Http2Error(Problem.PROTOCOL_ERROR, "this is not HTTP/2")
                if len(data) < len(h2.PREFACE):
                    self._preface = data
                    return
                self._preface, data = None, data[len(h2.PREFACE) :]
            for kind, flags, number, payload in self._reader.feed(data):
                if self.is_closed:
                    return
                self._receive(kind, flags, number, payload)
            if self._pump_is_due:
                self._pump()
        except Http2Error as error:
            LOG.debug("a connection is ended: %s", error)
            self.end(error.problem)
        except Exception:
            LOG.exception("a connection failed")
            self.end(Problem.INTERNAL_ERROR)
        finally:
            self._turn.end()

    # Input

    def _receive(self, kind: int, flags: int, number: int, payload: Piece) -> None:
        if not self.is_ready and (kind != h2.SETTINGS or flags & h2.ACK):
            raise Http2Error(Problem.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        if self._block is not None and kind != h2.CONTINUATION:
            raise Http2Error(Problem.PROTOCOL_ERROR, "a header block is interrupted")
        if kind == h2.DATA:
            self._receive_data(flags, number, payload)
            return
        assert isinstance(payload, bytes)
        if kind == h2.HEADERS:
            _check(number != 0)
            block = h2.without_padding(flags, payload, priority=True)
            if flags & h2.END_HEADERS and len(block) <= MAX_BLOCK_BYTES:
                self.on_headers(number, block, bool(flags & h2.END_STREAM))
            elif flags & h2.END_HEADERS:
                self.on_large_headers(number)
            else:
                self._block = (number, flags, [block])
        elif kind == h2.CONTINUATION:
            self._receive_continuation(flags, number, payload)
        elif kind == h2.WINDOW_UPDATE:
            self._widen(number, h2.number(payload))
        elif kind == h2.RST_STREAM:
            _check(number != 0)
            self.on_reset(number, h2.number(payload))
        elif kind == h2.SETTINGS:
            _check(number == 0)
            self._receive_settings(flags, payload)
        elif kind == h2.PING:
            _check(number == 0)
            if len(payload) != 8:
                raise Http2Error(Problem.FRAME_SIZE_ERROR, "PING has a wrong size")
            if not flags & h2.ACK:
                self.send(h2.frame(h2.PING, h2.ACK, 0, payload))
        elif kind == h2.GOAWAY:
            _check(number == 0 and len(payload) >= 8)
            self.on_goaway(int.from_bytes(payload[:4], "big") & h2.MAX_WINDOW)
        elif kind == h2.PRIORITY:
            _check(number != 0 and len(payload) == 5)
        else:
            _check(kind != h2.PUSH_PROMISE)  # frames of other kinds are ignored

    def _receive_continuation(self, flags: int, number: int, payload: bytes) -> None:
        _check(self._block is not None)
        assert self._block is not None
        first, first_flags, parts = self._block
        _check(number == first)
        if parts:
            parts.append(payload)
            if len(parts) > MAX_CONTINUATIONS or sum(map(len, parts)) > MAX_BLOCK_BYTES:
                parts.clear()  # the rest is not collected
                self.on_large_headers(number)
        if flags & h2.END_HEADERS:
            self._block = None
            if parts:
                self.on_headers(number, b"".join(parts), bool(first_flags & h2.END_STREAM))

    def _receive_data(self, flags: int, number: int, payload: Piece) -> None:
        _check(number != 0)
        size = len(payload)
        self._receive_window -= size
        if self._receive_window < 0:
            raise Http2Error(Problem.FLOW_CONTROL_ERROR, "more is sent than the window allows")
        if self._receive_window < CONNECTION_WINDOW // 2:
            self.send(_window_update(0, CONNECTION_WINDOW - self._receive_window))
            self._receive_window = CONNECTION_WINDOW
        self._empty_frames = 0 if size else self._empty_frames + 1
        if self._empty_frames > MAX_EMPTY_FRAMES:
            raise Http2Error(Problem.ENHANCE_YOUR_CALM, "too many frames are empty")
        if flags & h2.PADDED:
            assert isinstance(payload, bytes)
            payload = h2.without_padding(flags, payload)
        self.on_data(number, payload, size, bool(flags & h2.END_STREAM))

    def _receive_settings(self, flags: int, payload: bytes) -> None:
        if flags & h2.ACK:
            _check(not payload)
            return
        values = h2.read_settings(payload)
        self.peer_streams = values.get(Setting.MAX_CONCURRENT_STREAMS, self.peer_streams)
        self._max_frame_bytes = values.get(Setting.MAX_FRAME_SIZE, self._max_frame_bytes)
        if Setting.INITIAL_WINDOW_SIZE in values:
            self._stream_window = values[Setting.INITIAL_WINDOW_SIZE]
        self.send(h2.frame(h2.SETTINGS, h2.ACK, 0))
        if not self.is_ready:
            self.is_ready = True
            self.on_ready()
        self._pump_is_due = True

    def _widen(self, number: int, size: int) -> None:
        size &= h2.MAX_WINDOW
        _check(size > 0)
        if number == 0:
            self._send_window += size
            window = self._send_window
        else:
            stream = self.streams.get(number)
            if stream is None:
                self.check_not_idle(number)
                return
            stream.send_credit += size
            window = self._stream_window + stream.send_credit
        if window > h2.MAX_WINDOW:
            raise Http2Error(Problem.FLOW_CONTROL_ERROR, "a window is too large")
        self._pump_is_due = True

    def check_not_idle(self, number: int) -> None:
        """Raises `Http2Error` if the stream has not been opened yet."""
        raise NotImplementedError

    def take(self, stream: Stream, size: int, is_last: bool) -> None:
        """Counts DATA of a stream, and lets the peer send more."""
        stream.receive_window -= size
        if stream.receive_window < 0:
            raise Http2Error(Problem.FLOW_CONTROL_ERROR, "more is sent than the window of a stream allows")
        full = self.SETTINGS[Setting.INITIAL_WINDOW_SIZE]
        if not is_last and stream.receive_window < full // 2:
            self.send(_window_update(stream.number, full - stream.receive_window))
            stream.receive_window = full

    # Output

    def send(self, data: bytes | memoryview) -> None:
        """Sends frames that need no window, together with other output of the moment."""
        self._out.append(data)
        self._flush_later()

    def _flush_later(self) -> None:
        if not self._flush_is_due:
            self._flush_is_due = True
            if not self._turn.takes(self):
                self._loop.call_soon(self.flush)

    def flush_soon(self) -> None:
        """Sends the output of a turn at its end."""
        self.flush()

    def flush(self) -> None:
        """Sends at once the output that needs no window."""
        self._flush_is_due = False
        if self._out and not self.is_closed:
            out, self._out = self._out, []
            self.transport.write(b"".join(out))

    def send_headers(self, stream: Stream, block: bytes, *, is_last: bool) -> None:
        """Sends a header block."""
        flags = h2.END_STREAM if is_last else 0
        self.send(h2.header_frames(stream.number, block, flags, self._max_frame_bytes))

    def send_body(self, stream: Stream, body: bytes, trailers: bytes | None) -> None:
        """Sends a body as the windows allow, then the trailers or the end of the stream."""
        size = len(body)
        is_free = not self._is_paused and not self._blocked
        if is_free and size <= min(self._max_frame_bytes, self._send_window, self._stream_window + stream.send_credit):
            self._send_window -= size
            stream.send_credit -= size
            self.send(h2.frame(h2.DATA, h2.END_STREAM if trailers is None else 0, stream.number, body))
            if trailers is not None:
                self.send_headers(stream, trailers, is_last=True)
            self.sent(stream)
            return
        if not self._blocked:
            self.moved_at = time.monotonic()
        self._blocked[stream.number] = _Output(stream, body, trailers)
        self.blocked_bytes += size
        self._pump()

    def sent(self, stream: Stream) -> None:
        """All of a stream has been sent."""

    def reset(self, stream: Stream, problem: Problem) -> None:
        """Resets a stream."""
        self.drop_output(stream)
        self.send(h2.frame(h2.RST_STREAM, 0, stream.number, problem.to_bytes(4, "big")))

    def drop_output(self, stream: Stream) -> None:
        """Sends nothing more of a stream's body."""
        output = self._blocked.pop(stream.number, None)
        if output is not None:
            self.blocked_bytes -= len(output.body) - output.sent

    def goaway(self, last: int, problem: Problem = Problem.NO_ERROR) -> None:
        """Tells the peer that no streams after `last` are accepted."""
        self.send(h2.frame(h2.GOAWAY, 0, 0, last.to_bytes(4, "big") + problem.to_bytes(4, "big")))

    def ping(self) -> None:
        """Sends a PING."""
        self.send(h2.frame(h2.PING, 0, 0, bytes(8)))

    def end(self, problem: Problem = Problem.NO_ERROR) -> None:
        """Sends the output that needs no window and the reason, then closes the connection."""
        if self.is_closed:
            return
        if problem is not Problem.NO_ERROR:
            self.goaway(self.last_taken(), problem)
        self.flush()
        self.is_closed = True
        self.transport.close()

    def abort(self) -> None:
        """Closes the connection at once."""
        self.is_closed = True
        with contextlib.suppress(Exception):
            self.transport.abort()

    def last_taken(self) -> int:
        """The peer's last stream that was accepted."""
        return 0

    def _pump(self) -> None:
        """Sends waiting output as the windows allow, each stream in turn."""
        self._pump_is_due = False
        if not self._blocked:
            return
        unsent = self.blocked_bytes
        while self._blocked and not self._is_paused:
            if not any([self._send_part(output) for output in list(self._blocked.values())]):
                break
            self.moved_at = time.monotonic()
            if unsent - self.blocked_bytes >= FLUSH_BYTES:
                unsent = self.blocked_bytes
                self.flush()  # the transport pauses here if the peer does not read
        self.flush()

    def _send_part(self, output: _Output) -> bool:
        stream, size = output.stream, len(output.body)
        turn = TURN_BYTES if len(self._blocked) > 1 else FLUSH_BYTES
        window = min(self._send_window, self._stream_window + stream.send_credit, turn)
        begin, end = output.sent, min(size, output.sent + max(window, 0))
        if begin == end < size:
            return False
        last_flags = h2.END_STREAM if end == size and output.trailers is None else 0
        part = output.body[begin:end]
        self._out += h2.data_frames(stream.number, part, last_flags, self._max_frame_bytes)
        self._flush_later()
        output.sent = end
        self._send_window -= end - begin
        stream.send_credit -= end - begin
        self.blocked_bytes -= end - begin
        if end == size:
            del self._blocked[stream.number]
            if output.trailers is not None:
                self.send_headers(stream, output.trailers, is_last=True)
            self.sent(stream)
        return True


def _window_update(number: int, size: int) -> bytes:
    return h2.frame(h2.WINDOW_UPDATE, 0, number, size.to_bytes(4, "big"))


def _check(is_right: bool) -> None:
    if not is_right:
        raise Http2Error(Problem.PROTOCOL_ERROR, "a frame is malformed or comes at a wrong time")
