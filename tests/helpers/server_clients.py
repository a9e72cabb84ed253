"""Clients of the local server and of the proxy, over REST and gRPC."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import requests
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from dynamarks_tf.serving.local_server import LocalServer

if TYPE_CHECKING:
    from dynamarks_tf.serving.gateway import Proxy

    Server = LocalServer | Proxy

PROXIED = "m"  # the model behind the proxies of tests/serving/gateway
ROWS = [[0.1, 0.2, 0.3, 0.4]]  # its input


# Requests


def predict_request(model: str, signature_name: str = "", **inputs: Any) -> predict_pb2.PredictRequest:
    """Builds a request from arrays, in the form that clients use."""
    request = with_spec(predict_pb2.PredictRequest(), name=model, signature_name=signature_name)
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request


def with_spec(request: Any, **spec: Any) -> Any:
    """Sets fields of the model specification, but none to `None`; returns the same request."""
    for field, value in spec.items():
        if field == "version" and value is not None:
            request.model_spec.version.value = value
        elif value is not None:
            setattr(request.model_spec, field, value)
    return request


def url(server: Server, suffix: str = "", *, model: str | None = None) -> str:
    """Returns the URL of a model: by default that of the server, or the one behind the proxy."""
    model = model or (server.name if isinstance(server, LocalServer) else PROXIED)
    return f"{server.rest_url.partition('/v1/')[0]}/v1/models/{model}{suffix}"


def digest(key: str) -> str:
    """Returns the hash by which a key file names an API key."""
    return hashlib.sha256(key.encode()).hexdigest()


# Predictions


def over_rest(
    server: Server, body: Any = None, suffix: str = "", *, model: str | None = None, **options: Any
) -> requests.Response:
    """Requests a prediction. A dictionary is sent as JSON, any other body as it is."""
    body = {"instances": ROWS} if body is None else body
    data = json.dumps(body) if isinstance(body, dict) else body
    return requests.post(url(server, suffix + ":predict", model=model), data, **{"timeout": 30, **options})


def over_grpc(
    server: Server,
    request: predict_pb2.PredictRequest,
    *metadata: tuple[str, str],
    credentials: grpc.ChannelCredentials | None = None,
) -> predict_pb2.PredictResponse:
    """Requests a prediction."""
    with stub(server, credentials) as service:
        return service.Predict(request, metadata=metadata, timeout=30)


def grpc_status(
    server: Server, request: predict_pb2.PredictRequest, *metadata: tuple[str, str], **options: Any
) -> tuple[grpc.StatusCode, str]:
    """Requests a prediction; returns code and details of its status."""
    try:
        over_grpc(server, request, *metadata, **options)
    except grpc.RpcError as error:
        return error.code(), error.details()
    return grpc.StatusCode.OK, ""


@contextmanager
def stub(
    server: Server, credentials: grpc.ChannelCredentials | None = None
) -> Iterator[prediction_service_pb2_grpc.PredictionServiceStub]:
    """Opens a channel to the predictions of a server."""
    address = server.grpc_address
    make = grpc.insecure_channel(address) if credentials is None else grpc.secure_channel(address, credentials)
    with make as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


# Models that multiply by a factor, as `tiny_models.save_factor` writes them


def factor_request(model: str = "clf", **spec: Any) -> predict_pb2.PredictRequest:
    return with_spec(predict_request(model, x=np.ones(1, np.float32)), **spec)


def ask(server: LocalServer, suffix: str = "", *, model: str | None = None) -> Any:
    """Returns the model's answer to 1, or status and error."""
    response = over_rest(server, {"instances": [1.0]}, suffix, model=model)
    body = response.json()
    return body["predictions"][0] if response.ok else (response.status_code, body["error"])


def ask_grpc(server: LocalServer, model: str = "clf", **spec: Any) -> tuple[float, int]:
    """Returns the model's answer to 1, and the version that gave it."""
    response = over_grpc(server, factor_request(model, **spec))
    return response.outputs["y"].float_val[0], response.model_spec.version.value


# State of a server


@contextmanager
def model_stub(server: LocalServer) -> Iterator[model_service_pb2_grpc.ModelServiceStub]:
    """Opens a channel to the models of a server."""
    with grpc.insecure_channel(server.grpc_address) as channel:
        yield model_service_pb2_grpc.ModelServiceStub(channel)


def states(server: LocalServer, *, model: str | None = None) -> dict[int, str]:
    """Returns the state of every version, from the status page."""
    found = requests.get(url(server, model=model), timeout=30).json()["model_version_status"]
    return {int(status["version"]): status["state"] for status in found}


def check_health(server: LocalServer, name: str) -> int:
    """Returns the result of gRPC's standard health check of a service."""
    with grpc.insecure_channel(server.grpc_address) as channel:
        request = health_pb2.HealthCheckRequest(service=name)
        return int(health_pb2_grpc.HealthStub(channel).Check(request, timeout=30).status)


def requests_under_way(server: LocalServer) -> int:
    """Returns how many requests hold a version at the moment; no public figure tells it."""
    assert server._repository is not None
    return sum(version._users for version in server._repository.versions(server.name))
