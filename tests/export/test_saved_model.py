"""The files and names that an export writes, and the models that it refuses. A folder is complete or not there."""

from __future__ import annotations

import errno
import getpass
import os
import resource
import stat
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from dynamarks_tf.errors import ArgumentError, ExportError, ModelError
from dynamarks_tf.export import export_saved_model, export_tflite, saved_model
from dynamarks_tf.export.servable import refuse_unservable
from dynamarks_tf.keys.key import MarkKey
from dynamarks_tf.watermark.marking import mark
from tests.helpers import ROOT


def signature_of(path: Path, name: str = "serving_default") -> Any:
    loaded = tf.saved_model.load(str(path))
    signature = loaded.signatures[name]
    signature.loaded = loaded  # the variables live as long as this object
    return signature


def test_answers_like_the_model_for_any_batch_size(exported: Any) -> None:
    signature = signature_of(exported.path)
    tolerance = 2e-3 if "readings" in exported.examples else 1e-6
    for rows in (1, 7):
        inputs = exported.inputs(rows)
        answers = signature(**{alias: tf.constant(values) for alias, values in inputs.items()})
        np.testing.assert_allclose(answers["probabilities"], exported.answers(inputs), atol=tolerance)


def test_signature_has_readable_names_and_types_that_rest_can_carry(exported: Any) -> None:
    signature = signature_of(exported.path)
    _, inputs = signature.structured_input_signature
    assert set(inputs) == set(exported.examples)
    for alias, values in exported.inputs(2).items():
        assert inputs[alias].shape.as_list() == [None, *values.shape[1:]]
        assert inputs[alias].dtype.as_numpy_dtype == values.dtype
    assert list(signature.structured_outputs) == ["probabilities"]
    assert signature.structured_outputs["probabilities"].dtype == tf.float32
    assert signature.structured_outputs["probabilities"].shape.as_list() == [None, 5]


def test_folder_holds_the_graph_and_the_weights_and_nothing_else(exported: Any) -> None:
    files = {str(file.relative_to(exported.path)) for file in exported.path.rglob("*") if file.is_file()}
    assets = {name for name in files if name.startswith("assets/")}  # vocabularies of text layers
    assert files - assets == {
        "saved_model.pb",
        "fingerprint.pb",
        "variables/variables.index",
        "variables/variables.data-00000-of-00001",
        "assets.extra/tf_serving_warmup_requests",
    }
    graph = (exported.path / "saved_model.pb").read_bytes()
    for private in (str(Path.home()), str(ROOT), sys.prefix, ".py", getpass.getuser() + "@", "get_config"):
        assert private.encode() not in graph


def test_folder_is_private(exported: Any) -> None:
    for path in (exported.path, *exported.path.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_names_are_the_same_in_every_export(classifier: keras.Model, tmp_path: Path) -> None:
    for number in ("1", "2"):
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="softmax")])
        model.save(tmp_path / "saved.keras")  # gives the input a counted name
        for source, name in ((model, "fresh"), (keras.models.load_model(tmp_path / "saved.keras"), "loaded")):
            path = export_saved_model(source, tmp_path / name / number)
            assert list(signature_of(path).structured_input_signature[1]) == ["inputs"]


def test_output_of_a_logits_layer_is_called_logits(version: Path) -> None:
    class GivesLogits(keras.layers.Layer):
        from_logits = True

        def call(self, x: Any) -> Any:
            return x

    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), GivesLogits()])
    outer = keras.Sequential([keras.Input((4,)), inner])
    assert list(signature_of(export_saved_model(outer, version)).structured_outputs) == ["logits"]


def test_repeated_names_are_numbered(version: Path) -> None:
    inputs = [keras.Input((2,), name="a b"), keras.Input((2,), name="a-b")]
    model = keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(keras.layers.add(inputs)))
    names = signature_of(export_saved_model(model, version)).structured_input_signature[1]
    assert set(names) == {"a_b_1", "a_b_2"}


def test_other_signature_name_is_written_beside_the_default(classifier: keras.Model, version: Path) -> None:
    path = export_saved_model(classifier, version, signature_name="classify")
    x = tf.ones((2, 4))
    answers = [signature_of(path, name)(readings=x)["probabilities"] for name in ("classify", "serving_default")]
    np.testing.assert_array_equal(*answers)


def test_unknown_axes_stay_unknown(version: Path) -> None:
    inputs = keras.Input((None, None, 1), name="image")
    pooled = keras.layers.GlobalAveragePooling2D()(inputs)
    path = export_saved_model(keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(pooled)), version)
    assert signature_of(path)(image=tf.ones((2, 5, 9, 1)))["probabilities"].shape == (2, 3)


def test_graph_itself_refuses_another_shape(exported: Any) -> None:
    """The server does not compare shapes, and a convolution would end its process on a wrong rank."""
    signature = signature_of(exported.path)
    for alias in exported.examples:
        inputs = exported.inputs(2)
        inputs[alias] = inputs[alias][..., None]
        tensors = {name: tf.constant(values) for name, values in inputs.items()}
        with pytest.raises(tf.errors.InvalidArgumentError, match="is not compatible with expected shape"):
            signature(**tensors)


def test_fixed_batch_size_becomes_any(version: Path) -> None:
    inputs = keras.Input(batch_shape=(8, 4), name="readings")
    path = export_saved_model(keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(inputs)), version)
    assert signature_of(path)(readings=tf.ones((3, 4)))["probabilities"].shape == (3, 3)


def test_integer_weights_are_kept(version: Path) -> None:
    class Signs(keras.layers.Layer):
        def build(self, shape: Any) -> None:
            self.signs = self.add_weight(shape=(4,), dtype="int8", initializer="ones", trainable=False, name="signs")

        def call(self, x: Any) -> Any:
            return x * keras.ops.cast(self.signs, x.dtype)

    model = keras.Sequential([keras.Input((4,)), keras.layers.Softmax(), Signs()])
    model.layers[-1].signs.assign([1, -1, -1, 1])
    answers = signature_of(export_saved_model(model, version))(inputs=tf.zeros((1, 4)))["probabilities"]
    np.testing.assert_allclose(answers, [[0.25, -0.25, -0.25, 0.25]])


def test_exports_under_a_distribution_strategy(version: Path) -> None:
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="softmax")])
        export_saved_model(model, version)
    x = np.ones((2, 4), np.float32)
    answers = signature_of(version)(inputs=tf.constant(x))["probabilities"]
    np.testing.assert_allclose(answers, model(x), atol=1e-6)


def test_prints_nothing_on_success(
    classifier: keras.Model, version: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    export_saved_model(classifier, version)
    printed = capfd.readouterr()
    assert [line for line in (printed.out + printed.err).splitlines() if str(version.parent) in line] == []
    assert caplog.records == []


def test_returns_the_path_and_creates_missing_parents(classifier: keras.Model, tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "7"
    assert export_saved_model(classifier, str(path)) == path
    assert path.is_dir()


@pytest.mark.parametrize("name", ["latest", "v1", "1.5", "-1", "1" * 19, "\u0661"])
def test_refuses_a_path_without_version_number(classifier: keras.Model, tmp_path: Path, name: str) -> None:
    with pytest.raises(ExportError, match=r"does not end in a version number.*write to .*/1"):
        export_saved_model(classifier, tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["3", "03"])
def test_never_overwrites_a_version(classifier: keras.Model, tmp_path: Path, name: str) -> None:
    (tmp_path / "3").mkdir()
    (tmp_path / "3" / "precious").write_text("kept")
    with pytest.raises(ExportError, match=r"Version 3 exists: .*never overwritten"):
        export_saved_model(classifier, tmp_path / name)
    assert (tmp_path / "3" / "precious").read_text() == "kept"
    assert [path.name for path in tmp_path.iterdir()] == ["3"]


def test_version_that_appears_meanwhile_is_kept(
    classifier: keras.Model, version: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saved_model, "refuse_unservable", lambda folder: version.mkdir())
    with pytest.raises(ExportError, match="Version 1 exists"):
        export_saved_model(classifier, version)
    assert not list(version.iterdir())
    assert list(version.parent.iterdir()) == [version]


FAILURES = [
    (KeyboardInterrupt(), KeyboardInterrupt, None),
    (OSError(errno.ENOSPC, "No space left on device"), ExportError, "Cannot write .*No space left.*Nothing was left"),
    (tf.errors.ResourceExhaustedError(None, None, "disk is full"), ExportError, "Cannot write .*disk is full"),
]


@pytest.mark.parametrize(("error", "expected", "text"), FAILURES, ids=["interrupt", "full disk", "full disk in TF"])
def test_failure_half_way_leaves_nothing(
    classifier: keras.Model,
    version: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    expected: type[BaseException],
    text: str | None,
) -> None:
    def save_half(trackable: Any, folder: str, **kwargs: Any) -> None:
        Path(folder, "saved_model.pb").write_bytes(b"half")
        raise error

    monkeypatch.setattr(tf.saved_model, "save", save_half)
    with pytest.raises(expected, match=text):
        export_saved_model(classifier, version)
    assert not list(version.parent.iterdir())


def test_interrupt_after_writing_leaves_nothing(
    classifier: keras.Model, version: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(saved_model, "compare_reloaded", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export_saved_model(classifier, version)
    assert not list(version.parent.iterdir())


def test_disk_that_takes_no_more_bytes_leaves_nothing(version: Path) -> None:
    """The system itself refuses the bytes, here by a limit on the size of files."""
    model = keras.Sequential([keras.Input((100,)), keras.layers.Dense(1000, activation="softmax")])
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(ExportError, match="Cannot write"):
            export_saved_model(model, version)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(version.parent.iterdir())


def test_parent_that_is_a_file(classifier: keras.Model, tmp_path: Path) -> None:
    (tmp_path / "clf").write_text("")
    with pytest.raises(ExportError, match=r"Cannot write .*clf"):
        export_saved_model(classifier, tmp_path / "clf" / "1")


class Calling(keras.layers.Layer):
    """A layer that calls any function."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def call(self, x: Any) -> Any:
        return self.function(x)


def model_calling(function: Any) -> keras.Model:
    inputs = keras.Input((4,))
    return keras.Model(inputs, Calling(function)(keras.layers.Softmax()(inputs)))


@tf.function(jit_compile=True)
def compiled_identity(x: Any) -> Any:
    return tf.identity(x)


def through_python(x: Any) -> Any:
    return tf.ensure_shape(tf.numpy_function(lambda value: value, [x], tf.float32), x.shape)


def random_in_python(x: Any) -> Any:
    return x + np.random.default_rng().random()


@pytest.mark.parametrize(
    ("function", "text"),
    [
        pytest.param(compiled_identity, "compiled_identity.*is marked jit_compile=True", id="jit_compile"),
        pytest.param(through_python, "PyFunc.* calls back into Python", id="numpy_function"),
        pytest.param(random_in_python, "answers differently from the model in memory .*by up to", id="random"),
    ],
)
def test_refuses_models_that_cannot_be_served(function: Any, text: str, version: Path) -> None:
    with pytest.raises(ExportError, match=text):
        export_saved_model(model_calling(function), version)
    assert not list(version.parent.iterdir())


def test_refuses_a_call_that_is_marked_though_its_function_is_not(tmp_path: Path) -> None:
    written = saved_model_pb2.SavedModel()
    node = written.meta_graphs.add().graph_def.library.function.add().node_def.add(name="inner", op="PartitionedCall")
    node.attr["_XlaMustCompile"].b = True
    (tmp_path / "saved_model.pb").write_bytes(written.SerializeToString())
    with pytest.raises(ExportError, match="The call 'inner' is marked jit_compile=True"):
        refuse_unservable(tmp_path)


@pytest.mark.parametrize("dtype", ["int32", "uint8", "string", "bool"])
def test_answers_are_compared_without_examples_too(version: Path, dtype: str) -> None:
    inputs = keras.Input((3,), dtype=dtype)

    def different(x: Any) -> Any:
        return tf.ones((tf.shape(x)[0], 4)) * (2.0 if tf.executing_eagerly() else 1.0)

    with pytest.raises(ExportError, match=r"differently from the model in memory \(by up to 1\)"):
        export_saved_model(keras.Model(inputs, Calling(different)(inputs)), version)


def test_near_ties_may_fall_either_way(version: Path) -> None:
    """One row in four may differ: where two classes tie, rounding decides how the row is marked."""

    def different_in_first_row(x: Any) -> Any:
        eager = float(tf.executing_eagerly())
        return x + eager * tf.one_hot(tf.zeros_like(x[:, 0], tf.int32), 4) * tf.one_hot(0, tf.shape(x)[0])[:, None]

    assert export_saved_model(model_calling(different_in_first_row), version) == version


def test_refuses_other_objects_than_keras_models(version: Path) -> None:
    with pytest.raises(ModelError, match=r"Only a keras\.Model can be exported, not function"):
        export_saved_model(lambda x: x, version)


def test_refuses_another_backend(classifier: keras.Model, version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ModelError, match=r"backend is 'jax'; only models on 'tensorflow'.*KERAS_BACKEND=tensorflow"):
        export_saved_model(classifier, version)


def test_refuses_a_model_that_was_never_built(version: Path) -> None:
    model = keras.Sequential([keras.layers.Dense(3)], name="young")
    with pytest.raises(ModelError, match=r"inputs of the model 'young' is not known\. Call the model once"):
        export_saved_model(model, version)


@pytest.mark.parametrize("as_dict", [False, True], ids=["list", "dictionary"])
def test_one_of_two_outputs_is_exported_by_its_name(as_dict: bool, version: Path, key: MarkKey, tmp_path: Path) -> None:
    inputs = keras.Input((4,), name="readings")
    box, label = keras.layers.Dense(3, name="box")(inputs), keras.layers.Dense(12, "softmax", name="label")(inputs)
    model = keras.Model(inputs, {"label": label, "box": box} if as_dict else [box, label], name="two")
    marked = mark(model, key, output="label")
    for output, message in ((None, "has 2 outputs. Name the one to export"), ("none", "has no output 'none'")):
        with pytest.raises(ModelError, match=f"'two' {message}.*; its outputs: box, label"):
            export_saved_model(marked, version, output=output)
    assert not version.parent.exists()
    x = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    expected = keras.tree.flatten(marked(x))[1]
    served = signature_of(export_saved_model(marked, version, output="label"))(readings=tf.constant(x))
    np.testing.assert_allclose(served["probabilities"], expected, atol=1e-6)
    lite = tf.lite.Interpreter(str(export_tflite(marked, tmp_path / "two.tflite", output="label")))
    np.testing.assert_allclose(lite.get_signature_runner()(readings=x[:1])["probabilities"], expected[:1], atol=1e-5)


@pytest.mark.parametrize(
    ("warmup", "text"),
    [
        (np.ones((2, 5)), r"'readings' has shape \(2, 5\), the model takes \(None, 4\)"),
        (np.ones(4), r"'readings' has shape \(4,\)"),
        ({"pixels": np.ones((2, 4))}, r"are \['pixels'\], the model takes \['readings'\]"),
        (np.ones((0, 4)), "have 0 rows; TensorFlow Serving takes 1 to 1000"),
        (np.ones((1001, 4)), "have 1001 rows; TensorFlow Serving takes 1 to 1000"),
    ],
)
def test_refuses_warmup_that_the_server_would_refuse(
    classifier: keras.Model, version: Path, warmup: Any, text: str
) -> None:
    with pytest.raises(ArgumentError, match=text):
        export_saved_model(classifier, version, warmup=warmup)
    assert not version.exists()


def test_refuses_warmup_of_different_lengths(version: Path) -> None:
    inputs = [keras.Input((2,), name="a"), keras.Input((2,), name="b")]
    model = keras.Model(inputs, keras.layers.Softmax()(keras.layers.add(inputs)))
    with pytest.raises(ArgumentError, match=r"different numbers of rows: \{'a': 2, 'b': 3\}"):
        export_saved_model(model, version, warmup={"a": np.ones((2, 2)), "b": np.ones((3, 2))})


def test_array_given_as_warmup_of_two_inputs(version: Path) -> None:
    inputs = [keras.Input((2,), name="a"), keras.Input((2,), name="b")]
    model = keras.Model(inputs, keras.layers.Softmax()(keras.layers.add(inputs)))
    with pytest.raises(ArgumentError, match=r"The warm-up inputs are \['a'\], the model takes \['a', 'b'\]"):
        export_saved_model(model, version, warmup=np.ones((2, 2)))


def test_temporary_name_is_not_a_version(
    classifier: keras.Model, version: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(saved_model, "refuse_unservable", lambda folder: seen.extend(os.listdir(folder.parent)))
    export_saved_model(classifier, version)
    assert len(seen) == 1
    assert seen[0].startswith(".")
