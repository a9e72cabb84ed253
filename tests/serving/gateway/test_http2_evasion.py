"""For any input over HTTP/2, only complete and valid calls reach the server, and those are logged."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import itertools
import logging
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import hpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamarks_tf.serving.gateway import Admission, ApiKeys, Proxy
from dynamarks_tf.serving.gateway.http2_frames import Problem
from dynamarks_tf.serving.local_server import LocalServer
from tests.helpers.logs import read_predictions
from tests.helpers.raw_http2 import (
    CONTINUATION,
    DATA,
    HEADERS,
    PREFACE,
    SETTINGS,
    RawClient,
    block,
    bytes_server,
    call,
    message,
    raw,
)
from tests.helpers.raw_http2 import request_headers as headers
from tests.helpers.server_clients import predict_request

END = "END_STREAM"
FIRST = PREFACE + SETTINGS()
GOOD = HEADERS(1, block(headers()))
BODY = DATA(1, message(b"abc"), END)


class Asked(list[bytes]):
    """The requests that reached a server, and the metadata of the last one."""

    metadata: dict[str, Any]


@contextlib.contextmanager
def echo_server(**options: Any) -> Iterator[tuple[str, Asked]]:
    """A gRPC server that answers every call with the reversed request, and keeps the requests."""
    asked = Asked()

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        asked.metadata = {key: value for key, value in context.invocation_metadata()}
        asked.append(request)
        if request.startswith(b"headers"):
            context.set_trailing_metadata((("large", "x" * int(request.split()[1])),))
        return request[::-1]

    with bytes_server(answer, **options) as address:
        yield address, asked


@pytest.fixture(scope="module")
def echo() -> Iterator[tuple[Proxy, Asked]]:
    with echo_server() as (address, asked), Proxy(address, grpc_port=0, max_body_bytes=100_000) as proxy:
        yield proxy, asked


@pytest.fixture
def proxy_and_asked(echo: tuple[Proxy, Asked]) -> tuple[Proxy, Asked]:
    echo[1].clear()
    return echo


def changed(*more: tuple[str, str], **values: str | None) -> bytes:
    return HEADERS(1, block(headers(*more, **values))) + BODY


BROKEN: dict[str, bytes] = {
    "HTTP/1": b"POST /v1/models/m:predict HTTP/1.1\r\n\r\n",
    "another preface": PREFACE[:-1] + b"x",
    "no SETTINGS": PREFACE + GOOD + BODY,
    "SETTINGS of a wrong size": FIRST + raw(4, 0, 0, b"12345"),
    "SETTINGS of a stream": FIRST + raw(4, 0, 1, b""),
    "SETTINGS with a frame size that is too small": FIRST + raw(4, 0, 0, b"\0\5\0\0\0\1"),
    "SETTINGS with a window that is too large": FIRST + raw(4, 0, 0, b"\0\4\x80\0\0\0"),
    "an ACK with content": FIRST + raw(4, 1, 0, b"\0\4\0\0\0\1"),
    "a frame that is too large": FIRST + GOOD + b"\x04\0\1\0\0\0\0\0\1",
    "headers in a frame that is too large": FIRST + b"\1\0\0\1\4\0\0\0\1",
    "PING of a wrong size": FIRST + raw(6, 0, 0, b"1"),
    "PUSH_PROMISE": FIRST + raw(5, 4, 1, b"\0\0\0\2"),
    "headers of no stream": FIRST + raw(1, 4, 0, block(headers())),
    "headers of an even stream": FIRST + raw(1, 4, 2, block(headers())),
    "data of no stream": FIRST + raw(0, 0, 0, b"x"),
    "data of a stream that is not open": FIRST + DATA(1, message(b"x"), END),
    "a stream that is reset before it is open": FIRST + raw(3, 0, 1, b"\0\0\0\0"),
    "a window of a stream that is not open": FIRST + raw(8, 0, 1, b"\0\0\0\1"),
    "a window of nothing": FIRST + raw(8, 0, 0, b"\0\0\0\0"),
    "a window that is too large": FIRST + raw(8, 0, 0, b"\x7f\xff\xff\xff"),
    "a window of a wrong size": FIRST + raw(8, 0, 0, b"\0\0\0"),
    "a priority of a wrong size": FIRST + raw(2, 0, 1, b"\0\0\0"),
    "a stream twice": FIRST + GOOD + GOOD + BODY,
    "an older stream": FIRST + HEADERS(3, block(headers())) + GOOD + BODY,
    "trailers": FIRST + GOOD + DATA(1, message(b"abc")) + HEADERS(1, block([("x", "y")]), "END_HEADERS", END),
    "padding larger than DATA": FIRST + GOOD + raw(0, 9, 1, b"\x09" + message(b"abc")),
    "padding of nothing": FIRST + GOOD + raw(0, 9, 1, b""),
    "padding larger than headers": FIRST + raw(1, 0xC, 1, b"\xff" + block(headers())),
    "a piece of headers without a beginning": FIRST + raw(9, 4, 1, block(headers())),
    "a piece of headers of another stream": FIRST + HEADERS(1, b"", END) + CONTINUATION(3, b"", "END_HEADERS"),
    "headers that are interrupted": FIRST + HEADERS(1, block(headers()), END) + raw(6, 0, 0, bytes(8)),
    "headers in many pieces": FIRST + HEADERS(1, block(headers()), END) + 50 * CONTINUATION(1, b""),
    "headers that are too large": FIRST + HEADERS(1, b"", END) + 9 * CONTINUATION(1, 4000 * b"\x82"),
    "headers that grow too large": FIRST + HEADERS(1, 9000 * b"\x82"),
    "headers that end too soon": FIRST + HEADERS(1, block(headers())[:-3]) + BODY,
    "an index of nothing": FIRST + HEADERS(1, b"\xff\xff\x03") + BODY,
    "a table that is too large": FIRST + HEADERS(1, b"\x3f\xe1\xff\x03" + block(headers())) + BODY,
    "a table that grows again": FIRST
    + HEADERS(1, b"\x20" + block(headers()))
    + HEADERS(3, b"\x3f\xe1\x0f" + block(headers()))
    + BODY,
    "two paths": FIRST + HEADERS(1, block([(":path", "/x"), *headers()])) + BODY,
    "two methods": FIRST + HEADERS(1, block([*headers()[:4], (":method", "POST")])) + BODY,
    "no path": FIRST + changed(path=None),
    "an empty path": FIRST + changed(path=""),
    "no method": FIRST + changed(method=None),
    "a path after other headers": FIRST + HEADERS(1, block([*headers()[1:], headers()[0]])) + BODY,
    "an unknown header with a colon": FIRST + HEADERS(1, block([(":status", "200"), *headers()])) + BODY,
    "an upper-case header": FIRST + changed(("X-Client-Id", "eve")),
    "a header of HTTP/1": FIRST + changed(("transfer-encoding", "chunked")),
    "a header that names others": FIRST + changed(("connection", "x-client-id")),
    "a line end in a header": FIRST + changed(("x-client-id", "eve\r\nx: y")),
    "a zero in a header": FIRST + changed(("x-client-id", "eve\0")),
    "another te": FIRST + changed(te="gzip"),
    "too many frames without data": FIRST + GOOD + 1100 * DATA(1, b""),
}


@pytest.mark.parametrize("case", BROKEN)
def test_invalid_http2_ends_the_connection_and_does_not_reach_the_server(
    case: str, proxy_and_asked: tuple[Proxy, Asked], caplog: pytest.LogCaptureFixture
) -> None:
    proxy, asked = proxy_and_asked
    with RawClient(proxy.grpc_address, BROKEN[case]) as client:
        assert client.until_closed() not in (None, Problem.NO_ERROR, Problem.INTERNAL_ERROR)
        assert not any(answer.body for answer in client.answers.values())
    assert asked == []
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


REFUSED: dict[str, tuple[int, bytes]] = {
    "another method": (12, changed(path="/tensorflow.serving.PredictionService/Predictx")),
    "a method in other letters": (12, changed(path="/tensorflow.serving.predictionservice/predict")),
    "a method with a query": (12, changed(path="/tensorflow.serving.PredictionService/Predict?x")),
    "a method with a slash": (12, changed(path="/tensorflow.serving.PredictionService/Predict/")),
    "a method with a detour": (12, changed(path="/x/../tensorflow.serving.PredictionService/Predict")),
    "an encoded method": (12, changed(path="/tensorflow.serving.PredictionService/%50redict")),
    "a whole address": (12, changed(path="http://x/tensorflow.serving.PredictionService/Predict")),
    "a path that is no text": (12, changed(path="/\xff")),
    "reloading": (7, changed(path="/tensorflow.serving.ModelService/HandleReloadConfigRequest")),
    "GET": (13, changed(method="GET")),
    "another content": (13, changed(content_type="application/json")),
    "no content type": (13, changed(content_type=None)),
    "two content types": (13, changed(("content-type", "application/grpc"))),
    "a name that is no text": (13, changed(("x-client-id", "Zoë"))),
    "bytes that are no base64": (13, changed(("x-bin", "?"))),
    "a deadline that is none": (13, changed(("grpc-timeout", "-1S"))),
    "two deadlines": (13, changed(("grpc-timeout", "1S"), ("grpc-timeout", "2S"))),
    "no message": (13, HEADERS(1, block(headers()), "END_HEADERS", END)),
    "an empty body": (13, GOOD + DATA(1, b"", END)),
    "half a prefix": (13, GOOD + DATA(1, b"\0\0", END)),
    "half a message": (13, GOOD + DATA(1, message(b"abc")[:-1], END)),
    "two messages": (13, GOOD + DATA(1, message(b"abc") + message(b"abc"), END)),
    "two messages in pieces": (13, GOOD + DATA(1, message(b"abc")) + DATA(1, message(b"abc"), END)),
    "a message and a byte": (13, GOOD + DATA(1, message(b"abc")) + DATA(1, b"x")),
    "an unknown flag": (13, GOOD + DATA(1, message(b"abc", 2), END)),
    "compressed without an encoding": (13, GOOD + DATA(1, message(gzip.compress(b"abc"), 1), END)),
    "compressed in another way": (
        12,
        HEADERS(1, block(headers(grpc_encoding="snappy"))) + DATA(1, message(b"abc", 1), END),
    ),
    "compressed in a wrong way": (
        13,
        HEADERS(1, block(headers(grpc_encoding="gzip"))) + DATA(1, message(zlib.compress(b"abc"), 1), END),
    ),
    "compressed, and more": (
        13,
        HEADERS(1, block(headers(grpc_encoding="gzip"))) + DATA(1, message(gzip.compress(b"abc") + b"x", 1), END),
    ),
    "compressed, and not to the end": (
        13,
        HEADERS(1, block(headers(grpc_encoding="gzip"))) + DATA(1, message(gzip.compress(b"abc")[:-4], 1), END),
    ),
    "compressed, and too large": (
        8,
        HEADERS(1, block(headers(grpc_encoding="gzip"))) + DATA(1, message(gzip.compress(bytes(100_001)), 1), END),
    ),
    "too large": (8, GOOD + DATA(1, message(bytes(100_001))[:1000])),
    "said to be too large": (8, GOOD + DATA(1, b"\0\xff\xff\xff\xff")),
}


@pytest.mark.parametrize("case", REFUSED)
def test_invalid_calls_are_refused_and_do_not_reach_the_server(case: str, proxy_and_asked: tuple[Proxy, Asked]) -> None:
    proxy, asked = proxy_and_asked
    status, data = REFUSED[case]
    with RawClient(proxy.grpc_address) as client:
        client.send(data)
        refusal = client.answer(1)
        assert (refusal.status, refusal.body) == (str(status), b"")
        assert refusal.headers["grpc-message"]
        client.send(call(3, b"next"))  # on the same connection
        assert client.answer(3).body == message(b"txen")
    assert asked == [b"next"]


def table_blocks() -> list[bytes]:
    """The same headers, twice, by an encoder with a dynamic table."""
    encoder = hpack.Encoder()
    return [encoder.encode(headers(), huffman=True) for _ in range(2)]


PROPER: dict[str, bytes] = {
    "padding and priority": HEADERS(
        1, block(headers()), "END_HEADERS", "PADDED", "PRIORITY", pad_length=30, exclusive=True
    )
    + DATA(1, message(b"abc"), END, "PADDED", pad_length=200),
    "Huffman": HEADERS(1, block(headers(), huffman=True)) + BODY,
    "a dynamic table": HEADERS(1, table_blocks()[0]) + BODY,
    "a table that becomes empty": HEADERS(1, b"\x20" + block(headers())) + BODY,
    "pieces of headers": b"".join(
        [
            HEADERS(1, block(headers())[:5], "PADDED", pad_length=3),
            CONTINUATION(1, block(headers())[5:90]),
            CONTINUATION(1, b""),
            CONTINUATION(1, block(headers())[90:], "END_HEADERS"),
        ]
    )
    + BODY,
    "pieces of data": GOOD
    + b"".join(DATA(1, bytes([byte])) + DATA(1, b"") for byte in message(b"abc"))
    + DATA(1, b"", END),
    "frames of no known kind": raw(0xFA, 0, 7, b"x") + GOOD + raw(0xFB, 0xFF, 1, b"y") + BODY,
    "PRIORITY": raw(2, 0, 1, bytes(5)) + GOOD + raw(2, 0, 99, bytes(5)) + BODY,
    "gzip": HEADERS(1, block(headers(grpc_encoding="gzip"))) + DATA(1, message(gzip.compress(b"abc"), 1), END),
    "deflate": HEADERS(1, block(headers(grpc_encoding="deflate"))) + DATA(1, message(zlib.compress(b"abc"), 1), END),
    "said to be compressed, but is not": HEADERS(1, block(headers(grpc_encoding="gzip"))) + BODY,
}


@pytest.mark.parametrize("case", PROPER)
@pytest.mark.parametrize("size", [1, 7, 10**6])
def test_a_valid_call_is_answered_in_any_form_and_any_pieces(
    case: str, size: int, proxy_and_asked: tuple[Proxy, Asked]
) -> None:
    proxy, asked = proxy_and_asked
    data = FIRST + PROPER[case]
    with RawClient(proxy.grpc_address, b"") as client:
        for start in range(0, len(data), size):
            client.send(data[start : start + size])
        answer = client.answer(1)
    assert (answer.status, answer.body) == ("0", message(b"cba"))
    assert asked == [b"abc"]
    assert "grpc-encoding" not in asked.metadata


def test_a_dynamic_table_is_followed(proxy_and_asked: tuple[Proxy, Asked]) -> None:
    """A client that has not read the settings yet may refer to earlier headers, even those of a refused request."""
    proxy, asked = proxy_and_asked
    encoder = hpack.Encoder()
    first = encoder.encode([*headers(path="/x"), ("tracing", "abc"), ("x-client-id", "alice")])
    second = encoder.encode([*headers(), ("tracing", "abc"), ("x-client-id", "bob")])
    third = b"\x20" + block([*headers(), ("tracing", "xyz")])
    with RawClient(proxy.grpc_address) as client:
        for stream, data in ((1, first), (3, second), (5, third)):
            client.send(HEADERS(stream, data), DATA(stream, message(b"abc"), END))
            assert client.answer(stream).status == ("12" if stream == 1 else "0")
            if stream == 3:
                assert (asked.metadata["tracing"], asked.metadata["x-client-id"]) == ("abc", "bob")
    assert asked.metadata["tracing"] == "xyz"
    assert "x-client-id" not in asked.metadata


def test_more_after_the_end_of_a_request_ends_the_connection(proxy_and_asked: tuple[Proxy, Asked]) -> None:
    proxy, _ = proxy_and_asked
    no_window = PREFACE + SETTINGS(INITIAL_WINDOW_SIZE=0)  # the answer cannot be sent, so the stream stays open
    with RawClient(proxy.grpc_address, no_window) as client:
        client.send(GOOD, BODY)
        while 1 not in client.answers:
            assert client.receive()
        client.send(DATA(1, message(b"abc")))
        assert client.until_closed() == Problem.STREAM_CLOSED


def test_data_of_refused_requests_does_not_use_up_the_window(proxy_and_asked: tuple[Proxy, Asked]) -> None:
    proxy, asked = proxy_and_asked
    bad = block(headers(path="/x"))
    with RawClient(proxy.grpc_address) as client:
        for stream in range(1, 2001, 2):
            client.send(HEADERS(stream, bad), 2 * DATA(stream, bytes(16_000)), DATA(stream, b"", END))  # 32 MB in all
            client.answer(stream)
        client.send(call(2001, b"abc"))
        assert client.answer(2001).body == message(b"cba")
    assert asked == [b"abc"]


def test_the_server_sees_no_keys_and_no_names_chosen_by_clients() -> None:
    keys = ApiKeys([("alice", hashlib.sha256(b"k1").digest())])
    sent = [("authorization", "Bearer k1"), ("x-api-key", "k1"), ("x-client-id", "eve"), ("tracing", "7")]
    with contextlib.ExitStack() as stack:
        address, asked = stack.enter_context(echo_server())
        proxy = stack.enter_context(Proxy(address, grpc_port=0, admission=Admission(keys=keys)))
        with RawClient(proxy.grpc_address) as client:
            client.send(call(1, b"abc"), call(3, b"abc", ("x-api-key", "k2")), call(5, b"abc", *sent))
            assert [client.answer(stream).status for stream in (1, 3, 5)] == ["16", "16", "0"]
    assert asked == [b"abc"]
    assert asked.metadata["tracing"] == "7"
    assert not {"authorization", "x-api-key", "x-client-id"} & set(asked.metadata)


def test_keys_are_not_in_debug_messages(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    keys = ApiKeys([("alice", hashlib.sha256(b"TOPSECRET").digest())])
    with contextlib.ExitStack() as stack:
        address, _ = stack.enter_context(echo_server())
        proxy = stack.enter_context(Proxy(address, grpc_port=0, admission=Admission(keys=keys)))
        with RawClient(proxy.grpc_address) as client:
            client.send(call(1, b"abc", ("x-api-key", "TOPSECRET")))
            assert client.answer(1).status == "0"
            client.send(HEADERS(3, block([*headers(), ("X-Api-Key", "TOPSECRET")])))
            client.until_closed()
    assert "TOPSECRET" not in caplog.text


def test_an_answer_is_logged_before_any_of_it_is_sent(make_proxy: Callable[..., Proxy], tmp_path: Path) -> None:
    """A client receives an answer byte by byte and leaves before the last one, or receives nothing."""
    request = predict_request("m", image=np.ones((1, 4), np.float32)).SerializeToString()
    with make_proxy(request_log=tmp_path) as proxy:
        with RawClient(proxy.grpc_address, PREFACE + SETTINGS(INITIAL_WINDOW_SIZE=20)) as client:
            client.send(call(1, request))
            while len(client.answers[1].body if 1 in client.answers else b"") < 20:
                assert client.receive()
            client.send(raw(8, 0, 1, b"\0\0\0\3"))
            while len(client.answers[1].body) < 23:
                assert client.receive()
            client.send(raw(3, 0, 1, b"\0\0\0\x08"))
            client.until_pong()
            assert len(client.answers[1].body) == 23
        with RawClient(proxy.grpc_address, PREFACE + SETTINGS(INITIAL_WINDOW_SIZE=0)) as client:
            client.send(call(1, request))
            while 1 not in client.answers:
                assert client.receive()
            assert client.answers[1].body == b""
    assert (proxy.request_log.written, proxy.request_log.dropped) == (2, 0)
    assert len(read_predictions(tmp_path)) == 2


def test_an_answer_waits_for_the_windows_of_its_client(proxy_and_asked: tuple[Proxy, Asked]) -> None:
    proxy, _ = proxy_and_asked
    content = bytes(range(256)) * 380  # more than the window of the connection
    with RawClient(proxy.grpc_address, PREFACE + SETTINGS(INITIAL_WINDOW_SIZE=5)) as client:
        client.send(HEADERS(1, block(headers())))
        pieces = [message(content)[start : start + 16_000] for start in range(0, len(content) + 5, 16_000)]
        client.send(*(DATA(1, piece) for piece in pieces), DATA(1, b"", END), call(3, b"abc"))
        for stream in (1, 3):
            while stream not in client.answers or len(client.answers[stream].body) < 5:
                assert client.receive()
        client.send(SETTINGS(INITIAL_WINDOW_SIZE=2**20))
        client.until_pong()
        assert client.answer(3).body == message(b"cba")
        assert not client.answers[1].is_whole
        client.send(raw(8, 0, 0, (2**20).to_bytes(4, "big")))
        assert client.answer(1).body == message(content[::-1])


def test_an_answer_with_large_headers_does_not_affect_other_clients(proxy_and_asked: tuple[Proxy, Asked]) -> None:
    proxy, _ = proxy_and_asked
    with RawClient(proxy.grpc_address) as client:
        client.send(call(1, b"warm up"))
        assert client.answer(1).status == "0"
        for stream, size in ((3, 20_000), (5, 40_000), (7, 300_000), (9, 900_000)):
            client.send(call(stream, b"headers %d" % size), call(stream + 100, b"abc"))
            assert client.answer(stream).status == "8"
            assert client.answer(stream + 100).body == message(b"cba")
            client.answers.clear()
            client = RawClient(proxy.grpc_address)
        client.__exit__(None, None, None)


def test_a_server_with_few_streams_gets_requests_one_after_the_other() -> None:
    options = {"grpc.max_concurrent_streams": 2}
    with contextlib.ExitStack() as stack:
        address, asked = stack.enter_context(echo_server(**options))
        proxy = stack.enter_context(Proxy(address, grpc_port=0))
        with RawClient(proxy.grpc_address) as client:
            client.send(*(call(stream, b"%d" % stream) for stream in range(1, 41, 2)))
            for stream in range(1, 41, 2):
                assert client.answer(stream).body == message((b"%d" % stream)[::-1])
    assert len(asked) == 20


@settings(max_examples=60, deadline=None)
@given(data=st.binary(max_size=300), start=st.sampled_from([b"", PREFACE, FIRST, FIRST + GOOD]))
def test_random_bytes_do_not_reach_the_server_and_break_nothing(
    echo: tuple[Proxy, Asked], data: bytes, start: bytes
) -> None:
    proxy, asked = echo
    asked.clear()
    with RawClient(proxy.grpc_address, start + data) as client:
        with contextlib.suppress(OSError):
            client.socket.shutdown(1)
        client.until_closed()
    assert asked == []
    with RawClient(proxy.grpc_address) as client:
        client.send(call(1, b"abc"))
        assert client.answer(1).body == message(b"cba")


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_random_frame_does_not_reach_the_server(echo: tuple[Proxy, Asked], data: st.DataObject) -> None:
    """Type, flags and stream of these frames are valid more often than in random bytes."""
    proxy, asked = echo
    asked.clear()
    kind = data.draw(st.integers(1, 10))
    frame = raw(kind, data.draw(st.integers(0, 255)), data.draw(st.integers(0, 4)), data.draw(st.binary(max_size=40)))
    with RawClient(proxy.grpc_address, FIRST + GOOD + frame) as client:
        client.socket.shutdown(1)
        client.until_closed()
    assert asked == []


def test_the_same_stream_in_any_pieces_gives_the_same_answers_and_log(upstream: LocalServer, tmp_path: Path) -> None:
    rows = [np.full((1, 4), value, np.float32) for value in range(4)]
    requests = [predict_request("m", image=row).SerializeToString() for row in rows]
    stream = FIRST + b"".join(call(2 * i + 1, each, ("x-client-id", f"c{i}")) for i, each in enumerate(requests))
    answers = set()
    count = 0

    with Proxy(upstream.grpc_address, grpc_port=0, request_log=tmp_path) as proxy:

        @settings(max_examples=30, deadline=None)
        @given(cuts=st.lists(st.integers(0, len(stream)), max_size=30))
        def send(cuts: list[int]) -> None:
            nonlocal count
            ends = [0, *sorted(cuts), len(stream)]
            with RawClient(proxy.grpc_address, b"") as client:
                for begin, end in itertools.pairwise(ends):
                    client.send(stream[begin:end])
                answers.add(tuple(client.answer(2 * i + 1).body for i in range(4)))
            count += 1

        send()
    assert len(answers) == 1
    found = [(logged.client, float(logged.inputs["image"][0, 0])) for logged in read_predictions(tmp_path)]
    assert sorted(found) == sorted(count * [(f"c{i}", float(i)) for i in range(4)])
