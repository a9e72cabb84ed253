"""Suspects in files and folders, and functions: which output is read, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from dynamarks_tf.errors import SuspectError
from dynamarks_tf.suspects import as_suspect
from dynamarks_tf.suspects.function import FunctionSuspect
from dynamarks_tf.suspects.keras_model import KerasSuspect
from dynamarks_tf.suspects.saved_model import SavedModelSuspect
from tests.helpers import ROOT

Array = np.ndarray[Any, Any]


class Outputs(tf.Module):
    """A SavedModel that gives its input back under several names."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.names = names

    @tf.function(input_signature=[tf.TensorSpec((None, 2), tf.uint8, name="x")])
    def one_input(self, x: Any) -> Any:
        return {name: tf.cast(x, tf.float32) + index for index, name in enumerate(self.names)}

    @tf.function(input_signature=[tf.TensorSpec((None, 2), name="x"), tf.TensorSpec((None,), name="y")])
    def two_inputs(self, x: Any, y: Any) -> Any:
        return {name: x + y[:, None] for name in self.names}

    @tf.function(input_signature=[tf.TensorSpec(None, name="x")])
    def any_rank(self, x: Any) -> Any:
        return {"probabilities": tf.linalg.matvec(x, tf.ones(3))}


def save(path: Path, *names: str) -> Path:
    module = Outputs(*names)
    signatures = {"serving_default": module.one_input, "pair": module.two_inputs, "any": module.any_rank}
    tf.saved_model.save(module, str(path), signatures=signatures)
    return path


def ones(*shape: int) -> Array:
    return np.ones(shape, np.uint8)


def test_highest_version_is_taken(served: Path) -> None:
    (served / "99").mkdir()  # not a SavedModel
    try:
        assert SavedModelSuspect(served).description == str(served / "10")
    finally:
        (served / "99").rmdir()  # other tests serve this folder


@pytest.mark.parametrize(
    ("names", "output", "answer"),
    [(("only",), None, 1), (("other", "probabilities"), None, 2), (("probabilities", "other"), "other", 2)],
)
def test_output_is_chosen(tmp_path: Path, names: tuple[str, ...], output: str | None, answer: int) -> None:
    suspect = SavedModelSuspect(save(tmp_path, *names), output=output)
    np.testing.assert_array_equal(suspect.predict(ones(3, 2)), np.full((3, 2), answer))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "has the outputs a, b; it is not clear which to read. Name one"),
        ({"output": "c"}, "has the outputs a, b; none is called 'c'. Name one"),
        ({"signature": "classify"}, "has no signature 'classify'; it has: any, pair, serving_default"),
        ({"signature": "pair"}, r"has 2 inputs \(x, y\), and only suspects with one .* Pass a function"),
    ],
)
def test_what_cannot_be_asked_is_listed(tmp_path: Path, options: dict[str, str], text: str) -> None:
    with pytest.raises(SuspectError, match=text):
        SavedModelSuspect(save(tmp_path, "a", "b"), **options)


def test_values_are_not_cut_to_whole_numbers(tmp_path: Path) -> None:
    with pytest.raises(SuspectError, match="takes uint8 and was given float64 values that do not fit"):
        SavedModelSuspect(save(tmp_path, "a")).predict(np.full((1, 2), 0.5))


def test_the_only_signature_is_taken_and_others_can_be_named(tmp_path: Path) -> None:
    module = Outputs("a", "b")
    tf.saved_model.save(module, str(tmp_path / "one"), signatures={"score": module.one_input})
    assert SavedModelSuspect(tmp_path / "one", output="b").predict(ones(1, 2)).tolist() == [[2, 2]]
    suspect = as_suspect(save(tmp_path / "three", "a", "b"), signature="any", output="probabilities")
    np.testing.assert_array_equal(suspect.predict(np.ones((2, 3), np.float32)), [3, 3])
    two = {"score": module.one_input, "any": module.any_rank}
    tf.saved_model.save(module, str(tmp_path / "two"), signatures=two)
    with pytest.raises(SuspectError, match=r"no signature 'serving_default'; it has: any, score\. Name one: signature"):
        as_suspect(tmp_path / "two")


def test_keras_model_with_two_outputs() -> None:
    image = keras.Input((2,))
    suspect = KerasSuspect(keras.Model(image, [keras.layers.Softmax()(image), image]))
    with pytest.raises(SuspectError, match="it has 2 outputs; pass a function that takes one out"):
        suspect.predict(ones(1, 2))


def test_error_inside_the_graph_is_explained(tmp_path: Path) -> None:
    suspect = SavedModelSuspect(save(tmp_path, "a"), signature="any")
    assert suspect.input_shape is None
    with pytest.raises(SuspectError, match=r"could not answer a batch of shape \(2, 4\) and type float32: .*"):
        suspect.predict(np.ones((2, 4), np.float32))


def test_folder_without_saved_model(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    with pytest.raises(SuspectError, match=r"holds no SavedModel\. Give a folder with saved_model\.pb"):
        SavedModelSuspect(tmp_path)


def test_damaged_saved_model(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"damaged")
    with pytest.raises(SuspectError, match="cannot be loaded as a SavedModel: "):
        SavedModelSuspect(tmp_path)


def test_saved_model_of_tensorflow_1(tmp_path: Path) -> None:
    path = str(tmp_path / "old")
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        x = tf.compat.v1.placeholder(tf.float32, (None, 2))
        weight = tf.compat.v1.get_variable("weight", initializer=3.0, use_resource=False)
        session.run(tf.compat.v1.global_variables_initializer())
        tf.compat.v1.saved_model.simple_save(session, path, {"images": x}, {"scores": x * weight})
    suspect = SavedModelSuspect(path)
    assert suspect.input_shape == (2,)
    np.testing.assert_array_equal(suspect.predict(ones(1, 2)), [[3, 3]])


def test_runs_without_keras(served: Path, classifier: keras.Model, images: Array, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", images)
    script = f"""
        import sys
        sys.modules["keras"] = None
        import types
        package = types.ModuleType("dynamarks_tf")  # the package itself needs Keras for its layer
        package.__path__ = ["dynamarks_tf"]
        sys.modules["dynamarks_tf"] = package
        import json, numpy as np
        from dynamarks_tf.suspects import as_suspect
        assert not {{"tensorflow", "grpc", "requests"}} & set(sys.modules)  # imported where they are used
        print(json.dumps(as_suspect({str(served)!r}).predict(np.load({str(tmp_path / "images.npy")!r})).tolist()))
    """
    answers = json.loads(run(script))
    np.testing.assert_allclose(answers, classifier.predict(images, verbose=0), atol=1e-5)


def test_keras_file_runs_on_another_backend(
    keras_file: Path, classifier: keras.Model, images: Array, tmp_path: Path
) -> None:
    pytest.importorskip("jax")
    np.save(tmp_path / "images.npy", images)
    script = f"""
        import json, keras, numpy as np
        from dynamarks_tf.suspects.keras_model import KerasSuspect
        assert keras.backend.backend() == "jax"
        suspect = KerasSuspect({str(keras_file)!r})
        print(json.dumps(suspect.predict(np.load({str(tmp_path / "images.npy")!r})).tolist()))
    """
    answers = json.loads(run(script, KERAS_BACKEND="jax"))
    np.testing.assert_allclose(answers, classifier.predict(images, verbose=0), atol=1e-5)


def run(script: str, **environment: str) -> str:
    command = [sys.executable, "-c", textwrap.dedent(script)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["missing.keras", "damaged.keras", "damaged.h5"])
def test_keras_file_that_cannot_be_loaded(tmp_path: Path, name: str) -> None:
    if name.startswith("damaged"):
        (tmp_path / name).write_bytes(b"damaged")
    with pytest.raises(SuspectError, match=f"{name} cannot be loaded as a Keras model: "):
        KerasSuspect(tmp_path / name)


def test_keras_model_with_two_inputs() -> None:
    inputs = [keras.Input((2,), name="a"), keras.Input((2,), name="b")]
    with pytest.raises(SuspectError, match=r"has 2 inputs \(a, b\)"):
        KerasSuspect(keras.Model(inputs, keras.layers.add(inputs)))


def test_keras_model_without_known_shape() -> None:
    suspect = KerasSuspect(keras.Sequential([keras.layers.Softmax()]))
    assert suspect.input_shape is None
    np.testing.assert_allclose(suspect.predict(np.zeros((1, 4), np.float32)), np.full((1, 4), 0.25))


def test_keras_model_that_fails_is_explained() -> None:
    suspect = KerasSuspect(keras.Sequential([keras.layers.Reshape((2, 2))]))
    with pytest.raises(SuspectError, match=r"could not answer a batch of shape \(1, 5\) and type float32: .*Reshape"):
        suspect.predict(np.zeros((1, 5), np.float32))


def test_keras_model_that_needs_eager_mode(classifier: keras.Model, images: Array) -> None:
    class Eager(keras.Model):
        def call(self, x: Any) -> Any:
            return tf.constant(classifier(x.numpy(), training=False).numpy())

    model = Eager()
    model.compile(run_eagerly=True)
    np.testing.assert_allclose(KerasSuspect(model).predict(images), classifier.predict(images, verbose=0), atol=1e-5)


def test_keras_model_is_not_changed_by_queries(images: Array) -> None:
    """The caller's model stays as it is: not compiled, and with the same weights."""
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.BatchNormalization(), keras.layers.Flatten()])
    before = [weight.numpy().copy() for weight in model.weights]
    KerasSuspect(model).predict(images)
    assert not model.compiled
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)


def test_graph_is_not_traced_for_every_batch_size(images: Array) -> None:
    traces = []

    class Counting(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            traces.append(x.shape)
            return x

    suspect = KerasSuspect(keras.Sequential([keras.Input((8, 8, 1)), Counting()]))
    traces.clear()
    for rows in range(1, 8):
        suspect.predict(images[:rows])
    assert 1 <= len(traces) <= 2


def test_function_gives_anything_that_becomes_an_array() -> None:
    assert FunctionSuspect(lambda batch: [[0.5, 0.5]] * len(batch)).predict(ones(3, 2)).shape == (3, 2)


def test_function_that_fails_is_explained() -> None:
    def broken(batch: Array) -> Array:
        raise RuntimeError("no connection")

    suspect = FunctionSuspect(broken)
    with pytest.raises(
        SuspectError, match=r"function .*broken could not answer .*: RuntimeError: no connection"
    ) as info:
        suspect.predict(ones(3, 2))
    assert isinstance(info.value.__cause__, RuntimeError)


def test_function_can_be_interrupted() -> None:
    def interrupted(batch: Array) -> Array:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FunctionSuspect(interrupted).predict(ones(1, 2))


def test_function_has_a_name_in_reports() -> None:
    class Caller:
        def __call__(self, batch: Array) -> Array:
            return batch

    assert FunctionSuspect(Caller()).description.endswith("Caller")
    assert FunctionSuspect(Caller(), description="their phone app").description == "their phone app"
