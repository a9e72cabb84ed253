"""Small SavedModels written with TensorFlow alone, and one server for all tests that only ask questions."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import requests
import tensorflow as tf
from tensorflow_serving.apis import model_service_pb2_grpc, predict_pb2, prediction_service_pb2_grpc

from dynamarks_tf.local_server import LocalServer

ECHOED = [
    "float32",
    "float64",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "bool",
    "half",
]


def signature(function: Callable[..., Any], **specs: tf.TensorSpec) -> Any:
    named = {name: tf.TensorSpec(spec.shape, spec.dtype, name=name) for name, spec in specs.items()}
    return tf.function(function).get_concrete_function(**named)


def spec(dtype: Any, shape: Any = (None,)) -> tf.TensorSpec:
    return tf.TensorSpec(shape, dtype)


def save_zoo(path: Path, *, scale: float = 1.0) -> None:
    """Writes a softmax classifier with many further signatures; `scale` makes versions differ."""
    module = tf.Module()
    weights = tf.reshape(tf.sin(tf.range(12, dtype=tf.float32)), (4, 3)) * scale
    module.weights = tf.Variable(weights)
    counter = lambda steps: tf.while_loop(lambda i: i < steps, lambda i: (i + 1,), (tf.constant(0, tf.int64),))  # noqa: E731
    signatures = {
        "serving_default": signature(
            lambda image: {"probabilities": tf.nn.softmax(image @ module.weights)}, image=spec(tf.float32, (None, 4))
        ),
        "combine": signature(
            lambda a, b: {"sum": a + tf.cast(b, tf.float32), "product": a * tf.cast(b, tf.float32)},
            a=spec(tf.float32),
            b=spec(tf.int32),
        ),
        "with_scalar": signature(lambda x: {"y": x, "total": tf.reduce_sum(x)}, x=spec(tf.float32)),
        "uneven": signature(lambda x: {"y": x, "tail": x[1:]}, x=spec(tf.float32)),
        "text": signature(lambda text: {"text": text}, text=spec(tf.string, None)),
        "text_twice": signature(lambda text: {"text": text, "raw_bytes": text}, text=spec(tf.string, None)),
        "count": signature(lambda steps: {"counted": counter(steps)[0]}, steps=spec(tf.int64, ())),
        "no_inputs": signature(lambda: {"answer": tf.constant([42])}),
        "missing_file": signature(lambda x: {"content": tf.io.read_file(x)}, x=spec(tf.string, ())),
        "examples": signature(lambda inputs: {"scores": tf.ones((tf.size(inputs), 2))}, inputs=spec(tf.string)),
        "half_out": signature(lambda x: {"y": tf.cast(x, tf.float16)}, x=spec(tf.float32)),
    }
    for dtype in ECHOED:
        signatures[f"echo_{dtype}"] = signature(lambda x: {"y": tf.identity(x)}, x=spec(dtype, None))
    tf.saved_model.save(module, str(path), signatures=signatures)


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder "zoo" with versions 2 and 10, and with names that are no versions."""
    base = tmp_path_factory.mktemp("models") / "zoo"
    save_zoo(base / "00000002", scale=0.5)
    save_zoo(base / "10")
    (base / "11.tmp").mkdir()
    (base / "latest").mkdir()
    return base


@pytest.fixture(scope="session")
def server(zoo: Path) -> Iterator[LocalServer]:
    with LocalServer(zoo, grpc_port=0, rest_port=0) as running:
        yield running


@pytest.fixture(scope="session")
def host_url(server: LocalServer) -> str:
    return server.rest_url.removesuffix("/v1/models/zoo")


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


@pytest.fixture(scope="session")
def probabilities(zoo: Path, images: np.ndarray) -> np.ndarray:
    """What TensorFlow alone computes."""
    loaded = tf.saved_model.load(str(zoo / "10"))
    return loaded.signatures["serving_default"](image=tf.constant(images))["probabilities"].numpy()


@pytest.fixture(scope="session")
def post(server: LocalServer) -> Callable[..., requests.Response]:
    """Asks for a prediction over REST: `post(signature, instances=...)` or `post(signature, inputs=...)`."""

    def call(signature_name: str, **body: Any) -> requests.Response:
        return requests.post(server.rest_url + ":predict", json={"signature_name": signature_name, **body}, timeout=30)

    return call


@pytest.fixture(scope="session")
def channel(server: LocalServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.grpc_address, options=[("grpc.max_receive_message_length", -1)]) as opened:
        yield opened


@pytest.fixture(scope="session")
def prediction(channel: grpc.Channel) -> prediction_service_pb2_grpc.PredictionServiceStub:
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture(scope="session")
def model_service(channel: grpc.Channel) -> model_service_pb2_grpc.ModelServiceStub:
    return model_service_pb2_grpc.ModelServiceStub(channel)


@pytest.fixture(scope="session")
def make_request() -> Callable[..., predict_pb2.PredictRequest]:
    """Builds a PredictRequest for the model "zoo" from arrays, in the form clients use."""

    def build(signature_name: str = "", **inputs: Any) -> predict_pb2.PredictRequest:
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "zoo"
        request.model_spec.signature_name = signature_name
        for name, value in inputs.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
        return request

    return build


def save_factor(path: Path, factor: float, *, load_steps: int = 0) -> None:
    """Writes a model that multiplies by `factor`; it counts to `load_steps` while it is loaded."""
    v1 = tf.compat.v1
    count = lambda steps: tf.while_loop(lambda i: i < steps, lambda i: (i + 1,), (tf.constant(0, tf.int64),))[0]  # noqa: E731
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, (None,))
        steps = v1.placeholder(tf.int64, ())
        predict = v1.saved_model.predict_signature_def
        signatures = {
            "serving_default": predict({"x": x}, {"y": x * factor}),
            "count": predict({"steps": steps}, {"counted": count(steps)}),
        }
        builder = v1.saved_model.Builder(str(path))
        main_op = count(tf.constant(load_steps, tf.int64)).op if load_steps else None
        builder.add_meta_graph_and_variables(session, ["serve"], signatures, main_op=main_op, strip_default_attrs=True)
        builder.save()


@pytest.fixture(scope="session")
def factors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders 1 to 4 with models that multiply by 1 to 4, to be copied."""
    folder = tmp_path_factory.mktemp("factors")
    for factor in (1, 2, 3, 4):
        save_factor(folder / str(factor), factor)
    return folder


@pytest.fixture
def add_version(factors: Path, tmp_path: Path) -> Callable[..., Path]:
    """Adds a version to the model folder "clf", or another, as an export does: under another name, then renamed."""

    def add(version: int, *, model: str = "clf", factor: int | None = None) -> Path:
        base = tmp_path / model
        shutil.copytree(factors / str(factor or version), base / "incoming.tmp")
        return (base / "incoming.tmp").rename(base / str(version))

    return add
