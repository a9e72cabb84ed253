"""Clients that send too much, too often, too slowly, or do not take their answers."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import requests

from dynamarks_tf.serving.gateway.launcher import Gateway
from tests.helpers.fake_model import PREDICT, TARGET, FakeModel, reversed_
from tests.helpers.raw_http2 import DATA, HEADERS, PREFACE, SETTINGS, RawClient, block, call, message, raw
from tests.helpers.raw_http2 import request_headers as headers
from tests.serving.gateway.conftest import Start

BODY = {"instances": [[1.0, 2.0]]}


def post(gateway: Gateway, data: object = None, **headers: str) -> requests.Response:
    data = json.dumps(BODY) if data is None else data
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return requests.post(gateway.rest_url + TARGET, data, headers=named, timeout=30)


def code(gateway: Gateway, request: bytes = b"abc", **metadata: str) -> grpc.StatusCode:
    with grpc.insecure_channel(gateway.grpc_address) as channel:
        sent = [(name.replace("_", "-"), value) for name, value in metadata.items()]
        return channel.unary_unary(PREDICT).future(request, metadata=sent, timeout=30).code()


def test_clients_above_their_rate_are_told_when_to_try_again(start: Start) -> None:
    gateway = start(rate=0.02, burst=2)
    assert [post(gateway, x_client_id="alice").status_code for _ in range(3)] == [200, 200, 429]
    refused = post(gateway, x_client_id="alice")
    assert refused.headers["Retry-After"] == "50"
    assert "error" in refused.json()
    codes = [code(gateway, x_client_id="bob") for _ in range(3)]
    assert codes == [grpc.StatusCode.OK, grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED]
    assert [post(gateway).status_code for _ in range(3)] == [200, 200, 429]  # without a name, by address
    assert post(gateway, x_client_id="carol").status_code == 200


def test_a_client_regains_its_rate(start: Start) -> None:
    gateway = start(rate=25, burst=1)
    taken = 0
    end = time.monotonic() + 1
    while time.monotonic() < end:
        taken += post(gateway, x_client_id="alice").ok
    assert 5 < taken < 35


def test_requests_that_are_too_large_are_refused(gateway: Gateway, model: FakeModel) -> None:
    large = b" " * 300_001
    for body in (large, iter([large])):  # with a length, and in chunks
        try:
            answer = post(gateway, body)
        except requests.ConnectionError:  # refused before the body was complete
            continue
        assert (answer.status_code, list(answer.json())) == (413, ["error"])
    assert code(gateway, large) in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNKNOWN)
    assert not model.posts
    assert not model.calls
    assert code(gateway, large[:200_000]) is grpc.StatusCode.OK


def test_clients_that_stall_are_disconnected_and_do_not_delay_others(gateway: Gateway, model: FakeModel) -> None:
    """They stall in the head, in the body, in the preface of HTTP/2, after it, and in a call."""
    head = f"POST {TARGET} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{{".encode()
    port = gateway.settings.rest_port
    starts = [head[:20], head, PREFACE[:9], PREFACE + SETTINGS() + HEADERS(1, block(headers())) + DATA(1, b"\0\0")]
    stalled = [(start, socket.create_connection(("127.0.0.1", port), timeout=20)) for start in starts * 15]
    try:
        for start, client in stalled:
            client.sendall(start)
        began = time.monotonic()
        assert post(gateway).status_code == 200
        assert code(gateway) is grpc.StatusCode.OK
        assert time.monotonic() - began < 1
        assert stalled[0][1].recv(100).startswith(b"HTTP/1.1 408 ")
        assert stalled[1][1].recv(100).startswith(b"HTTP/1.1 408 ")
    finally:
        for _, client in stalled:
            client.close()
    assert not model.calls[1:]
    assert not model.posts[1:]


def test_a_client_that_does_not_take_its_answer_is_given_up(gateway: Gateway) -> None:
    with RawClient(gateway.grpc_address, PREFACE + SETTINGS(INITIAL_WINDOW_SIZE=0)) as client:
        client.send(call(1, b"abc"))
        while 1 not in client.resets:
            assert client.receive()


def test_the_number_of_streams_is_limited_as_announced(gateway: Gateway, model: FakeModel) -> None:
    model.wait.clear()
    with RawClient(gateway.grpc_address) as client:
        client.send(*(call(stream, b"abc") for stream in range(1, 2 * 200, 2)))
        time.sleep(0.5)
        model.wait.set()
        for stream in range(1, 2 * 100, 2):
            if stream not in client.resets:
                assert client.answer(stream).body == message(reversed_(b"abc"))
        client.until_pong()
        assert len(model.calls) <= 128


def test_64_clients_at_once_get_their_own_answers(gateway: Gateway) -> None:
    def one(index: int) -> bytes:
        with grpc.insecure_channel(gateway.grpc_address, options=[("client", index)]) as channel:
            return bytes(channel.unary_unary(PREDICT)(b"%d" % index * 500, timeout=30))

    with ThreadPoolExecutor(64) as pool:
        assert list(pool.map(one, range(64))) == [reversed_(b"%d" % index * 500) for index in range(64)]


def test_a_client_that_resets_streams_again_and_again_is_disconnected(gateway: Gateway) -> None:
    reset = HEADERS(1, block(headers())) + raw(3, 0, 1, b"\0\0\0\x08")
    with RawClient(gateway.grpc_address) as client, contextlib.suppress(OSError):
        for stream in range(1, 100_001, 2):
            number = stream.to_bytes(4, "big")
            client.send(reset.replace(b"\0\0\0\x01", number))
        assert client.until_closed() is not None
    assert code(gateway) is grpc.StatusCode.OK
