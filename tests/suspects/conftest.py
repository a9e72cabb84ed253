"""One classifier, everywhere that a suspect can be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from dynamarks_tf.export import export_saved_model
from dynamarks_tf.local_server import LocalServer

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


@pytest.fixture
def images() -> Array:
    return np.random.default_rng(0).random((7, 8, 8, 1), np.float32)


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
