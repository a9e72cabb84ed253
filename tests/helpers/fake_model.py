"""A model server without TensorFlow, over gRPC and REST, for the tests of the gateway."""

from __future__ import annotations

import contextlib
import gzip
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any

import grpc

PREDICT = "/tensorflow.serving.PredictionService/Predict"
TARGET = "/v1/models/m:predict"
METADATA = {
    "model_spec": {"name": "m", "signature_name": "", "version": "7"},
    "metadata": {
        "signature_def": {
            "signature_def": {
                "serving_default": {
                    "inputs": {"x": {"dtype": "DT_FLOAT"}},
                    "outputs": {"y": {"dtype": "DT_FLOAT"}},
                }
            }
        }
    },
}
ANSWER = {"predictions": [[0.25, 0.75]]}


@dataclass
class FakeModel:
    """What the server has seen, and how it answers.

    Attributes:
        grpc: `host:port` of gRPC, where every method answers with the request, `reversed_`.
        rest: `host:port` of REST.
        calls: what reached gRPC: method, metadata, body.
        posts: what reached REST by POST: path, headers, body.
        answer: the body of the next answers over REST.
        wait: answers wait until it is set.
        ended: set once a call over gRPC has ended.
    """

    grpc: str = ""
    rest: str = ""
    calls: list[tuple[str, dict[str, Any], bytes]] = field(default_factory=list)
    posts: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    answer: bytes = json.dumps(ANSWER).encode()
    status: int = 200
    wait: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)

    def reset(self) -> None:
        """Forgets what it has seen, and answers at once again."""
        self.calls.clear()
        self.posts.clear()
        self.answer, self.status = json.dumps(ANSWER).encode(), 200
        self.wait.set()
        self.ended.clear()


def reversed_(request: bytes) -> bytes:
    """The answer over gRPC: a message with one field, which holds the request in reverse."""
    size, digits = len(request), bytearray()
    while size > 127:
        digits.append(size & 127 | 128)
        size >>= 7
    return b"\x7a" + bytes([*digits, size]) + request[::-1]


@contextlib.contextmanager
def fake_model(grpc_port: int = 0, rest_port: int = 0) -> Iterator[FakeModel]:
    """Runs the server."""
    model = FakeModel()
    model.wait.set()
    with _grpc(model, grpc_port), _rest(model, rest_port):
        yield model
        model.wait.set()


@contextlib.contextmanager
def _grpc(model: FakeModel, port: int) -> Iterator[None]:
    class Handler(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(_answer(details.method))

    def _answer(method: str) -> Callable[[bytes, grpc.ServicerContext], bytes]:
        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            metadata: dict[str, Any] = {str(key): value for key, value in context.invocation_metadata()}
            metadata[":left"] = context.time_remaining()
            context.add_callback(model.ended.set)
            model.calls.append((method, metadata, request))
            model.wait.wait(20)
            context.send_initial_metadata((("first", "1"),))
            context.set_trailing_metadata((("last-bin", b"\x00\xff"),))
            if request == b"fail":
                context.abort(grpc.StatusCode.DATA_LOSS, "gone: ü")
            if metadata.get("pack"):
                context.set_compression(grpc.Compression.Gzip)
            return reversed_(request)

        return answer

    unlimited = [(f"grpc.max_{way}_message_length", -1) for way in ("send", "receive")]
    server = grpc.server(
        futures.ThreadPoolExecutor(16), handlers=[Handler()], options=[*unlimited, ("grpc.so_reuseport", 0)]
    )
    model.grpc = f"127.0.0.1:{server.add_insecure_port(f'127.0.0.1:{port}')}"
    server.start()
    try:
        yield
    finally:
        server.stop(0).wait()


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128


@contextlib.contextmanager
def _rest(model: FakeModel, port: int) -> Iterator[None]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            model.posts.append((self.path, dict(self.headers), body))
            model.wait.wait(20)
            self.reply(model.status, model.answer)

        def do_GET(self) -> None:
            self.reply(200, json.dumps(METADATA).encode() if self.path.endswith("/metadata") else b'{"ok": 1}')

        def reply(self, status: int, body: bytes) -> None:
            self.send_response(status, "As it is")
            if "gzip" in self.headers.get("Accept-Encoding", "") and self.command == "POST":
                body = gzip.compress(body)
                self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Type", "application/json")
            self.send_header("X-Own", "1")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with _Server(("127.0.0.1", port), Handler) as server:
        server.daemon_threads = True
        model.rest = f"127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield
        finally:
            server.shutdown()
