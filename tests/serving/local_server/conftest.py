"""Model folders, and one server for all tests that only send requests."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import requests
import tensorflow as tf
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from dynamarks_tf.serving.local_server import LocalServer
from tests.helpers.server_clients import over_rest
from tests.helpers.tiny_models import save_factor, save_zoo


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder "zoo" with versions 2 and 10, and with folders that are no versions."""
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
    """The result of TensorFlow alone."""
    loaded = tf.saved_model.load(str(zoo / "10"))
    return loaded.signatures["serving_default"](image=tf.constant(images))["probabilities"].numpy()


@pytest.fixture(scope="session")
def post(server: LocalServer) -> Callable[..., requests.Response]:
    """Requests a prediction over REST: `post(signature, instances=...)` or `post(signature, inputs=...)`."""
    return lambda signature_name, **body: over_rest(server, {"signature_name": signature_name, **body})


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
