"""Asking a server, for tests that start one of their own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import requests
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from dynamarks_tf.serving.local_server import LocalServer

State = get_model_status_pb2.ModelVersionStatus.State


def url(server: LocalServer, suffix: str = "", *, model: str | None = None) -> str:
    return server.rest_url.removesuffix(server.name) + (model or server.name) + suffix


def ask(server: LocalServer, suffix: str = "", *, model: str | None = None) -> Any:
    """Returns what the model makes of 1, or status and error."""
    response = requests.post(url(server, suffix + ":predict", model=model), json={"instances": [1.0]}, timeout=30)
    body = response.json()
    return body["predictions"][0] if response.ok else (response.status_code, body["error"])


def factor_request(model: str = "clf", **spec: Any) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.version_label = spec.get("label", "")
    if "label" not in spec:
        request.model_spec.ClearField("version_label")
    if "version" in spec:
        request.model_spec.version.value = spec["version"]
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.ones(1, np.float32)))
    return request


def ask_grpc(server: LocalServer, model: str = "clf", **spec: Any) -> tuple[float, int]:
    """Returns what the model makes of 1, and the version that did."""
    with stub(server) as service:
        response = service.Predict(factor_request(model, **spec), timeout=30)
        return response.outputs["y"].float_val[0], response.model_spec.version.value


@contextmanager
def stub(server: LocalServer) -> Iterator[prediction_service_pb2_grpc.PredictionServiceStub]:
    with grpc.insecure_channel(server.grpc_address) as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


@contextmanager
def model_stub(server: LocalServer) -> Iterator[model_service_pb2_grpc.ModelServiceStub]:
    with grpc.insecure_channel(server.grpc_address) as channel:
        yield model_service_pb2_grpc.ModelServiceStub(channel)


def states(server: LocalServer, *, model: str | None = None) -> dict[int, str]:
    """Returns the state of every version, as the status page tells it."""
    found = requests.get(url(server, model=model), timeout=30).json()["model_version_status"]
    return {int(status["version"]): status["state"] for status in found}


def check_health(server: LocalServer, name: str) -> int:
    """Returns what the standard health check says of a service."""
    with grpc.insecure_channel(server.grpc_address) as channel:
        request = health_pb2.HealthCheckRequest(service=name)
        return int(health_pb2_grpc.HealthStub(channel).Check(request, timeout=30).status)


def requests_under_way(server: LocalServer) -> int:
    assert server._repository is not None
    return sum(version._users for version in server._repository.versions(server.name))


def wait_for(condition: Callable[[], Any], *, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it has not happened"
        time.sleep(0.02)
