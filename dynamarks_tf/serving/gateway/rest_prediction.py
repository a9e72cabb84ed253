"""Turns predictions over REST into messages for the log, after they were answered.

JSON holds no dtypes, and the answer does not name its version. The server's metadata has both; it is requested at most
once in `REFRESH_S` for each model, beside the work, since a server under load answers late. So a request near a change
of versions may be logged under the other version.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
import requests

from dynamarks_tf.errors import LogError
from dynamarks_tf.request_logs.prediction_log import UNDECODED, encode_bytes
from dynamarks_tf.serving.gateway.messages import ModelSpec, PredictRequest, PredictResponse, Tensor
from dynamarks_tf.serving.protocol import dtypes, json_tensor
from dynamarks_tf.serving.protocol.json_tensor import Array
from dynamarks_tf.serving.protocol.status import StatusError

REFRESH_S = 2.0
TIMEOUT_S = 5.0
MOST_METADATA_BYTES = 2**24
DEFAULT_SIGNATURE = "serving_default"

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
        answer: the body of the answer.
        client: the client's name, if known.
        time: the time of the request, in seconds since 1970.
    """

    path: str
    body: bytes
    answer: bytes
    client: str | None
    time: float


def is_prediction(path: str) -> bool:
    """Whether a POST is for a prediction, in a form that can be logged."""
    return _PREDICT.fullmatch(path) is not None


def may_be_prediction(path: str) -> bool:
    """Whether some server could take a POST for one for a prediction."""
    return unquote(path.partition("?")[0]).rstrip("/").lower().endswith(":predict")


class RestDecoder:
    """Turns predictions over REST into log entries. Used by one thread.

    Args:
        url: the server that answered, `http://host:port`.
        authority: the file with the authority of its certificate, empty if it speaks no TLS.
    """

    def __init__(self, url: str, authority: str = "") -> None:
        self._url = url
        self._known: dict[str, _Description] = {}
        self._asked: dict[str, float] = {}
        self._asking = threading.Lock()
        self._session = requests.Session()
        self._session.trust_env = False  # requests go to the upstream server directly
        self._session.verify = authority or True

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
        asked = json_tensor.parse(prediction.body)
        answered = json_tensor.parse(prediction.answer)
        name = json_tensor.signature_name(asked)
        signature = described.signatures.get(name or DEFAULT_SIGNATURE, _Signature({}, {}))
        if not signature.inputs or not signature.outputs:
            raise LogError("the server does not report its signature")
        _, inputs = json_tensor.read_inputs(asked, signature.inputs)
        # An answer has the layout of a request, under other names.
        names = {"predictions": "instances", "outputs": "inputs"}
        renamed = {names[key]: value for key, value in answered.items() if key in names}
        _, outputs = json_tensor.read_inputs(renamed, signature.outputs)
        spec.signature_name = name.encode()
        answering = ModelSpec(name=spec.name, signature_name=(name or DEFAULT_SIGNATURE).encode())
        answering.version.value = described.version
        return _encode(prediction, spec, inputs, answering, outputs)

    def _describe(self, model: str) -> _Description:
        is_due = time.monotonic() >= self._asked.get(model, -REFRESH_S) + REFRESH_S
        is_known = model in self._known
        if is_due and self._asking.acquire(timeout=0 if is_known else TIMEOUT_S):
            self._asked[model] = time.monotonic()
            asking = threading.Thread(target=self._ask, args=(model,), name="metadata", daemon=True)
            asking.start()
            if not is_known:
                asking.join(TIMEOUT_S)
        if model not in self._known:
            raise LogError(f"the signatures of {model} could not be read")
        return self._known[model]

    def _ask(self, model: str) -> None:
        """Asks the server for a description; the one that is known stays if it gives none."""
        expected = requests.RequestException, ValueError, KeyError, TypeError, AttributeError, RecursionError
        try:
            with contextlib.suppress(*expected):
                self._known[model] = _Description.parse(json.loads(self._get(f"{self._url}{model}/metadata")))
        finally:
            self._asking.release()

    def _get(self, url: str) -> bytes:
        with self._session.get(url, timeout=TIMEOUT_S, allow_redirects=False, stream=True) as reply:
            reply.raise_for_status()
            content = b""
            for part in reply.iter_content(2**16):
                content += part
                if len(content) > MOST_METADATA_BYTES:
                    raise ValueError("too large")
        return content


@dataclass(frozen=True)
class _Info:
    dtype: int


@dataclass(frozen=True)
class _Signature:
    inputs: Mapping[str, _Info]
    outputs: Mapping[str, _Info]


@dataclass(frozen=True)
class _Description:
    version: int
    signatures: Mapping[str, _Signature]

    @classmethod
    def parse(cls, document: Any) -> _Description:
        signatures = {
            name: _Signature(
                *(
                    {key: _Info(dtypes.parse(info["dtype"])) for key, info in entry[side].items()}
                    for side in ("inputs", "outputs")
                )
            )
            for name, entry in document["metadata"]["signature_def"]["signature_def"].items()
            if entry.get("inputs") and entry.get("outputs")
        }
        return cls(int(document["model_spec"]["version"]), signatures)


def encode_undecoded(prediction: RestPrediction) -> bytes:
    """Returns a serialized `PredictionLog` with bodies as they were sent: a trace of the client, no evidence."""
    spec = _spec(prediction.path) if is_prediction(prediction.path) else ModelSpec()  # over gRPC it is in the body
    bodies = ({UNDECODED: np.array([body], dtype=object)} for body in (prediction.body, prediction.answer))
    return _encode(prediction, spec, next(bodies), spec, next(bodies))


def _encode(
    prediction: RestPrediction, asked: Any, inputs: Mapping[str, Array], answering: Any, outputs: Mapping[str, Array]
) -> bytes:
    request, response = PredictRequest(model_spec=asked), PredictResponse(model_spec=answering)
    for name, array in inputs.items():
        request.inputs.add(key=name.encode(), value=_tensor(array))
    for name, array in outputs.items():
        response.outputs.add(key=name.encode(), value=_tensor(array))
    return encode_bytes(
        request.SerializeToString(), response.SerializeToString(), client=prediction.client, time=prediction.time
    )


def _tensor(array: Array) -> Any:
    tensor = Tensor(dtype=dtypes.number_of(array))
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    if array.dtype.kind == "O":
        tensor.string_val.extend(array.ravel().tolist())
    else:
        tensor.tensor_content = dtypes.fixed(array)
    return tensor


def _spec(path: str) -> Any:
    found = _PREDICT.fullmatch(path)
    assert found
    spec = ModelSpec(name=unquote(found["name"]).encode())
    if found["version"]:
        spec.version.value = min(int(found["version"][:20]), 2**63 - 1)
    elif found["label"]:
        spec.version_label = unquote(found["label"]).encode()
    return spec


def _path(spec: Any) -> str:
    """Returns the canonical path of a model, so that what is stored by path cannot grow without limit."""
    path = f"/v1/models/{quote(spec.name, safe='')}"
    if spec.HasField("version"):
        return f"{path}/versions/{spec.version.value}"
    return f"{path}/labels/{quote(spec.version_label, safe='')}" if spec.version_label else path
