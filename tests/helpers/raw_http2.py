"""A client of HTTP/2 that sends any bytes, as no library would, and a gRPC server that answers any bytes."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import grpc
import hpack
from hyperframe import frame as frames

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PREDICT = "/tensorflow.serving.PredictionService/Predict"


def request_headers(*more: tuple[str, str], **changed: str | None) -> list[tuple[str, str]]:
    """The headers of a proper call; `changed` replaces one by its name, with underscores, or leaves it out."""
    headers: dict[str, str | None] = {
        ":method": "POST",
        ":scheme": "http",
        ":path": PREDICT,
        ":authority": "proxy",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    for name, value in changed.items():
        found = name.replace("_", "-")
        headers[f":{found}" if f":{found}" in headers else found] = value
    return [(name, value) for name, value in headers.items() if value is not None] + list(more)


def block(headers: Any, huffman: bool = False) -> bytes:
    """A header block without a dynamic table, written without any check of its fields."""
    return hpack.Encoder().encode([(*header, True) for header in headers], huffman=huffman)


def message(content: bytes, flag: int = 0) -> bytes:
    return bytes([flag]) + len(content).to_bytes(4, "big") + content


def HEADERS(stream: int, data: bytes, *flags: str, **more: Any) -> bytes:  # noqa: N802
    flags = flags or ("END_HEADERS",)
    return frames.HeadersFrame(stream, data, flags=flags, **more).serialize()


def CONTINUATION(stream: int, data: bytes, *flags: str) -> bytes:  # noqa: N802
    return frames.ContinuationFrame(stream, data, flags=flags).serialize()


def DATA(stream: int, data: bytes, *flags: str, **more: Any) -> bytes:  # noqa: N802
    return frames.DataFrame(stream, data, flags=flags, **more).serialize()


def SETTINGS(**values: int) -> bytes:  # noqa: N802
    names = {name: getattr(frames.SettingsFrame, name) for name in values}
    return frames.SettingsFrame(0, settings={names[name]: value for name, value in values.items()}).serialize()


def raw(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame, even one that a library would refuse to write."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def call(stream: int, content: bytes, *more: tuple[str, str]) -> bytes:
    """A proper call of Predict."""
    return HEADERS(stream, block(request_headers(*more))) + DATA(stream, message(content), "END_STREAM")


@dataclass
class Answer:
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    is_whole: bool = False

    @property
    def status(self) -> str | None:
        return self.headers.get("grpc-status")


class RawClient:
    """A connection. By default, it sends the preface and SETTINGS at once."""

    def __init__(self, address: str, first: bytes = PREFACE + SETTINGS()) -> None:
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=20)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.answers: dict[int, Answer] = {}
        self.resets: dict[int, int] = {}
        self.goaway: int | None = None
        self.pongs = 0
        self._decoder = hpack.Decoder()
        self._rest = b""
        self.send(first)

    def send(self, *data: bytes) -> None:
        self.socket.sendall(b"".join(data))

    def receive(self) -> bool:
        """Waits for some bytes; `False` if the connection has ended."""
        try:
            data = self.socket.recv(2**16)
        except ConnectionResetError:
            return False
        self._rest += data
        while len(self._rest) >= 9:
            frame, length = frames.Frame.parse_frame_header(memoryview(self._rest[:9]))
            if len(self._rest) < 9 + length:
                break
            frame.parse_body(memoryview(self._rest[9 : 9 + length]))
            self._rest = self._rest[9 + length :]
            self._take(frame)
        return bool(data)

    def _take(self, frame: Any) -> None:
        answer = self.answers.setdefault(frame.stream_id, Answer()) if frame.stream_id else Answer()
        if isinstance(frame, frames.HeadersFrame):
            answer.headers |= dict(self._decoder.decode(frame.data))
        elif isinstance(frame, frames.DataFrame):
            answer.body += frame.data
        elif isinstance(frame, frames.RstStreamFrame):
            self.resets[frame.stream_id] = frame.error_code
        elif isinstance(frame, frames.GoAwayFrame):
            self.goaway = frame.error_code
        elif isinstance(frame, frames.PingFrame) and "ACK" in frame.flags:
            self.pongs += 1
        if "END_STREAM" in frame.flags:
            answer.is_whole = True

    def answer(self, stream: int) -> Answer:
        """Waits for a complete answer."""
        while not (stream in self.answers and self.answers[stream].is_whole):
            assert self.receive(), f"the connection has ended: {self.goaway}"
        return self.answers[stream]

    def until_pong(self) -> None:
        """Waits until everything that was sent has been read."""
        before = self.pongs
        self.send(frames.PingFrame(0, b"12345678").serialize())
        while self.pongs == before:
            assert self.receive(), f"the connection has ended: {self.goaway}"

    def until_closed(self) -> int | None:
        """Waits for the end, and returns its error code."""
        while self.receive():
            pass
        return self.goaway

    def __enter__(self) -> RawClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()


@contextlib.contextmanager
def bytes_server(answer: Callable[[bytes, grpc.ServicerContext], bytes], **options: Any) -> Iterator[str]:
    """A gRPC server that answers every call with a function of bytes; yields its address."""

    class Handler(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(answer)

    server = grpc.server(
        futures.ThreadPoolExecutor(4), handlers=[Handler()], options=[*options.items(), ("grpc.so_reuseport", 0)]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()
