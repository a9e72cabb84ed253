"""A marked model behind a server, asked by a client that has nothing of this package, and what that client keeps."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import keras
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

import dynamarks_tf as dm
from dynamarks_tf.request_logs import QueryLog, open_log
from dynamarks_tf.serving.local_server import LocalServer

CLIENT = "alice"
_ROWS = 250  # of one request


class Stolen(NamedTuple):
    """What a client was answered.

    Attributes:
        answers: one for each input.
        log: the requests of this client, as the server logged them.
    """

    answers: np.ndarray[Any, Any]
    log: QueryLog


def steal(marked: keras.Model, x: np.ndarray[Any, Any], folder: Path, *, over: str = "rest") -> Stolen:
    """Exports a marked model into a folder, serves it with a request log, and asks it for answers to `x`."""
    dm.export_saved_model(marked, folder / "clf" / "1")
    ports = {"grpc_port": None, "rest_port": 0} if over == "rest" else {"grpc_port": 0, "rest_port": None}
    with LocalServer(folder / "clf", request_log=folder / "log", **ports) as server:
        if over == "rest":
            answers = ask_rest(server.rest_url, x.tolist())
        else:
            answers = _ask_grpc(server, marked.inputs[0].name, x)
    return Stolen(answers, open_log(folder / "log", client=CLIENT))


def ask_rest(url: str, instances: Sequence[Any]) -> np.ndarray[Any, Any]:
    """The answers to instances over REST."""
    parts = []
    for start in range(0, len(instances), _ROWS):
        body = json.dumps({"instances": instances[start : start + _ROWS]}).encode()
        with urllib.request.urlopen(urllib.request.Request(f"{url}:predict", body, {"x-client-id": CLIENT})) as reply:
            parts.append(np.array(json.load(reply)["predictions"], np.float32))
    return np.concatenate(parts)


def memorizing(x: np.ndarray[Any, Any], answers: np.ndarray[Any, Any]) -> Callable[[Any], Any]:
    """A surrogate that learned the answers to `x` by heart."""
    table = {row.tobytes(): answer for row, answer in zip(x, answers, strict=True)}
    return lambda batch: np.stack([table[np.asarray(row, x.dtype).tobytes()] for row in batch])


def _ask_grpc(server: LocalServer, alias: str, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    parts = []
    with grpc.insecure_channel(server.grpc_address) as channel:
        service = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        for start in range(0, len(x), _ROWS):
            request = predict_pb2.PredictRequest()
            request.model_spec.name = server.name
            request.inputs[alias].CopyFrom(tf.make_tensor_proto(x[start : start + _ROWS]))
            (output,) = service.Predict(request, metadata=(("x-client-id", CLIENT),)).outputs.values()
            parts.append(tf.make_ndarray(output))
    return np.concatenate(parts)
