"""The gRPC side of the proxy with stalled clients, a broken upstream server, and at its end."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hyperframe import frame as frames

from dynamarks_tf.serving.gateway import Proxy, client_connection, grpc_front, upstream
from dynamarks_tf.serving.gateway.http2_connection import Http2Connection, Turn
from tests.helpers.raw_http2 import (
    DATA,
    HEADERS,
    PREFACE,
    SETTINGS,
    RawClient,
    block,
    call,
    message,
    raw,
    request_headers,
)
from tests.helpers.server_clients import over_grpc, predict_request
from tests.helpers.waiting import eventually

UNREACHABLE = "The server behind this proxy cannot be reached"


def test_no_answer_waits_for_the_one_before_to_be_acknowledged(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """With Nagle's algorithm, an answer may wait as long as the client delays that, 40 ms."""
    found = []
    connection_made = Http2Connection.connection_made

    def look(self: Http2Connection, transport: Any) -> None:
        connection_made(self, transport)
        found.append(transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    monkeypatch.setattr(Http2Connection, "connection_made", look)
    with RawClient(proxy.grpc_address) as client:
        client.send(call(1, b""))
        client.answer(1)
    assert found
    assert all(found)


def test_a_failure_of_one_connection_does_not_affect_the_others(caplog: pytest.LogCaptureFixture) -> None:
    class Connection:
        flushed = aborted = False

        def flush_soon(self) -> None:
            if self is broken:
                raise RuntimeError
            self.flushed = True

        def abort(self) -> None:
            self.aborted = True

    turn, broken, sound = Turn(), Connection(), Connection()
    done: list[str] = []

    def fail() -> None:
        raise RuntimeError

    turn.begin()
    assert turn.takes(broken)  # type: ignore[arg-type]
    assert turn.takes(sound)  # type: ignore[arg-type]
    turn.later(fail)
    turn.later(lambda: done.append("counted"))
    turn.end()
    assert sound.flushed
    assert not sound.aborted
    assert broken.aborted
    assert done == ["counted"]
    assert len(caplog.records) == 2
    assert not turn.takes(sound)  # type: ignore[arg-type]


class ScriptedServer:
    """A server on a bare socket, which runs a function on each connection."""

    def __init__(self, script: Callable[[socket.socket, int], None]) -> None:
        self._script = script
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                connection.settimeout(20)
                self.connections += 1
                threading.Thread(target=self._run, args=(connection, self.connections), daemon=True).start()

    def _run(self, connection: socket.socket, number: int) -> None:
        with connection, contextlib.suppress(OSError):
            self._script(connection, number)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., ScriptedServer]]:
    servers: list[ScriptedServer] = []

    def serve(script: Callable[[socket.socket, int], None]) -> ScriptedServer:
        servers.append(ScriptedServer(script))
        return servers[-1]

    yield serve
    for server in servers:
        server.close()


def requests(connection: socket.socket) -> Iterator[int]:
    """Yields the stream of each complete request."""
    data = b""
    while True:
        received = connection.recv(2**16)
        if not received:
            return
        data += received
        data = data.removeprefix(PREFACE)
        while len(data) >= 9:
            frame, length = frames.Frame.parse_frame_header(memoryview(data[:9]))
            if len(data) < 9 + length:
                break
            data = data[9 + length :]
            if "END_STREAM" in frame.flags:
                yield frame.stream_id


def answer(stream: int, content: bytes = b"cba") -> bytes:
    trailers = HEADERS(stream, block([("grpc-status", "0")]), "END_HEADERS", "END_STREAM")
    return HEADERS(stream, block([(":status", "200")])) + DATA(stream, message(content)) + trailers


GOAWAY_0 = raw(7, 0, 0, bytes(8))
OK = HEADERS(1, block([(":status", "200")]))
STATUS_0 = block([("grpc-status", "0")])

WRONG_ANSWERS: dict[str, tuple[int, bytes]] = {
    "a refusal": (14, raw(3, 0, 1, b"\0\0\0\7")),
    "another refusal": (13, raw(3, 0, 1, b"\0\0\0\2")),
    "a refusal of no known kind": (13, raw(3, 0, 1, b"\0\0\1\0")),
    "too busy": (8, raw(3, 0, 1, b"\0\0\0\x0b")),
    "no message": (13, OK + HEADERS(1, STATUS_0, "END_HEADERS", "END_STREAM")),
    "two messages": (13, OK + DATA(1, 2 * message(b"x")) + HEADERS(1, STATUS_0, "END_HEADERS", "END_STREAM")),
    "compressed": (13, OK + DATA(1, message(b"x", 1)) + HEADERS(1, STATUS_0, "END_HEADERS", "END_STREAM")),
    "no status": (2, OK + DATA(1, message(b"x"), "END_STREAM")),
    "HTTP's status": (14, HEADERS(1, block([(":status", "503")])) + DATA(1, b"<html>", "END_STREAM")),
    "not found": (12, HEADERS(1, block([(":status", "404")]), "END_HEADERS", "END_STREAM")),
    "a message with a problem": (
        9,
        OK + DATA(1, message(b"secret")) + HEADERS(1, block([("grpc-status", "9")]), "END_HEADERS", "END_STREAM"),
    ),
    "no frame": (14, b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    "headers of HTTP/1": (14, HEADERS(1, b"\xff\xff\xff")),
    "two statuses": (14, HEADERS(1, block([(":status", "200"), (":status", "200")]))),
    "data without headers": (14, DATA(1, message(b"x"))),
    "the end": (14, b""),
}


@pytest.mark.parametrize("case", WRONG_ANSWERS)
def test_invalid_answers_become_errors(case: str, serve: Callable[..., ScriptedServer]) -> None:
    status, data = WRONG_ANSWERS[case]

    def script(connection: socket.socket, number: int) -> None:
        connection.sendall(SETTINGS())
        for stream in requests(connection):
            connection.sendall(data.replace(b"\0\0\0\1", stream.to_bytes(4, "big")) if data else b"")
            if not data:
                return

    with Proxy(serve(script).address, grpc_port=0) as proxy, RawClient(proxy.grpc_address) as client:
        client.send(call(1, b"abc"))
        found = client.answer(1)
    assert (found.status, found.body) == (str(status), b"")


@pytest.mark.parametrize("first", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0\0\0\6\0\0\0\0\0", None])
def test_a_server_of_another_protocol_counts_as_unreachable(
    first: bytes | None, serve: Callable[..., ScriptedServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream, "CONNECT_TIMEOUT_S", 0.3)

    def script(connection: socket.socket, number: int) -> None:
        if first is not None:
            connection.sendall(first)
        connection.recv(2**16)
        connection.recv(2**16)

    with Proxy(serve(script).address, grpc_port=0) as proxy, RawClient(proxy.grpc_address) as client:
        client.send(call(1, b"abc"), call(3, b"abc"))
        for stream in (1, 3):
            found = client.answer(stream)
            assert (found.status, found.headers["grpc-message"]) == ("14", UNREACHABLE)


def test_a_request_that_the_server_has_not_processed_is_sent_again(serve: Callable[..., ScriptedServer]) -> None:
    def script(connection: socket.socket, number: int) -> None:
        connection.sendall(SETTINGS())
        for stream in requests(connection):
            connection.sendall(GOAWAY_0 if number == 1 else answer(stream))

    server = serve(script)
    with Proxy(server.address, grpc_port=0) as proxy, RawClient(proxy.grpc_address) as client:
        client.send(call(1, b"abc"), call(3, b"abc"))
        assert [client.answer(stream).status for stream in (1, 3)] == ["0", "0"]
    assert server.connections == 2


def test_a_server_that_never_processes_requests_counts_as_unreachable(serve: Callable[..., ScriptedServer]) -> None:
    def script(connection: socket.socket, number: int) -> None:
        connection.sendall(SETTINGS())
        for _ in requests(connection):
            connection.sendall(GOAWAY_0)

    with Proxy(serve(script).address, grpc_port=0) as proxy, RawClient(proxy.grpc_address) as client:
        client.send(call(1, b"abc"))
        assert client.answer(1).status == "14"


def test_a_server_that_ends_a_connection_still_answers_accepted_requests(serve: Callable[..., ScriptedServer]) -> None:
    def script(connection: socket.socket, number: int) -> None:
        connection.sendall(SETTINGS())
        for stream in requests(connection):
            leave = raw(7, 0, 0, stream.to_bytes(4, "big") + bytes(4))
            connection.sendall(leave + answer(stream, b"%d" % number))

    server = serve(script)
    with Proxy(server.address, grpc_port=0) as proxy, RawClient(proxy.grpc_address) as client:
        for number in (1, 2, 3):
            client.send(call(2 * number - 1, b"abc"))
            assert client.answer(2 * number - 1).body == message(b"%d" % number)
    assert server.connections == 3


def test_a_canceled_request_is_canceled_upstream(serve: Callable[..., ScriptedServer]) -> None:
    seen = threading.Event()
    got = bytearray()

    def script(connection: socket.socket, number: int) -> None:
        connection.sendall(SETTINGS())
        next(requests(connection))
        seen.set()
        while data := connection.recv(2**16):
            got.extend(data)

    with Proxy(serve(script).address, grpc_port=0) as proxy, RawClient(proxy.grpc_address) as client:
        client.send(call(1, b"abc"))
        assert seen.wait(20)
        client.send(raw(3, 0, 1, b"\0\0\0\x08"))
        eventually(lambda: raw(3, 0, 1, b"\0\0\0\x08") in got)
        client.until_pong()
        assert not client.answers.get(1)


def test_the_proxy_keeps_a_deadline_that_client_and_server_ignore(serve: Callable[..., ScriptedServer]) -> None:
    def script(connection: socket.socket, number: int) -> None:
        connection.sendall(SETTINGS())
        for _ in requests(connection):
            pass

    with Proxy(serve(script).address, grpc_port=0) as proxy, RawClient(proxy.grpc_address) as client:
        client.send(call(1, b"abc", ("grpc-timeout", "100m")))
        assert client.answer(1).status == "4"


def test_clients_that_stall_are_disconnected(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HANDSHAKE_S", "BODY_TIMEOUT_S"):
        monkeypatch.setattr(client_connection, name, 0.2)
    with RawClient(proxy.grpc_address, PREFACE[:5]) as client:
        client.until_closed()
    with RawClient(proxy.grpc_address) as client:
        client.send(HEADERS(1, block(request_headers())), DATA(1, message(b"abc")[:-1]))
        assert client.answer(1).status == "4"
    monkeypatch.setattr(client_connection, "SILENCE_S", 0.2)
    monkeypatch.setattr(client_connection, "PONG_S", 0.2)
    with RawClient(proxy.grpc_address) as client:  # it never answers a PING
        client.until_closed()


def test_clients_that_do_not_receive_their_answers_are_disconnected(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_connection, "STALL_S", 0.2)
    request = predict_request("m", image=np.ones((1, 4), np.float32)).SerializeToString()
    with RawClient(proxy.grpc_address, PREFACE + SETTINGS(INITIAL_WINDOW_SIZE=1)) as client:
        client.send(call(1, request))
        client.until_closed()
        assert len(client.answers[1].body) == 1


def test_answers_that_are_not_received_do_not_fill_the_memory(
    serve: Callable[..., ScriptedServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(connection: socket.socket, number: int) -> None:
        connection.sendall(SETTINGS())
        for stream in requests(connection):
            connection.sendall(answer(stream, bytes(3000)))

    with contextlib.ExitStack() as stack:
        proxy = stack.enter_context(Proxy(serve(script).address, grpc_port=0, max_body_bytes=1000))
        with RawClient(proxy.grpc_address, PREFACE + SETTINGS(INITIAL_WINDOW_SIZE=0)) as client:
            client.send(call(1, b"abc"), call(3, b"abc"))
            assert client.answer(3).status == "8"
            client.send(SETTINGS(INITIAL_WINDOW_SIZE=10_000))
            assert client.answer(1).body == message(bytes(3000))


def test_the_oldest_of_too_many_half_open_connections_is_closed(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_front, "MAX_HALF_OPEN", 3)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(RawClient(proxy.grpc_address, b"")) for _ in range(4)]
        clients[0].until_closed()
        clients[3].send(PREFACE + SETTINGS())
        clients[3].until_pong()


def test_a_client_that_cancels_many_requests_is_disconnected(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_connection, "MAX_RESETS", 5)
    head = block(request_headers())
    with RawClient(proxy.grpc_address) as client:
        client.send(*(HEADERS(stream, head) + raw(3, 0, stream, bytes(4)) for stream in range(1, 41, 2)))
        assert client.until_closed() == 11


def test_the_number_of_streams_is_limited_as_announced(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_connection, "MAX_STREAMS", 2)
    head = block(request_headers())
    with RawClient(proxy.grpc_address) as client:
        client.send(*(HEADERS(stream, head) for stream in (1, 3, 5)))
        client.until_pong()
        assert client.resets == {5: 7}


def test_a_stop_lets_answers_end_and_accepts_no_new_requests(serve: Callable[..., ScriptedServer]) -> None:
    seen, go = threading.Event(), threading.Event()

    def script(connection: socket.socket, number: int) -> None:
        connection.sendall(SETTINGS())
        for stream in requests(connection):
            seen.set()
            assert go.wait(20)
            connection.sendall(answer(stream))

    proxy = Proxy(serve(script).address, grpc_port=0)
    proxy.start()
    with RawClient(proxy.grpc_address) as client, RawClient(proxy.grpc_address) as idle:
        idle.until_pong()
        client.send(call(1, b"abc"))
        assert seen.wait(20)
        stopping = threading.Thread(target=proxy.stop)
        stopping.start()
        assert idle.until_closed() == 0
        while client.goaway is None:
            assert client.receive()
        client.send(call(3, b"abc"))  # as if sent before the client knew
        client.until_pong()
        go.set()
        assert client.answer(1).body == message(b"cba")
        assert client.until_closed() == 0
        assert 3 not in client.answers
        stopping.join(20)


def test_requests_not_answered_within_the_grace_period_are_unavailable(serve: Callable[..., ScriptedServer]) -> None:
    def script(connection: socket.socket, number: int) -> None:
        connection.sendall(SETTINGS())
        for _ in requests(connection):
            pass

    proxy = Proxy(serve(script).address, grpc_port=0)
    proxy.start()
    with RawClient(proxy.grpc_address) as client:
        client.send(call(1, b"abc"))
        client.until_pong()
        proxy.stop(grace_s=0.1)
        assert client.answer(1).status == "14"
        assert client.until_closed() == 0


def test_a_log_that_fails_affects_no_answer(make_proxy: Callable[..., Proxy], tmp_path: Any) -> None:
    with make_proxy(request_log=tmp_path) as proxy:
        proxy.request_log.log_later = lambda *_, **__: 1 / 0
        assert over_grpc(proxy, predict_request("m", image=np.ones((1, 4), np.float32))).outputs
