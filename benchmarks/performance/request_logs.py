"""How fast request logs are written and read, and what logging costs an answered request.

    python benchmarks/performance/request_logs.py

Requests hold one image of 28 x 28 float32 values; answers hold C probabilities.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import grpc
import numpy as np
import requests
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from dynamarks_tf.request_logs import PredictionLogWriter, open_log
from dynamarks_tf.serving.local_server import LocalServer

CLASSES = (10, 1000)
SHAPE = (28, 28, 1)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=20_000, help="entries to write and read (default 20,000)")
    parser.add_argument("--requests", type=int, default=2_000, help="requests to send to each server (default 2,000)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        for classes in CLASSES:
            folder = Path(name, f"logs-{classes}")
            write(folder, classes, options.entries)
            read(folder, classes)
        for classes in CLASSES:
            serve(Path(name, f"model-{classes}"), classes, options.requests)


def write(folder: Path, classes: int, count: int) -> None:
    """Prints how many entries a second are queued and written to the disk."""
    request, response = messages(classes)
    began = time.perf_counter()
    with PredictionLogWriter(folder, max_waiting_bytes=2**40) as log:
        for _ in range(count):
            log.log(request, response, client="alice")
        queued = time.perf_counter() - began
    total = time.perf_counter() - began
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(
        f"write   C={classes:<5} {count / total:8,.0f} entries/s ({size / total / 1e6:.0f} MB/s); log() takes "
        f"{queued / count * 1e6:.1f} us"
    )


def read(folder: Path, classes: int) -> None:
    """Prints how many queries a second are read."""
    log = open_log(folder, client="alice")
    began = time.perf_counter()
    rows = sum(map(len, log.batches(256)))
    print(f"read    C={classes:<5} {rows / (time.perf_counter() - began):8,.0f} queries/s")


def serve(path: Path, classes: int, count: int) -> None:
    """Prints the time of a request with and without a log, asked in turns by one client."""
    save_model(path / "1", classes)
    request, _ = messages(classes)
    request.model_spec.name = path.name
    body = {"instances": np.random.default_rng(0).random((1, *SHAPE)).round(4).tolist()}
    with (
        LocalServer(path, grpc_port=0, rest_port=0) as plain,
        LocalServer(path, grpc_port=0, rest_port=0, request_log=path.parent / f"served-{classes}") as logging,
        requests.Session() as session,
    ):
        channels = [grpc.insecure_channel(server.grpc_address) for server in (plain, logging)]
        stubs = [prediction_service_pb2_grpc.PredictionServiceStub(channel) for channel in channels]
        over_grpc = [lambda stub=stub: stub.Predict(request, metadata=[("x-client-id", "alice")]) for stub in stubs]
        over_rest = [
            lambda url=server.rest_url: session.post(
                url + ":predict", json=body, headers={"X-Client-Id": "alice"}
            ).raise_for_status()
            for server in (plain, logging)
        ]
        for protocol, calls in (("gRPC", over_grpc), ("REST", over_rest)):
            without, with_log = in_turns(calls, count)
            print(
                f"{protocol}    C={classes:<5} {without:8.0f} us a request, {with_log:.0f} us with a log "
                f"({with_log - without:+.0f} us)"
            )
        for channel in channels:
            channel.close()
    assert logging.request_log is not None
    print(f"        C={classes:<5} {logging.request_log.written} written, {logging.request_log.dropped} dropped")


def in_turns(calls: list[Callable[[], object]], count: int) -> list[float]:
    """Returns the median microseconds of each call."""
    times: list[list[float]] = [[] for _ in calls]
    for index in range(count):
        for call, found in list(zip(calls, times, strict=True))[:: 1 if index % 2 else -1]:
            began = time.perf_counter()
            call()
            found.append(time.perf_counter() - began)
    return [statistics.median(found[count // 10 :]) * 1e6 for found in times]


def messages(classes: int) -> tuple[predict_pb2.PredictRequest, predict_pb2.PredictResponse]:
    """A request with one image, and its answer, as servers send it."""
    rng = np.random.default_rng(0)
    request, response = predict_pb2.PredictRequest(), predict_pb2.PredictResponse()
    request.inputs["image"].CopyFrom(tf.make_tensor_proto(rng.random((1, *SHAPE), np.float32)))
    answers = response.outputs["probabilities"]
    answers.CopyFrom(tf.make_tensor_proto(np.zeros((1, classes), np.float32)))
    answers.ClearField("tensor_content")  # servers send typed values
    answers.float_val.extend(rng.dirichlet(np.ones(classes)).tolist())
    return request, response


def save_model(path: Path, classes: int) -> None:
    """Saves one dense layer with a softmax as a SavedModel."""
    module = tf.Module()
    module.weights = tf.Variable(tf.random.stateless_normal((int(np.prod(SHAPE)), classes), (0, 0)))
    function = tf.function(
        lambda image: {"probabilities": tf.nn.softmax(tf.reshape(image, (-1, int(np.prod(SHAPE)))) @ module.weights)}
    )
    spec = tf.TensorSpec((None, *SHAPE), tf.float32, name="image")
    tf.saved_model.save(module, str(path), signatures=function.get_concrete_function(image=spec))


if __name__ == "__main__":
    main()
