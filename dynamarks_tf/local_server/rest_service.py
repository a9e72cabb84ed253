"""TensorFlow Serving's REST interface: paths, bodies, status codes and error texts."""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
import zlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import waitress
from google.protobuf import json_format
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    predict_pb2,
)
from waitress import wasyncore
from werkzeug.wrappers import Request, Response

from dynamarks_tf.local_server import calls, json_tensor, ports
from dynamarks_tf.local_server.repository import Repository
from dynamarks_tf.local_server.request_recorder import RequestRecorder
from dynamarks_tf.local_server.served_model import DEFAULT_SIGNATURE
from dynamarks_tf.local_server.status import Code, StatusError, invalid
from dynamarks_tf.local_server.tensors import to_packed_proto

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

LOG = logging.getLogger(__name__)

TIMEOUT_S = 30.0  # TensorFlow Serving's --rest_api_timeout_in_ms
THREADS = 4 * (os.cpu_count() or 1)
LARGEST_INFLATED_BODY = 100 * 2**20  # bytes
LARGEST_BODY = 2**40  # bytes; in fact none
MEMORY_BUFFER = 2**28  # bytes of a body that waitress keeps in memory rather than in a file
RECEIVE_SIZE = 2**18  # bytes
LARGEST_VERSION = 2**63 - 1

HTTP_STATUS = {
    Code.CANCELLED: 499,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 500,
    Code.UNAUTHENTICATED: 401,
}

_API = re.compile(r"/v1/.*", re.IGNORECASE | re.DOTALL)
_VERSION_OR_LABEL = r"(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
_INFERENCE = re.compile(
    rf"/v1/models/(?P<name>[^/:]+){_VERSION_OR_LABEL}:(?P<method>classify|regress|predict)", re.IGNORECASE
)
_INFORMATION = re.compile(
    rf"/v1/models(?:/(?P<name>[^/:]+))?{_VERSION_OR_LABEL}(?:/(?P<subresource>metadata))?", re.IGNORECASE
)


class RestApplication:
    """The REST interface to a repository, as a WSGI application.

    Args:
        repository: what is served.
        timeout_s: seconds a prediction may take; no limit if `None`.
        recorder: what logs the predictions, if anything does.
    """

    def __init__(
        self,
        repository: Repository,
        *,
        timeout_s: float | None = TIMEOUT_S,
        recorder: RequestRecorder | None = None,
    ) -> None:
        self._repository = repository
        self._timeout_s = timeout_s
        self._recorder = recorder

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return self._respond(Request(environ))(environ, start_response)

    def _respond(self, request: Request) -> Response:
        path = request.environ["REQUEST_URI"]  # as sent: neither decoded nor cut at the "?"
        if request.method in ("TRACE", "CONNECT"):
            return _html_response(501, "Not Implemented")
        if not _API.fullmatch(path):
            return _html_response(404, "Not Found")
        if request.method == "OPTIONS":
            return Response(status=200 if re.search("https?://", request.headers.get("Origin", "")) else 400)
        try:
            return _json_response(200, self._answer(request, path))
        except StatusError as error:
            text = json_tensor.error_body(error.message) if error.message else ""
            return _json_response(HTTP_STATUS[error.code], text)
        except Exception:
            LOG.exception("%s %s", request.method, path)
            return _json_response(500, json_tensor.error_body("Internal error; the server's log has the details"))

    def _answer(self, request: Request, path: str) -> str:
        if request.method == "POST" and (found := _INFERENCE.fullmatch(path)):
            spec, method = _model_spec(found), found["method"]
            if method == "predict":
                return self._predict(spec, request)
            if method in ("classify", "regress"):
                return self._refuse_examples(spec, method, _body(request))
        if request.method == "GET" and (found := _INFORMATION.fullmatch(path)):
            if not found["name"]:
                raise invalid("Missing model name in request.")
            information = self._metadata if found["subresource"] == "metadata" else self._status
            return information(_model_spec(found))
        raise invalid(f"Malformed request: {request.method} {path}")

    def _predict(self, spec: model_pb2.ModelSpec, http: Request) -> str:
        document = json_tensor.parse(_body(http))
        spec.signature_name = json_tensor.signature_name(document)
        layout, inputs = json_tensor.read_inputs(document, self._input_infos(spec))
        request = predict_pb2.PredictRequest(
            model_spec=spec, inputs={name: to_packed_proto(array) for name, array in inputs.items()}
        )
        answer = calls.predict(self._repository, request, timeout_s=self._timeout_s)
        text = json_tensor.write_outputs(answer.outputs, layout)
        if self._recorder is not None:
            self._recorder.record(request, answer.to_packed_response, self._recorder.client(http.headers.items()))
        return text

    def _input_infos(self, spec: model_pb2.ModelSpec) -> json_tensor.Infos:
        name = spec.signature_name or DEFAULT_SIGNATURE
        signature = self._repository.find(spec).signatures.get(name)
        if signature is None:
            raise invalid(f'Serving signature name: "{name}" not found in signature def')
        if not signature.definition.inputs:
            raise invalid(f"Failed to get input map for signature: {spec.signature_name or 'DEFAULT'}")
        return dict(signature.definition.inputs)

    def _refuse_examples(self, spec: model_pb2.ModelSpec, method: str, body: bytes) -> str:
        spec.signature_name = json_tensor.signature_name(json_tensor.parse(body))
        raise calls.refuse_examples(self._repository, spec, method)

    def _status(self, spec: model_pb2.ModelSpec) -> str:
        request = get_model_status_pb2.GetModelStatusRequest(model_spec=spec)
        return json.dumps(_as_json(calls.model_status(self._repository, request)), indent=1)

    def _metadata(self, spec: model_pb2.ModelSpec) -> str:
        request = get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=spec, metadata_field=[calls.SIGNATURE_FIELD]
        )
        response = calls.model_metadata(self._repository, request)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata[calls.SIGNATURE_FIELD].Unpack(signatures)
        return json.dumps(
            {
                "model_spec": _as_json(response.model_spec),
                "metadata": {calls.SIGNATURE_FIELD: _as_json(signatures)},
            },
            indent=1,
        )


class RestServer:
    """An HTTP server on its own thread.

    Args:
        application: what answers.
        host: the address to listen on.
        port: the port to listen on; any free one if 0.

    Raises:
        ServingError: the port cannot be had.
    """

    def __init__(self, application: RestApplication, *, host: str, port: int) -> None:
        listener = ports.listen(host, port, "REST")
        logging.getLogger("waitress").setLevel(logging.ERROR)  # that a request has to wait is nothing to report
        self._server = waitress.create_server(
            application,
            sockets=[listener],
            threads=THREADS,
            ident=None,
            max_request_body_size=LARGEST_BODY,
            inbuf_overflow=MEMORY_BUFFER,
            outbuf_overflow=MEMORY_BUFFER,
            recv_bytes=RECEIVE_SIZE,
        )
        self.port: int = listener.getsockname()[1]
        self._stopping = threading.Event()
        self._grace_s = 0.0
        self._thread = threading.Thread(target=self._serve, name="rest-server", daemon=True)
        self._thread.start()

    def stop(self, grace_s: float) -> None:
        """Refuses new connections at once, and gives the requests being answered `grace_s` seconds to end."""
        self._grace_s = grace_s
        self._stopping.set()
        self._server.pull_trigger()
        self._thread.join()

    def _serve(self) -> None:
        while not self._stopping.is_set():
            self._turn(timeout_s=1.0)
        wasyncore.dispatcher.close(self._server)  # the listening socket; connections stay
        deadline = time.monotonic() + self._grace_s
        while self._close_idle() and time.monotonic() < deadline:
            self._turn(timeout_s=0.05)
        self._server.task_dispatcher.shutdown(timeout=1)
        wasyncore.close_all(self._server._map)

    def _turn(self, *, timeout_s: float) -> None:
        """Receives and sends what is there; this is one turn of waitress' own loop."""
        wasyncore.loop(timeout=timeout_s, use_poll=True, map=self._server._map, count=1)

    def _close_idle(self) -> bool:
        """Closes the connections on which nothing is being answered, and says whether others are left."""
        channels = list(self._server.active_channels.values())
        busy = [channel for channel in channels if channel.requests or channel.total_outbufs_len]
        for channel in channels:
            if channel not in busy:
                channel.handle_close()
        return bool(busy)


def _model_spec(found: re.Match[str]) -> model_pb2.ModelSpec:
    spec = model_pb2.ModelSpec(name=unquote(found["name"], errors="replace"))
    if found["version"]:
        digits = found["version"].lstrip("0")
        if len(digits) > len(str(LARGEST_VERSION)) or int(digits or "0") > LARGEST_VERSION:
            raise invalid("")  # TensorFlow Serving sends no body here
        spec.version.value = int(found["version"])
    elif found["label"]:
        spec.version_label = unquote(found["label"], errors="replace")
    return spec


def _body(request: Request) -> bytes:
    body = request.get_data(cache=False)
    return _inflate(body) if "gzip" in request.headers.get("Content-Encoding", "") else body


def _inflate(body: bytes) -> bytes:
    """Unpacks gzip; what is damaged or too large counts as empty, as in TensorFlow Serving."""
    inflater = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(body, LARGEST_INFLATED_BODY)
    except zlib.error:
        return b""
    return inflated if inflater.eof else b""


def _as_json(message: Any) -> Any:
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def _json_response(status: int, text: str) -> Response:
    return Response(text.encode("utf-8", errors="surrogateescape"), status, content_type="application/json")


def _html_response(status: int, reason: str) -> Response:
    page = f"<html><head><title>{status} {reason}</title></head><body><h1>{reason}</h1></body></html>\n"
    return Response(page, status, content_type="text/html")
