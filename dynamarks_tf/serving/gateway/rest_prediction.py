"""Turns predictions over REST into messages for the log, after they were answered.

JSON holds no dtypes, and the answer does not name its version. The server's metadata has both; it is requested at most
once in `REFRESH_S` for each model. So a request near a change of versions may be logged under the other version.
"""

from __future__ import annotations

import re
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
import requests
from google.protobuf import json_format
from tensorflow_serving.apis import get_model_metadata_pb2, model_pb2, predict_pb2

from dynamarks_tf.errors import LogError
from dynamarks_tf.request_logs.prediction_log import UNDECODED, encode
from dynamarks_tf.serving.protocol import json_tensor
from dynamarks_tf.serving.protocol.status import StatusError
from dynamarks_tf.serving.protocol.tensors import DEFAULT_SIGNATURE, Array, to_packed_proto

REFRESH_S = 2.0
TIMEOUT_S = 5.0

_PREDICT = re.compile(
    r"/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?:predict",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class RestPrediction:
    """A request for a prediction, and its answer, as they were sent.

    Attributes:
        path: the path of the request.
        body: its body.
        is_packed: whether `body` is gzip.
        answer: the body of the answer.
        client: the client's name, if known.
        time: the time of the request, in seconds since 1970.
    """

    path: str
    body: bytes
    is_packed: bool
    answer: bytes
    client: str | None
    time: float


def is_prediction(method: str, path: str) -> bool:
    """Whether a request is for a prediction, in a form that can be logged."""
    return method == "POST" and _PREDICT.fullmatch(path) is not None


def may_be_prediction(method: str, path: str) -> bool:
    """Whether some server could take a request for one for a prediction."""
    return method == "POST" and unquote(path.partition("?")[0]).rstrip("/").lower().endswith(":predict")


class RestDecoder:
    """Turns predictions over REST into log entries. Used by one thread.

    Args:
        url: the server that answered, `http://host:port`.
        max_body_bytes: the largest size of a gzip body after decompression.
    """

    def __init__(self, url: str, max_body_bytes: int) -> None:
        self._url = url
        self._max_body_bytes = max_body_bytes
        self._known: dict[str, _Description] = {}
        self._asked: dict[str, float] = {}
        self._session = requests.Session()
        self._session.trust_env = False  # requests go to the upstream server directly

    def encode(self, prediction: RestPrediction) -> bytes:
        """Returns a serialized `PredictionLog`.

        Raises:
            LogError: request and answer do not fit the signature, or the server does not report its signatures.
        """
        try:
            return self._decode(prediction)
        except StatusError as error:  # its message quotes the body
            raise LogError("request and answer do not fit the model's signature") from error

    def _decode(self, prediction: RestPrediction) -> bytes:
        spec = _spec(prediction.path)
        described = self._describe(_path(spec))
        asked = json_tensor.parse(
            _unpack(prediction.body, self._max_body_bytes) if prediction.is_packed else prediction.body
        )
        answered = json_tensor.parse(prediction.answer)
        signature_name = json_tensor.signature_name(asked)
        signature = described.signatures.signature_def[signature_name or DEFAULT_SIGNATURE]
        _, inputs = json_tensor.read_inputs(asked, signature.inputs)
        # An answer has the layout of a request, under other names.
        names = {"predictions": "instances", "outputs": "inputs"}
        renamed = {names[key]: value for key, value in answered.items() if key in names}
        _, outputs = json_tensor.read_inputs(renamed, signature.outputs)
        spec.signature_name = signature_name
        request = predict_pb2.PredictRequest(model_spec=spec, inputs=_packed(inputs))
        response = predict_pb2.PredictResponse(model_spec=described.model_spec, outputs=_packed(outputs))
        response.model_spec.signature_name = signature_name or DEFAULT_SIGNATURE
        return encode(request, response, client=prediction.client, time=prediction.time)

    def _describe(self, model: str) -> _Description:
        now = time.monotonic()
        if now >= self._asked.get(model, -REFRESH_S) + REFRESH_S:
            self._asked[model] = now
            try:
                reply = self._session.get(f"{self._url}{model}/metadata", timeout=TIMEOUT_S, allow_redirects=False)
                reply.raise_for_status()
                self._known[model] = _Description.parse(reply.json())
            except (requests.RequestException, json_format.ParseError, KeyError, TypeError) as error:
                if model not in self._known:
                    raise LogError(f"the signatures of {model} cannot be read: {error}") from error
        if model not in self._known:
            raise LogError(f"the signatures of {model} could not be read")
        return self._known[model]


@dataclass(frozen=True)
class _Description:
    model_spec: model_pb2.ModelSpec
    signatures: get_model_metadata_pb2.SignatureDefMap

    @classmethod
    def parse(cls, document: Any) -> _Description:
        signatures = get_model_metadata_pb2.SignatureDefMap()
        json_format.ParseDict(document["metadata"]["signature_def"], signatures, ignore_unknown_fields=True)
        spec = model_pb2.ModelSpec()
        json_format.ParseDict(document["model_spec"], spec, ignore_unknown_fields=True)
        return cls(spec, signatures)


def encode_undecoded(prediction: RestPrediction) -> bytes:
    """Returns a serialized `PredictionLog` with the bodies as they were sent: a trace of the client, no evidence."""
    spec = _spec(prediction.path)
    request = predict_pb2.PredictRequest(model_spec=spec, inputs={UNDECODED: to_packed_proto(_text(prediction.body))})
    response = predict_pb2.PredictResponse(
        model_spec=spec, outputs={UNDECODED: to_packed_proto(_text(prediction.answer))}
    )
    return encode(request, response, client=prediction.client, time=prediction.time)


def _text(body: bytes) -> Array:
    return np.array([body], dtype=object)


def _spec(path: str) -> model_pb2.ModelSpec:
    found = _PREDICT.fullmatch(path)
    assert found
    spec = model_pb2.ModelSpec(name=unquote(found["name"]))
    if found["version"]:
        spec.version.value = int(found["version"])
    elif found["label"]:
        spec.version_label = unquote(found["label"])
    return spec


def _path(spec: model_pb2.ModelSpec) -> str:
    """Returns the canonical path of a model, so that what is stored by path cannot grow without limit."""
    path = f"/v1/models/{quote(spec.name, safe='')}"
    if spec.HasField("version"):
        return f"{path}/versions/{spec.version.value}"
    return f"{path}/labels/{quote(spec.version_label, safe='')}" if spec.version_label else path


def _packed(arrays: Mapping[str, Array]) -> dict[str, Any]:
    return {name: to_packed_proto(array) for name, array in arrays.items()}


def _unpack(body: bytes, most: int) -> bytes:
    unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        unpacked = unpacker.decompress(body, most)
        is_more = bool(unpacker.decompress(unpacker.unconsumed_tail, 1))
    except zlib.error as error:
        raise LogError("its body is no gzip") from error
    if is_more:
        raise LogError(f"its body is larger than {most} bytes after decompression")
    return unpacked
