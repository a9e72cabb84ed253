"""TensorFlow Serving's REST interface: paths, bodies, status codes and error texts."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from google.protobuf import json_format
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    predict_pb2,
)
from werkzeug.wrappers import Request, Response

from dynamarks_tf import foreign_text
from dynamarks_tf.serving.local_server import calls
from dynamarks_tf.serving.local_server.metrics import CONTENT_TYPE, UNKNOWN_MODEL, Metrics
from dynamarks_tf.serving.local_server.repository import Repository
from dynamarks_tf.serving.local_server.request_logger import RequestLogger
from dynamarks_tf.serving.local_server.served_model import ServedModel
from dynamarks_tf.serving.protocol import json_tensor
from dynamarks_tf.serving.protocol.status import HTTP_STATUS, Code, StatusError, internal_error, invalid
from dynamarks_tf.serving.protocol.tensors import DEFAULT_SIGNATURE, to_packed_proto

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

LOG = foreign_text.logger(__name__)

TIMEOUT_S = 30.0  # TensorFlow Serving's --rest_api_timeout_in_ms
LARGEST_INFLATED_BODY = 100 * 2**20  # bytes
CORS_HEADERS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "POST, GET",
    "Access-Control-Allow-Headers": "Content-Type",
}
LARGEST_VERSION = 2**63 - 1

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
        repository: the models to serve.
        metrics: counts the requests.
        timeout_s: seconds that a prediction may take; no limit if `None`.
        request_logger: logs the predictions; no log if `None`.
        metrics_path: the path of the metrics; none if `None`.
        max_request_bytes: the largest size of a compressed request after decompression.
        enable_cors: whether browsers may send requests from pages of any origin.
    """

    def __init__(
        self,
        repository: Repository,
        metrics: Metrics,
        *,
        timeout_s: float | None = TIMEOUT_S,
        request_logger: RequestLogger | None = None,
        metrics_path: str | None = None,
        max_request_bytes: int | None = None,
        enable_cors: bool = False,
    ) -> None:
        self._repository = repository
        self._metrics = metrics
        self._timeout_s = timeout_s
        self._request_logger = request_logger
        self._metrics_path = metrics_path
        self._headers = CORS_HEADERS if enable_cors else {}
        self._largest_inflated = min(max_request_bytes or LARGEST_INFLATED_BODY, LARGEST_INFLATED_BODY)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return self._respond(Request(environ))(environ, start_response)

    def _respond(self, request: Request) -> Response:
        path = request.environ["REQUEST_URI"]  # as sent: neither decoded nor cut at the "?"
        if request.method in ("TRACE", "CONNECT"):
            return _html_response(501, "Not Implemented")
        if self._metrics_path is not None and path.partition("?")[0] == self._metrics_path:
            return self._show_metrics(path)
        if not _API.fullmatch(path):
            return _html_response(404, "Not Found")
        try:
            return self._json_response(200, self._answer(request, path))
        except StatusError as error:
            problem = error
        except Exception:
            LOG.exception("%s %s", request.method, path)
            problem = internal_error()
        return self._json_response(
            HTTP_STATUS[problem.code], json_tensor.error_body(problem.message) if problem.message else ""
        )

    def _show_metrics(self, path: str) -> Response:
        if path != self._metrics_path:
            text = f"Unexpected path: {path}. Should be {self._metrics_path}"
            return Response(text, 400, content_type=CONTENT_TYPE)
        return Response(self._metrics.text(), 200, content_type=CONTENT_TYPE)

    def _answer(self, request: Request, path: str) -> str:
        inference = _INFERENCE.fullmatch(path) if request.method == "POST" else None
        found = inference or (_INFORMATION.fullmatch(path) if request.method == "GET" else None)
        name = unquote(found["name"] or "", errors="replace") if found else ""
        known = name if not name or self._repository.knows(name) else UNKNOWN_MODEL
        with self._metrics.request(known, api=inference["method"] if inference else "", entrypoint="REST"):
            if request.method == "OPTIONS":
                return _preflight(request)
            if inference and inference["method"] == "predict":
                return self._predict(_model_spec(inference), request)
            if found and not inference:
                if not name:
                    raise invalid("Missing model name in request.")
                information = self._metadata if found["subresource"] == "metadata" else self._status
                return information(_model_spec(found))
            hint = f". {calls.ONLY_PREDICT}" if inference and inference["method"] in ("classify", "regress") else ""
            raise invalid(f"Malformed request: {request.method} {path}{hint}")

    def _predict(self, spec: model_pb2.ModelSpec, http: Request) -> str:
        document = json_tensor.parse(self._body(http))
        spec.signature_name = json_tensor.signature_name(document)
        with self._repository.use(spec) as model:
            layout, inputs = json_tensor.read_inputs(document, _input_infos(model, spec.signature_name))
            request = predict_pb2.PredictRequest(
                model_spec=spec, inputs={name: to_packed_proto(array) for name, array in inputs.items()}
            )
            answer = calls.run(model, request, timeout_s=self._timeout_s)
        self._metrics.record_runtime(answer.model_spec.name, answer.runtime_s)
        text = json_tensor.write_outputs(answer.outputs, layout)
        if self._request_logger is not None:
            client = self._request_logger.client(http.headers.items())
            self._request_logger.log(request, answer.to_packed_response, client)
        return text

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

    def _json_response(self, status: int, text: str) -> Response:
        body = text.encode("utf-8", errors="surrogateescape")
        return Response(body, status, self._headers, content_type="application/json")

    def _body(self, request: Request) -> bytes:
        body = request.get_data(cache=False)
        packed = "gzip" in request.headers.get("Content-Encoding", "")
        return _inflate(body, self._largest_inflated) if packed else body


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


def _input_infos(model: ServedModel, signature_name: str) -> json_tensor.Infos:
    name = signature_name or DEFAULT_SIGNATURE
    signature = model.signatures.get(name)
    if signature is None:
        raise invalid(f'Serving signature name: "{name}" not found in signature def')
    if not signature.definition.inputs:
        raise invalid(f"Failed to get input map for signature: {signature_name or 'DEFAULT'}")
    return dict(signature.definition.inputs)


def _preflight(request: Request) -> str:
    if not re.search("https?://", request.headers.get("Origin", "")):
        raise StatusError(Code.FAILED_PRECONDITION, "")
    return ""


def _inflate(body: bytes, largest: int) -> bytes:
    """Decompresses gzip; a body that is damaged or too large counts as empty, as in TensorFlow Serving."""
    inflater = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(body, largest)
    except zlib.error:
        return b""
    return inflated if inflater.eof and not inflater.unused_data else b""


def _as_json(message: Any) -> Any:
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def _html_response(status: int, reason: str) -> Response:
    page = f"<html><head><title>{status} {reason}</title></head><body><h1>{reason}</h1></body></html>\n"
    return Response(page, status, content_type="text/html")
