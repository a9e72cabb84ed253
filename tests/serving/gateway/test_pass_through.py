"""Clients get the same answers with and without the proxy, byte for byte."""

from __future__ import annotations

import gzip
import http.client
import http.server
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import requests
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
)

from dynamarks_tf.serving.gateway import Proxy
from dynamarks_tf.serving.gateway.rest_front import is_served
from dynamarks_tf.serving.local_server import LocalServer
from tests.helpers.raw_http2 import PREDICT, bytes_server
from tests.helpers.server_clients import model_stub, predict_request, stub, with_spec
from tests.helpers.waiting import eventually

ROWS = [[0.1, 0.2, 0.3, 0.4], [1e-7, -2.5, 3e5, 0.0]]


def exchange(url: str, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, str | None, bytes]:
    host = url.removeprefix("http://").split("/")[0]
    connection = http.client.HTTPConnection(host, timeout=30)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    try:
        return answer.status, answer.getheader("Content-Type"), answer.read()
    finally:
        connection.close()


def raw_call(address: str, method: str, request: bytes, **options: Any) -> tuple[Any, ...]:
    with grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", -1)]) as channel:
        try:
            return grpc.StatusCode.OK, channel.unary_unary(method)(request, timeout=30, **options)
        except grpc.RpcError as error:
            return error.code(), error.details()


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/models/m:predict", json.dumps({"instances": ROWS})),
        ("POST", "/v1/models/m:predict", json.dumps({"inputs": ROWS})),
        ("POST", "/V1/Models/m/versions/1:predict", json.dumps({"inputs": {"image": ROWS}})),
        ("POST", "/v1/models/m:predict", '{"instances": [[NaN, Inf, 0, -Infinity]]}'),
        ("POST", "/v1/models/m:predict", '{"signature_name": "combine", "instances": [{"a": 3, "b": 0.1}]}'),
        ("POST", "/v1/models/m:predict", "{"),
        ("POST", "/v1/models/m:predict", ""),
        ("POST", "/v1/models/m:predict", '{"instances": [[1, 2]]}'),
        ("POST", "/v1/models/m/versions/7:predict", json.dumps({"instances": ROWS})),
        ("POST", "/v1/models/unknown:predict", json.dumps({"instances": ROWS})),
        ("POST", "/v1/models/m:predict?x=1", json.dumps({"instances": ROWS})),
        ("POST", "/v1/models/m/versions/99999999999999999999:predict", "{}"),
        ("POST", "/v1/models/a%2Fb%20c:predict", "{}"),
        ("POST", "/v1/models/m:classify", "{}"),
        ("GET", "/v1/models/m", ""),
        ("GET", "/v1/models/m/metadata", ""),
        ("GET", "/v1/models/m?x=1", ""),
        ("GET", "/v1/models", ""),
        ("PUT", "/v1/models/m", ""),
        ("HEAD", "/v1/models/m", ""),
        ("OPTIONS", "/v1/models/m", ""),
    ],
)
def test_rest_answers_are_the_servers(upstream: LocalServer, proxy: Proxy, method: str, path: str, body: str) -> None:
    direct = exchange(upstream.rest_url, method, path, body.encode())
    assert exchange(proxy.rest_url, method, path, body.encode()) == direct


@pytest.mark.parametrize(
    ("path", "served"),
    [
        ("/v1/models/m/metadata", True),
        ("/v1/models/..hidden:predict", True),
        ("/", False),
        ("/v1/modelsx", False),
        ("/monitoring/prometheus/metrics", False),
        ("/v1/models/../../monitoring/prometheus/metrics", False),
        ("/v1/models/%2e%2E/%2e%2e/monitoring", False),
        ("/v1/models/..%2f..%2fmonitoring", False),
        ("http://elsewhere/v1/models/m", False),
        ("//v1/models/m", False),
    ],
)
def test_only_models_are_served(proxy: Proxy, path: str, served: bool) -> None:
    assert is_served(path) is served
    status, _, body = exchange(proxy.rest_url, "GET", path)
    assert (body == b'{\n    "error": "Not Found"\n}') is not served
    assert served or status == 404


def test_gzip_chunks_and_one_connection_for_many_requests(upstream: LocalServer, proxy: Proxy) -> None:
    plain = json.dumps({"instances": ROWS}).encode()
    expected = exchange(upstream.rest_url, "POST", "/v1/models/m:predict", plain)
    packed = gzip.compress(plain)
    assert exchange(proxy.rest_url, "POST", "/v1/models/m:predict", packed, Content_Encoding="gzip") == expected
    broken = [
        exchange(url, "POST", "/v1/models/m:predict", packed[:-9], Content_Encoding="gzip")
        for url in urls(proxy, upstream)
    ]
    assert broken[0] == broken[1]
    with requests.Session() as session:
        session.trust_env = False
        for _ in range(3):
            answer = session.post(
                f"{proxy.rest_url}/v1/models/m:predict", data=iter([plain[:7], plain[7:]]), timeout=30
            )
            assert (answer.status_code, answer.content) == (expected[0], expected[2])
        adapter = session.get_adapter(proxy.rest_url)
        (pool,) = [adapter.poolmanager.pools[key] for key in adapter.poolmanager.pools.keys()]  # noqa: SIM118
        assert pool.num_connections == 1


def test_a_client_that_waits_for_100_continue_is_answered(proxy: Proxy) -> None:
    body = json.dumps({"instances": ROWS}).encode()
    head = (
        f"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", proxy.rest_port), timeout=10) as client:
        client.sendall(head.encode())
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(body)
        assert client.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")


def urls(proxy: Proxy, upstream: LocalServer) -> tuple[str, str]:
    return proxy.rest_url, upstream.rest_url


def predict_bytes(*parts: Any, **inputs: Any) -> bytes:
    return bytes(predict_request("m", *parts, **inputs).SerializeToString(deterministic=True))


def test_grpc_answers_are_the_servers(upstream: LocalServer, proxy: Proxy) -> None:
    metadata = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    status = get_model_status_pb2.GetModelStatusRequest()
    service = "/tensorflow.serving.PredictionService/"
    calls = [
        (PREDICT, predict_bytes(image=np.float32(ROWS))),
        (PREDICT, predict_bytes("combine", a=np.uint8([1, 2]), b=np.float64([0.1, 0.2]))),
        (PREDICT, predict_bytes(image=np.ones((200_000, 4), np.float32))),  # a large answer
        (PREDICT, predict_bytes(image=np.ones((1, 5), np.float32))),
        (PREDICT, predict_bytes("nonsense", image=np.float32(ROWS))),
        (PREDICT, predict_request("unknown", image=np.ones((1, 4), np.float32)).SerializeToString()),
        (PREDICT, b""),
        (PREDICT, b"\xff\xff no message"),
        (service + "Classify", b""),
        (service + "MultiInference", b""),
        (service + "NoSuchMethod", b""),
        (service + "GetModelMetadata", with_spec(metadata, name="m").SerializeToString()),
        ("/tensorflow.serving.ModelService/GetModelStatus", with_spec(status, name="m").SerializeToString()),
    ]
    for method, request in calls:
        direct, through = (
            raw_call(address, method, request) for address in (upstream.grpc_address, proxy.grpc_address)
        )
        if direct[0] is grpc.StatusCode.OK and method.endswith("Metadata"):  # maps have no order on the wire
            kind = get_model_metadata_pb2.GetModelMetadataResponse
            direct, through = ((code, kind.FromString(data)) for code, data in (direct, through))
        assert through[0] is direct[0], method
        if method.endswith("NoSuchMethod"):
            assert direct[0] is grpc.StatusCode.UNIMPLEMENTED
        else:
            assert through == direct, method


def test_reloading_the_configuration_is_refused(proxy: Proxy, upstream: LocalServer, make_proxy: Any) -> None:
    request = model_management_pb2.ReloadConfigRequest().SerializeToString()
    method = "/tensorflow.serving.ModelService/HandleReloadConfigRequest"
    code, details = raw_call(proxy.grpc_address, method, request)
    assert (code, details) == (
        grpc.StatusCode.PERMISSION_DENIED,
        "Clients may not change the models that this server serves.",
    )
    with make_proxy(allow_reload=True) as open_proxy:
        assert raw_call(open_proxy.grpc_address, method, request) == raw_call(upstream.grpc_address, method, request)


def test_a_deadline_ends_the_work_of_the_server(proxy: Proxy) -> None:
    with stub(proxy) as service:
        with pytest.raises(grpc.RpcError) as caught:
            service.Predict(predict_request("m", "count", steps=np.int64(10**15)), timeout=0.3)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        answer = service.Predict(predict_request("m", "count", steps=np.int64(3)), timeout=30)
        assert answer.outputs["counted"].int64_val == [3]


@pytest.fixture
def patient() -> Iterator[tuple[str, dict[str, Any]]]:
    """A gRPC server that notes its calls, waits as long as `wait` is not set, and sends metadata of its own."""
    seen: dict[str, Any] = {"wait": threading.Event(), "ended": threading.Event()}
    seen["wait"].set()

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        seen["metadata"] = {key: value for key, value in context.invocation_metadata()}
        seen["time"] = context.time_remaining()
        context.add_callback(seen["ended"].set)
        context.send_initial_metadata((("first", "1"),))
        context.set_trailing_metadata((("last-bin", b"\x00\xff"),))
        seen["wait"].wait(20)
        if request == b"fail":
            context.abort(grpc.StatusCode.DATA_LOSS, "gone: ü")
        return request[::-1]

    with bytes_server(answer) as address:
        yield address, seen
        seen["wait"].set()


def test_metadata_deadline_and_details_pass_both_ways(patient: tuple[str, dict[str, Any]]) -> None:
    address, seen = patient
    with Proxy(address, grpc_port=0) as proxy, grpc.insecure_channel(proxy.grpc_address) as channel:
        call = channel.unary_unary(PREDICT)
        sent = (("tracing", "abc"), ("blob-bin", b"\x00\x01"), ("authorization", "Bearer x"))
        answer, details = call.with_call(b"abc", timeout=25, metadata=sent)
        assert answer == b"cba"
        assert {**seen["metadata"], **dict(sent)} == seen["metadata"]
        assert 15 < seen["time"] < 26
        assert ("first", "1") in details.initial_metadata()
        assert ("last-bin", b"\x00\xff") in details.trailing_metadata()
        with pytest.raises(grpc.RpcError) as caught:
            call(b"fail", timeout=25)
        assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.DATA_LOSS, "gone: ü")
        assert ("last-bin", b"\x00\xff") in caught.value.trailing_metadata()


def test_the_request_of_a_client_that_cancels_is_canceled(patient: tuple[str, dict[str, Any]]) -> None:
    address, seen = patient
    seen["wait"].clear()
    with Proxy(address, grpc_port=0) as proxy, grpc.insecure_channel(proxy.grpc_address) as channel:
        call = channel.unary_unary(PREDICT).future(b"abc")
        eventually(lambda: "time" in seen)
        assert not seen["ended"].is_set()
        call.cancel()
        assert seen["ended"].wait(10)


def test_headers_pass_except_those_of_the_connection() -> None:
    seen: dict[str, str] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            seen.update(self.headers)
            body = gzip.compress(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(418, "Short and stout")
            for name, value in {"Content-Encoding": "gzip", "X-Own": "1", "Connection": "X-Hop", "X-Hop": "2"}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with Proxy(None, f"127.0.0.1:{server.server_port}", rest_port=0) as proxy:
            headers = {"X-Trace": "7", "Connection": "X-Private", "X-Private": "9", "TE": "trailers"}
            answer = requests.post(f"{proxy.rest_url}/v1/models/m:predict", b"{}", headers=headers, timeout=30)
        server.shutdown()
    assert (answer.status_code, answer.reason, answer.content) == (418, "Short and stout", b"{}")
    assert (answer.headers["Content-Encoding"], answer.headers["X-Own"]) == ("gzip", "1")
    assert "X-Hop" not in answer.headers
    assert seen["X-Trace"] == "7"
    assert not {"X-Private", "TE", "Transfer-Encoding"} & set(seen)


def test_model_service_answers_too(proxy: Proxy) -> None:
    with model_stub(proxy) as service:
        request = with_spec(get_model_status_pb2.GetModelStatusRequest(), name="m")
        status = service.GetModelStatus(request, timeout=30)
    assert [version.version for version in status.model_version_status] == [1]
