"""Reads and writes frames of HTTP/2 (RFC 9113)."""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator

from dynamarks_tf.serving.gateway.pieces import Piece

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD_BYTES = 9
MAX_FRAME_BYTES = 2**18  # the largest frame that is accepted; announced in the settings
MAX_OTHER_FRAME_BYTES = 2**15  # of frames that are no DATA
DEFAULT_FRAME_BYTES = 2**14
DEFAULT_WINDOW = 2**16 - 1
MAX_WINDOW = 2**31 - 1

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
WITH_PRIORITY = 0x20

_HEAD = struct.Struct(">HBBBI")  # a length of three bytes, type, flags, stream

Frame = tuple[int, int, int, Piece]
"""Type, flags, stream, payload; a view only in DATA."""


class Problem(enum.IntEnum):
    """Error codes of HTTP/2."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12


class Setting(enum.IntEnum):
    """Parameters of SETTINGS."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class Http2Error(Exception):
    """The peer breaks the protocol; the connection ends.

    Args:
        problem: the code for the peer.
        text: the fault, without any content from the peer.
    """

    def __init__(self, problem: Problem, text: str) -> None:
        super().__init__(text)
        self.problem = problem


class FrameReader:
    """Cuts bytes, as they arrive, into frames.

    DATA without padding is not collected. Each part of its payload becomes a frame of its own at once. Only the last
    one has the flags.

    Args:
        most: the largest size of a frame other than DATA.
    """

    def __init__(self, most: int = MAX_OTHER_FRAME_BYTES) -> None:
        self._most = most
        self._parts: list[bytes] = []  # the rest of the last call
        self._have = 0
        self._need = HEAD_BYTES
        self._open = (0, 0)  # flags and stream of incomplete DATA
        self._missing = 0  # bytes of that DATA

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yields each frame that is complete now, and DATA as far as it has come.

        Raises:
            Http2Error: a frame is too large.
        """
        if self._parts:
            self._parts.append(data)
            self._have += len(data)
            if self._have < self._need:
                return
            data = b"".join(self._parts)
            self._parts = []
        start, end = 0, len(data)
        if self._missing:
            start = min(self._missing, end)
            yield self._data(data, 0, start)
        while end - start >= HEAD_BYTES:
            high, low, kind, flags, stream = _HEAD.unpack_from(data, start)
            length = high << 8 | low
            if length > (self._most if kind else MAX_FRAME_BYTES):
                raise Http2Error(Problem.FRAME_SIZE_ERROR, "a frame is too large")
            stop = start + HEAD_BYTES + length
            if kind == DATA and length and not flags & PADDED:
                self._open, self._missing = (flags, stream & MAX_WINDOW), length
                start += HEAD_BYTES
                stop = min(stop, end)
                if start < stop:
                    yield self._data(data, start, stop)
                start = stop
                continue
            if stop > end:
                self._need = stop - start
                break
            yield kind, flags, stream & MAX_WINDOW, data[start + HEAD_BYTES : stop]
            start = stop
        else:
            self._need = HEAD_BYTES
        if start < end:
            self._parts = [data[start:] if start else data]
        self._have = end - start

    def _data(self, data: bytes, start: int, stop: int) -> Frame:
        self._missing -= stop - start
        flags, stream = self._open
        return DATA, 0 if self._missing else flags, stream, _piece(data, start, stop)


def _piece(data: bytes, start: int, stop: int) -> Piece:
    """A part of `data`: a view, unless it would keep much more than itself in memory."""
    if stop - start == len(data):
        return data
    return memoryview(data)[start:stop] if 2 * (stop - start) >= len(data) else data[start:stop]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Returns one frame."""
    return _HEAD.pack(len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream) + payload


def data_frames(stream: int, body: memoryview, flags: int, max_frame_bytes: int) -> list[Piece]:
    """Returns DATA in as many frames as the peer's limit requires, in pieces, so that the body is not copied.

    Args:
        stream: the number of the stream.
        body: the content; an empty one makes a single frame.
        flags: the flags of the last frame.
        max_frame_bytes: the peer's limit.
    """
    full, rest = divmod(len(body), max_frame_bytes)
    if full and not rest:
        full, rest = full - 1, max_frame_bytes
    head = _HEAD.pack(max_frame_bytes >> 8, max_frame_bytes & 0xFF, DATA, 0, stream)
    pieces: list[Piece] = []
    for start in range(0, full * max_frame_bytes, max_frame_bytes):
        pieces += (head, body[start : start + max_frame_bytes])
    return [*pieces, _HEAD.pack(rest >> 8, rest & 0xFF, DATA, flags, stream), body[full * max_frame_bytes :]]


def header_frames(stream: int, block: bytes, flags: int, max_frame_bytes: int) -> bytes:
    """Returns HEADERS with the flags, and as many CONTINUATIONs as the peer's limit requires."""
    if len(block) <= max_frame_bytes:
        return frame(HEADERS, flags | END_HEADERS, stream, block)
    pieces = [block[start : start + max_frame_bytes] for start in range(0, len(block), max_frame_bytes)]
    frames = [frame(HEADERS, flags, stream, pieces[0])]
    frames += [frame(CONTINUATION, 0, stream, piece) for piece in pieces[1:-1]]
    return b"".join([*frames, frame(CONTINUATION, END_HEADERS, stream, pieces[-1])])


def settings(values: dict[Setting, int]) -> bytes:
    """Returns SETTINGS."""
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", name, value) for name, value in values.items()))


def read_settings(payload: bytes) -> dict[int, int]:
    """Returns the parameters of SETTINGS, including unknown ones.

    Raises:
        Http2Error: it is malformed, or a value is not allowed.
    """
    if len(payload) % 6:
        raise Http2Error(Problem.FRAME_SIZE_ERROR, "SETTINGS has a wrong size")
    values = dict(struct.iter_unpack(">HI", payload))
    if values.get(Setting.INITIAL_WINDOW_SIZE, 0) > MAX_WINDOW:
        raise Http2Error(Problem.FLOW_CONTROL_ERROR, "SETTINGS has a window that is too large")
    if not DEFAULT_FRAME_BYTES <= values.get(Setting.MAX_FRAME_SIZE, DEFAULT_FRAME_BYTES) < 2**24:
        raise Http2Error(Problem.PROTOCOL_ERROR, "SETTINGS has a wrong size of frames")
    if values.get(Setting.ENABLE_PUSH, 0) > 1:
        raise Http2Error(Problem.PROTOCOL_ERROR, "SETTINGS has a wrong value")
    return values


def number(payload: bytes) -> int:
    """Returns the number in RST_STREAM or WINDOW_UPDATE.

    Raises:
        Http2Error: it is not 4 bytes.
    """
    if len(payload) != 4:
        raise Http2Error(Problem.FRAME_SIZE_ERROR, "a frame has a wrong size")
    return int.from_bytes(payload, "big")


def without_padding(flags: int, payload: bytes, *, priority: bool = False) -> bytes:
    """Returns the content of DATA or HEADERS.

    Raises:
        Http2Error: the padding is larger than the frame.
    """
    start, padding = 0, 0
    if flags & PADDED:
        start, padding = 1, payload[0] if payload else 1
    if priority and flags & WITH_PRIORITY:
        start += 5
    if start + padding > len(payload):
        raise Http2Error(Problem.PROTOCOL_ERROR, "a frame is smaller than its padding")
    return payload[start : len(payload) - padding]
