"""Clients get the same answers with and without the gateway, byte for byte."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
from pathlib import Path
from typing import Any

import grpc
import pytest

from dynamarks_tf.serving.gateway.launcher import Gateway
from tests.helpers.fake_model import PREDICT, TARGET, FakeModel, reversed_
from tests.helpers.gateway_log import logged
from tests.serving.gateway.conftest import Start

BODY = json.dumps({"instances": [[1.0, 2.0]]}).encode()


def exchange(address: str, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=30)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    try:
        return answer.status, answer.getheader("Content-Type", ""), answer.read()
    finally:
        connection.close()


def call(address: str, method: str, request: bytes, **options: Any) -> tuple[Any, ...]:
    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(address, options=unlimited) as channel:
        try:
            return grpc.StatusCode.OK, channel.unary_unary(method)(request, timeout=30, **options)
        except grpc.RpcError as error:
            return error.code(), error.details()


@pytest.mark.parametrize("status", [200, 400, 418, 503])
def test_rest_answers_are_the_servers(gateway: Gateway, model: FakeModel, status: int) -> None:
    model.answer, model.status = b'{"error": "as it is"}\n', status
    direct, through = (exchange(address, "POST", TARGET, b"{") for address in (model.rest, gateway.rest_url))
    assert through == direct == (status, "application/json", model.answer)


@pytest.mark.parametrize(
    ("method", "path", "passed"),
    [
        ("GET", "/v1/models/m", True),
        ("GET", "/v1/models/m/metadata", True),
        ("GET", "/v1/models?x=1", True),
        ("POST", "/V1/Models/m/versions/1:predict", True),
        ("GET", "/v1/models/..hidden:predict", True),
        ("GET", "/", False),
        ("GET", "/v1/modelsx", False),
        ("GET", "/monitoring/prometheus/metrics", False),
        ("GET", "/v1/models/../../monitoring/prometheus/metrics", False),
        ("GET", "/v1/models/%2e%2E/%2e%2e/monitoring", False),
        ("GET", "/v1/models/..%2f..%2fmonitoring", False),
        ("GET", "//v1/models/m", False),
        ("POST", "/tensorflow.serving.PredictionService/Predictx", False),
        ("POST", "/inference.GRPCInferenceService/ModelInfer", False),
    ],
)
def test_only_models_are_served(gateway: Gateway, method: str, path: str, passed: bool) -> None:
    status, _, body = exchange(gateway.rest_url, method, path)
    assert (status == 200) is passed
    assert passed or status in (400, 404)
    assert passed or "error" in json.loads(body)


def test_headers_of_the_client_pass_and_those_of_the_connection_do_not(gateway: Gateway, model: FakeModel) -> None:
    headers = {"X_Trace": "7", "Connection": "X-Private", "X_Private": "9", "x_client_id": "alice"}
    assert exchange(gateway.rest_url, "POST", TARGET, BODY, **headers)[0] == 200
    ((_, seen, _),) = model.posts
    seen = {name.lower(): value for name, value in seen.items()}
    assert (seen["x-trace"], seen["x-client-id"]) == ("7", "alice")
    assert not [name for name in seen if "forwarded" in name or "envoy" in name or name in ("x-private", "via")]


def test_gzip_reaches_the_server_unpacked_and_answers_stay_packed(
    gateway: Gateway, model: FakeModel, log_dir: Path
) -> None:
    headers = {"Content_Encoding": "gzip", "Accept_Encoding": "gzip", "X_Client_Id": "packer"}
    status, _, body = exchange(gateway.rest_url, "POST", TARGET, gzip.compress(BODY), **headers)
    assert (status, gzip.decompress(body)) == (200, model.answer)
    assert model.posts[0][2] == BODY
    (copy,) = logged(log_dir, client="packer")
    assert (copy.tensor(), copy.tensor("response")) == (b"\0\0\x80\x3f\0\0\0\x40", b"\0\0\x80\x3e\0\0\x40\x3f")
    assert copy.version == 7  # of the server's metadata


def test_a_client_that_waits_for_100_continue_is_answered(gateway: Gateway) -> None:
    head = f"POST {TARGET} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BODY)}\r\nExpect: 100-continue\r\n\r\n"
    with socket.create_connection(("127.0.0.1", gateway.settings.rest_port), timeout=10) as client:
        client.sendall(head.encode())
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(BODY)
        assert client.recv(100).startswith(b"HTTP/1.1 200 ")


def test_each_port_takes_both_protocols(gateway: Gateway, model: FakeModel) -> None:
    assert exchange(gateway.grpc_address, "POST", TARGET, BODY)[0] == 200
    address = gateway.rest_url.removeprefix("http://")
    assert call(address, PREDICT, b"abc") == (grpc.StatusCode.OK, reversed_(b"abc"))


@pytest.mark.parametrize("name", ["Predict", "Classify", "GetModelMetadata"])
@pytest.mark.parametrize("request_", [b"", b"abc", b"\xff\xff\0 no message", b"fail", b"x" * 290_000])
def test_grpc_answers_are_the_servers(gateway: Gateway, model: FakeModel, name: str, request_: bytes) -> None:
    method = f"/tensorflow.serving.PredictionService/{name}"
    direct, through = (call(address, method, request_) for address in (model.grpc, gateway.grpc_address))
    assert through == direct


def test_metadata_deadline_and_details_pass_both_ways(gateway: Gateway, model: FakeModel) -> None:
    sent = (("tracing", "abc"), ("blob-bin", b"\x00\x01"), ("authorization", "Bearer x"))
    with grpc.insecure_channel(gateway.grpc_address) as channel:
        method = channel.unary_unary(PREDICT)
        answer, details = method.with_call(b"abc", timeout=25, metadata=sent)
        assert answer == reversed_(b"abc")
        seen = model.calls[0][1]
        assert {**seen, **dict(sent)} == seen
        assert 15 < seen[":left"] < 26
        assert ("first", "1") in details.initial_metadata()
        assert ("last-bin", b"\x00\xff") in details.trailing_metadata()
        with pytest.raises(grpc.RpcError) as caught:
            method(b"fail", timeout=25)
        assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.DATA_LOSS, "gone: ü")
        assert ("last-bin", b"\x00\xff") in caught.value.trailing_metadata()


def test_a_call_that_is_canceled_or_late_ends_at_the_server(gateway: Gateway, model: FakeModel) -> None:
    with grpc.insecure_channel(gateway.grpc_address) as channel:
        for end in (lambda pending: pending.cancel(), lambda pending: None):
            model.wait.clear()
            model.ended.clear()
            count = len(model.calls)
            pending = channel.unary_unary(PREDICT).future(b"abc", timeout=1)
            while len(model.calls) == count:
                pass
            end(pending)
            assert model.ended.wait(10)
            assert pending.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED)
            model.wait.set()


def test_reloading_the_configuration_is_refused_unless_allowed(gateway: Gateway, start: Start) -> None:
    method = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"
    code, details = call(gateway.grpc_address, method, b"")
    assert (code, details) == (
        grpc.StatusCode.PERMISSION_DENIED,
        "Clients may not change the models that this server serves.",
    )
    assert call(start(allow_reload=True).grpc_address, method, b"abc") == (grpc.StatusCode.OK, reversed_(b"abc"))


def test_large_bodies_pass_and_are_logged_whole(start: Start, tmp_path: Path) -> None:
    gateway = start(log_dir=tmp_path, max_body_bytes=13 * 2**20)
    request = bytes(range(256)) * 2**14 * 3  # 12 MB, with zero bytes
    assert call(gateway.grpc_address, PREDICT, request) == (grpc.StatusCode.OK, reversed_(request))
    (copy,) = logged(tmp_path)
    assert (copy.request, copy.response) == (request, reversed_(request))
