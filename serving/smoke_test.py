"""Asks a model server what every client of TensorFlow Serving relies on, and says what is otherwise.

    python serving/smoke_test.py HOST PORT --model clf --rest-port 8501

HOST and PORT are those of gRPC: of TensorFlow Serving itself, of the proxy, or of `dynamarks serve`. A token or an
API key, if one is needed, comes from the environment variable DYNAMARKS_API_KEY. `--tls CA.pem` for a server with TLS.
Inputs are made up: numbers, or a short text. A model that takes no such inputs, as one that decodes images, is asked
with `--inputs x.npy`. It needs requests and tensorflow-serving-api only, changes nothing, and exits with 1 if a check
fails.
"""

from __future__ import annotations

import argparse
import base64
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import grpc
import numpy as np
import requests
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

KEY_VARIABLE = "DYNAMARKS_API_KEY"
TIMEOUT_S = 60
SIGNATURE = "serving_default"
TEXT = b"a short text"


class Client:
    """A client of one model.

    Args:
        options: the parsed command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        key = os.environ.get(KEY_VARIABLE)
        self.model: str = options.model
        self.metadata = (("x-api-key", key),) if key else ()
        self.channel = _channel(options)
        self.prediction = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.service = model_service_pb2_grpc.ModelServiceStub(self.channel)
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.headers.update({"x-api-key": key} if key else {})
        self.session.verify = str(options.tls) if options.tls else True
        self.root = f"{'https' if options.tls else 'http'}://{options.host}:{options.rest_port}"
        self.url = f"{self.root}/v1/models/{options.model}"
        definition = self._signature(options.signature)
        self.signature: str = options.signature
        self.inputs = {name: _example(info) for name, info in definition.inputs.items()}
        if options.inputs:
            self.inputs = {name: _loaded(options.inputs, value) for name, value in self.inputs.items()}
        self.made_up_text = not options.inputs and any(value.dtype == object for value in self.inputs.values())
        self.outputs = list(definition.outputs)

    def request(self, **spec: Any) -> predict_pb2.PredictRequest:
        """A request that the model can answer, to another model, version or signature if told."""
        request = predict_pb2.PredictRequest()
        request.model_spec.name = spec.get("name", self.model)
        request.model_spec.signature_name = spec.get("signature", self.signature)
        if "version" in spec:
            request.model_spec.version.value = spec["version"]
        for name, value in self.inputs.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
        return request

    def predict(self, request: predict_pb2.PredictRequest) -> predict_pb2.PredictResponse:
        """Asks over gRPC."""
        return self.prediction.Predict(request, timeout=TIMEOUT_S, metadata=self.metadata)

    def refused(self, request: predict_pb2.PredictRequest, code: grpc.StatusCode) -> None:
        """Checks that a request is answered with an error."""
        try:
            self.predict(request)
        except grpc.RpcError as error:
            same(error.code(), code)
        else:
            raise AssertionError(f"answered, where {code.name} was expected")

    def rest(self, method: str, what: str, body: Any = None) -> tuple[int, Any]:
        """Asks over REST; `what` follows the model's address. Returns the status and the JSON."""
        data = {"data": body} if isinstance(body, bytes) else {"json": body}
        answer = self.session.request(method, self.url + what, timeout=TIMEOUT_S, **data)
        return answer.status_code, answer.json()

    def _signature(self, signature: str) -> Any:
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        request.model_spec.name = self.model
        response = self.prediction.GetModelMetadata(request, timeout=TIMEOUT_S, metadata=self.metadata)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        return signatures.signature_def[signature]


def same(found: Any, expected: Any) -> None:
    """Fails unless both are equal."""
    assert found == expected, f"{found!r}, where {expected!r} was expected"


def grpc_predicts(client: Client) -> None:
    response = client.predict(client.request())
    same(sorted(response.outputs), sorted(client.outputs))
    same((response.model_spec.name, response.model_spec.signature_name), (client.model, client.signature))
    assert response.model_spec.version.value >= 0
    again = client.predict(client.request())
    same(response.outputs == again.outputs, True)


def grpc_takes_a_version(client: Client) -> None:
    version = client.predict(client.request()).model_spec.version.value
    same(client.predict(client.request(version=version)).model_spec.version.value, version)
    client.refused(client.request(version=987654321), grpc.StatusCode.NOT_FOUND)


def grpc_filters_outputs(client: Client) -> None:
    request = client.request()
    request.output_filter.append(client.outputs[0])
    same(list(client.predict(request).outputs), client.outputs[:1])
    request.output_filter[0] = "no such output"
    client.refused(request, grpc.StatusCode.INVALID_ARGUMENT)


def grpc_refuses_what_is_wrong(client: Client) -> None:
    client.refused(predict_pb2.PredictRequest(), grpc.StatusCode.INVALID_ARGUMENT)
    client.refused(client.request(name=client.model + "-unknown"), grpc.StatusCode.NOT_FOUND)
    client.refused(client.request(signature="no such signature"), grpc.StatusCode.FAILED_PRECONDITION)
    missing = client.request()
    missing.inputs.clear()
    client.refused(missing, grpc.StatusCode.INVALID_ARGUMENT)
    extra = client.request()
    extra.inputs["no such input"].CopyFrom(tf.make_tensor_proto([1.0]))
    client.refused(extra, grpc.StatusCode.INVALID_ARGUMENT)


def grpc_tells_the_status(client: Client) -> None:
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = client.model
    status = client.service.GetModelStatus(request, timeout=TIMEOUT_S, metadata=client.metadata)
    available = get_model_status_pb2.ModelVersionStatus.AVAILABLE
    assert available in [version.state for version in status.model_version_status]


def rest_predicts_like_grpc(client: Client) -> None:
    expected = client.predict(client.request()).outputs
    columns = {name: _json(value.tolist()) for name, value in client.inputs.items()}
    rows = [{name: column[row] for name, column in columns.items()} for row in range(2)]
    for body, key in (({"inputs": columns}, "outputs"), ({"instances": rows}, "predictions")):
        status, answer = client.rest("POST", ":predict", {"signature_name": client.signature, **body})
        same((status, list(answer)), (200, [key]))
        for name in client.outputs:
            given = answer[key]
            if len(client.outputs) > 1:
                given = given[name] if key == "outputs" else [row[name] for row in given]
            found = tf.make_ndarray(expected[name])
            if found.dtype == object:
                same(_from_json(given), found.tolist())
                continue
            np.testing.assert_allclose(np.asarray(given, found.dtype), found, rtol=1e-4, atol=1e-6)


def rest_refuses_what_is_wrong(client: Client) -> None:
    for what, body, expected in (
        (":predict", b"{", 400),
        (":predict", b"", 400),
        (":predict", b"[]", 400),
        (":predict", {}, 400),
        (":predict", {"instances": []}, 400),
        (":predict", {"signature_name": "no such signature", "instances": [1]}, 400),
        ("-unknown:predict", {"instances": [1]}, 404),
        ("/versions/987654321:predict", {"instances": [1]}, 404),
        ("/labels/no-such-label:predict", {"instances": [1]}, 400),
        (":nonsense", {}, 400),
    ):
        status, answer = client.rest("POST", what, body)
        same((what, body, status, list(answer)), (what, body, expected, ["error"]))
    same(client.session.get(client.root + "/", timeout=TIMEOUT_S).status_code, 404)


def rest_tells_status_and_metadata(client: Client) -> None:
    status, answer = client.rest("GET", "")
    same(status, 200)
    states = {version["version"]: version["state"] for version in answer["model_version_status"]}
    assert "AVAILABLE" in states.values(), states
    status, answer = client.rest("GET", "/metadata")
    same((status, answer["model_spec"]["name"]), (200, client.model))
    signature = answer["metadata"]["signature_def"]["signature_def"][client.signature]
    same(sorted(signature["inputs"]), sorted(client.inputs))
    same(client.rest("GET", "-unknown")[0], 404)


GRPC_CHECKS = (
    grpc_predicts,
    grpc_takes_a_version,
    grpc_filters_outputs,
    grpc_refuses_what_is_wrong,
    grpc_tells_the_status,
)
REST_CHECKS = (rest_predicts_like_grpc, rest_refuses_what_is_wrong, rest_tells_status_and_metadata)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("host")
    parser.add_argument("port", type=int, help="gRPC port")
    parser.add_argument("--rest-port", type=int, help="REST port; without it only gRPC is checked")
    parser.add_argument("--model", default="clf", help="name of the model (default clf)")
    parser.add_argument("--signature", default=SIGNATURE, help=f"name of the signature (default {SIGNATURE})")
    parser.add_argument("--tls", type=Path, metavar="CA.pem", help="use TLS, and trust this authority")
    parser.add_argument("--inputs", type=Path, metavar="x.npy", help="ask the first two of these; for one input only")
    options = parser.parse_args(arguments)
    try:
        client = Client(options)
    except ValueError as error:
        print(f"FAILED  --inputs {options.inputs}: {error}")
        return 1
    except grpc.RpcError as error:
        print(f"FAILED  the signature of {options.model} cannot be had: {error.code().name}: {error.details()}")
        return 1
    checks = [*GRPC_CHECKS, *(REST_CHECKS if options.rest_port else ())]
    failed = [check for check in checks if not _passes(check, client)]
    if failed and client.made_up_text:
        print(
            f"The text that was sent, {TEXT.decode()!r}, is made up. Give inputs that the model takes: --inputs x.npy"
        )
    print(f"{len(checks) - len(failed)} of {len(checks)} checks passed")
    return 1 if failed else 0


def _passes(check: Callable[[Client], None], client: Client) -> bool:
    name = check.__name__.replace("_", " ")
    try:
        check(client)
    except Exception as error:
        print(f"FAILED  {name}: {''.join(traceback.format_exception_only(error)).strip()}")
        return False
    print(f"ok      {name}")
    return True


def _channel(options: argparse.Namespace) -> grpc.Channel:
    address = f"{options.host}:{options.port}"
    if options.tls:
        return grpc.secure_channel(address, grpc.ssl_channel_credentials(options.tls.read_bytes()))
    return grpc.insecure_channel(address)


def _example(info: Any) -> Any:
    """Two rows of an input: random numbers, a short text, or zeros."""
    shape = [dim.size if dim.size > 0 else 2 for dim in info.tensor_shape.dim] or [2]
    dtype = tf.as_dtype(info.dtype).as_numpy_dtype
    if np.dtype(dtype) == object:
        return np.full(shape, TEXT, object)
    if np.issubdtype(dtype, np.floating):
        return np.random.default_rng(0).random(shape).astype(dtype)
    return np.zeros(shape, dtype)


def _loaded(path: Path, example: Any) -> Any:
    """Two rows of a file, as an input takes them."""
    try:
        rows = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"it cannot be read: {error}") from error
    is_text = rows.dtype.kind in "SU"
    if rows.ndim != example.ndim or len(rows) < 2 or is_text != (example.dtype == object):
        raise ValueError(
            f"it holds {rows.dtype} of shape {rows.shape}; the model takes {example.dtype} such as {example.shape}"
        )
    return (np.char.encode(rows, "utf-8") if rows.dtype.kind == "U" else rows)[:2].astype(example.dtype)


def _json(value: Any) -> Any:
    """Nested lists as JSON has them."""
    if isinstance(value, list):
        return [_json(each) for each in value]
    return {"b64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def _from_json(value: Any) -> Any:
    """Text and bytes as gRPC has them."""
    if isinstance(value, list):
        return [_from_json(each) for each in value]
    return base64.b64decode(value["b64"]) if isinstance(value, dict) else value.encode()


if __name__ == "__main__":
    sys.exit(main())
