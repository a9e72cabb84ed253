"""Small Keras models of every kind that can be exported, each with inputs that it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from dynamarks_tf.export import export_saved_model

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Case:
    """A model, how to make up its inputs, and where it was exported to.

    Attributes:
        model: the Keras model.
        examples: by the alias of a served input, a function from a number of rows to made-up values.
        arrange: brings inputs by alias into the structure that the model is called with.
        path: the SavedModel.
    """

    model: keras.Model
    examples: dict[str, Callable[[int], Array]]
    arrange: Callable[[dict[str, Array]], Any] = field(default=lambda values: next(iter(values.values())))
    path: Path = Path()

    def inputs(self, rows: int) -> dict[str, Array]:
        return {alias: make(rows) for alias, make in self.examples.items()}

    def answers(self, inputs: dict[str, Array]) -> Array:
        """The answers of the model itself in inference mode, as float32."""
        tensors = {alias: keras.ops.convert_to_tensor(values) for alias, values in inputs.items()}
        return np.asarray(keras.ops.convert_to_numpy(self.model(self.arrange(tensors), training=False)), np.float32)


def floats(*shape: int) -> Callable[[int], Array]:
    return lambda rows: np.random.default_rng(rows).random((rows, *shape), np.float32)


def softmax(x: Any, dtype: str = "float32") -> Any:
    return keras.layers.Dense(5, activation="softmax", dtype=dtype)(x)


def convolutional() -> Case:
    """Layers that behave differently in training, with weights that show it; compiled with XLA."""
    layers = [
        keras.Input((8, 8, 1), name="pixels"),
        keras.layers.Conv2D(4, 3, activation="relu"),
        keras.layers.BatchNormalization(beta_initializer="ones", moving_mean_initializer="ones"),
        keras.layers.Flatten(),
        keras.layers.Dropout(0.5),
        keras.layers.Dense(5, activation="softmax"),
    ]
    model = keras.Sequential(layers)
    model.compile(loss="categorical_crossentropy", jit_compile=True)
    return Case(model, {"pixels": floats(8, 8, 1)})


def list_of_inputs() -> Case:
    inputs = [keras.Input((4,)), keras.Input((2,), name="extra-part")]
    model = keras.Model(inputs, softmax(keras.layers.concatenate(inputs)))
    return Case(model, {"inputs_1": floats(4), "extra_part": floats(2)}, lambda values: list(values.values()))


def dict_of_inputs() -> Case:
    words, age = keras.Input((4,), dtype="int32", name="words"), keras.Input((2,), name="age")
    embedded = keras.layers.Flatten()(keras.layers.Embedding(7, 3)(words))
    model = keras.Model({"words": words, "age": age}, softmax(keras.layers.concatenate([embedded, age])))
    examples = {"words": lambda rows: np.arange(4 * rows, dtype=np.int32).reshape(rows, 4) % 7, "age": floats(2)}
    return Case(model, examples, dict)


class Subclassed(keras.Model):
    """A model without symbolic inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = keras.layers.Dense(5, activation="softmax")

    def call(self, x: Any) -> Any:
        return self.dense(x)


def subclassed() -> Case:
    model = Subclassed()
    model(np.zeros((3, 4), np.float32))
    return Case(model, {"inputs": floats(4)})


def half_precision() -> Case:
    inputs = keras.Input((4,), dtype="float16", name="readings")
    hidden = keras.layers.Dense(8, activation="relu", dtype="mixed_float16")(inputs)
    return Case(keras.Model(inputs, softmax(hidden, "mixed_float16")), {"readings": floats(4)})


def text() -> Case:
    color = keras.Input((1,), dtype="string", name="color")
    one_hot = keras.layers.StringLookup(vocabulary=["red", "green"], output_mode="one_hot")(color)
    examples = {"color": lambda rows: np.resize(np.array([b"red", b"blue", b"green"], object), (rows, 1))}
    return Case(keras.Model(color, softmax(one_hot)), examples)


ZOO = (convolutional, list_of_inputs, dict_of_inputs, subclassed, half_precision, text)


def export(build: Callable[[], Case], folder: Path) -> Case:
    case = build()
    path = export_saved_model(case.model, folder / "clf" / "1", warmup=case.inputs(3))
    return replace(case, path=path)


@pytest.fixture(scope="session", params=ZOO, ids=lambda build: build.__name__)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Every kind of model, exported once."""
    return export(request.param, tmp_path_factory.mktemp("exported"))


@pytest.fixture(scope="session")
def convolutional_case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A small image classifier, exported."""
    return export(convolutional, tmp_path_factory.mktemp("exported"))


@pytest.fixture
def classifier() -> keras.Model:
    """The cheapest classifier."""
    return keras.Sequential([keras.Input((4,), name="readings"), keras.layers.Dense(3, activation="softmax")])


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """Where to export to: the first version of a model `clf`."""
    return tmp_path / "clf" / "1"
