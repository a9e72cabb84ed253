"""Requests and answers as a server has them, and logs of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2

from dynamarks_tf.request_logs.prediction_log import encode
from tests.helpers.logs import record

Messages = tuple[predict_pb2.PredictRequest, predict_pb2.PredictResponse]


def inputs_of(index: int, rows: int = 1) -> np.ndarray:
    """The inputs of the request number `index`."""
    return (np.arange(rows * 4, dtype=np.float32) + np.float32(100 * index)).reshape(rows, 4)


def answers_of(index: int, rows: int = 1) -> np.ndarray:
    """The answers to them."""
    return np.random.default_rng(index).dirichlet(np.ones(3), rows).astype(np.float32)


def messages(index: int = 0, rows: int = 1, **changes: Any) -> Messages:
    """Request and response of one prediction; `inputs`, `outputs`, `model` and `version` may be replaced."""
    request, response = predict_pb2.PredictRequest(), predict_pb2.PredictResponse()
    request.model_spec.name = response.model_spec.name = changes.get("model", "clf")
    if changes.get("version", 7) is not None:
        response.model_spec.version.value = changes.get("version", 7)
    response.model_spec.signature_name = "serving_default"
    for name, array in changes.get("inputs", {"image": inputs_of(index, rows)}).items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(array))
    for name, array in changes.get("outputs", {"probabilities": answers_of(index, rows)}).items():
        response.outputs[name].CopyFrom(tf.make_tensor_proto(array))
    return request, response


@pytest.fixture(scope="session")
def make_messages() -> Callable[..., Messages]:
    return messages


@pytest.fixture
def write_log(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file of PredictionLog: `write_log(10, rows=2, clients=["alice", None])`, the clients taking turns.

    The request number `i` is answered at the time `start + i * step`.
    """

    def write(
        count: int,
        *,
        name: str = "log.tfrecord",
        rows: int = 1,
        clients: Any = ("alice",),
        start: float = 1000.0,
        step: float = 1.0,
        **changes: Any,
    ) -> Path:
        path = tmp_path / name
        with path.open("wb") as file:
            for index in range(count):
                client, time = clients[index % len(clients)], start + index * step
                file.write(record(encode(*messages(index, rows, **changes), client=client, time=time)))
        return path

    return write


@pytest.fixture(scope="session")
def expected() -> Callable[..., np.ndarray]:
    """The inputs of the requests with these numbers."""

    def build(indices: Any, rows: int = 1) -> np.ndarray:
        return np.concatenate([inputs_of(index, rows) for index in indices])

    return build
