"""Servers that do not answer, answer late, or break the protocol, over real sockets."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

from dynamarks_tf.errors import SuspectError
from dynamarks_tf.serving.local_server import LocalServer
from dynamarks_tf.suspects import as_suspect
from dynamarks_tf.suspects.tf_serving_grpc import GrpcSuspect
from dynamarks_tf.suspects.tf_serving_rest import RestSuspect
from tests.helpers.grpc_services import Service, grpc_server, respond
from tests.helpers.suspects import answers_of

Array = np.ndarray[Any, Any]
Answer = tuple[int, bytes]

URL_FORMS = {"gRPC": "grpc://127.0.0.1:{}/clf", "REST": "http://127.0.0.1:{}/v1/models/clf"}
NAN = float("nan")


@pytest.fixture(params=URL_FORMS)
def url_form(request: pytest.FixtureRequest) -> str:
    return URL_FORMS[request.param]


@pytest.fixture(params=["grpc_url", "rest_url"])
def url(request: pytest.FixtureRequest, server: LocalServer) -> str:
    return str(getattr(server, request.param))


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def silent_port() -> Iterator[int]:
    """The system accepts connections, and no answer ever comes."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_closed_port_is_unreachable(url_form: str, closed_port: int) -> None:
    with pytest.raises(SuspectError, match=f"127.0.0.1:{closed_port}.* cannot be reached .*Is the server running"):
        as_suspect(url_form.format(closed_port), timeout_s=5.0)


def test_silent_server_times_out(url_form: str, silent_port: int) -> None:
    start = time.monotonic()
    with pytest.raises(SuspectError, match=r"did not answer within 0\.3 s.* Raise timeout_s"):
        as_suspect(url_form.format(silent_port), timeout_s=0.3)
    assert time.monotonic() - start < 3


def test_unknown_name_is_explained(url: str) -> None:
    with pytest.raises(SuspectError, match=r"clf_other .*Servable not found.* Check the name of the model"):
        as_suspect(url + "_other")


def test_unknown_version_is_explained(url: str) -> None:
    with pytest.raises(SuspectError, match=r"versions/77 .*Servable not found.* and the version"):
        as_suspect(url + "/versions/77")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"signature": "classify"}, "has no signature 'classify'; it has: .*serving_default"),
        ({"output": "classes"}, "has the outputs probabilities; none is called 'classes'"),
    ],
)
def test_unknown_signature_or_output_is_explained(server: LocalServer, options: dict[str, str], text: str) -> None:
    host, port = server.grpc_address.split(":")
    with pytest.raises(SuspectError, match=text):
        GrpcSuspect(host, int(port), server.name, **options)
    with pytest.raises(SuspectError, match=text):
        RestSuspect(server.rest_url, **options)


def test_refused_batch_is_explained(url: str, images: Array, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server itself refuses: the adapter sends any shape."""
    monkeypatch.setattr("dynamarks_tf.suspects.signature.fit_shape", lambda batch, *_: batch)
    suspect = as_suspect(url)
    with pytest.raises(SuspectError, match=r"could not answer a batch of shape \(7, 8\) .*: .*is not compatible"):
        suspect.predict(images[:, :, 0, 0])


def test_proxies_are_not_asked_for_this_machine(
    url: str, images: Array, monkeypatch: pytest.MonkeyPatch, closed_port: int
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "grpc_proxy", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert as_suspect(url, timeout_s=5.0).predict(images).shape == (7, 5)


# gRPC servers of our own


def abort(code: grpc.StatusCode, details: str) -> Callable[[Any], Any]:
    return lambda call: call[1].abort(code, details)


def ask_grpc(port: int, *, timeout_s: float = 10.0) -> Array:
    return answers_of(GrpcSuspect("127.0.0.1", port, "clf", timeout_s=timeout_s), np.ones((3, 2), np.float32))


def test_grpc_asks_for_one_output_of_the_model_and_version() -> None:
    requests = []

    def predict(call: Any) -> Any:
        requests.append(call[0])
        return respond([[1.0]])(call)

    with grpc_server(Service(predict)) as port:
        answers_of(GrpcSuspect("127.0.0.1", port, "clf", 4), np.ones((1, 2)))
    (request,) = requests
    assert (request.model_spec.name, request.model_spec.version.value) == ("clf", 4)
    assert list(request.output_filter) == ["probabilities"]
    assert list(request.inputs) == ["x"]
    assert request.inputs["x"].dtype == tf.float32.as_datatype_enum


def test_grpc_takes_big_answers_and_sends_big_batches() -> None:
    """gRPC stops at 4 MiB by default."""
    big = np.zeros((3, 1_500_000), np.float32)
    with grpc_server(Service(respond(big))) as port:
        assert ask_grpc(port).shape == big.shape
        suspect = GrpcSuspect("127.0.0.1", port, "clf")
        assert answers_of(suspect, np.ones((1_000_000, 2), np.float32)).shape == big.shape


def test_grpc_slow_answer_times_out() -> None:
    done = threading.Event()

    def predict(call: Any) -> Any:
        done.wait(5)
        return respond([[1.0]])(call)

    with grpc_server(Service(predict)) as port:
        with pytest.raises(SuspectError, match=r"did not answer within 0\.5 s \(DEADLINE_EXCEEDED: .*smaller batches"):
            ask_grpc(port, timeout_s=0.5)
        done.set()


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, r"could not answer a batch of shape \(3, 2\) .*: because"),
        (grpc.StatusCode.FAILED_PRECONDITION, r"could not answer a batch of shape \(3, 2\) .*: because"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, r"could not be queried \(RESOURCE_EXHAUSTED: because\)\. Send smaller"),
        (grpc.StatusCode.PERMISSION_DENIED, r"could not be queried .*requires a key, put it into DYNAMARKS_API_KEY"),
        (grpc.StatusCode.UNAUTHENTICATED, r"could not be queried .*requires a key, put it into DYNAMARKS_API_KEY"),
        (grpc.StatusCode.INTERNAL, r"could not be queried \(INTERNAL: because\)\.$"),
    ],
)
def test_grpc_refusals_are_explained(code: grpc.StatusCode, text: str) -> None:
    with grpc_server(Service(abort(code, "because"))) as port, pytest.raises(SuspectError, match=text):
        ask_grpc(port)


def test_grpc_server_without_prediction_service() -> None:
    with grpc_server(None) as port, pytest.raises(SuspectError, match="does not speak the PredictionService"):
        ask_grpc(port)


def test_grpc_server_that_stops_meanwhile() -> None:
    with grpc_server(Service(respond([[1.0]]))) as port:
        suspect = GrpcSuspect("127.0.0.1", port, "clf", timeout_s=5.0)
    with pytest.raises(SuspectError, match="cannot be reached"):
        suspect.predict(np.ones((3, 2)))
    suspect.close()


def test_grpc_answer_that_is_no_tensor() -> None:
    service = Service(lambda call: predict_pb2.PredictResponse())
    with grpc_server(service) as port, pytest.raises(SuspectError, match="sent something that cannot be read"):
        ask_grpc(port)


def test_grpc_answer_that_declares_more_than_is_expected_is_not_decoded() -> None:
    """A hundred million rows, of one value that repeats."""
    answer = tf.make_tensor_proto(np.float32([[1.0]]))
    answer.tensor_shape.dim[0].size = 10**8
    response = predict_pb2.PredictResponse()
    response.outputs["probabilities"].CopyFrom(answer)
    tracemalloc.start()
    with (
        grpc_server(Service(lambda call: response)) as port,
        pytest.raises(SuspectError, match=r"declares the shape \(100000000, 1\), and at most 8,388,608"),
    ):
        ask_grpc(port)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


def test_grpc_description_that_cannot_be_read() -> None:
    class Broken(Service):
        def GetModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
            response = super().GetModelMetadata(request, context)
            response.metadata["signature_def"].value = b"\xff\xff\xff"
            return response

    with grpc_server(Broken(respond([]))) as port, pytest.raises(SuspectError, match=r"cannot be read \(DecodeError"):
        ask_grpc(port)


def test_grpc_input_type_without_counterpart() -> None:
    service = Service(respond([]), dtype=tf.complex64.as_datatype_enum)
    with grpc_server(service) as port, pytest.raises(SuspectError, match="takes inputs of type DT_COMPLEX64; accepted"):
        ask_grpc(port)


# REST servers of our own

METADATA = {
    "metadata": {
        "signature_def": {
            "signature_def": {
                "serving_default": {
                    "inputs": {
                        "x": {
                            "dtype": "DT_FLOAT",
                            "tensor_shape": {"dim": [{"size": "-1"}, {"size": "2"}], "unknown_rank": False},
                        }
                    },
                    "outputs": {"probabilities": {}, "other": {}},
                }
            }
        }
    }
}


@contextlib.contextmanager
def rest_server(predict: Callable[[Any], Answer], metadata: Any = METADATA) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send(200, json.dumps(metadata).encode())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.send(*predict((self.path, body)))

        def send(self, status: int, content: bytes) -> None:
            with contextlib.suppress(ConnectionError):  # a client that timed out has left
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Location", "/v1/models/clf/metadata")
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/models/clf"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def ask_rest(url: str, *, timeout_s: float = 10.0) -> Array:
    return answers_of(RestSuspect(url, timeout_s=timeout_s), np.ones((3, 2), np.float32))


def test_rest_sends_columns_and_reads_one_output_of_several() -> None:
    requests = []

    def predict(call: Any) -> Answer:
        requests.append(call)
        return 200, b'{"outputs": {"probabilities": [[0.5, NaN, Infinity, -Infinity]], "other": [1]}}'

    with rest_server(predict) as url:
        np.testing.assert_array_equal(ask_rest(url), [[0.5, NAN, np.inf, -np.inf]])
    assert requests == [
        ("/v1/models/clf:predict", {"signature_name": "serving_default", "inputs": {"x": [[1, 1]] * 3}})
    ]


def test_rest_slow_answer_times_out() -> None:
    done = threading.Event()

    def predict(call: Any) -> Answer:
        done.wait(5)
        return 200, b"{}"

    with rest_server(predict) as url:
        with pytest.raises(SuspectError, match=r"did not answer within 0\.3 s\. Raise timeout_s, or send smaller"):
            ask_rest(url, timeout_s=0.3)
        done.set()


@pytest.mark.parametrize(
    ("status", "content", "text"),
    [
        (400, b'{"error": "because"}', r"could not answer a batch of shape \(3, 2\) and type float32: because$"),
        (404, b'{"error": "because"}', r"HTTP status 404: because\. Check the name of the model"),
        (401, b"<html>", r"HTTP status 401: <html>\. If the server requires a key, put it into DYNAMARKS_API_KEY"),
        (403, b"<html>", r"HTTP status 403: <html>\. If the server requires a key, put it into DYNAMARKS_API_KEY"),
        (429, b'{"error": "because"}', r"HTTP status 429: because\. The server is busy"),
        (504, b'{"error": "because"}', r"HTTP status 504: because\. Send smaller batches"),
        (500, b'{"error": "a\\n\\u001b[2Jb"}', r"HTTP status 500: a b\. Is this the REST port"),
        (302, b"", r"HTTP status 302: .*Is this the REST port"),
        (200, b"<html>hello</html>", r"HTTP status 200: <html>hello</html>\. Is this the REST port"),
        (200, b"[" * 100_000, "sends an answer that is not read: it is nested more than 500 levels deep"),
        (200, b'{"predictions": []}', r"sent something that cannot be read \(KeyError"),
        (200, b'{"outputs": {"other": [1]}}', r"sent something that cannot be read \(KeyError"),
        (200, b'{"outputs": [[1, 2]]}', r"sent something that cannot be read \(TypeError"),
        (200, b'{"outputs": {"probabilities": [[1, 2], [3]]}}', r"sent something that cannot be read \(ValueError"),
    ],
)
def test_rest_answers_that_break_the_protocol_are_explained(status: int, content: bytes, text: str) -> None:
    with rest_server(lambda call: (status, content)) as url, pytest.raises(SuspectError, match=text):
        ask_rest(url)


NO_SIGNATURES = {"metadata": {"signature_def": {"signature_def": 1}}}


@pytest.mark.parametrize("metadata", [[], {}, {"metadata": None}, NO_SIGNATURES])
def test_rest_description_that_cannot_be_read(metadata: Any) -> None:
    server = rest_server(lambda call: (200, b"{}"), metadata)
    with server as url, pytest.raises(SuspectError, match="sent something that cannot be read"):
        ask_rest(url)


def test_rest_server_that_hangs_up() -> None:
    def hang_up(call: Any) -> Answer:
        raise ConnectionError

    with rest_server(hang_up) as url, pytest.raises(SuspectError, match=r"cannot be reached .*closed connection"):
        ask_rest(url)
