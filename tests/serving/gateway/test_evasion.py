"""For any input, what reaches the server is what is checked, and each answered prediction is logged or counted."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import socket
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamarks_tf.serving.gateway.launcher import Gateway
from tests.helpers.fake_model import TARGET, FakeModel, reversed_
from tests.helpers.gateway_log import logged, read_log
from tests.helpers.raw_http2 import (
    CONTINUATION,
    DATA,
    HEADERS,
    PREFACE,
    SETTINGS,
    RawClient,
    block,
    call,
    message,
    raw,
)
from tests.helpers.raw_http2 import request_headers as headers
from tests.helpers.waiting import eventually

BODY = json.dumps({"instances": [[1.0, 2.0]]}).encode()
END = "END_STREAM"
FIRST = PREFACE + SETTINGS()
GOOD = HEADERS(1, block(headers()))


def send(gateway: Gateway, target: bytes = TARGET.encode(), body: bytes = BODY, *more: bytes) -> tuple[int, bytes]:
    """Posts over a bare socket, as no library would. Returns status and body."""
    lines = [b"POST " + target + b" HTTP/1.1", b"Host: x", b"Content-Length: %d" % len(body), *more]
    with socket.create_connection(("127.0.0.1", gateway.settings.rest_port), timeout=30) as client:
        client.sendall(b"\r\n".join([*lines, b"", body]))
        answer = http.client.HTTPResponse(client)
        answer.begin()
        return answer.status, answer.read()


def named(name: bytes) -> bytes:
    return b"x-client-id: " + name


def test_clients_whose_names_are_no_text_are_logged(gateway: Gateway, log_dir: Path) -> None:
    names = {b"\xff\xfe": "\\udcff\\udcfe", "Zoë".encode(): "Zoë", b" a , b ": "a , b", b"\xc0\x80": "\\udcc0\\udc80"}
    for name in names:
        assert send(gateway, TARGET.encode(), BODY, named(name))[0] == 200
    for name in names.values():
        assert len(logged(log_dir, client=name)) == 1


def test_all_paths_of_a_model_are_logged_and_all_others_counted(gateway: Gateway, log_dir: Path) -> None:
    before, counted = gateway.dropped, 0
    paths = ["m", "%6d", "x/../m", "M/versions/0001", "m/labels/stable", "..\\models\\m"]
    for target in [f"/v1/models/{path}:predict" for path in paths] + ["/V1/MODELS/m:PREDICT", "/v1/models\\m:predict"]:
        assert send(gateway, target.encode(), BODY, named(b"paths"))[0] == 200, target
    for path in ("m:predict?x=1", "/m:predict", "m:PREDICT/", "m%3Apredict", "a/b:predict", ":predict", "m:predict?#"):
        counted += send(gateway, f"/v1/models/{path}".encode())[0] == 200
    assert {len(copy.tensor()) for copy in logged(log_dir, 8, "paths")} == {8}
    assert counted
    eventually(lambda: gateway.dropped - before >= counted)


@pytest.mark.parametrize(
    ("target", "body", "more", "status"),
    [
        (TARGET.encode() + b"#x", BODY, (), 400),
        (b"/v1/models/m:predict\0", BODY, (), 400),
        (TARGET.encode(), BODY, (b"Content-Encoding: gzip, br",), 415),
        (TARGET.encode(), BODY, (b"Content-Encoding: deflate",), 415),
        (TARGET.encode(), BODY, (b"Content-Length: 3",), 400),
        (TARGET.encode(), BODY, (b"Transfer-Encoding: chunked",), 400),
        (TARGET.encode(), BODY, (b"x_client_id: eve",), 400),
        (TARGET.encode(), BODY, (b"x-client-id: eve\0",), 400),
        (TARGET.encode(), b"[" * 255 + b"]" * 255, (), 400),
        (TARGET.encode(), b'{"a":' * 19_500 + b"1" + b"}" * 19_500, (), 400),
        (TARGET.encode(), gzip.compress(b'["\\"[[[[",' * 255), (b"Content-Encoding: gzip",), 400),
        (TARGET.encode(), gzip.compress(b"[" * 10**6), (b"Content-Encoding: gzip",), 413),
        (TARGET.encode(), b" " * 300_001, (), 413),
    ],
    ids=range(13),
)
def test_what_is_refused_does_not_reach_the_server(
    target: bytes, body: bytes, more: tuple[bytes, ...], status: int, gateway: Gateway, model: FakeModel
) -> None:
    found, content = send(gateway, target, body, *more)
    assert found == status
    assert not model.posts
    assert status in (b"400", 404) or "error" in json.loads(content)


@pytest.mark.parametrize(
    "body", [b"[" * 254 + b"]" * 254, b'["[[[[\\"[[[", ' * 253 + b"]", b'{"a": "' + b"[" * 9999 + b'"}']
)
def test_what_the_server_can_read_passes(body: bytes, gateway: Gateway, model: FakeModel) -> None:
    assert send(gateway, TARGET.encode(), body)[0] == 200
    assert model.posts[0][2] == body


def test_bodies_that_cannot_be_decoded_are_logged_unchanged_with_the_client(
    gateway: Gateway, model: FakeModel, log_dir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = gateway.dropped
    bodies = [
        b'{"instances": [["hidden"]]}',
        b'{"instances": [[1.0], [1.0, 2.0]]}',
        b"\0\xff",
        b'{"y": 1' + b"0" * 5000,
    ]
    for body in bodies:
        assert send(gateway, TARGET.encode(), body, named(b"undecoded"))[0] == 200
    assert [copy.tensor() for copy in logged(log_dir, 4, "undecoded")] == bodies
    eventually(lambda: gateway.dropped - before >= 4)
    assert "hidden" not in capfd.readouterr().err


# HTTP/2

PROPER: dict[str, bytes] = {
    "padding and priority": HEADERS(
        1, block(headers()), "END_HEADERS", "PADDED", "PRIORITY", pad_length=30, exclusive=True
    )
    + DATA(1, message(b"abc"), END, "PADDED", pad_length=200),
    "Huffman": HEADERS(1, block(headers(), huffman=True)) + DATA(1, message(b"abc"), END),
    "pieces of headers": HEADERS(1, block(headers())[:5], "PADDED", pad_length=3)
    + CONTINUATION(1, block(headers())[5:90])
    + CONTINUATION(1, block(headers())[90:], "END_HEADERS")
    + DATA(1, message(b"abc"), END),
    "pieces of data": GOOD + b"".join(DATA(1, bytes([byte])) for byte in message(b"abc")) + DATA(1, b"", END),
    "frames of no known kind": raw(0xFA, 0, 7, b"x") + GOOD + raw(0xFB, 0xFF, 1, b"y") + DATA(1, message(b"abc"), END),
    "gzip": HEADERS(1, block(headers(grpc_encoding="gzip"))) + DATA(1, message(gzip.compress(b"abc"), 1), END),
    "deflate": HEADERS(1, block(headers(grpc_encoding="deflate"))) + DATA(1, message(zlib.compress(b"abc"), 1), END),
    "said to be compressed, but is not": HEADERS(1, block(headers(grpc_encoding="gzip")))
    + DATA(1, message(b"abc"), END),
    "a method with a query": HEADERS(1, block(headers(path="/tensorflow.serving.PredictionService/Predict?x")))
    + DATA(1, message(b"abc"), END),
    "two messages": GOOD + DATA(1, message(b"abc") + message(b"xyz"), END),
    "trailers": GOOD + DATA(1, message(b"abc")) + HEADERS(1, block([("x", "y")]), "END_HEADERS", END),
}


def test_every_form_of_a_call_that_is_answered_is_logged(gateway: Gateway, model: FakeModel, log_dir: Path) -> None:
    before, answered = len(logged(log_dir, 0)), 0
    for case, data in PROPER.items():
        with RawClient(gateway.grpc_address, FIRST + data) as client:
            body = client.answer(1).body
        answered += bool(body)
        assert body == message(reversed_(b"abc")) or case in ("two messages", "a method with a query"), case
    eventually(lambda: len(read_log(log_dir)) >= before + answered)
    copies = read_log(log_dir)[before:]
    assert {(copy.request, copy.response) for copy in copies[-answered:]} == {(b"abc", reversed_(b"abc"))}


BROKEN: dict[str, bytes] = {
    "no SETTINGS": PREFACE + GOOD + DATA(1, message(b"abc"), END),
    "half a message": GOOD + DATA(1, message(b"abc")[:-1]),
    "an upper-case header": HEADERS(1, block(headers(("X-Client-Id", "eve")))) + DATA(1, message(b"abc"), END),
    "a header of HTTP/1": HEADERS(1, block(headers(("transfer-encoding", "chunked")))) + DATA(1, message(b"abc"), END),
    "a line end in a header": HEADERS(1, block(headers(("x-client-id", "eve\r\nx: y"))))
    + DATA(1, message(b"abc"), END),
    "a zero in a header": HEADERS(1, block(headers(("x-client-id", "eve\0")))) + DATA(1, message(b"abc"), END),
    "headers that are too large": HEADERS(1, b"", END) + 90 * CONTINUATION(1, 4000 * b"\x82"),
    "a table that is too large": HEADERS(1, b"\x3f\xe1\xff\x03" + block(headers())) + DATA(1, message(b"abc"), END),
    "more than the limit": GOOD + 20 * DATA(1, bytes(16_000)),
    "another method": HEADERS(1, block(headers(path="/tensorflow.serving.PredictionService/Predictx")))
    + DATA(1, message(b"abc"), END),
    "a method with a detour": HEADERS(
        1, block(headers(path="/x/%2e%2e%2ftensorflow.serving.PredictionService/Predict"))
    )
    + DATA(1, message(b"abc"), END),
    "reloading": HEADERS(1, block(headers(path="/tensorflow.serving.ModelService/HandleReloadConfigRequest")))
    + DATA(1, message(b"abc"), END),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_no_whole_and_proper_call_does_not_reach_the_server(
    case: str, gateway: Gateway, model: FakeModel
) -> None:
    with RawClient(gateway.grpc_address, (b"" if case == "no SETTINGS" else FIRST) + BROKEN[case]) as client:
        with contextlib.suppress(OSError):
            client.socket.shutdown(1)
        client.until_closed()
        assert not any(answer.body for answer in client.answers.values())
    assert model.calls == []


@settings(max_examples=30, deadline=None)
@given(data=st.binary(max_size=300), start=st.sampled_from([b"", PREFACE, FIRST, FIRST + GOOD]))
def test_random_bytes_do_not_reach_the_server_and_break_nothing(
    shared_model: FakeModel, gateway: Gateway, data: bytes, start: bytes
) -> None:
    shared_model.reset()
    with RawClient(gateway.grpc_address, start + data) as client:
        with contextlib.suppress(OSError):
            client.socket.shutdown(1)
        client.until_closed()
    assert not shared_model.calls
    with RawClient(gateway.grpc_address) as client:
        client.send(call(1, b"abc"))
        assert client.answer(1).body == message(reversed_(b"abc"))


def test_answers_that_a_client_takes_in_part_are_logged(gateway: Gateway, log_dir: Path) -> None:
    """A client resets the stream before the last byte of the answer."""
    request = b"partly" * 20
    for window in (0, 20):
        with RawClient(gateway.grpc_address, PREFACE + SETTINGS(INITIAL_WINDOW_SIZE=window)) as client:
            client.send(call(1, request, ("x-client-id", "partly")))
            while 1 not in client.answers or len(client.answers[1].body) < window:
                assert client.receive()
            client.send(raw(3, 0, 1, b"\0\0\0\x08"))
            client.until_pong()
            assert len(client.answers[1].body) == window
    copies = logged(log_dir, 2, "partly")
    assert [(copy.request, copy.response) for copy in copies] == 2 * [(request, reversed_(request))]
