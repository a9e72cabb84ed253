"""Random input to open ports: each piece is answered with an error of the right class, and the server keeps running.

A wrong request is the client's fault: 4xx over REST, or 501 for conversions that TensorFlow Serving does not support.
It is never answered with 500 over REST, nor with UNKNOWN or INTERNAL over gRPC, and never left without an answer.
"""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any

import grpc
import numpy as np
import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    predict_pb2,
)

from dynamarks_tf.serving.local_server import LocalServer
from tests.helpers.server_clients import over_rest, with_spec

SIGNATURES = ["", "combine", "with_scalar", "uneven", "text", "text_twice", "no_inputs", "half_out"]
SIGNATURES += [f"echo_{dtype}" for dtype in ("float32", "float64", "int8", "int32", "uint64", "bool", "half")]
CLIENTS_FAULT = {400, 404, 501}  # 501: a dtype that TensorFlow Serving does not convert
REFUSALS = {"INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "UNIMPLEMENTED"}


@pytest.fixture(autouse=True)
def alive(server: LocalServer, images: np.ndarray, caplog: pytest.LogCaptureFixture) -> Any:
    """After each test, the server answers, and no exception was logged."""
    yield
    response = over_rest(server, {"instances": images.tolist()})
    assert response.status_code == 200
    assert "Traceback" not in caplog.text


@pytest.fixture(scope="module")
def session() -> Any:
    with requests.Session() as opened:
        yield opened


numbers = st.integers() | st.floats() | st.sampled_from([2**31, -(2**63) - 1, 2**64, 1e308, -0.0])
scalars = st.none() | st.booleans() | numbers | st.text(max_size=5)
binary = st.fixed_dictionaries({"b64": st.text(max_size=6) | numbers})
values = st.recursive(
    scalars | binary,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)
named = st.dictionaries(st.sampled_from(["a", "b", "x", "image", "text", "steps", "inputs"]), values, max_size=3)
documents = st.fixed_dictionaries(
    {},
    optional={
        "signature_name": st.sampled_from(SIGNATURES) | values,
        "instances": st.lists(values | named, max_size=4) | values,
        "inputs": named | values,
        "other": values,
    },
)


def check(response: requests.Response) -> None:
    assert response.headers["Content-Type"] == "application/json"
    body = json.loads(response.content.decode("utf-8", errors="surrogateescape"))
    if response.status_code == 200:
        assert list(body) in (["predictions"], ["outputs"])
    else:
        assert response.status_code in CLIENTS_FAULT, body
        assert list(body) == ["error"]
        response.content.decode()  # an error is UTF-8


@settings(max_examples=100)
@given(document=documents | values)
def test_json_of_any_form(server: LocalServer, session: Any, document: Any) -> None:
    check(session.post(server.rest_url + ":predict", data=json.dumps(document), timeout=30))


@settings(max_examples=60)
@given(
    start=st.sampled_from([b"", b"{", b'{"instances": ', b'{"inputs": [', b'{"signature_name": "text", "inputs": "']),
    middle=st.binary(max_size=40) | st.text(max_size=20).map(lambda text: text.encode("utf-8", "surrogatepass")),
    end=st.sampled_from([b"", b"}", b"]}", b'"}']),
    encoding=st.sampled_from([{}, {}, {"Content-Encoding": "gzip"}, {"Content-Type": "text/plain; charset=x"}]),
)
def test_bytes_of_any_kind(
    server: LocalServer, session: Any, start: bytes, middle: bytes, end: bytes, encoding: dict[str, str]
) -> None:
    check(session.post(server.rest_url + ":predict", data=start + middle + end, headers=encoding, timeout=30))


@pytest.mark.parametrize(
    "body",
    [
        b'{"signature_name": "\\ud800", "inputs": 1}',
        b'{"signature_name": "\xff", "inputs": 1}',
        b'{"instances": [{"\\ud800": 1}]}',
        b'{"instances": [{"\xff": 1}]}',
        b'{"inputs": {"\xff": 1, "image": [[1, 2, 3, 4]]}}',
        b'{"instances": [[1, 2, 3, 4]], "\\udfff": 1}',
        b'{"instances": [' + b"[1, 2, 3, 4]," * 50_000 + b"[1, 2, 3]]}",
        b'{"instances": [' + b'"",' * 50_000 + b"1]}",
        b'{"instances": [1' + b"0" * 5000 + b"]}",
        b'{"instances": [1e' + b"9" * 5000 + b"]}",
        b'{"a":' * 50_000,
        b"[" * 200_000,
    ],
    ids=lambda body: body[:40].decode("latin-1"),
)
def test_bodies_that_cost_much(server: LocalServer, session: Any, body: bytes) -> None:
    check(session.post(server.rest_url + ":predict", data=body, timeout=60))


# Paths

pieces = st.sampled_from(["/", ":", "..", ".", "%2e%2e", "%2F", "%00", "%", "%zz", "v1", "V1", "models", "zoo", "?"])
pieces |= st.sampled_from(["versions", "labels", "10", "-1", "9" * 30, "metadata", "predict", "classify", "//", "\\"])
pieces |= st.text("abc~;#&=+!$'(),*@[]|^`<>\"", min_size=1, max_size=3)


@settings(max_examples=100)
@given(
    method=st.sampled_from(["GET", "POST", "PUT", "OPTIONS", "DELETE", "BREW"]),
    prefix=st.sampled_from(["/v1/models/", "/v1/models/zoo", "/v1/", "/", ""]),
    parts=st.lists(pieces, max_size=6),
)
def test_paths_of_any_form(server: LocalServer, method: str, prefix: str, parts: list[str]) -> None:
    path = (prefix + "".join(parts)).replace("#", "%23") or "/"
    status, body = send(
        server, f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    )
    assert status in {200, 400, 404, 501}, (path, body)
    assert b"root:" not in body
    if status == 200 and method == "POST":
        raise AssertionError("an empty request was answered")


@pytest.mark.parametrize(
    "name",
    [
        "../../../../etc/passwd",
        "..%2f..%2fetc%2fpasswd",
        "%2e%2e%2f10",
        "/etc/passwd",
        "zoo%00",
        "zoo/10/saved_model.pb",
    ],
)
def test_model_names_are_not_used_as_paths(server: LocalServer, name: str) -> None:
    for method, suffix in (("GET", ""), ("GET", "/metadata"), ("POST", ":predict")):
        text = f"{method} /v1/models/{name}{suffix} HTTP/1.1\r\nConnection: close\r\nContent-Length: 31\r\n\r\n"
        status, body = send(server, text + '{"instances": [[1.0,2,3,4.00]]}')
        assert status in (400, 404)
        assert list(json.loads(body)) == ["error"]


@settings(max_examples=40)
@given(
    data=st.binary(max_size=60) | st.sampled_from([b"GET / HTTP/9.9\r\n\r\n", b"GET /v1 HTTP/1.1\r\nA: \x00\r\n\r\n"])
)
def test_other_protocols_over_the_rest_port(server: LocalServer, data: bytes) -> None:
    """The connection is closed, with or without an answer."""
    with socket.create_connection(("127.0.0.1", server.rest_port or 0), timeout=10) as sent:
        sent.sendall(data + b"\r\n\r\n")
        sent.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: sent.recv(4096), b""))
    assert not answer.startswith(b"HTTP/1.1 5") or answer.startswith(b"HTTP/1.1 501")


@pytest.mark.parametrize("length", ["-1", "x", "9" * 30, "9" * 5000, "1, 2", "0x10"])
def test_invalid_lengths(server: LocalServer, length: str) -> None:
    text = f"POST /v1/models/zoo:predict HTTP/1.1\r\nContent-Length: {length}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.rest_port or 0), timeout=10) as sent:
        sent.sendall(text.encode())
        answer = b"".join(iter(lambda: sent.recv(4096), b""))
    assert answer == b"" or answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 413", b"HTTP/1.0 4"))


def send(server: LocalServer, text: str) -> tuple[int, bytes]:
    with socket.create_connection(("127.0.0.1", server.rest_port or 0), timeout=10) as connection:
        connection.sendall(text.encode("latin-1", "replace"))
        response = http.client.HTTPResponse(connection)
        response.begin()
        return response.status, response.read()


# gRPC

shapes = st.lists(st.integers(-1, 4) | st.sampled_from([2**31, 2**40, 2**62]), max_size=4)
tensors = st.builds(
    lambda dtype, dims, unknown, content, floats, ints, strings: tensor_pb2.TensorProto(
        dtype=dtype,
        tensor_shape=tensor_shape_pb2.TensorShapeProto(
            dim=[tensor_shape_pb2.TensorShapeProto.Dim(size=size) for size in dims], unknown_rank=unknown
        ),
        tensor_content=content,
        float_val=floats,
        int_val=ints,
        string_val=strings,
    ),
    st.integers(0, 30) | st.sampled_from([1, 1, 1, 3, 7, 9]),
    shapes,
    st.sampled_from([False] * 9 + [True]),
    st.sampled_from([b""] * 3) | st.binary(max_size=64),
    st.lists(st.floats(width=32), max_size=8),
    st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4),
    st.lists(st.binary(max_size=4), max_size=2),
)
names = st.sampled_from(["a", "b", "x", "image", "text", "steps"]) | st.text(max_size=3)


specs = {
    "name": st.sampled_from(["zoo"] * 5 + ["", "../zoo", "x" * 2000, "zoo\0"]),
    "version": st.none() | st.sampled_from([10, 2, -1, 2**63 - 1]),
    "version_label": st.sampled_from([None] * 5 + ["", "stable", "../"]),
    "signature_name": st.sampled_from(SIGNATURES) | st.text(max_size=5),
}


def refused_or_answered(call: Any, request: Any, refusals: set[str] = REFUSALS) -> None:
    error = call.future(request, timeout=30).exception()
    assert error is None or error.code().name in refusals, error.details()


@settings(max_examples=120)
@given(
    spec=st.fixed_dictionaries(specs),
    inputs=st.dictionaries(names, tensors, max_size=3),
    output_filter=st.lists(st.sampled_from(["y", "sum", "z", "probabilities"]), max_size=2),
)
def test_tensors_of_any_form(prediction: Any, spec: Any, inputs: Any, output_filter: list[str]) -> None:
    request = predict_pb2.PredictRequest(inputs=inputs, output_filter=output_filter)
    refused_or_answered(prediction.Predict, with_spec(request, **spec))


@settings(max_examples=60)
@given(spec=st.fixed_dictionaries(specs), fields=st.lists(st.sampled_from(["signature_def", "x", ""]), max_size=2))
def test_the_other_calls(prediction: Any, model_service: Any, spec: Any, fields: list[str]) -> None:
    metadata = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
    refused_or_answered(prediction.GetModelMetadata, with_spec(metadata, **spec))
    refused_or_answered(model_service.GetModelStatus, with_spec(get_model_status_pb2.GetModelStatusRequest(), **spec))


@settings(max_examples=60)
@given(data=st.binary(max_size=60))
def test_invalid_messages(channel: grpc.Channel, data: bytes) -> None:
    """gRPC itself refuses a message that cannot be parsed, as INTERNAL."""
    call = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
    refused_or_answered(call, data, REFUSALS | {"INTERNAL"})


@settings(max_examples=30)
@given(data=st.binary(max_size=60))
def test_other_protocols_over_the_grpc_port(server: LocalServer, data: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.grpc_port or 0), timeout=10) as sent:
        sent.sendall(data)
        sent.shutdown(socket.SHUT_WR)
        while sent.recv(4096):
            pass
