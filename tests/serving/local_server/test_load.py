"""Many, slow and misbehaving clients and large requests: the other clients are answered anyway."""

from __future__ import annotations

import gzip
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import grpc
import numpy as np
import pytest
import requests
from grpc_health.v1 import health_pb2

from dynamarks_tf.serving.local_server import LocalServer, http_server
from tests.helpers.logs import read_predictions
from tests.helpers.server_clients import (
    check_health,
    over_rest,
    predict_request,
    requests_under_way,
    stub,
)
from tests.helpers.waiting import eventually

LIMIT = 10_000


@pytest.fixture(scope="module")
def small(zoo: Path) -> Iterator[LocalServer]:
    """A server that accepts small requests only."""
    with LocalServer(zoo, grpc_port=0, rest_port=0, max_request_bytes=LIMIT) as running:
        yield running


def body_of(size: int) -> bytes:
    """A request of `size` bytes."""
    body = json.dumps({"signature_name": "echo_int32", "inputs": 1}).encode()
    return body[:-1] + b" " * (size - len(body)) + b"}"


# Sizes


def test_a_request_of_the_allowed_size_is_answered(small: LocalServer) -> None:
    response = over_rest(small, body_of(LIMIT))
    assert response.json() == {"outputs": 1}


@pytest.mark.parametrize("size", [LIMIT + 1, 30_000_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_larger_request_is_refused_and_the_client_gets_the_answer(
    small: LocalServer, size: int, chunked: bool
) -> None:
    body = body_of(size)
    data = (body[start : start + 2**16] for start in range(0, size, 2**16)) if chunked else body
    response = over_rest(small, data)
    assert response.status_code == 413
    assert response.json() == {"error": f"The request is larger than {LIMIT} bytes"}
    assert requests.get(small.rest_url, timeout=30).status_code == 200


def test_a_body_that_is_too_large_after_decompression_counts_as_empty(small: LocalServer) -> None:
    for size, status in ((LIMIT, 200), (LIMIT + 1, 400)):
        packed = gzip.compress(body_of(size))
        headers = {"Content-Encoding": "gzip"}
        response = over_rest(small, packed, headers=headers)
        assert response.status_code == status
    assert response.json() == {"error": "JSON Parse error: The document is empty"}


def test_larger_messages_are_refused_over_grpc(small: LocalServer) -> None:
    with stub(small) as service:
        fitting = predict_request("zoo", "echo_float32", x=np.zeros(LIMIT // 4 - 100, np.float32))
        assert service.Predict(fitting, timeout=30).outputs["y"]
        with pytest.raises(grpc.RpcError) as caught:
            service.Predict(predict_request("zoo", "echo_float32", x=np.zeros(LIMIT // 4, np.float32)), timeout=30)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


# Clients


def test_64_clients_at_once(server: LocalServer) -> None:
    start = threading.Barrier(64)

    def ask(number: int) -> bool:
        values = np.full(5, number, np.int32)
        start.wait(60)
        if number % 2:
            body = {"signature_name": "echo_int32", "inputs": values.tolist()}
            answers = [over_rest(server, body, timeout=60).json() for _ in range(2)]
            return answers == [{"outputs": values.tolist()}] * 2
        with stub(server) as service:
            outputs = [
                service.Predict(predict_request("zoo", "echo_int32", x=values), timeout=60).outputs for _ in range(2)
            ]
        return all(list(output["y"].int_val) == values.tolist() for output in outputs)

    with ThreadPoolExecutor(64) as pool:
        assert all(pool.map(ask, range(64)))


HALF_OPEN = {
    "nothing sent": b"",
    "half a line": b"POST /v1/mod",
    "half the headers": b"POST /v1/models/zoo:predict HTTP/1.1\r\nHost: x\r\n",
    "half a body": b"POST /v1/models/zoo:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
    "half a chunk": b"POST /v1/models/zoo:predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{",
    "half of gRPC": b"PRI * HTTP/2.0\r\n\r\nSM",
}


@pytest.mark.parametrize("port", ["rest_port", "grpc_port"])
def test_half_open_connections_do_not_keep_others_waiting(server: LocalServer, port: str, images: np.ndarray) -> None:
    """There are far more of them than threads in the server."""
    with ExitStack() as stack:
        for sent in list(HALF_OPEN.values()) * 8:
            half = stack.enter_context(socket.create_connection(("127.0.0.1", getattr(server, port)), timeout=10))
            half.sendall(sent)
        body = {"instances": images.tolist()}
        assert over_rest(server, body, timeout=10).status_code == 200
        with stub(server) as service:
            service.Predict(predict_request("zoo", image=images), timeout=10)


def test_clients_that_do_not_read_their_answers_do_not_keep_others_waiting(server: LocalServer) -> None:
    values = json.dumps({"signature_name": "echo_float32", "inputs": [0.5] * 100_000}).encode()
    head = f"POST /v1/models/zoo:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(values)}\r\n\r\n".encode()
    with ExitStack() as stack:
        for _ in range(12):
            deaf = stack.enter_context(socket.socket())
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.settimeout(10)
            deaf.connect(("127.0.0.1", server.rest_port))
            deaf.sendall(head + values)
        assert requests.get(server.rest_url, timeout=30).status_code == 200


def test_a_client_that_sends_byte_by_byte_is_answered(server: LocalServer) -> None:
    body = json.dumps({"signature_name": "echo_int32", "inputs": 7}).encode()
    head = f"POST /v1/models/zoo:predict HTTP/1.1\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", server.rest_port or 0), timeout=10) as slow:
        for byte in head + body:
            slow.sendall(bytes([byte]))
        answer = b"".join(iter(lambda: slow.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {"outputs": 7}


# Health


def test_health_over_grpc_where_it_is_switched_on(zoo: Path, server: LocalServer) -> None:
    with LocalServer(zoo, grpc_port=0, rest_port=None, enable_grpc_healthcheck_service=True) as healthy:
        for name in ("", "ModelService", "PredictionService"):
            assert check_health(healthy, name) == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as caught:
            check_health(healthy, "other")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.RpcError) as caught:
        check_health(server, "")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


# Stopping


def test_a_stop_finishes_answers_under_way_and_writes_all_of_them_to_the_log(zoo: Path, tmp_path: Path) -> None:
    server = LocalServer(zoo, grpc_port=0, rest_port=0, request_log=tmp_path / "logs")
    server.start()
    body = {"signature_name": "count", "inputs": 100_000}
    with ThreadPoolExecutor(2) as pool, stub(server) as service:
        rest_answers = [pool.submit(over_rest, server, body, timeout=60) for _ in range(2)]
        slow = predict_request("zoo", "count", steps=np.int64(100_000))
        grpc_answers = [service.Predict.future(slow, timeout=60) for _ in range(2)]
        eventually(lambda: requests_under_way(server) == 4)
        server.stop(grace_s=60)
        assert [answer.result().json() for answer in rest_answers] == [{"outputs": 100_000}] * 2
        assert [answer.result().outputs["counted"].int64_val[0] for answer in grpc_answers] == [100_000] * 2
    assert (server.request_log.written, server.request_log.dropped) == (4, 0)
    assert len(read_predictions(tmp_path / "logs")) == 4


# Clients that would fill the server


def test_connections_that_wait_do_not_keep_others_out(server: LocalServer) -> None:
    """Whether they are silent or their request trickles."""
    address = server.rest_url.removeprefix("http://").partition("/")[0].split(":")
    with ExitStack() as clients:
        for number in range(http_server.CONNECTIONS + 50):
            client = clients.enter_context(socket.create_connection((address[0], int(address[1])), timeout=10))
            if number % 2:
                client.sendall(b"POST /v1/models/zoo:predict HTTP/1.1\r\nContent-Le")
        assert requests.get(server.rest_url, timeout=10).status_code == 200


def test_a_request_that_does_not_arrive_in_time_is_cut_off(
    server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "RECEIVE_S", 0.2)
    address = server.rest_url.removeprefix("http://").partition("/")[0].split(":")
    with socket.create_connection((address[0], int(address[1])), timeout=10) as client:
        client.sendall(b"GET / HT")
        assert client.recv(1) == b""


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"inputs": [' + b"0," * 2**23 + b"0]}", "it holds more than 8,388,608 values"),
        (b'{"inputs": ' + b"[" * 10**6, "it is nested more than 500 levels deep"),
        (b'{"instances": [' + b"[1,1,1,1]," * 2**17 + b"[1,1,1,1]]}", "131073 rows; at most 131072"),
    ],
    ids=["values", "deep", "rows"],
)
def test_a_small_body_that_unpacks_to_many_values_is_refused(server: LocalServer, body: bytes, reason: str) -> None:
    """A gzip body of 87 kB took 2.3 GB and 41 s."""
    response = requests.post(
        f"{server.rest_url}:predict", gzip.compress(body, 1), headers={"Content-Encoding": "gzip"}, timeout=30
    )
    assert response.status_code == 400
    assert reason in response.json()["error"]
