"""Frames of HTTP/2 (RFC 9113): where each begins and ends in a stream of bytes, and how it is written."""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator

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

Frame = tuple[int, int, int, bytes]
"""Type, flags, stream, payload."""


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
        problem: what it is told.
        text: what is wrong, without anything that it sent.
    """

    def __init__(self, problem: Problem, text: str) -> None:
        super().__init__(text)
        self.problem = problem


class FrameReader:
    """Cuts bytes, as they arrive, into frames.

    Args:
        most: the size of the largest frame that is accepted if it is no DATA.
    """

    def __init__(self, most: int = MAX_OTHER_FRAME_BYTES) -> None:
        self._most = most
        self._parts: list[bytes] = []  # what is left of the last call
        self._have = 0
        self._need = HEAD_BYTES

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yields each frame that is whole now.

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
        while end - start >= HEAD_BYTES:
            high, low, kind, flags, stream = _HEAD.unpack_from(data, start)
            length = high << 8 | low
            if length > (self._most if kind else MAX_FRAME_BYTES):
                raise Http2Error(Problem.FRAME_SIZE_ERROR, "a frame is too large")
            stop = start + HEAD_BYTES + length
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


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Returns one frame."""
    return _HEAD.pack(len(payload) >> 8, len(payload) & 0xFF, kind, flags, stream) + payload


def frame_head(kind: int, flags: int, stream: int, size: int) -> bytes:
    """Returns the beginning of a frame, which its payload has to follow."""
    return _HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream)


def header_frames(stream: int, block: bytes, flags: int, max_frame_bytes: int) -> bytes:
    """Returns HEADERS with the flags, and as many CONTINUATIONs as the peer's limit makes necessary."""
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
    """Returns the parameters of SETTINGS, those of unknown meaning too.

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
    """Returns what RST_STREAM and WINDOW_UPDATE hold.

    Raises:
        Http2Error: it is not 4 bytes.
    """
    if len(payload) != 4:
        raise Http2Error(Problem.FRAME_SIZE_ERROR, "a frame has a wrong size")
    return int.from_bytes(payload, "big")


def without_padding(flags: int, payload: bytes, *, priority: bool = False) -> bytes:
    """Returns what DATA or HEADERS carry.

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
