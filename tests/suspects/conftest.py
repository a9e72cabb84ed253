"""One classifier, everywhere that a suspect can be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from dynamarks_tf._support.digests import query_digest
from dynamarks_tf.export import export_saved_model
from dynamarks_tf.serving.local_server import LocalServer
from tests.helpers.model_server import ModelServer, serving

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="session")
def classifier() -> keras.Model:
    """Images of 8 x 8 to 5 classes, far from uniform."""
    keras.utils.set_random_seed(0)
    layers = [
        keras.Input((8, 8, 1), name="pixels"),
        keras.layers.Conv2D(4, 3, activation="tanh"),
        keras.layers.Flatten(),
        keras.layers.Dropout(0.5),
        keras.layers.Dense(5, activation="softmax", kernel_initializer=keras.initializers.RandomNormal(stddev=0.5)),
    ]
    return keras.Sequential(layers, name="clean")


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries hardly wait."""
    monkeypatch.setattr("dynamarks_tf.suspects.retries.FIRST_WAIT_S", 0.01)


def some_images() -> Array:
    return np.random.default_rng(0).random((7, 8, 8, 1), np.float32)


@pytest.fixture
def images() -> Array:
    return some_images()


@pytest.fixture(scope="session")
def keras_file(classifier: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("file") / "suspect.keras"
    classifier.save(path)
    return path


@pytest.fixture(scope="session")
def served(classifier: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two versions of the classifier: 2, and 10, which is higher."""
    folder = tmp_path_factory.mktemp("served") / "clf"
    for version in ("2", "10"):
        export_saved_model(classifier, folder / version)
    return folder


@pytest.fixture(scope="session")
def server(served: Path) -> Iterator[LocalServer]:
    with LocalServer(served, grpc_port=0, rest_port=0) as server:
        yield server


@pytest.fixture(scope="session")
def tflite_file(classifier: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import tensorflow as tf

    path = tmp_path_factory.mktemp("tflite") / "suspect.tflite"
    path.write_bytes(tf.lite.TFLiteConverter.from_keras_model(classifier).convert())
    return path


@pytest.fixture(scope="session")
def onnx_file(classifier: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The classifier, node by node."""
    onnx = pytest.importorskip("onnx")
    node, value = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    kernel, bias, dense, dense_bias = (weight.numpy() for weight in classifier.weights[:4])
    weights = {"kernel": kernel.transpose(3, 2, 0, 1), "bias": bias, "dense": dense, "dense_bias": dense_bias}
    nodes = [
        node("Transpose", ["pixels"], ["first"], perm=[0, 3, 1, 2]),
        node("Conv", ["first", "kernel", "bias"], ["conv"]),
        node("Tanh", ["conv"], ["tanh"]),
        node("Transpose", ["tanh"], ["last"], perm=[0, 2, 3, 1]),
        node("Flatten", ["last"], ["flat"]),
        node("Gemm", ["flat", "dense", "dense_bias"], ["logits"]),
        node("Softmax", ["logits"], ["out"], axis=1),
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "clean",
        [value("pixels", onnx.TensorProto.FLOAT, ["n", 8, 8, 1])],
        [value("out", onnx.TensorProto.FLOAT, ["n", 5])],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    path = tmp_path_factory.mktemp("onnx") / "suspect.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.fixture(scope="session")
def v2_server(classifier: keras.Model) -> Iterator[str]:
    """Address of the classifier behind the Open Inference Protocol."""
    application = ModelServer(
        lambda batch: {"probabilities": classifier.predict(batch, verbose=0)}, {"probabilities": "FP32"}
    )
    with serving(application) as url:
        yield f"{url}/v2/models/clf"


@pytest.fixture(scope="session")
def torch_module(classifier: keras.Model) -> Any:
    """The classifier as a PyTorch module, in training mode."""
    torch = pytest.importorskip("torch")
    kernel, bias, dense, dense_bias = (torch.tensor(weight.numpy()) for weight in classifier.weights[:4])

    class Classifier(torch.nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.dense = torch.nn.Parameter(dense)
            self.dropout = torch.nn.Dropout(0.5)

        def forward(self, pixels: Any) -> Any:
            x = torch.nn.functional.conv2d(pixels.permute(0, 3, 1, 2), kernel.permute(3, 2, 0, 1), bias).tanh()
            return (self.dropout(x.permute(0, 2, 3, 1).flatten(1)) @ self.dense + dense_bias).softmax(-1)

    return Classifier()


class Estimator:
    """The classifier as scikit-learn would have it."""

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        self.classes_ = np.arange(5)

    def predict_proba(self, rows: Array) -> Array:
        return np.asarray(self.model.predict(rows.reshape(-1, 8, 8, 1), verbose=0))

    def predict(self, rows: Array) -> Array:
        return self.classes_[self.predict_proba(rows).argmax(axis=1)]


@pytest.fixture(scope="session")
def estimator(classifier: keras.Model) -> Estimator:
    return Estimator(classifier)


@pytest.fixture(scope="session")
def answer_file(classifier: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The classifier's answers to all queries of the contract."""
    unclear = some_images()
    unclear[1] = np.nan
    zeros = np.zeros((1, 8, 8, 1))
    asked = [some_images(), unclear, zeros.astype(np.uint8), zeros, zeros.astype(np.float32)]
    path = tmp_path_factory.mktemp("answers") / "answers.npz"
    np.savez(
        path,
        answers=np.concatenate([classifier.predict(batch, verbose=0) for batch in asked]),
        query_sha256=[query_digest(batch[row : row + 1]) for batch in asked for row in range(len(batch))],
    )
    return path
